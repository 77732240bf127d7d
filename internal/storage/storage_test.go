package storage

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A thing is an entry of these tests.
type thing struct {
	Format
	Secret string         `json:"secret"`
	More   map[string]any `json:"more,omitempty"`
}

func (t *thing) Check() error {
	if t.Secret == "" {
		return errors.New("a thing without a secret")
	}
	return nil
}

// faulty is storage that fails.
type faulty struct {
	logical.InmemStorage
	err error
}

func (s *faulty) Put(context.Context, *logical.StorageEntry) error { return s.err }

func get(t *testing.T, raw string) (*thing, error) {
	t.Helper()
	s := &logical.InmemStorage{}
	require.NoError(t, s.Put(t.Context(), &logical.StorageEntry{Key: RoleKey("x"), Value: []byte(raw)}))
	return Get[thing](t.Context(), s, RoleKey("x"), "write it again")
}

func TestAnEntryIsReadAsItWasWritten(t *testing.T) {
	s := &logical.InmemStorage{}
	missing, err := Get[thing](t.Context(), s, RoleKey("x"), "")
	require.NoError(t, err)
	assert.Nil(t, missing)

	require.NoError(t, Put(t.Context(), s, RoleKey("x"), &thing{Secret: "a<b&c"}))
	got, err := Get[thing](t.Context(), s, RoleKey("x"), "")
	require.NoError(t, err)
	assert.Equal(t, &thing{Format: Format{FormatVersion}, Secret: "a<b&c"}, got)
	raw, err := s.Get(t.Context(), RoleKey("x"))
	require.NoError(t, err)
	assert.Contains(t, string(raw.Value), "a<b&c", "no escapes for HTML")

	require.NoError(t, Delete(t.Context(), s, RoleKey("x")))
	exists, err := Exists(t.Context(), s, RoleKey("x"))
	require.NoError(t, err)
	assert.False(t, exists)
}

func TestADamagedEntryIsNamedAndNotQuoted(t *testing.T) {
	for _, raw := range []string{
		`{"version":1,"secret":"top"`, `{"version":1,"secret":["top"]}`, `{"version":1}`, `{"secret":"top"}`,
		`{"version":0,"secret":"top"}`, `{"version":"1","secret":"top"}`, `null`, `"top"`, ``,
	} {
		got, err := get(t, raw)
		assert.Nil(t, got, raw)
		assert.True(t, IsDamaged(err), "%s: %v", raw, err)
		assert.EqualError(t, err, "roles/x cannot be decoded; write it again", raw)
	}
}

func TestAnEntryOfANewerEngineIsNotChanged(t *testing.T) {
	for _, secret := range []string{`"top"`, `["another", "type"]`} {
		_, err := get(t, fmt.Sprintf(`{"version":%d,"secret":%s}`, FormatVersion+1, secret))
		var newer *NewerFormatError
		require.ErrorAs(t, err, &newer)
		assert.Equal(t, NewerFormatError{Path: "roles/x", Version: FormatVersion + 1}, *newer)
	}
}

func TestAFailedWriteIsAStorageError(t *testing.T) {
	large := "put failed due to value being too large; got 2000000 bytes, max: 1048576 bytes"
	err := Put(t.Context(), &faulty{err: errors.New(large)}, RoleKey("x"), &thing{Secret: "top"})
	assert.True(t, IsError(err))
	assert.True(t, IsTooLarge(err))

	err = Put(t.Context(), &faulty{err: errors.New("down")}, RoleKey("x"), &thing{Secret: "top"})
	assert.True(t, IsError(err))
	assert.False(t, IsTooLarge(err))

	err = Put(t.Context(), &logical.InmemStorage{}, RoleKey("x"), &thing{Secret: "top", More: map[string]any{"f": func() {}}})
	assert.True(t, IsError(err), "what cannot be encoded is not in storage either")
}

func TestRetry(t *testing.T) {
	run := func(t *testing.T, errs ...error) (attempts int, took time.Duration, err error) {
		began := time.Now()
		err = Retry(t.Context(), func() error { attempts++; return errs[min(attempts, len(errs))-1] })
		return attempts, time.Since(began), err
	}
	synctest.Test(t, func(t *testing.T) {
		attempts, took, err := run(t, errors.New("down"), nil)
		require.NoError(t, err)
		assert.Equal(t, 2, attempts)
		assert.Equal(t, 100*time.Millisecond, took)

		attempts, took, err = run(t, errors.New("down"))
		require.EqualError(t, err, "down")
		assert.Equal(t, 3, attempts)
		assert.Equal(t, 500*time.Millisecond, took)

		attempts, _, err = run(t, &Error{&TooLargeError{Err: errors.New("large")}})
		assert.True(t, IsTooLarge(err))
		assert.Equal(t, 1, attempts, "an entry that is too large is not tried again")

		ended, cancel := context.WithCancel(t.Context())
		cancel()
		err = Retry(ended, func() error { t.Error("written after its caller has ended"); return nil })
		assert.True(t, IsError(err))
		assert.ErrorIs(t, err, context.Canceled)
	})
}

func TestEachKeyIsParsed(t *testing.T) {
	type parsed struct {
		kind Kind
		name string
	}
	for key, want := range map[string]parsed{
		CredentialKey("kensho", "prod"): {Credential, "prod"},
		KeypairKey("prod"):              {Keypair, "prod"},
		RoleKey("app"):                  {Role, "app"},
		GrantKey("prod"):                {State, "prod"},
		ScopeKey("prod", ""):            {State, "prod"},
		ScopeKey("prod", "a/b c"):       {State, "prod"},
		LeaseKey("prod", "app", "1", "token", time.Unix(2, 0)): {Other, ""},
		VendorInUseKey("kensho"):                               {VendorInUse, "kensho"},
		ProbeKey:                                               {Other, ""},
	} {
		kind, name := ParseKey(key)
		assert.Equal(t, want, parsed{kind, name}, key)
	}
}

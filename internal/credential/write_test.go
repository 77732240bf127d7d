package credential

import (
	"encoding/json"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/oauth2"
)

// before returns a stored credential.
func before() *storedCredential {
	fields := map[string]any{
		"token_url": "https://id.example.com/token", "client_id": "a", "client_secret": "top",
		"scope": []any{"read"}, "token_params": map[string]any{"tenant": "t", "audience": "b"}, "max_ttl": json.Number("60"),
	}
	entry := &Entry{Generation: "g", WriteTime: time.Now().Add(-time.Hour), Fields: fields}
	return &storedCredential{Entry: entry, vendor: oauth2.Provider{}, name: "prod", generation: "g"}
}

func TestAWriteChangesTheFieldsThatItNames(t *testing.T) {
	for name, c := range map[string]struct {
		op     Operation
		fields map[string]any
		want   map[string]any // of the fields that change; nil is gone
	}{
		"nothing":                      {Update, nil, nil},
		"a field":                      {Update, map[string]any{"client_id": "b"}, map[string]any{"client_id": "b"}},
		"a field is cleared":           {Update, map[string]any{"max_ttl": nil}, map[string]any{"max_ttl": nil}},
		"a list is replaced":           {Patch, map[string]any{"scope": []any{"write"}}, map[string]any{"scope": []any{"write"}}},
		"a map is replaced":            {Update, map[string]any{"token_params": map[string]any{"x": "y"}}, map[string]any{"token_params": map[string]any{"x": "y"}}},
		"a map is merged in a patch":   {Patch, map[string]any{"token_params": map[string]any{"x": "y", "tenant": nil}}, map[string]any{"token_params": map[string]any{"audience": "b", "x": "y"}}},
		"a map is emptied in a patch":  {Patch, map[string]any{"token_params": map[string]any{"audience": nil, "tenant": nil}}, map[string]any{"token_params": nil}},
		"a map is cleared in a patch":  {Patch, map[string]any{"token_params": nil}, map[string]any{"token_params": nil}},
		"a map that was not there yet": {Patch, map[string]any{"other_params": map[string]any{"x": "y", "z": nil}}, map[string]any{"other_params": map[string]any{"x": "y"}}},
	} {
		t.Run(name, func(t *testing.T) {
			old := before()
			want := maps.Clone(old.Fields)
			maps.Copy(want, c.want)
			maps.DeleteFunc(want, func(_ string, value any) bool { return value == nil })
			asItWas := before().Fields

			assert.Equal(t, want, WriteRequest{Operation: c.op, Fields: c.fields}.apply(old))
			assert.Equal(t, asItWas, old.Fields, "what is stored is not changed")
		})
	}
}

func TestOnlyANewSecretChangesTheTimeOfTheWrite(t *testing.T) {
	for name, c := range map[string]struct {
		fields map[string]any
		isNew  bool
	}{
		"another secret":      {map[string]any{"client_secret": "other"}, true},
		"the same secret":     {map[string]any{"client_secret": "top"}, false},
		"a cleared secret":    {map[string]any{"client_secret": nil}, false},
		"a setting":           {map[string]any{"description": "x"}, false},
		"a generated key":     {map[string]any{"private_key_source": "generated"}, true},
		"a key pair by name":  {map[string]any{"private_key_source": "generated", "keypair": "k"}, true},
		"a key pair's name":   {map[string]any{"keypair": "k"}, false},
		"no secret, no field": {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				old := before()
				fields := WriteRequest{Operation: Update, Fields: c.fields}.apply(old)
				written := revision{vendor: oauth2.Provider{}, name: "prod", fields: fields, time: time.Now()}.writeTime(old)
				if c.isNew {
					assert.True(t, written.Equal(time.Now()))
				} else {
					assert.Equal(t, old.WriteTime, written)
				}
			})
		})
	}
}

// store returns a Store whose vendors are not called.
func store() *Store {
	st, _ := New(Options{BuiltIn: func(string) provider.Provider { return oauth2.Provider{} }, Logger: hclog.NewNullLogger}, nil)
	return st
}

// planned plans a write to a stored credential, and checks that nothing of it is changed.
func planned(t *testing.T, stored *storedCredential, w WriteRequest, now time.Time) plannedWrite {
	t.Helper()
	st := store()
	opened, err := st.open(stored)
	require.NoError(t, err)
	entry, fields := *stored.Entry, maps.Clone(stored.Fields)
	known := &broker.State{Generation: stored.Generation, Number: 7}
	state := *known
	r := revision{vendor: stored.vendor, name: stored.name, fields: w.apply(stored), generation: "next", time: now}

	got, err := st.planWrite(w, stored, opened, known, r)
	require.NoError(t, err)
	again, err := st.planWrite(w, stored, opened, known, r)
	require.NoError(t, err)
	assert.Equal(t, got.next.Entry, again.next.Entry, "the same input gives the same plan")
	assert.Equal(t, entry, *stored.Entry, "what is stored is not changed")
	assert.Equal(t, fields, stored.Fields, "what is stored is not changed")
	assert.Equal(t, state, *known)
	return got
}

func TestAPlanHasTheWholeNextEntry(t *testing.T) {
	now := time.Now()
	stored := before()
	stored.Verified, stored.SentTo = &broker.State{Generation: "g"}, Destinations{"https://id.example.com/token"}
	for name, c := range map[string]struct {
		fields map[string]any
		want   Entry // without Fields
	}{
		"a secret": {map[string]any{"client_secret": "other"}, Entry{Generation: "next", WriteTime: now, SentTo: Destinations{"https://id.example.com/token", systemAuthorities}}},
		"another field": {map[string]any{"scope": []any{"write"}},
			Entry{Generation: "next", WriteTime: stored.WriteTime, SentTo: Destinations{"https://id.example.com/token", systemAuthorities}}},
		"a field without an exchange": {map[string]any{"description": "x"},
			Entry{Generation: "g", WriteTime: stored.WriteTime, Verified: stored.Verified, SentTo: stored.SentTo}},
	} {
		t.Run(name, func(t *testing.T) {
			got := planned(t, stored, WriteRequest{Operation: Update, Fields: c.fields}, now)
			c.want.Fields = maps.Clone(stored.Fields)
			maps.Copy(c.want.Fields, c.fields)
			assert.Equal(t, c.want, *got.next.Entry)
			assert.Equal(t, c.want.Generation == "g", got.needsNoExchange)
			assert.Equal(t, 7, got.known.Number)
			assert.Nil(t, got.answered(), "nothing is verified yet")
		})
	}
}

func TestTheResultOfAVerificationIsInACopyOfThePlan(t *testing.T) {
	plan := planned(t, before(), WriteRequest{Operation: Update, Fields: map[string]any{"client_id": "b"}}, time.Now())
	state := &broker.State{Generation: "next"}
	verified := plan.withVerified(state)
	assert.Same(t, state, verified.next.Verified)
	assert.Nil(t, plan.next.Verified)
	assert.Equal(t, plan.next.Fields, verified.next.Fields)
}

// A credential that the change has opened is not opened again, and one that another write has
// replaced is not taken for it.
func TestWhichOpenedCredentialAPlanUses(t *testing.T) {
	st, stored := store(), before()
	loaded := &broker.Credential{Generation: "g"}
	assert.Same(t, loaded, st.openedStored(stored, loaded))
	assert.Equal(t, "prod", st.openedStored(stored, &broker.Credential{Generation: "older"}).Name)
	assert.Nil(t, st.openedStored(stored, nil), "the change could not open it")
	stored.Fields["client_secret"] = nil
	assert.Nil(t, st.openedStored(stored, &broker.Credential{Generation: "older"}), "it cannot be opened")
	assert.Nil(t, st.openedStored(nil, nil))
}

// The vendor is not asked about a write that changes no exchange.
func TestWhichWritesNeedNoExchange(t *testing.T) {
	yes, no := true, false
	apart := map[string]any{"description": "x", "expires": "2027-05-01", "request_timeout": json.Number("20"), "keepalive_interval": nil}
	for name, c := range map[string]struct {
		fields map[string]any
		verify *bool
		want   bool
	}{
		"all of them":              {apart, nil, true},
		"unverified":               {apart, &no, true},
		"verified on request":      {apart, &yes, false},
		"nothing":                  {nil, nil, false},
		"the lifetime of a token":  {map[string]any{"description": "x", "max_ttl": json.Number("60")}, nil, false},
		"the authorities to trust": {map[string]any{"ca_cert": "x"}, nil, false},
	} {
		assert.Equal(t, c.want, WriteRequest{Fields: c.fields, Verify: c.verify}.needsNoExchange(), name)
	}
}

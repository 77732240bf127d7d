package storage

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
)

func TestThePathOfAnEntry(t *testing.T) {
	for key, path := range map[string]string{
		CredentialKey("kensho", "prod"): apipath.Credential("kensho", "prod"),
		KeypairKey("prod"):              apipath.Keypair("prod"),
		RoleKey("prod"):                 apipath.Role("prod"),
		GrantKey("prod"):                apipath.Status("prod"),
	} {
		assert.Equal(t, path, pathOf(key))
	}
}

func TestKeysOfAState(t *testing.T) {
	assert.Equal(t, "state/prod/grant", GrantKey("prod"))
	assert.Equal(t, "state/prod/own", ScopeKey("prod", ""))
	// printf 'read write' | sha256sum
	assert.Equal(t, "state/prod/1db268bf1ff3f15c88ab6d41d7e529c360ce90cc889eef9d4aa5561e7114e968", ScopeKey("prod", "read write"))
	for _, key := range []string{GrantKey("prod"), ScopeKey("prod", ""), ScopeKey("prod", "a/b")} {
		assert.Regexp(t, "^"+StatePrefix("prod")+"[^/]+$", key)
	}
}

func TestKeysOfDedicatedTokens(t *testing.T) {
	expiry := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	key := LeaseKey("prod", "app", "2", "secret", expiry)
	// printf secret | sha256sum
	assert.Equal(t, "lease/prod/app/2/1772359200-2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b", key)
	assert.Contains(t, key, SeriesPrefix("prod", "app", "2"))
	assert.Contains(t, key, LeasesPrefix("prod"))
	assert.True(t, LeaseExpiry(key).Equal(expiry))
	assert.True(t, IsLeaseOf(key, "secret"))
	assert.False(t, IsLeaseOf(key, "ecret"))
	assert.NotEqual(t, key, LeaseKey("prod", "app", "2", "other", expiry))
}

func TestAKeyWithoutAnExpiryHasTheZeroTime(t *testing.T) {
	for _, key := range []string{"", "lease/prod/app/2/", "lease/prod/app/2/soon-2bb8", "lease/prod/app/2/99999999999999999999-2bb8"} {
		assert.Zero(t, LeaseExpiry(key), key)
	}
}

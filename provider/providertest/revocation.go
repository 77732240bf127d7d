package providertest

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
)

// testRevocation tests credentials that implement provider.Revoker. It skips the others, whose
// vendors document no revocation.
func (k Kind) testRevocation(t *testing.T, c Contract) {
	vendor := k.Vendor()
	var fault atomic.Pointer[http.HandlerFunc] // a hanging handler may outlive its caller
	credential := c.open(t, k, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := fault.Load(); f != nil {
			(*f)(w, r)
			return
		}
		vendor.ServeHTTP(w, r)
	}))
	revoker, ok := credential.(provider.Revoker)
	if !ok {
		return
	}
	independent := revoker.Independent()
	if independent != nil {
		assertKind(t, provider.Invalid, independent, "Independent")
	}
	if err := revoker.Revocable(t.Context()); err != nil {
		assertKind(t, provider.Invalid, err, "Revocable")
		assertKind(t, provider.Invalid, revoker.Revoke(t.Context(), "a-token-0123456789", provider.Grant{}), "Revoke")
		return
	}

	assertAccepted := func(string, bool) {}
	if v, ok := vendor.(interface{ Accepts(accessToken string) bool }); ok {
		assertAccepted = func(accessToken string, is bool) {
			t.Helper()
			assert.Equal(t, is, v.Accepts(accessToken))
		}
	}
	other, grant := exchange(t, credential, provider.Grant{})
	answer, grant := exchange(t, credential, grant)
	assertAccepted(answer.AccessToken, true)

	for name, vendor := range map[string]http.HandlerFunc{"down": vendorsim.Answer(503, ""), "hung": vendorsim.Hang, "reset": vendorsim.Reset} {
		fault.Store(&vendor)
		asked := time.Now()
		assertKind(t, provider.Unavailable, revoker.Revoke(t.Context(), answer.AccessToken, grant), name)
		assert.LessOrEqual(t, time.Since(asked), 2*timeout, "request_timeout bounds it")
	}
	for body, kind := range map[string]provider.Kind{ // with status 200; 0 means that the token is invalid now
		`{"ok":false,"error":"internal_error"}`:         provider.Unavailable,
		`{"error":"temporarily_unavailable"}`:           provider.Unavailable,
		"error=server_error":                            provider.Unavailable,
		`{"error":{"code":"unavailable"}}`:              provider.Unavailable,
		`{"error":"unsupported_token_type"}`:            provider.Rejected,
		`{"ok":false,"error":"not_allowed_token_type"}`: provider.Rejected,
		`{"error":"invalid_token"}`:                     0,
		`{"ok":true,"error":null}`:                      0,
		`{"ok":true,"error":""}`:                        0,
		"OK":                                            0,
		"":                                              0,
	} {
		refusing := vendorsim.Answer(200, body)
		fault.Store(&refusing)
		err := revoker.Revoke(t.Context(), answer.AccessToken, grant)
		if kind == 0 {
			require.NoError(t, err, body)
			continue
		}
		assertKind(t, kind, err, body)
	}
	echo := vendorsim.EchoAs(http.StatusBadRequest, vendorsim.Encodings["plain"], false)
	fault.Store(&echo)
	err := revoker.Revoke(t.Context(), answer.AccessToken, grant)
	assertKind(t, provider.Rejected, err, "an echo of the request")
	assertWithout(t, err.Error(), "access token", answer.AccessToken)
	for field, secret := range c.secrets(k) {
		assertWithout(t, err.Error(), field, secret)
	}

	fault.Store(nil)
	require.NoError(t, revoker.Revoke(t.Context(), answer.AccessToken, grant))
	require.NoError(t, revoker.Revoke(t.Context(), answer.AccessToken, grant), "an invalid token is not an error")
	assertAccepted(answer.AccessToken, false)
	if independent == nil {
		assertAccepted(other.AccessToken, true)
		exchange(t, credential, grant)
	}
}

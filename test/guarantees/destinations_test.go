package guarantees_test

import (
	"maps"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/tally"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// redirection is a write to a stored credential. If the write changes where secrets are sent,
// again names the secrets that it must repeat.
type redirection struct {
	provider string
	stored   map[string]any
	change   map[string]any
	again    []string
}

// redirections returns writes that change where stored secrets are sent, and some that do not.
func redirections() map[string]redirection {
	const elsewhere = "https://elsewhere.example"
	client := func(extra map[string]any) map[string]any {
		data := map[string]any{"client_id": engine.ClientID, "client_secret": engine.ClientSecret, "token_url": vendorsim.OAuthTokenURL, "revocation_url": vendorsim.OAuthRevocationURL}
		maps.Copy(data, extra)
		return data
	}
	okta := map[string]any{"domain": "acme.okta.com", "client_id": "id", "client_secret": "s", "scope": "read"}
	issuer := map[string]any{"issuer": vendorsim.OAuthIssuer, "client_id": "id", "client_secret": "s"}
	all := map[string]redirection{
		"a refresh URL":                     {"kensho", map[string]any{"refresh_token": engine.RefreshToken}, map[string]any{"refresh_url": elsewhere}, []string{"refresh_token"}},
		"a removed refresh URL":             {"kensho", map[string]any{"refresh_token": engine.RefreshToken, "refresh_url": "https://proxy.example/r"}, map[string]any{"refresh_url": nil}, []string{"refresh_token"}},
		"a product":                         {"kensho", map[string]any{"refresh_token": engine.RefreshToken}, map[string]any{"product": "scribe"}, []string{"refresh_token"}},
		"a key pair's token URL":            {"kensho", engine.KeyPairFields(), map[string]any{"token_url": elsewhere}, []string{"private_key"}},
		"a base URL":                        {"sitecore", map[string]any{"api_key": engine.APIKey}, map[string]any{"base_url": elsewhere}, []string{"api_key"}},
		"a base URL with two secrets":       {"sitecore", map[string]any{"api_key": engine.APIKey, "refresh_token": "r"}, map[string]any{"base_url": elsewhere}, []string{"api_key", "refresh_token"}},
		"a token URL":                       {"oauth2", client(nil), map[string]any{"token_url": elsewhere}, []string{"client_secret"}},
		"another path on the host":          {"oauth2", client(nil), map[string]any{"token_url": vendorsim.OAuthTokenURL + "/tenant"}, []string{"client_secret"}},
		"a revocation URL":                  {"oauth2", client(nil), map[string]any{"revocation_url": elsewhere}, []string{"client_secret"}},
		"an issuer in place of a token URL": {"oauth2", client(nil), map[string]any{"token_url": nil, "issuer": elsewhere}, []string{"client_secret"}},
		"a token URL with two secrets":      {"oauth2", client(map[string]any{"refresh_token": engine.RefreshToken}), map[string]any{"token_url": elsewhere}, []string{"client_secret", "refresh_token"}},
		"an issuer":                         {"oauth2", issuer, map[string]any{"issuer": elsewhere}, []string{"client_secret"}},
		"a part of a host":                  {"okta", okta, map[string]any{"domain": "evil.okta.com"}, []string{"client_secret"}},
		"a part of a path":                  {"okta", okta, map[string]any{"server": "other"}, []string{"client_secret"}},
		"an assertion's audience": {"oauth2", map[string]any{"client_id": "id", "private_key": engine.PrivateKeyPEM(), "token_url": vendorsim.OAuthTokenURL},
			map[string]any{"assertion_audience": elsewhere}, []string{"private_key"}},
		"a CA certificate":            {"oauth2", client(nil), map[string]any{"ca_cert": engine.ACertificate}, []string{"client_secret"}},
		"a removed CA certificate":    {"oauth2", client(map[string]any{"ca_cert": engine.ACertificate}), map[string]any{"ca_cert": nil}, []string{"client_secret"}},
		"an added CA certificate":     {"sitecore", map[string]any{"api_key": engine.APIKey, "ca_cert": engine.ACertificate}, map[string]any{"ca_cert": engine.ACertificate + engine.OtherCertificate}, []string{"api_key"}},
		"a CA certificate for Kensho": {"kensho", map[string]any{"refresh_token": engine.RefreshToken}, map[string]any{"ca_cert": engine.ACertificate}, []string{"refresh_token"}},

		// A write that narrows or keeps the destinations needs no secret.
		"a removed revocation URL":   {"oauth2", client(nil), map[string]any{"revocation_url": nil}, nil},
		"a timeout":                  {"oauth2", client(nil), map[string]any{"request_timeout": 20}, nil},
		"a field at its default":     {"okta", okta, map[string]any{"server": "default"}, nil},
		"the default base URL":       {"sitecore", map[string]any{"api_key": engine.APIKey}, map[string]any{"base_url": "https://api.rfksrv.com"}, nil},
		"a duplicate CA certificate": {"oauth2", client(map[string]any{"ca_cert": engine.ACertificate}), map[string]any{"ca_cert": "\n" + engine.ACertificate + "\n\n" + engine.ACertificate}, nil},
		"one of two CA certificates": {"oauth2", client(map[string]any{"ca_cert": engine.ACertificate + engine.OtherCertificate}), map[string]any{"ca_cert": engine.OtherCertificate}, nil},
		"the product of a key pair":  {"kensho", engine.KeyPairFields(), map[string]any{"product": "scribe"}, nil},
	}
	for form, reformatted := range engine.PastedForms {
		own, other := reformatted(engine.ACertificate), reformatted(engine.OtherCertificate)
		all["a CA certificate, "+form] = redirection{"oauth2", client(nil), map[string]any{"ca_cert": own}, []string{"client_secret"}}
		all["another CA certificate, "+form] = redirection{"kensho", map[string]any{"refresh_token": engine.RefreshToken, "ca_cert": own}, map[string]any{"ca_cert": other}, []string{"refresh_token"}}
		all["an added CA certificate, "+form] = redirection{"sitecore", map[string]any{"api_key": engine.APIKey, "ca_cert": engine.ACertificate}, map[string]any{"ca_cert": engine.ACertificate + other}, []string{"api_key"}}
		all["the same CA certificate, "+form] = redirection{"oauth2", client(map[string]any{"ca_cert": engine.ACertificate}), map[string]any{"ca_cert": own}, nil}
	}
	return all
}

func TestGuarantee13AStoredSecretGoesOnlyWhereItsWriterSentIt(t *testing.T) {
	for name, test := range redirections() {
		for _, op := range []logical.Operation{logical.PatchOperation, logical.UpdateOperation} {
			for _, verify := range []bool{true, false} {
				if verify && test.again == nil {
					continue
				}
				t.Run(name+", "+string(op), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						e := engine.New(t)
						path := "config/" + test.provider + "/prod"
						e.Write(path, engine.With(test.stored, "verify", false))
						change := engine.With(test.by(op), "verify", verify)
						before := e.Dump()
						_, status, message := e.Request(op, path, change)
						if test.again == nil {
							require.Equal(t, http.StatusOK, status, message)
							return
						}
						assert.Equal(t, http.StatusBadRequest, status)
						assert.Contains(t, message, strings.Join(test.again, ", ")+": must be given again, as this write would send the stored value to a new destination")
						assert.Zero(t, e.Exchanges(), "nothing is sent")
						assert.Equal(t, before, e.Dump(), "nothing is stored")

						for _, field := range test.again[1:] { // one of two secrets is not enough
							_, status, message = e.Request(op, path, engine.With(change, field, test.stored[field]))
							assert.Equal(t, http.StatusBadRequest, status)
							assert.Contains(t, message, test.again[0]+": must be given again")
						}
						for _, field := range test.again {
							change[field] = test.stored[field]
						}
						_, status, message = e.Request(op, path, engine.With(change, "verify", false))
						assert.Equal(t, http.StatusOK, status, message)
					})
				})
			}
		}
	}
}

// by returns the change in the form of an operation: an update has the empty string in place
// of null.
func (r redirection) by(op logical.Operation) map[string]any {
	change := maps.Clone(r.change)
	if op == logical.PatchOperation {
		return change
	}
	for field, value := range change {
		if value == nil {
			change[field] = ""
		}
	}
	return change
}

// The writer does not know the secret, and controls a vendor that accepts anything.
func TestFaultAWriterSendsStoredSecretsElsewhere(t *testing.T) {
	row := tally.Row{Fault: "operator: a write that sends stored secrets elsewhere"}
	for name, test := range redirections() {
		if test.again == nil {
			continue
		}
		for _, op := range []logical.Operation{logical.PatchOperation, logical.UpdateOperation} {
			t.Run(name+", "+string(op), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := engine.NewUnchecked(t)
					path := "config/" + test.provider + "/prod"
					e.Write(path, engine.With(test.stored, "verify", false))
					before := e.Dump()
					for _, verify := range []bool{false, true} {
						e.Request(op, path, engine.With(test.by(op), "verify", verify))
						row.Tried++
						if e.Exchanges() > 0 {
							row.Leaks++
						}
					}
					if !maps.Equal(before, e.Dump()) {
						row.Leaks++
					}
				})
			})
		}
	}
	tally.Record(t, row)
}

// A writer that knows the original refresh token cannot obtain the rotated one.
func TestGuarantee13ARotatedRefreshTokenIsNotSentElsewhere(t *testing.T) {
	for name, change := range map[string]map[string]any{
		"to another URL":              {"refresh_url": "https://elsewhere.example/refresh"},
		"with another CA certificate": {"ca_cert": engine.ACertificate},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewUnchecked(t) // one of the requests goes to an unknown host
				e.Sim.Behave(vendorsim.Conduct{Rotate: true})
				e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
				engine.Until(1, 0, 5)
				e.Creds("prod")
				before := e.Exchanges()
				e.Request(logical.UpdateOperation, "config/kensho/prod", engine.With(change, "refresh_token", engine.RefreshToken))
				for _, call := range e.Sim.Calls()[before:] {
					assert.Contains(t, call.URL, "refreshToken="+engine.RefreshToken, "only the given token is sent, which the vendor no longer accepts")
				}
				require.Greater(t, e.Exchanges(), before)
				engine.Until(2, 0, 5)
				e.Creds("prod") // continues with the stored token
			})
		})
	}
}

func TestGuarantee13ARefreshTokenKeptForARepeatedWriteIsNotSentToAnotherAuthority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := engine.NewRotating(t)
		e.Sim.AddRefreshToken("link-streaming", engine.AnotherToken)
		storage.Refuse.Store(true)
		e.Request(logical.UpdateOperation, "config/kensho/new", map[string]any{"refresh_token": engine.AnotherToken})
		before := e.Exchanges()
		storage.Refuse.Store(false)
		e.Request(logical.UpdateOperation, "config/kensho/new", map[string]any{"refresh_token": engine.AnotherToken, "ca_cert": engine.ACertificate})
		for _, call := range e.Sim.Calls()[before:] {
			assert.Contains(t, call.URL, "refreshToken="+engine.AnotherToken)
		}
		require.Equal(t, before+1, e.Exchanges())
		e.Write("config/kensho/new", map[string]any{"refresh_token": engine.AnotherToken})
	})
}

func TestGuarantee13ADedicatedTokenIsNotSentElsewhereToBeRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		lease := e.Creds("mine")
		e.Write("config/oauth2/api", map[string]any{
			"client_secret": "of-mine", "token_url": "https://elsewhere.example/token", "revocation_url": "https://elsewhere.example/revoke", "verify": false,
		})
		before := e.Exchanges()
		require.NoError(t, e.Revoke(lease))
		assert.Equal(t, before, e.Exchanges())
		assert.Empty(t, e.Leased())
	})
}

func TestGuarantee13AWriteIsCheckedIfTheStoredCredentialCannotBeOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewSigning(t)
		e.Damage("keypair/prod")
		e.Backend.InvalidateKey(t.Context(), "keypair/prod")
		repaired := map[string]any{"private_key_source": "", "keypair": "", "private_key": engine.PrivateKeyPEM(), "verify": false}
		_, status, message := e.Request(logical.UpdateOperation, "config/oauth2/a", engine.With(repaired, "token_url", "https://elsewhere.example"))
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "refresh_token: must be given again")
		e.Write("config/oauth2/a", repaired)
	})
}

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

// A redirection is a write to a credential that is stored, and what has to be given again
// with it, if it changes where that is sent.
type redirection struct {
	provider string
	stored   map[string]any
	change   map[string]any
	again    []string
}

func redirections() map[string]redirection {
	const elsewhere = "https://elsewhere.example"
	client := func(extra map[string]any) map[string]any {
		data := map[string]any{"client_id": engine.ClientID, "client_secret": engine.ClientSecret, "token_url": vendorsim.OAuthTokenURL, "revocation_url": vendorsim.OAuthRevocationURL}
		maps.Copy(data, extra)
		return data
	}
	preset := map[string]any{"preset": "okta", "preset_params": "domain=acme", "client_id": "id", "client_secret": "s", "scope": "read"}
	issuer := map[string]any{"issuer": vendorsim.OAuthIssuer, "client_id": "id", "client_secret": "s"}
	all := map[string]redirection{
		"a refresh URL":              {"kensho", map[string]any{"refresh_token": engine.RefreshToken}, map[string]any{"refresh_url": elsewhere}, []string{"refresh_token"}},
		"a refresh URL that goes":    {"kensho", map[string]any{"refresh_token": engine.RefreshToken, "refresh_url": "https://proxy.example/r"}, map[string]any{"refresh_url": nil}, []string{"refresh_token"}},
		"a product":                  {"kensho", map[string]any{"refresh_token": engine.RefreshToken}, map[string]any{"product": "scribe"}, []string{"refresh_token"}},
		"a key pair's token URL":     {"kensho", engine.KeyPairFields(), map[string]any{"token_url": elsewhere}, []string{"private_key"}},
		"a base URL":                 {"sitecore", map[string]any{"api_key": engine.APIKey}, map[string]any{"base_url": elsewhere}, []string{"api_key"}},
		"a base URL of two secrets":  {"sitecore", map[string]any{"api_key": engine.APIKey, "refresh_token": "r"}, map[string]any{"base_url": elsewhere}, []string{"api_key", "refresh_token"}},
		"a token URL":                {"oauth2", client(nil), map[string]any{"token_url": elsewhere}, []string{"client_secret"}},
		"another path of the host":   {"oauth2", client(nil), map[string]any{"token_url": vendorsim.OAuthTokenURL + "/tenant"}, []string{"client_secret"}},
		"a revocation URL":           {"oauth2", client(nil), map[string]any{"revocation_url": elsewhere}, []string{"client_secret"}},
		"an issuer for a token URL":  {"oauth2", client(nil), map[string]any{"token_url": nil, "issuer": elsewhere}, []string{"client_secret"}},
		"a preset for a token URL":   {"oauth2", client(nil), map[string]any{"token_url": nil, "preset": "xero"}, []string{"client_secret"}},
		"a token URL of two secrets": {"oauth2", client(map[string]any{"refresh_token": engine.RefreshToken}), map[string]any{"token_url": elsewhere}, []string{"client_secret", "refresh_token"}},
		"an issuer":                  {"oauth2", issuer, map[string]any{"issuer": elsewhere}, []string{"client_secret"}},
		"a parameter of a preset":    {"oauth2", preset, map[string]any{"preset_params": map[string]any{"domain": "evil"}}, []string{"client_secret"}},
		"another preset":             {"oauth2", preset, map[string]any{"preset": "auth0"}, []string{"client_secret"}},
		"a token URL over a preset":  {"oauth2", preset, map[string]any{"token_url": elsewhere}, []string{"client_secret"}},
		"an assertion's audience": {"oauth2", map[string]any{"client_id": "id", "private_key": engine.PrivateKeyPEM(), "token_url": vendorsim.OAuthTokenURL},
			map[string]any{"assertion_audience": elsewhere}, []string{"private_key"}},
		"an authority":           {"oauth2", client(nil), map[string]any{"ca_cert": engine.ACertificate}, []string{"client_secret"}},
		"an authority that goes": {"oauth2", client(map[string]any{"ca_cert": engine.ACertificate}), map[string]any{"ca_cert": nil}, []string{"client_secret"}},
		"one authority more":     {"sitecore", map[string]any{"api_key": engine.APIKey, "ca_cert": engine.ACertificate}, map[string]any{"ca_cert": engine.ACertificate + engine.OtherCertificate}, []string{"api_key"}},
		"an authority of Kensho": {"kensho", map[string]any{"refresh_token": engine.RefreshToken}, map[string]any{"ca_cert": engine.ACertificate}, []string{"refresh_token"}},

		// What stays inside of what the writer has allowed needs no secret.
		"no revocation any more":    {"oauth2", client(nil), map[string]any{"revocation_url": nil}, nil},
		"a shorter timeout":         {"oauth2", client(nil), map[string]any{"request_timeout": 20}, nil},
		"a preset by another name":  {"oauth2", preset, map[string]any{"preset_params": map[string]any{"server": "default"}}, nil},
		"the default as it is":      {"sitecore", map[string]any{"api_key": engine.APIKey}, map[string]any{"base_url": "https://api.rfksrv.com"}, nil},
		"another form of authority": {"oauth2", client(map[string]any{"ca_cert": engine.ACertificate}), map[string]any{"ca_cert": "\n" + engine.ACertificate + "\n\n" + engine.ACertificate}, nil},
		"one authority less":        {"oauth2", client(map[string]any{"ca_cert": engine.ACertificate + engine.OtherCertificate}), map[string]any{"ca_cert": engine.OtherCertificate}, nil},
		"the product of a key pair": {"kensho", engine.KeyPairFields(), map[string]any{"product": "scribe"}, nil},
	}
	for form, reformatted := range engine.PastedForms {
		own, other := reformatted(engine.ACertificate), reformatted(engine.OtherCertificate)
		all["an authority, "+form] = redirection{"oauth2", client(nil), map[string]any{"ca_cert": own}, []string{"client_secret"}}
		all["another authority, "+form] = redirection{"kensho", map[string]any{"refresh_token": engine.RefreshToken, "ca_cert": own}, map[string]any{"ca_cert": other}, []string{"refresh_token"}}
		all["one authority more, "+form] = redirection{"sitecore", map[string]any{"api_key": engine.APIKey, "ca_cert": engine.ACertificate}, map[string]any{"ca_cert": engine.ACertificate + other}, []string{"api_key"}}
		all["the same authority, "+form] = redirection{"oauth2", client(map[string]any{"ca_cert": engine.ACertificate}), map[string]any{"ca_cert": own}, nil}
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
						assert.Contains(t, message, strings.Join(test.again, ", ")+": must be given again, as this write changes where it is sent")
						assert.Zero(t, e.Exchanges(), "nothing is sent")
						assert.Equal(t, before, e.Dump(), "nothing is stored")

						for _, field := range test.again[1:] { // one of two is not enough
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

// by is the change as an operation has it: a plain write has the empty string for null, and
// replaces maps.
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
	if params, isMap := change["preset_params"].(map[string]any); isMap && params["domain"] == nil {
		change["preset_params"] = engine.With(params, "domain", "acme")
	}
	return change
}

// A writer who does not know the secret, and has a vendor of their own who takes anything.
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

// Whoever knows the refresh token that was stored once does not get the one that the vendor
// has given in its place.
func TestGuarantee13ARotatedRefreshTokenIsNotSentElsewhere(t *testing.T) {
	for name, change := range map[string]map[string]any{
		"to another URL":       {"refresh_url": "https://elsewhere.example/refresh"},
		"to another authority": {"ca_cert": engine.ACertificate},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewUnchecked(t) // one of the requests is to nobody
				e.Sim.Behave(vendorsim.Conduct{Rotate: true})
				e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
				engine.Until(1, 0, 5)
				e.Creds("prod")
				before := e.Exchanges()
				e.Request(logical.UpdateOperation, "config/kensho/prod", engine.With(change, "refresh_token", engine.RefreshToken))
				for _, call := range e.Sim.Calls()[before:] {
					assert.Contains(t, call.URL, "refreshToken="+engine.RefreshToken, "the one that was given, which the vendor does not take any more")
				}
				require.Greater(t, e.Exchanges(), before)
				engine.Until(2, 0, 5)
				e.Creds("prod") // goes on with what is stored
			})
		})
	}
}

func TestGuarantee13ARefreshTokenHeldForAWriteIsNotSentToAnotherAuthority(t *testing.T) {
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

func TestGuarantee13AWriteIsCheckedThoughTheStoredCredentialCannotBeOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewSigning(t)
		e.Damage("keypair/prod")
		e.Backend.InvalidateKey(t.Context(), "keypair/prod")
		mended := map[string]any{"private_key_source": "", "keypair": "", "private_key": engine.PrivateKeyPEM(), "verify": false}
		_, status, message := e.Request(logical.UpdateOperation, "config/oauth2/a", engine.With(mended, "token_url", "https://elsewhere.example"))
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "refresh_token: must be given again")
		e.Write("config/oauth2/a", mended)
	})
}

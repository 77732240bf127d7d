package tokenbroker_test

import (
	"maps"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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
		data := map[string]any{"client_id": clientID, "client_secret": clientSecret, "token_url": vendorsim.OAuthTokenURL, "revocation_url": vendorsim.OAuthRevocationURL}
		maps.Copy(data, extra)
		return data
	}
	preset := map[string]any{"preset": "okta", "preset_params": "domain=acme", "client_id": "id", "client_secret": "s", "scope": "read"}
	issuer := map[string]any{"issuer": vendorsim.OAuthIssuer, "client_id": "id", "client_secret": "s"}
	all := map[string]redirection{
		"a refresh URL":              {"kensho", map[string]any{"refresh_token": refreshToken}, map[string]any{"refresh_url": elsewhere}, []string{"refresh_token"}},
		"a refresh URL that goes":    {"kensho", map[string]any{"refresh_token": refreshToken, "refresh_url": "https://proxy.example/r"}, map[string]any{"refresh_url": nil}, []string{"refresh_token"}},
		"a product":                  {"kensho", map[string]any{"refresh_token": refreshToken}, map[string]any{"product": "scribe"}, []string{"refresh_token"}},
		"a key pair's token URL":     {"kensho", keyPair(), map[string]any{"token_url": elsewhere}, []string{"private_key"}},
		"a base URL":                 {"sitecore", map[string]any{"api_key": apiKey}, map[string]any{"base_url": elsewhere}, []string{"api_key"}},
		"a base URL of two secrets":  {"sitecore", map[string]any{"api_key": apiKey, "refresh_token": "r"}, map[string]any{"base_url": elsewhere}, []string{"api_key", "refresh_token"}},
		"a token URL":                {"oauth2", client(nil), map[string]any{"token_url": elsewhere}, []string{"client_secret"}},
		"another path of the host":   {"oauth2", client(nil), map[string]any{"token_url": vendorsim.OAuthTokenURL + "/tenant"}, []string{"client_secret"}},
		"a revocation URL":           {"oauth2", client(nil), map[string]any{"revocation_url": elsewhere}, []string{"client_secret"}},
		"an issuer for a token URL":  {"oauth2", client(nil), map[string]any{"token_url": nil, "issuer": elsewhere}, []string{"client_secret"}},
		"a preset for a token URL":   {"oauth2", client(nil), map[string]any{"token_url": nil, "preset": "xero"}, []string{"client_secret"}},
		"a token URL of two secrets": {"oauth2", client(map[string]any{"refresh_token": refreshToken}), map[string]any{"token_url": elsewhere}, []string{"client_secret", "refresh_token"}},
		"an issuer":                  {"oauth2", issuer, map[string]any{"issuer": elsewhere}, []string{"client_secret"}},
		"a parameter of a preset":    {"oauth2", preset, map[string]any{"preset_params": map[string]any{"domain": "evil"}}, []string{"client_secret"}},
		"another preset":             {"oauth2", preset, map[string]any{"preset": "auth0"}, []string{"client_secret"}},
		"a token URL over a preset":  {"oauth2", preset, map[string]any{"token_url": elsewhere}, []string{"client_secret"}},
		"an assertion's audience": {"oauth2", map[string]any{"client_id": "id", "private_key": privateKeyPEM(), "token_url": vendorsim.OAuthTokenURL},
			map[string]any{"assertion_audience": elsewhere}, []string{"private_key"}},
		"an authority":           {"oauth2", client(nil), map[string]any{"ca_cert": aCertificate}, []string{"client_secret"}},
		"an authority that goes": {"oauth2", client(map[string]any{"ca_cert": aCertificate}), map[string]any{"ca_cert": nil}, []string{"client_secret"}},
		"one authority more":     {"sitecore", map[string]any{"api_key": apiKey, "ca_cert": aCertificate}, map[string]any{"ca_cert": aCertificate + otherCertificate}, []string{"api_key"}},
		"an authority of Kensho": {"kensho", map[string]any{"refresh_token": refreshToken}, map[string]any{"ca_cert": aCertificate}, []string{"refresh_token"}},

		// What stays inside of what the writer has allowed needs no secret.
		"no revocation any more":    {"oauth2", client(nil), map[string]any{"revocation_url": nil}, nil},
		"a shorter timeout":         {"oauth2", client(nil), map[string]any{"request_timeout": 20}, nil},
		"a preset by another name":  {"oauth2", preset, map[string]any{"preset_params": map[string]any{"server": "default"}}, nil},
		"the default as it is":      {"sitecore", map[string]any{"api_key": apiKey}, map[string]any{"base_url": "https://api.rfksrv.com"}, nil},
		"another form of authority": {"oauth2", client(map[string]any{"ca_cert": aCertificate}), map[string]any{"ca_cert": "\n" + aCertificate + "\n\n" + aCertificate}, nil},
		"one authority less":        {"oauth2", client(map[string]any{"ca_cert": aCertificate + otherCertificate}), map[string]any{"ca_cert": otherCertificate}, nil},
		"the product of a key pair": {"kensho", keyPair(), map[string]any{"product": "scribe"}, nil},
	}
	for form, reformatted := range pastedForms {
		own, other := reformatted(aCertificate), reformatted(otherCertificate)
		all["an authority, "+form] = redirection{"oauth2", client(nil), map[string]any{"ca_cert": own}, []string{"client_secret"}}
		all["another authority, "+form] = redirection{"kensho", map[string]any{"refresh_token": refreshToken, "ca_cert": own}, map[string]any{"ca_cert": other}, []string{"refresh_token"}}
		all["one authority more, "+form] = redirection{"sitecore", map[string]any{"api_key": apiKey, "ca_cert": aCertificate}, map[string]any{"ca_cert": aCertificate + other}, []string{"api_key"}}
		all["the same authority, "+form] = redirection{"oauth2", client(map[string]any{"ca_cert": aCertificate}), map[string]any{"ca_cert": own}, nil}
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
						e := newEngine(t)
						path := "config/" + test.provider + "/prod"
						e.write(path, with(test.stored, "verify", false))
						change := with(test.by(op), "verify", verify)
						before := e.dump()
						_, status, message := e.request(op, path, change)
						if test.again == nil {
							require.Equal(t, http.StatusOK, status, message)
							return
						}
						assert.Equal(t, http.StatusBadRequest, status)
						assert.Contains(t, message, strings.Join(test.again, ", ")+": must be given again, as this write changes where it is sent")
						assert.Zero(t, e.exchanges(), "nothing is sent")
						assert.Equal(t, before, e.dump(), "nothing is stored")

						for _, field := range test.again[1:] { // one of two is not enough
							_, status, message = e.request(op, path, with(change, field, test.stored[field]))
							assert.Equal(t, http.StatusBadRequest, status)
							assert.Contains(t, message, test.again[0]+": must be given again")
						}
						for _, field := range test.again {
							change[field] = test.stored[field]
						}
						_, status, message = e.request(op, path, with(change, "verify", false))
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
		change["preset_params"] = with(params, "domain", "acme")
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
					e := mount(t)
					path := "config/" + test.provider + "/prod"
					e.write(path, with(test.stored, "verify", false))
					before := e.dump()
					for _, verify := range []bool{false, true} {
						e.request(op, path, with(test.by(op), "verify", verify))
						row.Tried++
						if e.exchanges() > 0 {
							row.Leaks++
						}
					}
					if !maps.Equal(before, e.dump()) {
						row.Leaks++
					}
				})
			})
		}
	}
	tally.Record(t, row)
}

// with is some data with one field more.
func with(data map[string]any, field string, value any) map[string]any {
	all := maps.Clone(data)
	all[field] = value
	return all
}

// Whoever knows the refresh token that was stored once does not get the one that the vendor
// has given in its place.
func TestGuarantee13ARotatedRefreshTokenIsNotSentElsewhere(t *testing.T) {
	for name, change := range map[string]map[string]any{
		"to another URL":       {"refresh_url": "https://elsewhere.example/refresh"},
		"to another authority": {"ca_cert": aCertificate},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := mount(t) // one of the requests is to nobody
				e.sim.Behave(vendorsim.Conduct{Rotate: true})
				e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
				until(1, 0, 5)
				e.creds("prod")
				before := e.exchanges()
				e.request(logical.UpdateOperation, "config/kensho/prod", with(change, "refresh_token", refreshToken))
				for _, call := range e.sim.Calls()[before:] {
					assert.Contains(t, call.URL, "refreshToken="+refreshToken, "the one that was given, which the vendor does not take any more")
				}
				require.Greater(t, e.exchanges(), before)
				until(2, 0, 5)
				e.creds("prod") // goes on with what is stored
			})
		})
	}
}

func TestGuarantee13ARefreshTokenHeldForAWriteIsNotSentToAnotherAuthority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage := newRotatingEngine(t)
		e.sim.AddRefreshToken("link-streaming", anotherToken)
		storage.refuse.Store(true)
		e.request(logical.UpdateOperation, "config/kensho/new", map[string]any{"refresh_token": anotherToken})
		before := e.exchanges()
		storage.refuse.Store(false)
		e.request(logical.UpdateOperation, "config/kensho/new", map[string]any{"refresh_token": anotherToken, "ca_cert": aCertificate})
		for _, call := range e.sim.Calls()[before:] {
			assert.Contains(t, call.URL, "refreshToken="+anotherToken)
		}
		require.Equal(t, before+1, e.exchanges())
		e.write("config/kensho/new", map[string]any{"refresh_token": anotherToken})
	})
}

func TestGuarantee13ADedicatedTokenIsNotSentElsewhereToBeRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		lease := e.creds("mine")
		e.write("config/oauth2/api", map[string]any{
			"client_secret": "of-mine", "token_url": "https://elsewhere.example/token", "revocation_url": "https://elsewhere.example/revoke", "verify": false,
		})
		before := e.exchanges()
		require.NoError(t, e.revoke(lease))
		assert.Equal(t, before, e.exchanges())
		assert.Empty(t, e.leased())
	})
}

func TestGuarantee13AWriteIsCheckedThoughTheStoredCredentialCannotBeOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSigningEngine(t)
		e.damage("keypair/prod")
		e.backend.InvalidateKey(t.Context(), "keypair/prod")
		mended := map[string]any{"private_key_source": "", "keypair": "", "private_key": privateKeyPEM(), "verify": false}
		_, status, message := e.request(logical.UpdateOperation, "config/oauth2/a", with(mended, "token_url", "https://elsewhere.example"))
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "refresh_token: must be given again")
		e.write("config/oauth2/a", mended)
	})
}

func TestAWriteIsForWhatItWasCheckedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		e.keypair("stored", nil)
		for path, data := range map[string]map[string]any{
			"roles/mine":        {"config": "api"},
			"config/oauth2/api": {"request_timeout": 20},
			"keypair/stored":    {},
		} {
			before := e.dump()
			for op, at := range map[logical.Operation]string{logical.CreateOperation: path, logical.UpdateOperation: path + "-gone"} {
				req := &logical.Request{Operation: op, Path: at, MountPoint: mountPoint, Data: maps.Clone(data), Storage: e.storage}
				if at == "roles/mine-gone" {
					req.Data["config"] = "api"
				}
				if at == "config/oauth2/api-gone" {
					req.Data = secretClient(true)
				}
				resp, err := e.backend.HandleRequest(t.Context(), req)
				require.Error(t, err, at)
				status, _ := logical.RespondErrorCommon(req, resp, err)
				logical.AdjustErrorStatusCode(&status, err)
				assert.Equal(t, http.StatusForbidden, status, at)
				assert.Contains(t, err.Error(), at+" was ")
			}
			assert.Equal(t, before, e.dump(), "nothing is stored")
		}
	})
}

package guarantees_test

import (
	"crypto"
	"maps"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee17AKeyPairSignsOnlyForItsAllowedCredentials(t *testing.T) {
	fields := map[string]any{
		"client_id": "prod-client", "private_key_source": "generated", "keypair": "prod",
		"token_url": "https://own.example/token",
	}
	type use struct {
		keypair map[string]any
		path    string
		change  map[string]any
		says    string // "" if the use is allowed
	}
	uses := map[string]use{
		"another name":                         {nil, "config/oauth2/teamb", map[string]any{"assertion_audience": "https://vendor.example"}, `keypair: keypair/prod may not be used by the credential "teamb"; add it to allowed_configs of keypair/prod`},
		"another name at Kensho":               {nil, "config/kensho/teamb", nil, `keypair: keypair/prod may not be used by the credential "teamb"`},
		"its own name":                         {nil, "config/oauth2/prod", nil, ""},
		"its own name, allowed for another":    {map[string]any{"allowed_configs": "teamb"}, "config/oauth2/prod", nil, `keypair: keypair/prod may not be used by the credential "prod"`},
		"one of two allowed names":             {map[string]any{"allowed_configs": "prod,teamb"}, "config/oauth2/teamb", nil, ""},
		"neither of two allowed names":         {map[string]any{"allowed_configs": "prod,teamb"}, "config/oauth2/teamc", nil, `keypair: keypair/prod may not be used by the credential "teamc"`},
		"another host":                         {map[string]any{"allowed_hosts": "vendor.example"}, "config/oauth2/prod", nil, `keypair: keypair/prod signs only for vendor.example, not for "own.example"; add the host to allowed_hosts`},
		"another port":                         {map[string]any{"allowed_hosts": "own.example:8443"}, "config/oauth2/prod", nil, `not for "own.example"`},
		"the allowed host":                     {map[string]any{"allowed_hosts": "Own.Example:443"}, "config/oauth2/prod", nil, ""},
		"another host for revocation":          {map[string]any{"allowed_hosts": "own.example"}, "config/oauth2/prod", map[string]any{"revocation_url": "https://r.example"}, `not for "r.example"`},
		"an issuer on another host":            {map[string]any{"allowed_hosts": "own.example"}, "config/oauth2/prod", map[string]any{"token_url": "", "issuer": "https://i.example"}, `not for "i.example"`},
		"an issuer on the allowed host":        {map[string]any{"allowed_hosts": "own.example"}, "config/oauth2/prod", map[string]any{"token_url": "", "issuer": "https://own.example/realm"}, ""},
		"another audience":                     {map[string]any{"allowed_audiences": "https://vendor.example"}, "config/oauth2/prod", nil, `keypair: keypair/prod does not sign for the audience "https://own.example/token"; add it to allowed_audiences`},
		"another assertion_audience":           {map[string]any{"allowed_audiences": "https://own.example/token"}, "config/oauth2/prod", map[string]any{"assertion_audience": "https://vendor.example"}, `does not sign for the audience "https://vendor.example"`},
		"the allowed audience":                 {map[string]any{"allowed_audiences": "https://vendor.example"}, "config/oauth2/prod", map[string]any{"assertion_audience": "https://vendor.example"}, ""},
		"an unknown audience":                  {map[string]any{"allowed_audiences": "https://own.example"}, "config/oauth2/prod", map[string]any{"token_url": "", "issuer": "https://own.example"}, "assertion_audience: must be set, as keypair/prod has allowed_audiences"},
		"a CA certificate that is not allowed": {map[string]any{"allowed_hosts": "own.example"}, "config/oauth2/prod", map[string]any{"ca_cert": engine.ACertificate}, "ca_cert: contains a certificate that is not in the ca_cert of keypair/prod"},
		"one of two allowed CA certificates":   {map[string]any{"allowed_hosts": "own.example", "ca_cert": engine.ACertificate + engine.OtherCertificate}, "config/oauth2/prod", map[string]any{"ca_cert": engine.OtherCertificate}, ""},
	}
	for form, reformatted := range engine.PastedForms {
		const refused = "ca_cert: contains a certificate that is not in the ca_cert of keypair/prod"
		own, hosts := reformatted(engine.ACertificate), map[string]any{"allowed_hosts": "own.example"}
		uses["a CA certificate that is not allowed, "+form] = use{hosts, "config/oauth2/prod", map[string]any{"ca_cert": own}, refused}
		uses["an allowed CA certificate and another, "+form] = use{engine.With(hosts, "ca_cert", engine.OtherCertificate), "config/oauth2/prod", map[string]any{"ca_cert": engine.OtherCertificate + own}, refused}
		uses["an allowed CA certificate, "+form] = use{engine.With(hosts, "ca_cert", own), "config/oauth2/prod", map[string]any{"ca_cert": engine.ACertificate}, ""}
		uses["a CA certificate in another form, "+form] = use{engine.With(hosts, "ca_cert", engine.ACertificate), "config/oauth2/prod", map[string]any{"ca_cert": own}, ""}
	}
	for name, test := range uses {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Keypair("prod", test.keypair)
				before, data := e.Dump(), engine.With(fields, "verify", false)
				maps.Copy(data, test.change)
				_, status, message := e.Request(logical.UpdateOperation, test.path, data)
				if test.says == "" {
					assert.Equal(t, http.StatusOK, status, message)
					return
				}
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Contains(t, message, test.says)
				delete(data, "verify")
				_, status, _ = e.Request(logical.UpdateOperation, test.path, data)
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Zero(t, e.Exchanges(), "nothing is signed")
				assert.Equal(t, before, e.Dump(), "nothing is stored")
			})
		})
	}
}

// A writer of a credential who may not write its key pair cannot have the key sign for another
// host, neither by changing the credential nor by deleting and recreating it.
func TestGuarantee13AGeneratedKeySignsOnlyForTheFirstCredentialsHosts(t *testing.T) {
	changes := map[string]map[string]any{
		"another host":           {"token_url": "https://elsewhere.example/token", "assertion_audience": vendorsim.OAuthTokenURL},
		"an issuer":              {"token_url": "", "issuer": "https://elsewhere.example"},
		"another revocation URL": {"revocation_url": "https://elsewhere.example/revoke"},
		"another CA certificate": {"ca_cert": engine.ACertificate},
	}
	for form, reformatted := range engine.PastedForms {
		changes["another CA certificate, "+form] = map[string]any{"ca_cert": reformatted(engine.ACertificate)}
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Keypair("prod", nil)
				fields := map[string]any{"client_id": "id", "private_key_source": "generated", "token_url": vendorsim.OAuthTokenURL, "verify": false}
				e.Write("config/oauth2/prod", fields)
				assert.Equal(t, []string{"auth.example.com"}, e.Read("keypair/prod").Data["allowed_hosts"])
				stolen := maps.Clone(fields)
				maps.Copy(stolen, change)
				delete(stolen, "verify")

				refused := func(op logical.Operation, data map[string]any) {
					_, status, message := e.Request(op, "config/oauth2/prod", data)
					assert.Equal(t, http.StatusBadRequest, status)
					assert.Contains(t, message, "keypair/prod")
					assert.Zero(t, e.Exchanges(), "nothing is signed")
				}
				refused(logical.UpdateOperation, change)
				refused(logical.PatchOperation, change)
				_, status, message := e.Request(logical.DeleteOperation, "config/oauth2/prod", nil)
				require.Equal(t, http.StatusOK, status, message)
				refused(logical.UpdateOperation, stolen)
			})
		})
	}
}

func TestGuarantee3AnActivationKeepsTheRefreshTokensThatTheVendorRotates(t *testing.T) {
	for name, during := range map[string]struct {
		at     time.Duration // the exchange of a takes until 4 s, then that of b starts
		happen func(*engine.Engine)
		status int    // of the activation
		lost   string // the credential whose refresh token is lost
	}{
		"success": {0, func(*engine.Engine) {}, http.StatusOK, ""},
		"a rejection": {3 * time.Second, func(e *engine.Engine) {
			e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusUnauthorized, `{"error":"invalid_client"}`))})
		}, http.StatusBadRequest, ""},
		"an invalid last response": {3 * time.Second, func(e *engine.Engine) { e.Sim.Behave(vendorsim.Conduct{Unstated: true}) }, http.StatusBadGateway, ""},
		"a storage failure":        {5 * time.Second, func(e *engine.Engine) { e.Storage.(*engine.FaultyStorage).FailWritesAfter(0) }, http.StatusInternalServerError, ""},
		"a killed server": {5 * time.Second, func(e *engine.Engine) {
			e.Storage.(*engine.FaultyStorage).FailWritesAfter(0)
			e.Restart()
		}, http.StatusInternalServerError, "b"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewSigning(t)
				storage := e.BreakStorage()
				e.Sim.Behave(vendorsim.Conduct{Latency: 4 * time.Second})
				var status int
				var message string
				var operator sync.WaitGroup
				killed := *e // may have been restarted before the answer comes
				operator.Go(func() { status, message = killed.Activate(nil) })
				time.Sleep(during.at)
				during.happen(e)
				operator.Wait()
				assert.Equal(t, during.status, status, message)

				e.Sim.Behave(vendorsim.Conduct{})
				storage.WritesLeft.Store(nil)
				time.Sleep(30 * time.Second)
				require.NoError(t, e.Tick()) // stores the rotated refresh tokens that are kept in memory
				e.Restart()
				engine.Until(2, 0, 0)
				for _, name := range []string{"a", "b"} {
					if name != during.lost {
						e.Creds(name)
					}
				}
			})
		})
	}
}

// A write with another key repairs the credential. The rotated refresh token stays in use.
func TestGuarantee3ARepairAfterADamagedKeyPairKeepsTheRefreshTokenInUse(t *testing.T) {
	for _, verify := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			e := engine.NewSigning(t)
			e.Sim.AddOAuthClient(engine.SigningClient(map[string]crypto.PublicKey{"": &engine.PrivateKey().PublicKey}))
			e.Damage("keypair/prod")
			e.Restart()
			e.Write("config/oauth2/a", map[string]any{"private_key_source": "", "keypair": "", "private_key": engine.PrivateKeyPEM(), "verify": verify})
			engine.Until(2, 0, 0)
			e.Creds("a")
		})
	}
}

func TestGuarantee3AnUnstoredRefreshTokenSurvivesADamagedKeyPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewSigning(t)
		pair := e.Read("keypair/prod").Data
		e.Sim.AddOAuthClient(engine.SigningClient(map[string]crypto.PublicKey{
			"": &engine.PrivateKey().PublicKey, pair["key_id"].(string): engine.PublicKey(t, pair["public_key"]),
		}))
		storage := e.BreakStorage()
		engine.Until(0, 50, 0)
		storage.Refuse.Store(true)
		e.Read("creds/a") // the rotated refresh token stays in memory
		storage.Refuse.Store(false)
		e.Damage("keypair/prod")
		e.Backend.InvalidateKey(t.Context(), "keypair/prod")
		e.Sim.Behave(vendorsim.Conduct{Unstated: true}) // a refresh token without a usable access token
		repaired := map[string]any{"private_key_source": "", "keypair": "", "private_key": engine.PrivateKeyPEM()}
		_, status, message := e.Request(logical.UpdateOperation, "config/oauth2/a", repaired)
		assert.Equal(t, http.StatusBadGateway, status, message)
		e.Sim.Behave(vendorsim.Conduct{})
		e.Write("config/oauth2/a", repaired)
		e.Creds("a")
	})
}

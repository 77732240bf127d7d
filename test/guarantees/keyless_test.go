package guarantees_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/pluginutil"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// ofKeypair returns the fields of a credential with a key pair.
func ofKeypair(fields map[string]any, keypair string) map[string]any {
	return engine.With(engine.With(fields, "private_key_source", "generated"), "keypair", keypair)
}

// withIdentity returns the fields of a credential with identity tokens of the server.
func withIdentity(fields map[string]any) map[string]any {
	return engine.With(fields, "identity_token_audience", vendorsim.EntraAudience)
}

func TestAVendorTrustsTheIssuerOfAKeyPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		issuer := e.PublishKeypair("graph", nil)
		e.Write("config/entra/graph", ofKeypair(e.AddEntraApp("app", issuer, "config/entra/graph"), "graph"))
		assert.Equal(t, "config/entra/graph", e.Sim.About(engine.TokenOf(e.Creds("graph"))).Subject)
		assert.NotContains(t, e.Read("config/entra/graph").Data["secrets_set"], "private_key", "no secret is stored")

		provider := "projects/1/locations/global/workloadIdentityPools/vault/providers/vault"
		e.Sim.AddGooglePool(vendorsim.GooglePool{Provider: provider, Issuer: issuer, ServiceAccounts: map[string][]string{"billing": {"billing@acme.iam.gserviceaccount.com"}}})
		e.Write("keypair/graph", map[string]any{
			"allowed_configs": "graph,billing,direct", "allowed_subjects": "billing,config/entra/graph", "allowed_hosts": "login.microsoftonline.com,sts.googleapis.com,iamcredentials.googleapis.com",
		})
		google := ofKeypair(map[string]any{"provider": provider, "assertion_subject": "billing"}, "graph")
		e.Write("config/google-workload-identity/direct", google)
		assert.Equal(t, "billing", e.Sim.About(engine.TokenOf(e.Creds("direct"))).Subject)
		e.Write("config/google-workload-identity/billing", engine.With(engine.With(google, "service_account", "billing@acme.iam.gserviceaccount.com"), "lifetime", "30m"))
		lease := e.Creds("billing")
		assert.Equal(t, "billing@acme.iam.gserviceaccount.com", e.Sim.About(engine.TokenOf(lease)).Subject)
		assert.LessOrEqual(t, lease.Secret.TTL, 30*time.Minute)
	})
}

// A vendor knows the next key before it signs, so a rotation needs nothing at the vendor.
func TestAnIssuersKeyIsActivatedWithoutTheVendor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		issuer := e.PublishKeypair("graph", nil)
		e.Write("config/entra/graph", ofKeypair(e.AddEntraApp("app", issuer, "config/entra/graph"), "graph"))
		e.Pending("graph", nil)
		_, status, message := e.Request(logical.UpdateOperation, "keypair/graph/activate", nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, issuer, e.Read("keypair/graph").Data["issuer"], "an activation keeps the issuer")
		engine.Until(2, 0, 0)
		e.Creds("graph")
	})
}

func TestGuarantee8AKeyPairSignsAsItsNewIssuerAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		issuer := e.PublishKeypair("graph", nil)
		e.Write("config/entra/graph", ofKeypair(e.AddEntraApp("app", issuer, "config/entra/graph"), "graph"))
		before := engine.TokenOf(e.Creds("graph"))
		moved := strings.Replace(issuer, "vault.", "vault-eu.", 1)
		e.Sim.AddIdentityProvider(moved, e.Fetch)
		e.AddEntraApp("app", moved, "config/entra/graph")
		e.Write("keypair/graph", map[string]any{"issuer": moved})
		assert.NotEqual(t, before, engine.TokenOf(e.Creds("graph")))

		_, status, message := e.Request(logical.UpdateOperation, "keypair/graph", map[string]any{"issuer": ""})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "config/entra/graph uses the key pair and would stop working: keypair: the private key of keypair/graph has no issuer, which grant_type=federated needs")
	})
}

func TestAVendorTrustsTheIdentityTokensOfTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.IssueIdentityTokens()
		issue, asked := e.IdentityToken, []pluginutil.IdentityTokenRequest(nil)
		e.IdentityToken = func(ctx context.Context, r *pluginutil.IdentityTokenRequest) (string, error) {
			asked = append(asked, *r)
			return issue(ctx, r)
		}
		e.Write("config/entra/graph", withIdentity(e.AddEntraApp("app", engine.IdentityIssuer, engine.IdentitySubject)))
		e.Creds("graph")
		e.Write("config/entra/graph", map[string]any{"identity_token_ttl": "5m"})
		time.Sleep(2 * time.Hour)
		assert.Equal(t, engine.IdentitySubject, e.Sim.About(engine.TokenOf(e.Creds("graph"))).Subject)
		assert.Equal(t, []pluginutil.IdentityTokenRequest{
			{Audience: vendorsim.EntraAudience, TTL: time.Hour}, {Audience: vendorsim.EntraAudience, TTL: 5 * time.Minute}, {Audience: vendorsim.EntraAudience, TTL: 5 * time.Minute},
		}, asked, "a token for each exchange")

		provider := "projects/1/locations/global/workloadIdentityPools/vault/providers/vault"
		e.Sim.AddGooglePool(vendorsim.GooglePool{
			Provider: provider, Issuer: engine.IdentityIssuer, Audiences: []string{"vault"}, ServiceAccounts: map[string][]string{engine.IdentitySubject: {"billing@acme.iam.gserviceaccount.com"}},
		})
		for name, account := range map[string]string{"direct": "", "billing": "billing@acme.iam.gserviceaccount.com"} {
			e.Write("config/google-workload-identity/"+name, map[string]any{"provider": provider, "identity_token_audience": "vault", "service_account": account})
			e.Creds(name)
		}
	})
}

func TestAServerWithoutIdentityTokensSaysWhatToUseInstead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		fields := withIdentity(e.AddEntraApp("app", engine.IdentityIssuer, engine.IdentitySubject))
		_, status, message := e.Request(logical.UpdateOperation, "config/entra/graph", fields)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "identity_token_audience: this server issues no identity tokens, which need Vault Enterprise 1.16 or later; use a key pair with an issuer instead (keypair/<name>)")
		assert.NotContains(t, message, "rejected")
		e.Write("config/entra/graph", engine.With(fields, "verify", false))
		status, message = e.Refused("creds/graph")
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "need Vault Enterprise")
		assert.Zero(t, e.Exchanges(), "no vendor is called")
	})
}

// A server that cannot issue a token now is an outage, and no rejection.
func TestGuarantee4AServerThatIssuesNoIdentityTokenCostsNothingWhileATokenIsValid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.IssueIdentityTokens()
		issue := e.IdentityToken
		e.Write("config/entra/graph", withIdentity(e.AddEntraApp("app", engine.IdentityIssuer, engine.IdentitySubject)))
		e.Creds("graph")
		asked := 0
		e.IdentityToken = func(context.Context, *pluginutil.IdentityTokenRequest) (string, error) {
			asked++
			return "", errors.New("no signing key")
		}
		time.Sleep(50 * time.Minute)
		for range 10 {
			e.Creds("graph")
			time.Sleep(10 * time.Second)
		}
		assert.Less(t, asked, 10, "attempts back off")
		assert.Equal(t, "degraded", e.Read("status/graph").Data["state"], "not rejected")
		time.Sleep(time.Hour)
		status, message := e.Refused("creds/graph")
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Contains(t, message, "the server issued no identity token: no signing key")
		assert.Equal(t, 1, e.Exchanges(), "no vendor is called")

		e.IdentityToken = issue
		time.Sleep(10 * time.Minute)
		e.Creds("graph")
	})
}

func TestGuarantee6NoErrorQuotesAnIdentityToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t) // looks for secrets outside at its end
		e.IssueIdentityTokens()
		issue, token := e.IdentityToken, ""
		e.IdentityToken = func(ctx context.Context, r *pluginutil.IdentityTokenRequest) (string, error) {
			var err error
			token, err = issue(ctx, r)
			return token, err
		}
		fields := withIdentity(e.AddEntraApp("app", engine.IdentityIssuer, engine.IdentitySubject))
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(func(w http.ResponseWriter, r *http.Request) {
			vendorsim.Answer(http.StatusBadRequest, `{"error":"invalid_client","error_description":"you sent `+token+`"}`)(w, r)
		})})
		_, status, message := e.Request(logical.UpdateOperation, "config/entra/graph", fields)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "you sent [redacted]")
		for _, part := range strings.Split(token, ".") {
			assert.NotContains(t, message, part)
			assert.NotContains(t, e.Outside.Text(), part)
		}
	})
}

func TestGuarantee17AnIssuerSignsForASubjectOnlyAsItsKeyPairAllows(t *testing.T) {
	const payroll = "config/entra/payroll"
	asClient := func(issuer string) map[string]any { // an assertion of oauth2 whose iss is the client ID
		return map[string]any{
			"token_url": "https://login.microsoftonline.com/acme.example/oauth2/v2.0/token", "grant_type": "jwt_bearer", "client_id": issuer, "assertion_audience": vendorsim.EntraAudience,
		}
	}
	for name, test := range map[string]struct {
		allowed any // allowed_subjects
		path    string
		fields  func(issuer string) map[string]any
		says    string // "" if the use is allowed
	}{
		"its own path":                  {nil, "config/entra/graph", nil, ""},
		"its own path, given":           {nil, "config/entra/graph", func(string) map[string]any { return map[string]any{"assertion_subject": "config/entra/graph"} }, ""},
		"another credential's path":     {nil, "config/entra/graph", func(string) map[string]any { return map[string]any{"assertion_subject": payroll} }, `keypair: the issuer of keypair/shared signs for the subject "config/entra/graph" only, not for "config/entra/payroll"; leave out the subject, or add it to allowed_subjects of keypair/shared`},
		"another credential's, allowed": {payroll, "config/entra/graph", func(string) map[string]any { return map[string]any{"assertion_subject": payroll} }, ""},
		"its own path, not allowed":     {payroll, "config/entra/graph", nil, `keypair: keypair/shared does not sign for the subject "config/entra/graph"; add it to allowed_subjects of keypair/shared`},
		"by the client ID of oauth2":    {nil, "config/oauth2/graph", func(issuer string) map[string]any { return engine.With(asClient(issuer), "assertion_subject", payroll) }, `signs for the subject "config/oauth2/graph" only, not for "config/entra/payroll"`},
		"by oauth2, without a subject":  {nil, "config/oauth2/graph", asClient, `signs for the subject "config/oauth2/graph" only, not for ""`},
		"by oauth2, its own path": {nil, "config/oauth2/graph", func(issuer string) map[string]any {
			return engine.With(asClient(issuer), "assertion_subject", "config/oauth2/graph")
		}, ""},
		"by oauth2, with another iss":    {nil, "config/oauth2/graph", func(string) map[string]any { return engine.With(asClient("app"), "assertion_subject", payroll) }, ""},
		"another iss, not allowed":       {"billing", "config/oauth2/graph", func(string) map[string]any { return engine.With(asClient("app"), "assertion_subject", payroll) }, `does not sign for the subject "config/entra/payroll"`},
		"another iss, without a subject": {"billing", "config/oauth2/graph", func(string) map[string]any { return asClient("app") }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				issuer := e.PublishKeypair("shared", map[string]any{"allowed_configs": "graph,payroll", "allowed_subjects": test.allowed})
				fields := map[string]any{}
				if strings.HasPrefix(test.path, "config/entra/") {
					fields = map[string]any{"tenant": "acme.example", "client_id": "app"}
				}
				if test.fields != nil {
					for field, value := range test.fields(issuer) {
						fields[field] = value
					}
				}
				data := engine.With(ofKeypair(fields, "shared"), "verify", false)
				_, status, message := e.Request(logical.UpdateOperation, test.path, data)
				if test.says == "" {
					assert.Equal(t, http.StatusOK, status, message)
					return
				}
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Contains(t, message, test.says)
				assert.Zero(t, e.Exchanges(), "nothing is signed")
			})
		})
	}
}

func TestGuarantee17ARoleSignsOnlyForASubjectThatTheKeyPairAllows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Keypair("api", map[string]any{"allowed_subjects": "ann"})
		e.Write("config/oauth2/api", engine.With(ofKeypair(map[string]any{
			"token_url": vendorsim.OAuthTokenURL, "grant_type": "jwt_bearer", "client_id": "app",
		}, "api"), "verify", false))
		bob := map[string]any{"config": "api", "assertion_subject": "bob"}
		_, status, message := e.Request(logical.UpdateOperation, "roles/bob", bob)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, `keypair: keypair/api does not sign for the subject "bob"; add it to allowed_subjects of keypair/api`)
		e.Write("roles/ann", map[string]any{"config": "api", "assertion_subject": "ann"})
		e.Write("keypair/api", map[string]any{"allowed_subjects": "ann,bob"})
		e.Write("roles/bob", bob)
		assert.Equal(t, []string{"ann", "bob"}, e.Read("keypair/api").Data["allowed_subjects"])

		e.Write("config/oauth2/api", map[string]any{"assertion_subject": "ann", "verify": false})
		_, status, message = e.Request(logical.UpdateOperation, "keypair/api", map[string]any{"allowed_subjects": "bob"})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "config/oauth2/api uses the key pair and would stop working")
	})
}

// The credentials of a client that has the key pair are different subjects too.
func TestGuarantee17AnIssuerSignsForEachCredentialOfAClientByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		issuer := e.PublishKeypair("shared", map[string]any{"allowed_clients": "app", "allowed_subjects": "config/entra/graph,config/entra/vault"})
		client := ofKeypair(engine.With(e.AddEntraApp("app", issuer, "config/entra/graph"), "vendor", "entra"), "shared")
		e.Write("clients/app", engine.With(client, "grant_type", "federated"))
		e.Write("config/entra/graph", map[string]any{"client": "app"})
		assert.Equal(t, "config/entra/graph", e.Sim.About(engine.TokenOf(e.Creds("graph"))).Subject)
		e.AddEntraApp("app", issuer, "config/entra/vault")
		e.Write("config/entra/vault", map[string]any{"client": "app"})
		_, status, message := e.Request(logical.UpdateOperation, "config/entra/payroll", map[string]any{"client": "app", "verify": false})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, `does not sign for the subject "config/entra/payroll"`)
	})
}

// A key pair that becomes an issuer would let its credentials sign for any subject of it.
func TestGuarantee17AKeyPairBecomesAnIssuerOnlyForSubjectsThatItMaySignFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		const issuer = "https://vault.example.com/v1/kensho/jwks/api"
		e.Keypair("api", nil)
		e.Write("config/oauth2/api", engine.With(ofKeypair(map[string]any{
			"token_url": vendorsim.OAuthTokenURL, "grant_type": "jwt_bearer", "client_id": issuer, "assertion_subject": "config/entra/payroll",
		}, "api"), "verify", false))
		becomes := map[string]any{"publish": true, "issuer": issuer}
		_, status, message := e.Request(logical.UpdateOperation, "keypair/api", becomes)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, `config/oauth2/api uses the key pair and would stop working: keypair: the issuer of keypair/api signs for the subject "config/oauth2/api" only`)
		e.Write("keypair/api", engine.With(becomes, "allowed_subjects", "config/entra/payroll"))
	})
}

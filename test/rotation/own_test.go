package rotation_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// newSecretURL is where the vendor of ownDefinition creates secrets.
const newSecretURL = vendorsim.OAuthTokenURL + "new"

// ownDefinition is an operator's definition whose client secret rotates.
const ownDefinition = `{
  "title": "Acme", "docs": ["https://acme.example/docs"],
  "fields": {"client_id": {"required": true}, "client_secret": {"required": true}, "refresh_token": {}, "scope": {}},
  "token_url": "` + vendorsim.OAuthTokenURL + `", "auth": "client_secret_basic",
  "grants": [
    {"grant_type": "refresh_token", "needs": ["client_id", "client_secret", "refresh_token"], "request": {"form": {"grant_type": "refresh_token", "refresh_token": "{refresh_token}"}}},
    {"grant_type": "client_credentials", "needs": ["client_id", "client_secret"], "request": {"form": {"grant_type": "client_credentials", "scope": "{scope}"}}}
  ],
  "rotations": [{
    "replaces": ["client_secret"],
    "create": [{"request": {"url": "` + newSecretURL + `", "json": {"name": "{new_name}"}}, "keep": {"issued": "/secret"}}],
    "set": {"client_secret": "{issued}"}
  }]
}`

// newOwn stores a credential of ownDefinition with further fields. Its vendor issues the same secret again.
func newOwn(t *testing.T, more map[string]any) account {
	e := engine.New(t)
	client := vendorsim.OAuthClient{
		ID: engine.ClientID, Secret: engine.ClientSecret, Scopes: []string{"read", "write"}, AuthMethods: []string{vendorsim.SecretBasic},
		Grants: []string{vendorsim.ClientCredentialsGrant, vendorsim.RefreshTokenGrant}, Rotate: true,
	}
	e.Sim.AddOAuthClient(client)
	e.Sim.AddOAuthRefreshToken(client, engine.RefreshToken, "read", "write")
	e.Sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
		if r.Host+r.URL.Path != strings.TrimPrefix(newSecretURL, "https://") {
			return nil
		}
		return vendorsim.Answer(http.StatusOK, fmt.Sprintf(`{"secret": %q}`, engine.ClientSecret))
	}})
	e.Write("vendors/acme", map[string]any{"definition": ownDefinition})
	fields := map[string]any{"client_id": engine.ClientID, "client_secret": engine.ClientSecret}
	for name, value := range more {
		fields[name] = value
	}
	a := account{Engine: e, name: "prod", vendor: "acme"}
	e.Write(a.path(), fields)
	return a
}

// replacing is a definition whose vendor takes a client secret, in place of the former one, and rotates refresh tokens.
const replacing = `{
  "title": "Acme", "fields": {"client_id": {}, "client_secret": {}, "refresh_token": {}},
  "token_url": "https://acme.example/token",
  "grants": [{
    "grant_type": "refresh_token", "needs": ["client_id", "client_secret", "refresh_token"],
    "request": {"form": {"grant_type": "refresh_token", "client_id": "{client_id}", "client_secret": "{client_secret}", "refresh_token": "{refresh_token}"}}
  }],
  "rotations": [{
    "replaces": ["client_secret"], "generate": "secret", "ends_former": true,
    "create": [{"request": {"url": "https://acme.example/secret", "json": {"old": "{client_secret}", "new": "{new_secret}"}}}],
    "set": {"client_secret": "{new_secret}"}
  }]
}`

// A replacer is the vendor of replacing.
type replacer struct {
	secret, refreshToken string
	count                int
	isLost               bool // the next answer about a new secret
	reused               []string
}

func (v *replacer) fault(r *http.Request) http.HandlerFunc {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return vendorsim.Answer(http.StatusBadRequest, "{}")
	}
	if r.URL.Path == "/secret" {
		return v.replace(body)
	}
	form, err := url.ParseQuery(string(body))
	switch {
	case err != nil || form.Get("client_secret") != v.secret:
		return vendorsim.Answer(http.StatusUnauthorized, `{"error": "invalid_client"}`)
	case form.Get("refresh_token") != v.refreshToken:
		v.reused = append(v.reused, form.Get("refresh_token"))
		return vendorsim.Answer(http.StatusBadRequest, `{"error": "invalid_grant"}`)
	}
	v.count++
	v.refreshToken = fmt.Sprintf("refresh-token-%d-Zk38fjQpLw02mVbXe91", v.count)
	return vendorsim.Answer(http.StatusOK, fmt.Sprintf(`{"access_token": "access-%d-Qm29xLpTz", "token_type": "Bearer", "expires_in": 3600, "refresh_token": %q}`, v.count, v.refreshToken))
}

func (v *replacer) replace(body []byte) http.HandlerFunc {
	var given struct{ Old, New string }
	if err := json.Unmarshal(body, &given); err != nil || given.Old != v.secret {
		return vendorsim.Answer(http.StatusUnauthorized, `{"error": "invalid_client"}`)
	}
	v.secret = given.New
	if v.isLost {
		v.isLost = false
		return vendorsim.Hang
	}
	return vendorsim.Answer(http.StatusOK, "{}")
}

// A rotation whose answer was lost is proven twice. The vendor takes the second use of a refresh token for a theft.
func TestEachProofUsesTheLatestRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewUnchecked(t)
		v := &replacer{secret: "first-secret-Hs83kdPq0", refreshToken: "refresh-token-0-Zk38fjQpLw02mVbXe91", isLost: true}
		e.Sim.Behave(vendorsim.Conduct{Fault: v.fault})
		e.Write("vendors/acme", map[string]any{"definition": replacing})
		e.Write("config/acme/prod", map[string]any{"client_id": "app", "client_secret": v.secret, "refresh_token": v.refreshToken})
		a := account{Engine: e, name: "prod", vendor: "acme"}
		_, status, _ := a.tryRotate(nil)
		require.Equal(t, http.StatusServiceUnavailable, status)
		e.Pass(3 * time.Minute)
		assert.Empty(t, v.reused)
		assert.Equal(t, v.secret, a.fields()["client_secret"])
		_, status, message := e.Request(logical.ReadOperation, "creds/prod", nil)
		assert.Equal(t, http.StatusOK, status, message)
	})
}

// A user who may change a definition knows no secret, and gets none. (Guarantee 13.)
func TestGuarantee13ARotationDoesNotChangeTheHostThatGetsTheSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewUnchecked(t)
		definition := strings.NewReplacer(
			`"refresh_token": {}}`, `"refresh_token": {}, "host": {"description": "the host", "pattern": "[a-z.]+"}}`,
			`https://acme.example/token`, `https://{host}/token`,
		).Replace(replacing)
		evil := strings.NewReplacer(`"replaces": ["client_secret"`, `"replaces": ["client_secret", "host"`, `"{new_secret}"}
  }]`, `"{new_secret}", "host": "evil.example"}
  }]`).Replace(definition)
		require.NotEqual(t, definition, evil)
		e.Write("vendors/acme", map[string]any{"definition": definition})
		_, status, message := e.Request(logical.UpdateOperation, "vendors/acme", map[string]any{"definition": evil})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "/rotations/0/replaces/1: host is part of a URL's host, so that the secrets would be sent to another one")
	})
}

// A rotation of a key signs with it, too. (Guarantee 17.)
func TestGuarantee17ARotationSignsForASubjectOnlyAsItsKeyPairAllows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		issuer := e.PublishKeypair("shared", map[string]any{
			"allowed_configs": "prod,payroll", "allowed_subjects": "config/acme/prod", "allowed_audiences": "https://acme.example", "allowed_hosts": "acme.example",
		})
		definition := func(subject, audience string) string {
			return fmt.Sprintf(`{
				"title": "Acme", "fields": {"private_key": {}},
				"grants": [{"grant_type": "self_signed", "token": "{assertion}", "assertion": {"lifetime": "20m", "claims": {"iss": "acme", "sub": "config/acme/prod", "aud": "https://acme.example"}}}],
				"rotations": [{
					"replaces": ["private_key"], "generate": "private_key",
					"assertion": {"claims": {"iss": %q, "sub": %q, "aud": %q}},
					"create": [{"request": {"url": "https://acme.example/rotate", "form": {"proof": "{assertion}"}}}],
					"set": {"private_key": "{new_private_key}"}
				}]
			}`, issuer, subject, audience)
		}
		for says, text := range map[string]string{
			`does not sign for the subject "config/entra/payroll"`:        definition("config/entra/payroll", "https://acme.example"),
			`does not sign for the audience "api://AzureADTokenExchange"`: definition("config/acme/prod", "api://AzureADTokenExchange"),
		} {
			e.Write("vendors/acme", map[string]any{"definition": text})
			_, status, message := e.Request(logical.UpdateOperation, "config/acme/prod", map[string]any{"private_key_source": "generated", "keypair": "shared"})
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, says)
		}
	})
}

package guarantees_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// middle returns the twelve characters in the middle of a secret: too few to look like one.
func middle(secret string) string { return secret[len(secret)/2-6 : len(secret)/2+6] }

// redactedWords matches "you are ... to us" around a redacted secret. A neighboring letter is
// redacted too if it happens to continue the random secret.
var redactedWords = regexp.MustCompile(`you .*\[redacted\].* us`)

func TestGuarantee6NoSecretOfTheCredentialIsQuoted(t *testing.T) {
	for name, kind := range engine.Kinds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				engine.Until(0, 10, 0)
				e.Write(kind.Path, kind.Fields())
				known := map[string]string{"the token in use": e.Creds("prod").Data["access_token"].(string)}
				for _, field := range engine.CredentialSecretFields {
					if secret, ok := kind.Fields()[field].(string); ok {
						known[field] = secret
					}
				}
				if name == "sitecore" {
					for _, secret := range e.Sim.Secrets() {
						if strings.HasPrefix(secret, "rt-") {
							known["the pair's refresh token"] = secret
						}
					}
					require.Contains(t, known, "the pair's refresh token")
				}
				for what, secret := range known {
					e.Sim.Behave(engine.RejectWith("you are " + middle(secret) + " to us"))
					_, status, message := e.Request(logical.UpdateOperation, "refresh/prod", nil)
					require.NotEqual(t, http.StatusOK, status)
					for _, shown := range []any{message, e.Read("status/prod").Data["last_error"]} {
						assert.Regexp(t, redactedWords, shown, what)
						assert.NotContains(t, shown, middle(secret), what)
					}
				}
			})
		})
	}
}

func TestGuarantee6ReplacedSecretIsNotQuoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		e.Sim.Behave(engine.RejectWith("you are " + middle(engine.RefreshToken) + " to us"))
		_, status, message := e.Request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"refresh_token": "another-0123456789"})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "you are [redacted] to us")
	})
}

func TestGuarantee6FailedRevocationQuotesNoSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("config/oauth2/prod", engine.SecretClient(true))
		e.Write("roles/own", map[string]any{"config": "prod", "dedicated": true})
		shared := e.Creds("prod").Data["access_token"].(string)
		lease := e.Creds("own")
		e.Sim.Behave(engine.RejectWith("you are " + middle(shared) + " to us"))
		err := e.Revoke(lease)
		require.Error(t, err)
		require.Regexp(t, redactedWords, err.Error())
		e.Sim.Behave(vendorsim.Conduct{})
		require.NoError(t, e.Revoke(lease))
	})
}

// A token in the quoted answer itself is not yet among the credential's known secrets.
func TestGuarantee6TokenInAQuotedAnswerIsRedacted(t *testing.T) {
	const token = "9f8e7d6c5b4a3f2e1d"
	long, groups := strings.Repeat("9f8e7d6c5b4a3f2e", 2)+"1d0c8b7a", strings.Repeat("9f8e7d6c 5b4a3f2e ", 2)+"1d0c8b7a"
	for name, answer := range map[string]struct {
		status int
		body   string
	}{
		"a refresh token":           {200, `{"refreshToken":"` + token + `","refresh_token":"` + token + `","message":"please use ` + token + ` now"}`},
		"a refresh token in groups": {200, `{"refreshToken":"` + long + `","refresh_token":"` + long + `","message":"please use ` + groups + ` now"}`},
		"an access token":           {200, `{"access_token":"` + token + `","error":"scope_warning","error_description":"` + token + ` has less"}`},
		"an ID token in an object":  {200, `{"data":{"session":[{"ID-Token":"` + token + `"}]},"message":"pair ` + token + ` made"}`},
		"a list of tokens":          {200, `{"tokens":["` + token + `"],"message":"pair ` + token + ` made"}`},
		"a secret":                  {200, `{"newClientSecret":"` + token + `","message":"it is ` + token + `"}`},
		"an assertion":              {400, `{"client_assertion":"` + token + `","error":"invalid_client","error_description":"` + token + `"}`},
		"a password":                {401, `{"password":"` + token + `","error":"` + token + `"}`},
		"a key":                     {503, `{"apiKey":{"value":"` + token + `"},"errors":[{"detail":"` + token + `"}]}`},
		"an access token in a form": {200, "access_token=" + token + "&error=scope_warning&error_description=" + token + "+has+less"},
	} {
		for kindName, kind := range engine.Kinds {
			t.Run(name+", "+kindName, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := engine.NewOAuth(t)
					engine.Until(0, 10, 0)
					e.Write(kind.Path, kind.Fields())
					e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(answer.status, answer.body))})
					_, status, message := e.Request(logical.UpdateOperation, "refresh/prod", nil)
					require.NotEqual(t, http.StatusOK, status)
					shown := fmt.Sprint(message, e.Read("status/prod").Data, e.Lines())
					assert.Contains(t, message, "[redacted]")
					for part := range strings.FieldsSeq(token + " " + groups) {
						assert.NotContains(t, shown, part)
					}
				})
			})
		}
	}
}

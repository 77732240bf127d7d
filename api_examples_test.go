package tokenbroker_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/apidoc"
	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// exampleTime is when the examples of the reference run, by a simulated clock.
var exampleTime = time.Date(2026, 11, 22, 14, 9, 18, 0, time.UTC)

// exampleAnswers runs the commands of the help of all paths, and returns the answers as the reference
// shows them. Each mount is an engine of its own. The writes run before the other commands, so that
// these find something.
func exampleAnswers(t *testing.T) map[string]string {
	t.Helper()
	var writes, others []apidoc.Command
	for _, p := range paths() {
		commands, err := apidoc.Commands(p)
		require.NoError(t, err)
		isForBrowsers := p.Pattern == "callback$"
		require.True(t, len(commands) > 0 || isForBrowsers, "%s has no example", apidoc.Name(p))
		for _, c := range commands {
			if c.Operation == logical.UpdateOperation {
				writes = append(writes, c)
			} else {
				others = append(others, c)
			}
		}
	}
	answers := map[string]string{}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(exampleTime))
		mounts := map[string]*engine.Engine{}
		for _, c := range append(writes, others...) {
			e := mounts[c.Mount]
			if e == nil {
				e = exampleEngine(t)
				mounts[c.Mount] = e
			}
			if c.Path == "keypair/batch/activate" {
				prepareActivation(e)
			}
			if strings.HasSuffix(c.Path, "/rotate") {
				prepareRotation(e)
			}
			if c.Operation == logical.UpdateOperation && strings.HasPrefix(c.Path, "authorize/") {
				e.Write("config/oauth2/"+path.Base(c.Path), map[string]any{
					"issuer": vendorsim.OAuthIssuer, "client_id": "billing", "client_secret": engine.ClientSecret, "grant_type": "refresh_token", "scope": "openid",
					"redirect_uri": "https://vault.example.com/v1/api/callback",
				})
			}
			answers[c.Text] = answerTo(t, e, c)
		}
	})
	return answers
}

// exampleEngine mounts an engine whose simulated vendors accept the credentials of the examples.
func exampleEngine(t *testing.T) *engine.Engine {
	t.Helper()
	e := engine.New(t)
	e.Sim.AddOAuthClient(exampleClient)
	return e
}

// exampleClient is the OAuth client of the examples.
var exampleClient = vendorsim.OAuthClient{
	ID: "billing", Secret: engine.ClientSecret, Scopes: []string{"invoices"}, Targets: []string{"ledger"},
	Grants: []string{vendorsim.ClientCredentialsGrant, vendorsim.TokenExchangeGrant}, AuthMethods: []string{vendorsim.SecretBasic},
}

// prepareActivation stores a credential that uses the key pair batch, and generates a pending pair
// that the vendor accepts.
func prepareActivation(e *engine.Engine) {
	e.T.Helper()
	e.Register("0oa3archive4", e.Read("keypair/batch").Data["public_key"])
	e.Write("config/kensho/batch", map[string]any{"client_id": "0oa3archive4", "private_key_source": "generated"})
	e.Register("0oa5archive6", e.Pending("batch", nil).Data["public_key"])
}

// prepareRotation stores what the examples of a rotation replace: a credential and a client of Entra.
func prepareRotation(e *engine.Engine) {
	e.T.Helper()
	if _, status, _ := e.Request(logical.ReadOperation, "config/entra/prod", nil); status == http.StatusOK {
		return
	}
	vendor, fields := e.Sim.AddRotating("entra/client_secret", "prod")
	e.Write("config/"+vendor+"/prod", fields)
	vendor, fields = e.Sim.AddRotating("entra/client_secret", "portal")
	fields["vendor"], fields["grant_type"] = vendor, "client_credentials"
	delete(fields, "scope")
	e.Write("clients/portal", fields)
}

// exampleSecrets are the secrets behind the dots of the examples, by field.
var exampleSecrets = map[string]string{
	"refresh_token": engine.RefreshToken, "api_key": engine.APIKey, "client_secret": engine.ClientSecret,
}

// simulated are the vendors that vendorsim simulates, by the names in their paths. The credentials
// of others are stored without an exchange.
var simulated = []string{"kensho", "oauth2", "sitecore"}

// answerTo sends the request of a command, and returns Vault's answer as Markdown. It fails the test
// unless the request succeeds.
func answerTo(t *testing.T, e *engine.Engine, c apidoc.Command) string {
	t.Helper()
	data := map[string]any{}
	for field, value := range c.Data {
		switch {
		case field == "subject_token":
			value = e.Sim.Subject(exampleClient, "ada", time.Hour, nil)
		case value == "...":
			value = exampleSecrets[field]
		}
		if file, isFile := strings.CutPrefix(value.(string), "@"); isFile {
			text, err := os.ReadFile("examples/vendor/" + file)
			require.NoError(t, err)
			value = string(text)
		}
		data[field] = value
	}
	if vendor, isConfig := strings.CutPrefix(path.Dir(c.Path), "config/"); isConfig && !strings.HasSuffix(c.Path, "/rotate") && c.Operation == logical.UpdateOperation && !slices.Contains(simulated, vendor) {
		data["verify"] = false
	}
	resp, status, message := e.Request(c.Operation, c.Path, data)
	require.Contains(t, []int{http.StatusOK, http.StatusNoContent}, status, "%s: %s", c.Text, message)
	switch {
	case resp == nil:
		return "The response is 204, without a body."
	case strings.HasSuffix(fmt.Sprint(resp.Data[logical.HTTPContentType]), "json"):
		var document any
		require.NoError(t, json.Unmarshal(resp.Data[logical.HTTPRawBody].([]byte), &document))
		body, err := json.MarshalIndent(document, "", "  ")
		require.NoError(t, err)
		return "```json\n" + stable(string(body)) + "\n```"
	case resp.Data[logical.HTTPRawBody] != nil:
		lines := strings.SplitAfter(string(resp.Data[logical.HTTPRawBody].([]byte)), "\n")
		return "```text\n" + strings.Join(lines[:4], "") + "...\n```"
	}
	answer := map[string]any{"data": resp.Data}
	if resp.Secret != nil {
		answer["lease_id"] = c.Mount + "/" + c.Path + "/sPrTnh7bQbniDg1b2DiByb5I"
		answer["lease_duration"] = int(resp.Secret.TTL.Seconds())
		answer["renewable"] = resp.Secret.Renewable
	}
	if len(resp.Warnings) > 0 {
		answer["warnings"] = resp.Warnings
	}
	body, err := json.MarshalIndent(answer, "", "  ")
	require.NoError(t, err)
	return "```json\n" + stable(string(body)) + "\n```"
}

// random matches the fields of answers whose values differ with each run.
var random = regexp.MustCompile(`"((?:pending_)?(?:access_token|http_header|authorization_url|public_key|key_id|kid|n))": "[^"]*"`)

// stable replaces the values that differ with each run.
func stable(answer string) string { return random.ReplaceAllString(answer, `"$1": "..."`) }

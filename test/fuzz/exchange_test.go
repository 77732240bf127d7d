package fuzz_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// FuzzExchange gives arbitrary texts for a caller's token, its type, and what is asked for, in place of or in
// addition to the right ones. Only the vendor's own token yields one, and then the one of its person; the vendor
// gets only documented requests, and no message has the caller's token.
func FuzzExchange(f *testing.F) {
	for _, text := range []string{
		"", "$token", "$token.", "x", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "\x00\xff", "\r\nX: y", "{{.Name}}", "read", "read write", "a,b",
		"urn:ietf:params:oauth:token-type:jwt", "jwt", "https://ledger.example.com", "ledger", strings.Repeat("x", 3000),
	} {
		f.Add("$token", text, text, text, text)
		f.Add(text, "", "", "", "")
		f.Add("$token", "", "", "", text)
	}
	f.Fuzz(func(t *testing.T, subject, kind, audience, resource, scope string) {
		synctest.Test(t, func(t *testing.T) {
			e := engine.NewDelegating(t, nil) // which checks at the end that nothing has leaked
			token := e.Sim.Subject(engine.ExchangeClient, "ada", time.Hour, nil)
			given := map[string]any{"subject_token": strings.ReplaceAll(subject, "$token", token)}
			for name, text := range map[string]string{"subject_token_type": kind, "audience": audience, "resource": resource, "scope": scope} {
				if text != "" {
					given[name] = text
				}
			}
			for _, name := range []string{"swap", "reading", "bound"} {
				resp, status, message := e.Request(logical.UpdateOperation, "exchange/"+name, given)
				require.True(t, slices.Contains([]int{http.StatusOK, http.StatusBadRequest, http.StatusForbidden}, status), "%d: %s", status, message)
				if status == http.StatusOK {
					issued, isKnown := e.Sim.DelegatedTo(engine.TokenOf(resp))
					require.True(t, isKnown)
					require.Equal(t, vendorsim.Delegated{Subject: "ada", Client: engine.ExchangeClient.ID, Audience: issued.Audience, Scope: issued.Scope}, issued)
					require.Equal(t, token, strings.TrimSpace(given["subject_token"].(string)))
				}
			}
		})
	})
}

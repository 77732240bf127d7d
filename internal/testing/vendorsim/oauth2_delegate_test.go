package vendorsim_test

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestAServerExchangesOnlyItsOwnTokensForTheClient(t *testing.T) {
	client := vendorsim.OAuthClient{
		ID: "id", Secret: "secret", Scopes: []string{"read"}, Targets: []string{"ledger"}, AuthMethods: []string{vendorsim.SecretPost},
		Grants: []string{vendorsim.TokenExchangeGrant},
	}
	other := client
	other.ID = "other"
	for name, c := range map[string]struct {
		change      func(sim *vendorsim.Sim, form url.Values)
		code        string
		isViolation bool
	}{
		"as documented":    {func(*vendorsim.Sim, url.Values) {}, "", false},
		"two targets":      {func(_ *vendorsim.Sim, f url.Values) { f["audience"] = []string{"ledger", "ledger"} }, "", false},
		"another client's": {func(s *vendorsim.Sim, f url.Values) { f.Set("subject_token", s.Subject(other, "ada", time.Hour, nil)) }, "invalid_request", false},
		"expired": {func(s *vendorsim.Sim, f url.Values) {
			f.Set("subject_token", s.Subject(client, "ada", -time.Second, nil))
		}, "invalid_request", false},
		"a session that is over": {func(s *vendorsim.Sim, _ url.Values) { s.EndSession("ada") }, "invalid_request", false},
		"an invalid actor": {func(_ *vendorsim.Sim, f url.Values) {
			f.Set("actor_token", "x")
			f.Set("actor_token_type", vendorsim.AccessTokenType)
		}, "invalid_request", false},
		"an actor without type":  {func(_ *vendorsim.Sim, f url.Values) { f.Set("actor_token", "x") }, "invalid_request", true},
		"a type without actor":   {func(_ *vendorsim.Sim, f url.Values) { f.Set("actor_token_type", vendorsim.AccessTokenType) }, "invalid_request", true},
		"no type":                {func(_ *vendorsim.Sim, f url.Values) { f.Del("subject_token_type") }, "invalid_request", true},
		"another type":           {func(_ *vendorsim.Sim, f url.Values) { f.Set("subject_token_type", "urn:x") }, "invalid_request", false},
		"an unknown target":      {func(_ *vendorsim.Sim, f url.Values) { f.Set("resource", "https://other.example.com") }, "invalid_target", false},
		"another scope":          {func(_ *vendorsim.Sim, f url.Values) { f.Set("scope", "write") }, "invalid_scope", false},
		"a wrong secret":         {func(_ *vendorsim.Sim, f url.Values) { f.Set("client_secret", "other") }, "invalid_client", false},
		"no client":              {func(_ *vendorsim.Sim, f url.Values) { f.Del("client_id"); f.Del("client_secret") }, "invalid_client", true},
		"another parameter":      {func(_ *vendorsim.Sim, f url.Values) { f.Set("assertion", "x") }, "invalid_request", true},
		"on behalf of":           {func(_ *vendorsim.Sim, f url.Values) { onBehalfOf(f) }, "", false},
		"on behalf of, no scope": {func(_ *vendorsim.Sim, f url.Values) { onBehalfOf(f); f.Del("scope") }, "invalid_scope", false},
		"on behalf of, expired": {func(s *vendorsim.Sim, f url.Values) {
			onBehalfOf(f)
			f.Set("assertion", s.Subject(client, "ada", -time.Second, nil))
		}, "invalid_grant", false},
		"on behalf of, misspelt": {func(_ *vendorsim.Sim, f url.Values) { onBehalfOf(f); f.Set("requested_token_use", "obo") }, "invalid_request", true},
	} {
		t.Run(name, func(t *testing.T) {
			sim := vendorsim.New()
			sim.AddOAuthClient(client)
			form := url.Values{
				"grant_type": {vendorsim.TokenExchangeGrant}, "client_id": {"id"}, "client_secret": {"secret"}, "scope": {"read"}, "audience": {"ledger"},
				"subject_token": {sim.Subject(client, "ada", time.Hour, nil)}, "subject_token_type": {vendorsim.AccessTokenType},
			}
			c.change(sim, form)
			status, text := call(t, sim, http.MethodPost, vendorsim.OAuthTokenURL, asForm(nil), form.Encode())
			assert.Equal(t, c.isViolation, len(sim.Violations()) > 0, "%s %q", text, sim.Violations())
			if c.code != "" {
				assert.Equal(t, c.code, member(t, text, "error"))
				return
			}
			require.Equal(t, http.StatusOK, status, text)
			issued, _ := sim.DelegatedTo(member(t, text, "access_token"))
			assert.Equal(t, "ada", issued.Subject)
		})
	}
}

// onBehalfOf makes a form that of Entra's on-behalf-of.
func onBehalfOf(form url.Values) {
	form.Set("grant_type", vendorsim.JWTBearerGrant)
	form.Set("assertion", form.Get("subject_token"))
	form.Set("requested_token_use", vendorsim.OnBehalfOf)
	for _, name := range []string{"subject_token", "subject_token_type", "audience"} {
		form.Del(name)
	}
}

package definition_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/definition"
)

// swapping is a definition with one grant that only exchanges callers' tokens, and one with tokens of its own.
const swapping = `{
  "title": "Acme", "notes": "n", "docs": ["https://acme.example/docs"], "evidence": "documentation",
  "fields": {"client_id": {}, "client_secret": {}, "scope": {}, "audience": {"description": "the API"}},
  "token_url": "https://acme.example/token", "auth": "client_secret_post",
  "grants": [
    {"grant_type": "client_credentials", "request": {"form": {"grant_type": "client_credentials", "scope": "{scope}", "audience": "{audience}"}}},
    {"grant_type": "swap", "delegation": {"request": {"url": "https://acme.example/swap", "json": {"user": "{subject_token}", "for": "{resource}", "scope": "{scope}"}}, "answer": {"token": "/jwt"}},
     "scope": {"suffix": ".read"}}
  ],
  "delegation": {},
  "scope": {"suffix": ".write"}
}`

func TestAGrantExchangesCallersTokensInItsOwnWay(t *testing.T) {
	d, err := definition.Parse("acme", []byte(swapping))
	require.NoError(t, err)
	p := definition.NewProvider(d)
	open := func(fields map[string]any) (provider.Credential, error) {
		raw, err := json.Marshal(fields)
		require.NoError(t, err)
		client, err := provider.NewClient(provider.ClientOptions{Timeout: time.Minute})
		require.NoError(t, err)
		return p.Open(provider.Settings{Fields: raw, Client: client})
	}
	own, err := open(map[string]any{"client_id": "id", "client_secret": "secret", "scope": []string{"a.write"}})
	require.NoError(t, err)
	assert.False(t, provider.OnlyDelegates(own))
	only, err := open(map[string]any{"grant_type": "swap", "client_id": "id", "client_secret": "secret", "scope": []string{"a.read"}})
	require.NoError(t, err)
	assert.True(t, provider.OnlyDelegates(only))
	assert.Equal(t, []string{"https://acme.example/swap"}, only.Destinations().URLs)
	_, err = only.Exchange(t.Context(), provider.Grant{})
	require.ErrorContains(t, err, "no token of its own")
	_, err = open(map[string]any{"grant_type": "swap", "client_id": "id", "client_secret": "secret", "scope": []string{"a.write"}})
	require.ErrorContains(t, err, "ends with .read", "the grant has rules of its own for scopes")
	for field, request := range map[string]provider.DelegateRequest{
		"audience":           {SubjectToken: "t", Audience: []string{"x"}},
		"subject_token_type": {SubjectToken: "t", SubjectTokenType: "urn:x"},
		"actor_token":        {SubjectToken: "t", ActorToken: "a"},
	} {
		_, err := provider.DelegationOf(only).Delegate(t.Context(), request, provider.Grant{})
		require.ErrorContains(t, err, field+": cannot be given")
	}
	fixed, err := open(map[string]any{"client_id": "id", "client_secret": "secret", "scope": []string{"a.write"}, "audience": "api"})
	require.NoError(t, err)
	_, err = provider.DelegationOf(fixed).Delegate(t.Context(), provider.DelegateRequest{SubjectToken: "t", Audience: []string{"x"}}, provider.Grant{})
	assert.ErrorContains(t, err, "audience: cannot be given", "the operator has set the field")
}

func TestAPreviewShowsTheExchangeOfACallersToken(t *testing.T) {
	d, err := definition.Parse("acme", []byte(swapping))
	require.NoError(t, err)
	p := definition.NewProvider(d)
	preview, err := p.Preview(t.Context(), json.RawMessage(`{"client_id":"id","client_secret":"s3cret","scope":["a.write"]}`), "", http.StatusOK)
	require.NoError(t, err)
	assert.Len(t, preview.Requests, 1)
	assert.Contains(t, preview.Exchange, "subject_token={subject_token}\n")
	assert.Contains(t, preview.Exchange, "audience={audience}\n")
	assert.Contains(t, preview.Exchange, "client_secret={client_secret}\n")

	preview, err = p.Preview(t.Context(), json.RawMessage(`{"grant_type":"swap","client_id":"id","client_secret":"s3cret"}`), `{"jwt":"t0ken","expires_in":60}`, http.StatusOK)
	require.NoError(t, err)
	assert.Empty(t, preview.Requests)
	assert.Equal(t, "POST https://acme.example/swap\nAccept: application/json\nContent-Type: application/json\n\n"+
		`{"client_id":"id","client_secret":"{client_secret}","for":["{resource}"],"user":"{subject_token}"}`, preview.Exchange)
	assert.Equal(t, "1m0s", preview.Token["lifetime"])
}

func TestADelegationIsChecked(t *testing.T) {
	for reason, change := range map[string]func(map[string]any){
		"/delegation/request: must have {subject_token}": func(d map[string]any) {
			d["delegation"] = map[string]any{"request": map[string]any{"form": map[string]any{"a": "b"}}}
		},
		"/grants/1/request: give it, or token, or delegation": func(d map[string]any) {
			delete(d["grants"].([]any)[1].(map[string]any), "delegation")
		},
		"/grants/1/delegation/request/json: {subject} is not a field": func(d map[string]any) {
			d["grants"].([]any)[1].(map[string]any)["delegation"] = map[string]any{"request": map[string]any{"json": map[string]any{"user": "{subject}"}}}
		},
		"/fields/subject_token: the engine has the name already": func(d map[string]any) {
			d["fields"].(map[string]any)["subject_token"] = map[string]any{"description": "x"}
		},
	} {
		var document map[string]any
		require.NoError(t, json.Unmarshal([]byte(swapping), &document))
		change(document)
		text, err := json.Marshal(document)
		require.NoError(t, err)
		_, err = definition.Parse("acme", text)
		assert.ErrorContains(t, err, reason)
	}
}

package exchange_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

// delegating returns a client whose vendor returns a status and a body, and the forms that it receives.
func delegating(t *testing.T, status int, body string) (*exchange.Client, *[]url.Values) {
	t.Helper()
	var received []url.Values
	transport := roundTrip(func(req *http.Request) (*http.Response, error) {
		text, err := io.ReadAll(req.Body)
		require.NoError(t, err)
		form, err := url.ParseQuery(string(text))
		require.NoError(t, err)
		received = append(received, form)
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
	})
	client, err := provider.NewClient(provider.ClientOptions{Timeout: time.Minute, Transport: transport})
	require.NoError(t, err)
	return &exchange.Client{
		HTTP: client, Server: &exchange.Server{Endpoints: exchange.Endpoints{Token: "https://auth.example.com/token"}},
		ID: "client", Secret: "client-secret", Scopes: []string{"read", "write"},
		Request: exchange.Request{Form: map[string]exchange.Template{"scope": exchange.Placeholder("scope")}}, Reading: exchange.OAuth,
		Delegated: exchange.RFC8693(map[string]exchange.Template{"resource": exchange.Literal("https://fixed.example.com")}, false),
	}, &received
}

type roundTrip func(*http.Request) (*http.Response, error)

func (r roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return r(req) }

const issued = `{"access_token":"issued","token_type":"Bearer","expires_in":60,"issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}`

func TestTheRequestHasWhatTheCallerGives(t *testing.T) {
	client, received := delegating(t, 200, issued)
	answer, err := client.Delegation().Delegate(t.Context(), provider.DelegateRequest{
		SubjectToken: "subject", ActorToken: "actor", Audience: []string{"one", "two"}, Scope: []string{"read"}, RequestedTokenType: "urn:x",
	}, provider.Grant{})
	require.NoError(t, err)
	assert.Equal(t, "issued", answer.AccessToken)
	assert.Equal(t, "urn:ietf:params:oauth:token-type:access_token", answer.Extra[exchange.IssuedTokenType])
	assert.Equal(t, []string{"read"}, answer.Scope, "the scope that was asked for, as the answer has none")
	assert.Equal(t, []url.Values{{
		"grant_type": {exchange.TokenExchange}, "scope": {"read"}, "audience": {"one", "two"}, "resource": {"https://fixed.example.com"},
		"subject_token": {"subject"}, "subject_token_type": {provider.AccessTokenType}, "actor_token": {"actor"}, "actor_token_type": {provider.AccessTokenType},
		"requested_token_type": {"urn:x"},
	}}, *received)
}

func TestACallerCannotGiveWhatIsNotSent(t *testing.T) {
	client, received := delegating(t, 200, issued)
	for name, request := range map[string]provider.DelegateRequest{
		"resource": {SubjectToken: "subject", Resource: []string{"https://other.example.com"}}, // the operator's is sent
		"scope":    {SubjectToken: "subject", Scope: []string{"admin"}},
	} {
		_, err := client.Delegation().Delegate(t.Context(), request, provider.Grant{})
		var failure *provider.Error
		require.ErrorAs(t, err, &failure, name)
		assert.Equal(t, provider.Invalid, failure.Kind, name)
		assert.Contains(t, failure.Reason, name+":")
	}
	assert.Empty(t, *received)
}

func TestASubjectTokenIsSentOnceUnlessTheVendorRefusesTheClient(t *testing.T) {
	for code, sent := range map[string]int{"invalid_request": 1, "invalid_grant": 1, "invalid_client": 2} {
		client, received := delegating(t, 400, `{"error":"`+code+`","error_description":"no: subject-1234"}`)
		_, err := client.Delegation().Delegate(t.Context(), provider.DelegateRequest{SubjectToken: "subject-1234"}, provider.Grant{})
		assert.Len(t, *received, sent, code)
		assert.NotContains(t, err.Error(), "subject-1234")
		assert.NotContains(t, err.Error(), "auth_style", "the caller's token is the more likely reason")
	}
}

func TestTheCallersOwnTokenIsRefusedAsAnAnswer(t *testing.T) {
	client, _ := delegating(t, 200, strings.Replace(issued, "issued", "subject", 1))
	_, err := client.Delegation().Delegate(t.Context(), provider.DelegateRequest{SubjectToken: "subject"}, provider.Grant{})
	assert.ErrorContains(t, err, "the caller's own token")
}

func TestARequestIsChecked(t *testing.T) {
	good := provider.DelegateRequest{SubjectToken: "subject", SubjectTokenType: "jwt"}
	checked, err := good.Check()
	require.NoError(t, err)
	assert.Equal(t, "urn:ietf:params:oauth:token-type:jwt", checked.SubjectTokenType)
	for field, request := range map[string]provider.DelegateRequest{
		"subject_token":        {},
		"subject_token:":       {SubjectToken: "a b"},
		"subject_token_type":   {SubjectToken: "a", SubjectTokenType: "secret-in-the-wrong-field"},
		"actor_token_type":     {SubjectToken: "a", ActorTokenType: "jwt"},
		"requested_token_type": {SubjectToken: "a", RequestedTokenType: "x y"},
		"resource":             {SubjectToken: "a", Resource: []string{"not a URI"}},
		"audience":             {SubjectToken: "a", Audience: []string{"a\nb"}},
		"scope":                {SubjectToken: "a", Scope: []string{`"`}},
	} {
		_, err := request.Check()
		assert.ErrorContains(t, err, field)
	}
}

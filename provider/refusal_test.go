package provider

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAnErrorCodeIsFoundInEachVendorsFormat(t *testing.T) {
	for body, kind := range map[string]Kind{
		`{"ok":false,"error":"internal_error"}`:                                                          Unavailable, // Slack
		`{"error":"unknown_error","error_description":"retry your request"}`:                             Unavailable, // Salesforce
		`{"error":{"code":503,"status":"UNAVAILABLE","message":"try again"}}`:                            Unavailable, // Google
		`{"error":{"code":403,"errors":[{"reason":"rateLimitExceeded"}],"status":"RESOURCE_EXHAUSTED"}}`: Unavailable,
		`{"__type":"TooManyRequestsException"}`:                                                          Unavailable, // AWS
		`{"errors":[{"code":"service_unavailable"}]}`:                                                    Unavailable,
		`{"fault":{"code":"timeout"}}`:                                                                   Unavailable,
		`{"errorCode":"SERVER_ERROR"}`:                                                                   Unavailable,
		`{"error":"migrating"}`:                                                                          Unavailable, // by WithErrors
		`{"error":"invalid_grant","code":"migrating"}`:                                                   Unavailable,
		`{"error":"invalid_grant","code":"unavailable"}`:                                                 Rejected,
		`{"error":"invalid_client","error_description":"timeout"}`:                                       Rejected,
		`{"error":{"status":"PERMISSION_DENIED"}}`:                                                       Rejected,
		`{"error":"access_denied"}`:                                                                      Rejected,
		`[]`:                                                                                             Rejected,
		`temporarily_unavailable`:                                                                        Rejected,
		``:                                                                                               Rejected,
	} {
		for _, status := range []int{400, 401, 403} {
			client, err := NewClient(ClientOptions{Transport: answering(status, body), Timeout: time.Minute})
			require.NoError(t, err)
			_, err = client.WithErrors([]string{"migrating"}, "").Do(request(t))
			var e *Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, kind, e.Kind, "%d %s", status, body)
			assert.Equal(t, status, e.Status)
		}
	}
}

func TestWithErrorsDoesNotChangeTheClient(t *testing.T) {
	client, err := NewClient(ClientOptions{Transport: answering(400, `{"error":"migrating"}`), Timeout: time.Minute})
	require.NoError(t, err)
	client.WithErrors([]string{"migrating"}, "")
	_, err = client.Do(request(t))
	var e *Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, Rejected, e.Kind)
}

func request(t *testing.T) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://vendor.example/token", nil)
	require.NoError(t, err)
	return req
}

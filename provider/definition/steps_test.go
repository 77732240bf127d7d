package definition_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
)

// session is a vendor with a session before the token.
func session() []change {
	return []change{
		{"/auth", nil},
		{"/grants/0/before", []any{object{
			"request": object{"url": "https://{account}.vendor.example/session", "json": object{"id": "{client_id}", "secret": "{client_secret}"}},
			"keep":    object{"session": "/data/0/session", "number": "/data/0/n"},
		}}},
		{"/grants/0/request", object{"method": "GET", "headers": object{"X-Session": "{session}"}, "query": object{"n": "{number}", "scope": "{scope}", "at": "{now_ms}", "id": "{uuid}"}}},
	}
}

const started = `{"data":[{"session":"s3ss10n-0f-the-first-step","n":12345678901234567}]}`

func TestAStepKeepsValuesForLaterRequests(t *testing.T) {
	v := &vendor{answers: []answer{ok(started), ok(`{"access_token":"t","expires_in":60}`)}}
	c := open(t, parsed(t, session()...), v, acme)
	exchanged(t, c, provider.Grant{})
	require.Len(t, v.requests, 2)
	assert.Equal(t, `POST https://acme.vendor.example/session {"id":"c","secret":"s"}`, v.requests[0])
	assert.Regexp(t, `^GET https://acme\.vendor\.example/token\?at=\d{13}&id=[0-9a-f-]{36}&n=12345678901234567 \[X-Session: s3ss10n-0f-the-first-step\]$`, v.requests[1])
	assert.Equal(t, []string{"https://acme.vendor.example/session", "https://acme.vendor.example/token"}, c.Destinations().URLs)

	v = &vendor{answers: []answer{ok(started), ok(`{"access_token":"t","expires_in":60}`), ok(`{"data":[{"session":"other","n":1}]}`), ok(`{"access_token":"u","expires_in":60}`)}}
	c = open(t, parsed(t, session()...), v, acme)
	exchanged(t, c, provider.Grant{})
	exchanged(t, c, provider.Grant{})
	assert.Contains(t, v.requests[3], "other", "each exchange begins with its own")
}

func TestAStepThatFailsEndsTheExchange(t *testing.T) {
	for name, test := range map[string]struct {
		answer answer
		kind   provider.Kind
		reason string
	}{
		"rejected":       {answer{status: 401, body: `{"error":"invalid_client"}`}, provider.Rejected, "invalid_client"},
		"down":           {answer{status: 503}, provider.Unavailable, ""},
		"throttled":      {answer{status: 429, header: http.Header{"Retry-After": {"60"}}}, provider.Unavailable, ""},
		"no JSON":        {ok("<html>"), provider.InvalidResponse, ""},
		"nothing kept":   {ok(`{"data":[]}`), provider.InvalidResponse, "no value at /data/0/"},
		"empty":          {ok(`{"data":[{"session":"","n":1}]}`), provider.InvalidResponse, "no value at /data/0/session"},
		"object":         {ok(`{"data":[{"session":{},"n":1}]}`), provider.InvalidResponse, "no value at /data/0/session"},
		"error with 200": {ok(`{"error":"invalid_client"}`), provider.Rejected, "invalid_client"},
	} {
		v := &vendor{answers: []answer{test.answer}}
		_, err := open(t, parsed(t, session()...), v, acme).Exchange(t.Context(), provider.Grant{})
		var failure *provider.Error
		require.ErrorAs(t, err, &failure, name)
		assert.Equal(t, test.kind, failure.Kind, "%s: %s", name, failure.Reason)
		assert.Contains(t, failure.Reason, test.reason, name)
		assert.Len(t, v.requests, 1, "%s: no further request", name)
		if name == "throttled" {
			assert.Equal(t, time.Minute, failure.RetryAfter.Round(time.Second))
		}
	}
}

func TestGuarantee6AValueThatAStepKeptIsNotQuoted(t *testing.T) {
	for _, body := range []string{
		`{"error":"invalid_request","error_description":"you sent s3ss10n-0f-the-first-step"}`,
		`{"error":"invalid_request","error_description":"you sent S3SS10N 0F THE FIRST STEP"}`,
		`{"message":"czNzczEwbi0wZi10aGUtZmlyc3Qtc3RlcA=="}`,
	} {
		v := &vendor{answers: []answer{ok(started), {status: 400, body: body}}}
		_, err := open(t, parsed(t, session()...), v, acme).Exchange(t.Context(), provider.Grant{})
		require.ErrorContains(t, err, "[redacted]")
	}
}

package definition_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider/definition"
)

const withRequest = `{"title": "Acme", "fields": {"client_id": {}, "client_secret": {}}, "token_url": "https://acme.example/token",
	"grants": [{"grant_type": "client_credentials", "auth": "client_secret_post", "request": REQUEST}]}`

func TestARequestIsRefusedAtItsPlace(t *testing.T) {
	for request, says := range map[string]string{
		`{"form": {"grant_type": "client_credentials"}}`:    "",
		`{"form": {"a": "b"}, "json": {}}`:                  "definition: /grants/0/request/json: cannot be given together with form",
		`{"form": {"scope": "{scope}"}}`:                    "definition: /grants/0/request/form/scope: {scope} needs a field named scope",
		`{"form": {"time": "{iat}"}}`:                       "definition: /grants/0/request/form/time: {iat} is not a field, and no earlier step keeps it",
		`{"headers": {"X-Time": "{now|hex}"}}`:              `definition: /grants/0/request/headers/X-Time: unknown function "hex"`,
		`{"json": {"a": ["{tenant}"]}}`:                     "definition: /grants/0/request/json: {tenant} is not a field, and no earlier step keeps it",
		`{"url": "https://acme.example/{client_secret}"}`:   "definition: /grants/0/request/url: {client_secret} is a secret",
		`{"url": "https://{client_id}.example"}`:            "definition: /grants/0/request/url: {client_id} is part of a host, so the field needs a pattern",
		`{"url": "http://acme.example"}`:                    "definition: /grants/0/request/url: must be an https URL",
		`{"form": {"a": "{b"}}`:                             "definition: /grants/0/request/form/a: a brace is not part of a placeholder",
		`{"form": {"assertion": "{assertion}"}}`:            "definition: /grants/0/assertion: must be set with its claims, as {assertion} is used",
		`{"method": "TRACE"}`:                               "definition: /grants/0/request/method: value must be one of 'GET', 'POST', 'PUT', 'PATCH', 'DELETE'",
		`{"from": {"grant_type": "client_credentials"}}`:    "definition: /grants/0/request: unknown member from",
		`{"json": {"now": "{now}", "id": "{uuid}"}}`:        "",
		`{"query": {"key": "{client_secret}", "v": "2"}}`:   "",
		`{"url": "https://acme.example/{client_id}/token"}`: "",
	} {
		_, err := definition.Parse("acme", []byte(strings.Replace(withRequest, "REQUEST", request, 1)))
		if says == "" {
			require.NoError(t, err, request)
		} else {
			require.Error(t, err, request)
			assert.True(t, strings.HasPrefix(err.Error(), says), "%s: %s", request, err)
		}
	}
}

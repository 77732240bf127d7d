package providertest

import (
	"context"
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
)

// failures are responses without a token, and the kinds of their errors.
var failures = map[string]struct {
	vendor http.HandlerFunc
	kind   provider.Kind
}{
	"400":                     {vendorsim.Answer(400, "bad"), provider.Rejected},
	"401":                     {vendorsim.Answer(401, `{"error":"invalid_client"}`), provider.Rejected},
	"403":                     {vendorsim.Answer(403, ""), provider.Rejected},
	"404":                     {vendorsim.Answer(404, "<html>"), provider.InvalidResponse},
	"404 with an OAuth error": {vendorsim.Answer(404, `{"error":"invalid_grant"}`), provider.Rejected},
	"408":                     {vendorsim.Answer(408, ""), provider.Unavailable},
	"429":                     {vendorsim.Throttle("120"), provider.Unavailable},
	"500":                     {vendorsim.Answer(500, "{}"), provider.Unavailable},
	"503":                     {vendorsim.Answer(503, "<html>down"), provider.Unavailable},
	"temporarily unavailable": {vendorsim.Answer(400, `{"error":"temporarily_unavailable"}`), provider.Unavailable},
	"a broken connection":     {vendorsim.Reset, provider.Unavailable},
	"no response":             {vendorsim.Hang, provider.Unavailable},
	"a redirect":              {vendorsim.Redirect, provider.InvalidResponse},
	"not JSON":                {vendorsim.Answer(200, "<html>"), provider.InvalidResponse},
	"truncated JSON":          {vendorsim.Answer(200, `{"access_token": "a`), provider.InvalidResponse},
	"a JSON array":            {vendorsim.Answer(200, `["a"]`), provider.InvalidResponse},
	"JSON of the wrong types": {vendorsim.Answer(200, `{"access_token": {"a": 1}, "accessToken": 7}`), provider.InvalidResponse},
	"an empty body":           {vendorsim.Answer(200, ""), provider.InvalidResponse},
	"a body over 1 MiB":       {vendorsim.Answer(200, `{"a":"`+strings.Repeat("x", 1<<20)+`"}`), provider.InvalidResponse},
	"an echo of the request":  {vendorsim.Echo, provider.Rejected},
}

// testFailures checks the kind of every failure, that it comes in time, and that its text
// contains no secret.
func (k Kind) testFailures(t *testing.T, c Contract) {
	for _, name := range slices.Sorted(maps.Keys(failures)) {
		failure := failures[name]
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(10 * time.Minute)
				credential := c.open(t, k, failure.vendor)
				asked := time.Now()
				answer, err := credential.Exchange(t.Context(), provider.Grant{})
				if err == nil { // the token may turn out to be missing
					_, err = answer.Token(provider.TTL{Default: time.Hour}, provider.Token{})
				}
				assertKind(t, failure.kind, err, name)
				assert.LessOrEqual(t, time.Since(asked), 2*timeout, "request_timeout bounds it")
				var e *provider.Error
				require.ErrorAs(t, err, &e)
				if name == "429" {
					assert.Equal(t, 2*time.Minute, e.RetryAfter)
				}
				for field, secret := range c.secrets(k) {
					assertWithout(t, e.Error(), field, secret)
				}
			})
		})
	}
	t.Run("canceled by the caller", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			credential := c.open(t, k, http.HandlerFunc(vendorsim.Hang))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			asked := time.Now()
			_, err := credential.Exchange(ctx, provider.Grant{})
			assertKind(t, provider.Unavailable, err, "a canceled exchange")
			assert.Equal(t, time.Second, time.Since(asked), "it ends with its caller, before request_timeout")
		})
	})
	t.Run("an outage after an exchange", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(10 * time.Minute)
			down, vendor := false, k.Vendor()
			credential := c.open(t, k, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if down {
					vendorsim.Answer(503, "")(w, r)
					return
				}
				vendor.ServeHTTP(w, r)
			}))
			_, grant := exchange(t, credential, provider.Grant{})
			down = true
			_, err := credential.Exchange(t.Context(), grant)
			assertKind(t, provider.Unavailable, err, "during the outage")
			down = false
			_, err = credential.Exchange(t.Context(), grant)
			assert.NoError(t, err, "after the outage")
		})
	})
}

// assertWithout checks that a text contains neither a secret nor a line of one, as it is or
// in an encoding that a vendor may send back.
func assertWithout(t *testing.T, text, field, secret string) {
	t.Helper()
	for line := range strings.Lines(secret) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "-----") || line == "" {
			continue
		}
		for _, form := range []string{line, url.QueryEscape(line), base64.StdEncoding.EncodeToString([]byte(line))} {
			assert.NotContains(t, text, form, field)
		}
	}
}

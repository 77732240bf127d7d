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

// failures are what vendors answer in place of a token, and what it means.
var failures = map[string]struct {
	vendor http.HandlerFunc
	kind   provider.Kind
}{
	"400":                      {vendorsim.Answer(400, "bad"), provider.Rejected},
	"401":                      {vendorsim.Answer(401, `{"error":"invalid_client"}`), provider.Rejected},
	"403":                      {vendorsim.Answer(403, ""), provider.Rejected},
	"404":                      {vendorsim.Answer(404, "<html>"), provider.InvalidResponse},
	"404, in words of OAuth 2": {vendorsim.Answer(404, `{"error":"invalid_grant"}`), provider.Rejected},
	"408":                      {vendorsim.Answer(408, ""), provider.Unavailable},
	"429":                      {vendorsim.Throttle("120"), provider.Unavailable},
	"500":                      {vendorsim.Answer(500, "{}"), provider.Unavailable},
	"503":                      {vendorsim.Answer(503, "<html>down"), provider.Unavailable},
	"temporarily unavailable":  {vendorsim.Answer(400, `{"error":"temporarily_unavailable"}`), provider.Unavailable},
	"a broken connection":      {vendorsim.Reset, provider.Unavailable},
	"no answer":                {vendorsim.Hang, provider.Unavailable},
	"a redirect":               {vendorsim.Redirect, provider.InvalidResponse},
	"no JSON":                  {vendorsim.Answer(200, "<html>"), provider.InvalidResponse},
	"JSON that is cut off":     {vendorsim.Answer(200, `{"access_token": "a`), provider.InvalidResponse},
	"JSON that is no object":   {vendorsim.Answer(200, `["a"]`), provider.InvalidResponse},
	"JSON of the wrong types":  {vendorsim.Answer(200, `{"access_token": {"a": 1}, "accessToken": 7}`), provider.InvalidResponse},
	"nothing":                  {vendorsim.Answer(200, ""), provider.InvalidResponse},
	"an answer of over 1 MiB":  {vendorsim.Answer(200, `{"a":"`+strings.Repeat("x", 1<<20)+`"}`), provider.InvalidResponse},
	"what was sent, as a page": {vendorsim.Echo, provider.Rejected},
}

// tellsFailuresApart has every failure be of its kind, in time, and without a secret.
func (k Kind) tellsFailuresApart(t *testing.T, c Contract) {
	for _, name := range slices.Sorted(maps.Keys(failures)) {
		failure := failures[name]
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(10 * time.Minute)
				credential := c.open(t, k.Fields, failure.vendor)
				asked := time.Now()
				answer, err := credential.Exchange(t.Context(), provider.Grant{})
				if err == nil { // an answer may turn out to hold nothing
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
	t.Run("its caller's end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			credential := c.open(t, k.Fields, http.HandlerFunc(vendorsim.Hang))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			asked := time.Now()
			_, err := credential.Exchange(ctx, provider.Grant{})
			assertKind(t, provider.Unavailable, err, "a caller who gives up")
			assert.Equal(t, time.Second, time.Since(asked), "it ends with its caller, not with request_timeout")
		})
	})
	t.Run("no token, answered after a token", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(10 * time.Minute)
			down, vendor := false, k.Vendor()
			credential := c.open(t, k.Fields, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if down {
					vendorsim.Answer(503, "")(w, r)
					return
				}
				vendor.ServeHTTP(w, r)
			}))
			_, grant := exchange(t, credential, provider.Grant{})
			down = true
			_, err := credential.Exchange(t.Context(), grant)
			assertKind(t, provider.Unavailable, err, "a vendor who has gone down")
			down = false
			_, err = credential.Exchange(t.Context(), grant)
			assert.NoError(t, err, "and has come back")
		})
	})
}

// assertWithout looks for a secret, or a line of one, as it is and in the encodings in
// which it may come back.
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

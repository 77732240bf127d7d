package exchange

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
)

// exchangeWith exchanges a credential whose vendor returns a status, headers and a body.
func exchangeWith(t *testing.T, r Reading, errorAt string, status int, header http.Header, body string) (*provider.Answer, error) {
	t.Helper()
	client, err := provider.NewClient(provider.ClientOptions{Timeout: time.Minute, Transport: vendorsim.Transport(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for name, values := range header {
			w.Header()[name] = values
		}
		w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))})
	require.NoError(t, err)
	c := &Client{
		HTTP: client.WithErrors([]string{"busy"}, errorAt), Server: &Server{Endpoints: Endpoints{Token: "https://a.example/token"}},
		AuthStyle: None, Reading: r, Request: Request{Form: map[string]Template{"a": Literal("b")}},
	}
	return c.Exchange(t.Context(), provider.Grant{})
}

func TestAnExpiryIsReadInEachUnit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().UTC()
		for name, test := range map[string]struct {
			unit  Unit
			value string
			left  time.Duration // 0 if default_ttl (7 s) applies
		}{
			"seconds":                 {Seconds, `3600`, time.Hour},
			"seconds, text":           {Seconds, `"3600"`, time.Hour},
			"seconds, fraction":       {Seconds, `1.5`, 1500 * time.Millisecond},
			"milliseconds":            {Milliseconds, `3600000`, time.Hour},
			"minutes":                 {Minutes, `90`, 90 * time.Minute},
			"minutes, text":           {Minutes, `"90"`, 90 * time.Minute},
			"zero":                    {Minutes, `0`, 0},
			"negative":                {Seconds, `-1`, 0},
			"not a number":            {Seconds, `"soon"`, 0},
			"null":                    {Seconds, `null`, 0},
			"object":                  {Unix, `{}`, 0},
			"Unix":                    {Unix, `UNIX`, time.Hour},
			"Unix, text":              {Unix, `"UNIX"`, time.Hour},
			"Unix, fraction":          {Unix, `UNIX.9`, time.Hour},
			"Unix in milliseconds":    {UnixMilli, `UNIX123`, time.Hour},
			"Unix in ms, text":        {UnixMilli, `"UNIX999"`, time.Hour},
			"Unix, passed":            {Unix, `1`, 0},
			"Unix, of no year":        {Unix, `1e300`, 0},
			"milliseconds as seconds": {Unix, `UNIX000`, 0},
			"RFC 3339":                {RFC3339, `"` + now.Add(time.Hour).Format(time.RFC3339) + `"`, time.Hour},
			"RFC 3339, zone":          {RFC3339, `"` + now.Add(time.Hour).In(time.FixedZone("", 7200)).Format(time.RFC3339) + `"`, time.Hour},
			"RFC 3339, nanoseconds":   {RFC3339, `"` + now.Add(time.Hour).Format("2006-01-02T15:04:05") + `.0000001Z"`, time.Hour},
			"RFC 3339, no colon":      {RFC3339, `"` + now.Add(time.Hour).Format("2006-01-02T15:04:05") + `+0000"`, time.Hour},
			"RFC 3339, no zone":       {RFC3339, `"` + now.Add(time.Hour).Format("2006-01-02T15:04:05") + `"`, time.Hour},
			"RFC 3339, number":        {RFC3339, `7`, 0},
			"RFC 3339, no time":       {RFC3339, `"tomorrow"`, 0},
		} {
			unix := now.Add(time.Hour).Unix()
			body := `{"access_token":"t","at":` + strings.ReplaceAll(test.value, "UNIX", formatUnix(unix)) + `}`
			reading := OAuth
			reading.Expiry, reading.ExpiryUnit = "/at", test.unit
			answer, err := exchangeWith(t, reading, "", 200, nil, body)
			require.NoError(t, err, name)
			token, err := answer.Token(provider.TTL{Default: 7 * time.Second}, provider.Token{})
			require.NoError(t, err, name)
			if test.left == 0 {
				test.left = 7 * time.Second
			}
			left := token.ExpireTime.Sub(now)
			assert.LessOrEqual(t, left, test.left, "guarantee 1: %s", name)
			assert.Greater(t, left, test.left-3*time.Second, name)
		}
	})
}

func formatUnix(seconds int64) string { return strconv.FormatInt(seconds, 10) }

func TestATokenIsReadFromItsPlace(t *testing.T) {
	for name, test := range map[string]struct {
		reading Reading
		header  http.Header
		body    string
		token   string
		extra   map[string]string
		err     string
	}{
		"pointer":            {Reading{Token: "/data/0/token"}, nil, `{"data":[{"token":"t"}]}`, "t", nil, ""},
		"escaped pointer":    {Reading{Token: "/a~1b/c~0d"}, nil, `{"a/b":{"c~d":"t"}}`, "t", nil, ""},
		"number":             {Reading{Token: "/t"}, nil, `{"t":7}`, "", nil, "no access token"},
		"header":             {Reading{Header: "X-Token"}, http.Header{"X-Token": {"t"}}, ``, "t", nil, ""},
		"header, HTML":       {Reading{Header: "x-token"}, http.Header{"X-Token": {"t"}}, `<p>`, "t", nil, ""},
		"header, missing":    {Reading{Header: "X-Token"}, nil, `{}`, "", nil, "no access token"},
		"header, and error":  {Reading{Header: "X-Token"}, http.Header{"X-Token": {"t"}}, `{"error":"invalid_client"}`, "", nil, "invalid_client"},
		"cookie":             {Reading{Cookie: "SID"}, http.Header{"Set-Cookie": {"other=x", "SID=t; Path=/; HttpOnly"}}, ``, "t", nil, ""},
		"cookie, missing":    {Reading{Cookie: "SID"}, http.Header{"Set-Cookie": {"sid=t"}}, ``, "", nil, "no access token"},
		"text":               {Reading{IsText: true}, nil, " t\n", "t", nil, ""},
		"JSON string":        {Reading{IsText: true}, nil, `"t"`, "t", nil, ""},
		"text, empty":        {Reading{IsText: true}, nil, ` `, "", nil, "no access token"},
		"text, object":       {Reading{IsText: true}, nil, `{"error":"invalid_client"}`, "", nil, "invalid_client"},
		"text, HTML":         {Reading{IsText: true}, nil, `<html>`, "", nil, "no access token"},
		"ok":                 {Reading{Token: "/t", OK: "/ok"}, nil, `{"ok":true,"t":"t"}`, "t", nil, ""},
		"not ok":             {Reading{Token: "/t", OK: "/ok"}, nil, `{"ok":false,"t":"t","error":"invalid_auth"}`, "", nil, "invalid_auth"},
		"not ok, no error":   {Reading{Token: "/t", OK: "/ok"}, nil, `{"ok":false,"t":"t"}`, "", nil, ""},
		"ok missing":         {Reading{Token: "/t", OK: "/ok"}, nil, `{"t":"t"}`, "", nil, ""},
		"ok of another type": {Reading{Token: "/t", OK: "/ok"}, nil, `{"ok":"true","t":"t"}`, "", nil, ""},
		"extra": {Reading{Token: "/t", Extra: map[string]string{"url": "/u/0", "n": "/n", "is": "/is", "no": "/no", "object": "/u", "null": "/null"}}, nil,
			`{"t":"t","u":["https://a.example"],"n":12345678901234567890,"is":true,"null":null}`, "t", map[string]string{"url": "https://a.example", "n": "12345678901234567890", "is": "true"}, ""},
		"two objects":    {Reading{Token: "/t"}, nil, `{"t":"t"}{"t":"u"}`, "", nil, "not a JSON object"},
		"list":           {Reading{Token: "/0"}, nil, `["t"]`, "", nil, ""},
		"empty object":   {Reading{Token: "/t"}, nil, `{}`, "", nil, "no access token"},
		"pointer to all": {Reading{Token: "/t/u"}, nil, `{"t":"t"}`, "", nil, "no access token"},
	} {
		answer, err := exchangeWith(t, test.reading, "", 200, test.header, test.body)
		if test.token == "" {
			require.Error(t, err, name)
			assert.Contains(t, strings.ToLower(err.Error()), strings.ToLower(test.err), name)
			continue
		}
		require.NoError(t, err, name)
		assert.Equal(t, test.token, answer.AccessToken, name)
		assert.Equal(t, test.extra, answer.Extra, name)
	}
}

func TestAnErrorIsReadFromItsPlace(t *testing.T) {
	for name, test := range map[string]struct {
		errorAt, body string
		status        int
		kind          provider.Kind
	}{
		"transient, at its place":   {"/fault/code", `{"fault":{"code":"busy"}}`, 401, provider.Unavailable},
		"transient, OAuth":          {"", `{"error":"busy"}`, 401, provider.Unavailable},
		"other code":                {"/fault/code", `{"fault":{"code":"denied"}}`, 401, provider.Rejected},
		"with status 200":           {"/fault/code", `{"fault":{"code":"busy"}}`, 200, provider.Unavailable},
		"rejected with status 200":  {"/fault/code", `{"fault":{"code":"denied"}}`, 200, provider.Rejected},
		"at another place with 200": {"/fault/code", `{"fault":"busy"}`, 200, provider.InvalidResponse},
	} {
		_, err := exchangeWith(t, OAuth, test.errorAt, test.status, nil, test.body)
		var failure *provider.Error
		require.ErrorAs(t, err, &failure, name)
		assert.Equal(t, test.kind, failure.Kind, "%s: %s", name, failure.Reason)
	}
}

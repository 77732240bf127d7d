package providertest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
)

// An AnswerSeed is a vendor's response from the seed corpus.
type AnswerSeed struct {
	Kind   string // the credential's, as in Contract.Kinds
	Status int
	Body   string
}

// Placeholders in the body of a response. The vendor can send back what it was sent, in
// several encodings, and tokens that the test recognizes if they leak.
const (
	Sent    = "${sent}"    // the first secret in the request
	Access  = "${access}"  // an access token
	Refresh = "${refresh}" // a refresh token
)

// canary begins every secret of a credential. It has characters that URLs, JSON and HTML
// escape, and no run that is long enough to be redacted for its length.
const canary = `cAn4ry+s/1="&c%r\t<'`

const (
	accessCanary  = "aT0ken.cAn4ry-0f-the-answer-5GzQ8xVb2Lr7Kd3N"
	refreshCanary = "rT0ken.cAn4ry-0f-the-answer-9Hw4Jm6Tp1Sy8Xc5"
)

// Fuzz sends arbitrary responses to an exchange. It checks that the result is an error that
// can be shown, or a token that expires no later than the response states, and that no
// rotated refresh token is lost.
func Fuzz(f *testing.F, c Contract, seeds ...AnswerSeed) {
	kinds := slices.Sorted(maps.Keys(c.Kinds))
	add := func(kind string, status int, date, retryAfter, body string) {
		f.Add(uint8(slices.Index(kinds, kind)), status, date, retryAfter, body)
	}
	for _, s := range seeds {
		require.Contains(f, kinds, s.Kind)
		add(s.Kind, s.Status, "Sun, 01 Mar 2026 10:20:00 GMT", "", s.Body)
	}
	for _, kind := range kinds {
		for _, s := range hostile {
			add(kind, s.status, s.date, s.retryAfter, s.body)
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, status int, date, retryAfter, body string) {
		k := c.Kinds[kinds[int(kind)%len(kinds)]]
		vendor := &anyVendor{status: status, body: body, header: http.Header{"Date": {date}, "Retry-After": {retryAfter}}}
		fields := maps.Clone(k.Fields)
		for name, secret := range c.secrets(k) {
			if !strings.HasPrefix(secret, "-----") { // private keys are never sent
				vendor.secrets = append(vendor.secrets, canary+name)
				fields[name] = canary + name
			}
		}
		before := time.Now()
		client, err := provider.NewClient(provider.ClientOptions{Timeout: timeout, Transport: vendor})
		require.NoError(t, err)
		raw, err := json.Marshal(fields)
		require.NoError(t, err)
		credential, err := c.Provider.Open(provider.Settings{Fields: raw, Client: client, WriteTime: time.Now()})
		require.NoError(t, err)

		answer, err := credential.Exchange(t.Context(), provider.Grant{})
		o := outcome{t: t, kind: k, vendor: vendor, before: before.Round(0), after: time.Now().Round(0)}
		o.check(answer, err)
		if err == nil && answer.Grant != nil {
			_, err = credential.Exchange(t.Context(), *answer.Grant)
			var e *provider.Error
			require.False(t, err != nil && !errors.As(err, &e), err)
		}
		require.Empty(t, vendor.unsendable, "net/http would not send the request")
	})
}

// hostile are responses that no vendor documents.
var hostile = []struct {
	status                 int
	date, retryAfter, body string
}{
	{200, "", "", ""},
	{200, "Mon, 01 Jan 0001 00:00:00 GMT", "", `{"access_token":"` + Access + `","accessToken":"` + Access + `"}`},
	{200, "Fri, 31 Dec 9999 23:59:59 GMT", "", `{"access_token":"` + Access + `","accessToken":"` + Access + `"}`},
	// A JWT that expires at the end of the year 9999, and one of 2026.
	{200, "Sun, 01 Mar 2026 10:20:00 GMT", "", `{"access_token":"e30.eyJleHAiOjI1MzQwMjMwMDc5OX0.c2ln","accessToken":"e30.eyJleHAiOjI1MzQwMjMwMDc5OX0.c2ln"}`},
	{200, "Thu, 01 Jan 1970 00:00:00 GMT", "", `{"access_token":"e30.eyJleHAiOjE3NzAwMDAwMDAuOX0.c2ln","accessToken":"e30.eyJleHAiOjE3NzAwMDAwMDAuOX0.c2ln"}`},
	// A JWT that expires within the hour, by a vendor's clock at the end of 2099.
	{200, "Thu, 31 Dec 2099 23:00:00 GMT", "", `{"access_token":"e30.eyJleHAiOjQxMDI0NDQ4MDB9.c2ln","accessToken":"e30.eyJleHAiOjQxMDI0NDQ4MDB9.c2ln"}`},
	{200, "", "", `{"access_token":7,"accessToken":7,"refresh_token":"` + Refresh + `","refreshToken":"` + Refresh + `"}`},
	{200, "", "", `{"refresh_token":"` + Refresh + `","refreshToken":"` + Refresh + `","error":null}`},
	{200, "", "", `{"access_token":"a","accessToken":"a","expires_in":1e-300,"accessTokenExpiry":1e-300}`},
	{200, "", "", `{"access_token":"a","accessToken":"a","expires_in":"Infinity","accessTokenExpiry":1e300}`},
	{200, "", "", `{"access_token":"a b","accessToken":"a\nb","scope":["a",7,null,"b c"]}`},
	{200, "", "", `{"access_token":"a","accessToken":"a","expires_in":0,"accessTokenExpiry":"-1","refresh_token":"` + Refresh + `"}`},
	{200, "", "", `{"access_token":"a","accessToken":"a","error":"e","error_description":"you sent ` + Sent + `, ` + Access + `"}`},
	{200, "", "", `{"access_token":"a","accessToken":"a","token_type":"\u0000"}`},
	{200, "", "", `{"error":"` + Access + `","error_description":"you sent ` + Sent + `"}`},
	{400, "", "", `{"error":"invalid_grant","error_description":"you sent ` + Sent + `, ` + Access + `"}`},
	{401, "", "0", `{"error":{"message":"${quoted}","detail":["x"],"code":"${base64}"}}`},
	{403, "", "", `{"message":"${HTML} ${UPPER} ${escaped} ${query} ${hex}"}`},
	{429, "Sun, 01 Mar 2026 10:20:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "slow down, " + Sent},
	{429, "Sun, 01 Mar 2026 10:20:00 GMT", "Sun, 01 Mar 2026 10:10:00 GMT", strings.Repeat("slow down ", 100)},
	{503, "", "99999999999999999999", "<html>" + Sent},
	{500, "", "-1", `{"access_token":"` + Access + `"`},
	{302, "", "", ""}, {100, "", "", ""}, {-1, "", "", ""}, {999, "", "", "\x1b[31m\u2028\u202e\r\nred"},
}

// anyVendor sends the given response to every request.
type anyVendor struct {
	status  int
	header  http.Header
	body    string
	secrets []string

	calls      int
	first      string // the secret in the first request
	sent       string // the last body, with its placeholders replaced
	unsendable []string
}

func (v *anyVendor) RoundTrip(r *http.Request) (*http.Response, error) {
	v.calls++
	for name, values := range r.Header {
		if strings.ContainsFunc(values[0], unicode.IsControl) {
			v.unsendable = append(v.unsendable, name)
		}
	}
	secret := v.secretOf(r)
	if v.calls == 1 {
		v.first = secret
	}
	v.sent = v.splice(secret)
	return &http.Response{StatusCode: v.status, Header: v.header, Body: io.NopCloser(strings.NewReader(v.sent)), Request: r}, nil
}

// secretOf returns a secret in a request: one of the credential's, or an assertion.
func (v *anyVendor) secretOf(r *http.Request) string {
	form := url.Values{}
	if r.Body != nil {
		body, _ := io.ReadAll(r.Body)
		form, _ = url.ParseQuery(string(body))
	}
	for _, name := range []string{"assertion", "client_assertion"} {
		if form.Get(name) != "" {
			return form.Get(name)
		}
	}
	_, basic, _ := r.BasicAuth()
	basic, _ = url.QueryUnescape(basic)
	for _, secret := range v.secrets {
		carriers := append([]string{form.Get("client_secret"), form.Get("refresh_token"), basic}, slices.Concat(slices.Collect(maps.Values(r.URL.Query()))...)...)
		for _, values := range r.Header {
			carriers = append(carriers, strings.TrimPrefix(values[0], "Bearer "))
		}
		if slices.Contains(carriers, secret) {
			return secret
		}
	}
	return ""
}

func (v *anyVendor) splice(secret string) string {
	quoted, _ := json.Marshal(secret)
	escaped := strings.Trim(string(quoted), `"`)
	var inHex strings.Builder
	for _, r := range secret {
		fmt.Fprintf(&inHex, `\\u%04x`, r)
	}
	return strings.NewReplacer(
		Sent, escaped, "${plain}", secret, "${quoted}", strings.ReplaceAll(escaped, `\`, `\\`),
		"${query}", url.QueryEscape(secret), "${escaped}", url.PathEscape(secret), "${HTML}", strings.ReplaceAll(html.EscapeString(secret), `\`, `\\`),
		"${base64}", base64.StdEncoding.EncodeToString([]byte(secret)), "${UPPER}", strings.ToUpper(url.QueryEscape(secret)), "${hex}", inHex.String(),
		Access, accessCanary, Refresh, refreshCanary,
	).Replace(v.body)
}

// An outcome is the result of an exchange, with what is needed to check it.
type outcome struct {
	t             *testing.T
	kind          Kind
	vendor        *anyVendor
	before, after time.Time // the exchange
}

// check checks the result of the exchange.
func (o outcome) check(answer *provider.Answer, err error) {
	require.LessOrEqual(o.t, o.vendor.calls, 4, "two auth styles, with two clocks each")
	if err != nil {
		require.Nil(o.t, answer)
		o.checkError(err)
		require.Empty(o.t, o.rotated(), "guarantee 3: a refresh token is lost")
		return
	}
	if rotated := o.rotated(); rotated != "" {
		require.NotNil(o.t, answer.Grant, "guarantee 3: a refresh token is lost")
		require.Equal(o.t, rotated, answer.Grant.RefreshToken)
	}
	o.checkStorable(answer.Grant)
	token, err := answer.Token(provider.TTL{Default: time.Hour}, provider.Token{})
	if err != nil {
		o.checkError(err)
		return
	}
	o.checkToken(token)
}

// checkError checks that an error is a *provider.Error, short, on one line and without a secret.
func (o outcome) checkError(err error) {
	var e *provider.Error
	require.ErrorAs(o.t, err, &e)
	if o.vendor.calls > 0 {
		require.Contains(o.t, []provider.Kind{provider.Rejected, provider.Unavailable, provider.InvalidResponse}, e.Kind, "after a request")
	}
	require.GreaterOrEqual(o.t, e.RetryAfter, time.Duration(0))
	require.NotEmpty(o.t, e.Reason)
	require.LessOrEqual(o.t, len(e.Reason), 400)
	require.True(o.t, utf8.ValidString(e.Reason))
	for _, r := range e.Reason {
		require.False(o.t, unicode.IsControl(r) || r == '\u2028' || r == '\u2029', "%q", e.Reason)
	}
	said := strings.ToLower(e.Error())
	for _, secret := range append([]string{accessCanary, refreshCanary, o.vendor.first}, o.vendor.secrets...) {
		if secret == "" {
			continue
		}
		quoted, _ := json.Marshal(secret)
		for _, form := range []string{
			secret, strings.Trim(string(quoted), `"`), url.QueryEscape(secret), url.PathEscape(secret), html.EscapeString(secret),
			base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret)),
		} {
			require.NotContains(o.t, said, strings.ToLower(form), "guarantee 6")
		}
	}
}

// checkToken checks that a token can be sent and stored, and that it expires no later than
// the response states (guarantee 1).
func (o outcome) checkToken(token provider.Token) {
	require.True(o.t, provider.FitsHeader(token.AccessToken), "it can be sent")
	require.NotEmpty(o.t, token.AccessToken)
	require.NotEmpty(o.t, token.TokenType)
	require.WithinRange(o.t, token.IssueTime, o.before, o.after)
	const tenYears = 10 * 365 * 24 * time.Hour
	require.False(o.t, token.ExpireTime.After(token.IssueTime.Add(tenYears)), "it expires in %d", token.ExpireTime.Year())
	require.False(o.t, token.RenewableFrom.After(token.IssueTime.Add(tenYears+time.Hour)), "its boundary is in %d", token.RenewableFrom.Year())
	o.checkStorable(token)

	stated, isStated := o.expiresIn()
	if isStated && stated < tenYears.Seconds() {
		lifetime := time.Duration(math.Ceil(stated * float64(time.Second)))
		if stated <= 0 { // not a lifetime
			lifetime = tenYears
		}
		require.False(o.t, token.ExpireTime.After(o.after.Add(lifetime)), "it outlives the stated lifetime by %s", token.ExpireTime.Sub(o.after.Add(lifetime)))
	}
	exp, isJWT := expOf(token.AccessToken)
	date, err := http.ParseTime(o.vendor.header.Get("Date"))
	isBelieved := err == nil && date.Sub(o.before).Abs() <= provider.MaxSkew+time.Second
	switch {
	case isJWT && isStated && stated > 0 && isBelieved && !exp.After(date): // the exp is ignored
	case isJWT:
		require.False(o.t, token.ExpireTime.After(exp.Add(provider.MaxSkew+time.Second)), "it outlives its exp by %s", token.ExpireTime.Sub(exp))
		if isBelieved {
			latest := exp.Add(o.before.Sub(date))
			require.False(o.t, token.ExpireTime.After(latest), "it outlives its exp by the vendor's clock by %s", token.ExpireTime.Sub(latest))
		}
	case isStated && stated <= 0:
		require.WithinDuration(o.t, o.before.Add(time.Hour), token.ExpireTime, o.after.Sub(o.before), "default_ttl applies")
	}
}

func (o outcome) checkStorable(v any) {
	_, err := json.Marshal(v)
	require.NoError(o.t, err)
}

// isRefreshToken matches what can be a refresh token (RFC 6749 appendix A.17), without white space around it.
var isRefreshToken = regexp.MustCompile(`^[!-~]([ -~]*[!-~])?$`)

// noRefreshTokens are values of vendors' languages for nothing.
var noRefreshTokens = []string{"null", "undefined", "None", "nil"}

// rotated returns the rotated refresh token in a response; "" if there is none. It counts in
// a JSON object with a 2xx status and no error.
func (o outcome) rotated() string {
	if o.vendor.status/100 != 2 || o.kind.Replaced == "" {
		return ""
	}
	var token string
	var refusal any
	_ = json.Unmarshal(o.member("error"), &refusal)
	if refusal != nil && refusal != "" || json.Unmarshal(o.member(o.kind.Replaced), &token) != nil || token == o.vendor.first {
		return ""
	}
	if !isRefreshToken.MatchString(token) || slices.Contains(noRefreshTokens, token) {
		return "" // it does not replace one that has just worked
	}
	return token
}

// expiresIn returns the stated lifetime in seconds.
func (o outcome) expiresIn() (seconds float64, isStated bool) {
	raw := string(o.member(o.kind.ExpiresIn))
	text := strings.Trim(raw, `"`)
	if text != raw && strings.Trim(text, "0123456789.") != "" {
		return 0, false
	}
	n, err := strconv.ParseFloat(text, 64)
	return n * o.kind.ExpiresInUnit.Seconds(), err == nil
}

// member returns a member of the response. It returns nil if there is none, or if there is
// another with the same name in other case, as encoding/json may decode either.
func (o outcome) member(name string) json.RawMessage {
	var body map[string]json.RawMessage
	if name == "" || json.Unmarshal([]byte(o.vendor.sent), &body) != nil {
		return nil
	}
	for other := range body {
		if other != name && strings.EqualFold(other, name) {
			return nil
		}
	}
	return body[name]
}

// expOf returns the exp of a token that is a JWT.
func expOf(token string) (time.Time, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	var claims map[string]any
	for _, part := range parts[:2] {
		claims = nil
		text, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil || json.Unmarshal(text, &claims) != nil {
			return time.Time{}, false
		}
	}
	exp, ok := claims["exp"].(float64)
	const year9999 = 253402300799
	return time.Unix(int64(exp), 0), ok && exp > 0 && exp <= year9999
}

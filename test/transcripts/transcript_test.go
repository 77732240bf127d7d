package transcripts

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/tools/txtar"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/catalogue"
	"vault-plugin-secrets-tokenbroker/provider/definition"
)

// A transcript of a vendor was written down from the vendor's documentation: for each grant the fields of
// a credential, the request and the answer as documented, and the token that readers get.
type transcript struct {
	*testing.T
	p     *definition.Provider
	grant string
	parts map[string]string
}

// knownPart matches the names of parts, which testdata/README.md explains.
var knownPart = regexp.MustCompile(`^(fields|now|issuer|identity-token|assertion|rules|(request|answer)(-[1-9])?|token|(refresh|revoke|code|device|device-token|delegate)-(request|answer)|delegate(-token)?|consent-url|revoke-assertion|refresh-token|error-[a-z-]+)$`)

func TestEachVendorIsAskedAndReadAsItDocuments(t *testing.T) {
	for _, name := range catalogue.Names() {
		t.Run(name, func(t *testing.T) {
			d, err := catalogue.Read(name)
			require.NoError(t, err)
			archive, err := txtar.ParseFile(filepath.Join("testdata", name+".txtar"))
			require.NoError(t, err)
			require.Regexp(t, `(?m)^Source: https://\S+$`, string(archive.Comment), "the transcript cites the vendor's page")
			grants := map[string]map[string]string{}
			for _, file := range archive.Files {
				grant, part, _ := strings.Cut(file.Name, "/")
				if grants[grant] == nil {
					grants[grant] = map[string]string{}
				}
				grants[grant][part] = strings.TrimRight(string(file.Data), "\n")
			}
			p := definition.NewProvider(d)
			for _, grant := range p.GrantTypes() {
				assert.Contains(t, grants, grant, "each grant has a transcript")
			}
			for grant, parts := range grants {
				t.Run(grant, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { (&transcript{t, p, grant, parts}).check() })
				})
			}
		})
	}
}

func (s *transcript) check() {
	if now := s.parts["now"]; now != "" {
		at, err := time.Parse(time.RFC3339, now)
		require.NoError(s.T, err)
		time.Sleep(time.Until(at))
	}
	s.checkDelegation()
	credential := s.open(s.steps()...)
	if provider.OnlyDelegates(credential) {
		return
	}
	answer, err := credential.Exchange(s.Context(), provider.Grant{})
	require.NoError(s.T, err)
	token := s.checkToken("token", credential, answer)
	s.checkRules(credential, *answer, token)
	s.checkRevocation(credential, token.AccessToken, answer.Grant)
	s.checkConsent(credential)
	if s.parts["refresh-request"] != "" {
		require.NotNil(s.T, answer.Grant, "the answer has a refresh token")
		again := s.open(step{s.parts["refresh-request"], s.parts["refresh-answer"]})
		answer, err = again.Exchange(s.Context(), *answer.Grant)
		require.NoError(s.T, err)
		s.checkToken("refresh-token", again, answer)
	}
	errors := 0
	for part, answer := range s.parts {
		assert.Regexp(s.T, knownPart, part, "unknown part")
		if strings.HasPrefix(part, "error-") && !strings.HasSuffix(part, "-kind") {
			s.checkError(part, answer)
			errors++
		}
	}
	if s.hasOwnErrors() {
		assert.NotZero(s.T, errors, "the vendor's errors are read in a way of their own, so the transcript has some")
	}
}

// A step is a request and its answer.
type step struct{ request, answer string }

// steps returns the requests of an exchange in their order.
func (s *transcript) steps() []step {
	var steps []step
	for i := 1; s.parts[fmt.Sprintf("request-%d", i)] != ""; i++ {
		steps = append(steps, step{s.parts[fmt.Sprintf("request-%d", i)], s.parts[fmt.Sprintf("answer-%d", i)]})
	}
	if s.parts["request"] != "" {
		steps = append(steps, step{s.parts["request"], s.parts["answer"]})
	}
	return steps
}

// open returns a credential whose vendor expects the steps.
func (s *transcript) open(steps ...step) provider.Credential {
	credential, err := s.openWith(s.fields(), &vendor{s: s, steps: steps})
	require.NoError(s.T, err)
	return credential
}

// secrets returns the values of the secret fields.
func (s *transcript) secrets() []string {
	var fields map[string]any
	require.NoError(s.T, json.Unmarshal([]byte(s.parts["fields"]), &fields))
	var secrets []string
	for name, schema := range s.p.Fields() {
		if text, isText := fields[name].(string); isText && schema.DisplayAttrs.Sensitive {
			secrets = append(secrets, text)
		}
	}
	return secrets
}

func (s *transcript) checkError(part, answer string) {
	steps := s.steps()
	steps[len(steps)-1].answer = answer
	_, err := s.open(slices.Concat(steps, steps)...).Exchange(s.Context(), provider.Grant{})
	var failure *provider.Error
	require.ErrorAs(s.T, err, &failure, part)
	assert.Equal(s.T, s.parts[part+"-kind"], failure.Kind.String(), "%s: %s", part, failure.Reason)
}

// checkToken compares the token that readers get, and returns it.
func (s *transcript) checkToken(part string, credential provider.Credential, answer *provider.Answer) *provider.Token {
	token, err := answer.Token(provider.TTL{}, provider.Token{})
	require.NoError(s.T, err)
	if failure := answer.CheckSecrets(s.secrets(), nil); failure != nil {
		assert.Fail(s.T, failure.Reason)
	}
	var expected map[string]any
	require.NoError(s.T, json.Unmarshal([]byte(s.parts[part]), &expected))
	lifetime, err := time.ParseDuration(expected["lifetime"].(string))
	require.NoError(s.T, err)
	assert.InDelta(s.T, lifetime.Seconds(), token.ExpireTime.Sub(token.IssueTime).Seconds(), 5, "lifetime")
	delete(expected, "lifetime")

	api := credential.(provider.Presented).API()
	shown := map[string]any{}
	api.AddTo(shown, &token)
	got := map[string]any{"access_token": token.AccessToken}
	add := func(name string, value any, isSet bool) {
		if _, isExpected := expected[name]; isSet || isExpected {
			got[name] = value
		}
	}
	for name, as := range map[string]string{"http_header": "http_header", "other_http_headers": "headers", "query_parameter": "query"} {
		add(as, shown[name], shown[name] != nil)
	}
	add("extra", token.Extra, len(token.Extra) > 0)
	if _, isExpected := expected["scope"]; isExpected {
		got["scope"] = token.Scope
	}
	if _, isExpected := expected["refresh_token"]; isExpected && answer.Grant != nil {
		got["refresh_token"] = answer.Grant.RefreshToken
	}
	expectedText, err := json.Marshal(expected)
	require.NoError(s.T, err)
	gotText, err := json.Marshal(got)
	require.NoError(s.T, err)
	if strings.Contains(string(expectedText), "{assertion}") {
		s.checkAssertion(token.AccessToken)
		gotText = jwtPattern.ReplaceAll(gotText, []byte("{assertion}"))
	}
	assert.JSONEq(s.T, string(expectedText), string(gotText))
	return &token
}

// A vendor checks each request, byte for byte, and answers as the transcript has it.
type vendor struct {
	s     *transcript
	steps []step
}

func (v *vendor) RoundTrip(req *http.Request) (*http.Response, error) {
	if len(v.steps) == 0 {
		assert.Fail(v.s.T, "unexpected request", "%s %s", req.Method, req.URL)
		return nil, io.ErrUnexpectedEOF
	}
	next := v.steps[0]
	v.steps = v.steps[1:]
	got := dump(v.s.T, req)
	if jwt := jwtPattern.FindString(got); jwt != "" && strings.Contains(next.request, "{assertion}") {
		v.s.checkAssertion(jwt)
		got = strings.ReplaceAll(got, jwt, "{assertion}")
	}
	if !asPattern(next.request).MatchString(got) {
		assert.Equal(v.s.T, next.request, got)
	}
	return response(v.s.T, req, next.answer)
}

// dump returns a request as transcripts have it.
func dump(t *testing.T, req *http.Request) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s %s\n", req.Method, req.URL)
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range req.Header {
			if !yield(name) {
				return
			}
		}
	}) {
		value := req.Header.Get(name)
		if name == "User-Agent" || name == "Cache-Control" || name == "Accept" && value == "application/json" {
			continue
		}
		fmt.Fprintf(&out, "%s: %s\n", name, value)
	}
	if req.Body != nil {
		body, err := io.ReadAll(req.Body)
		require.NoError(t, err)
		if len(body) > 0 {
			fmt.Fprintf(&out, "\n%s", body)
		}
	}
	return strings.TrimRight(out.String(), "\n")
}

// asPattern returns an expression for a documented request, in which some values are new each time.
func asPattern(text string) *regexp.Regexp {
	text = regexp.QuoteMeta(text)
	for marker, pattern := range map[string]string{"<time>": `[0-9]+`, "<random>": `[0-9a-f-]{36}`} {
		text = strings.ReplaceAll(text, marker, pattern)
	}
	return regexp.MustCompile("^" + text + "$")
}

// response returns an answer: its status, its headers and its body.
func response(t *testing.T, req *http.Request, text string) (*http.Response, error) {
	status, rest, _ := strings.Cut(text, "\n")
	code, err := strconv.Atoi(strings.Fields(status)[0])
	require.NoError(t, err)
	if !strings.Contains(rest, "\n\n") && !strings.HasPrefix(rest, "\n") {
		rest += "\n\n"
	}
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(fmt.Sprintf("HTTP/1.1 %d %s\r\nDate: %s\r\nConnection: close\r\n%s",
		code, http.StatusText(code), time.Now().UTC().Format(http.TimeFormat), rest))), req)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

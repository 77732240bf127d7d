package definition

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-openapi/jsonpointer"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

// A Preview is what a credential would send, and what would be read of an answer. It has no secret.
type Preview struct {
	GrantType    string
	Destinations []string
	Requests     []string

	// Exchange is the request that exchanges a caller's token; "" if the grant has none.
	Exchange string

	// Token is what readers would get, with the token masked; nil without an answer. Err is why an
	// answer would be refused.
	Token map[string]any
	Err   *provider.Error
}

// errNotSent ends an exchange whose last request has no answer.
var errNotSent = errors.New("not sent")

// Preview returns what a credential with these fields would send. A secret is replaced by the name of its
// field before anything is computed from it, but for the keys that sign. answer is the body of an answer to
// the token request; "" for none.
func (p *Provider) Preview(ctx context.Context, fields json.RawMessage, answer string, status int) (*Preview, error) {
	masked, markers, keys, err := p.masked(fields)
	if err != nil {
		return nil, err
	}
	for _, name := range append(slices.Clone(exchange.DelegatedNames), exchange.IdentityToken) {
		markers = append(markers, "{"+name+"}")
	}
	r := &recorder{answer: answer, status: status, markers: markers, keys: keys}
	client, err := provider.NewClient(provider.ClientOptions{Timeout: time.Minute, Transport: r})
	if err != nil {
		return nil, err
	}
	opened, err := p.Open(provider.Settings{
		Fields: masked, Client: client, WriteTime: time.Now(),
		Issuer: "{" + keypairIssuer + "}", Subject: "config/" + p.Name() + "/{name}",
		IdentityToken: func(context.Context, string, time.Duration) (string, error) {
			return "{" + exchange.IdentityToken + "}", nil
		},
	})
	if err != nil {
		return nil, err
	}
	c := opened.(*credential)
	r.steps = c.Before
	preview := &Preview{GrantType: c.GrantType, Destinations: c.Destinations().URLs}
	ask := c.Exchange
	if provider.OnlyDelegates(c) {
		ask = c.exchangeMarked
	}
	given, err := ask(ctx, provider.Grant{})
	if preview.Requests = r.requests; provider.OnlyDelegates(c) {
		preview.Requests, preview.Exchange = nil, strings.Join(r.requests, "")
	} else if c.Delegated != nil {
		preview.Exchange = r.recordExchange(ctx, c)
	}
	if c.IsSelfSigned && err == nil {
		preview.Requests = []string{"no request; the token is " + describeJWT(given.AccessToken)}
	}
	if answer == "" && !c.IsSelfSigned {
		return preview, nil
	}
	token := provider.Token{}
	if err == nil {
		token, err = given.Token(provider.TTL{}, provider.Token{})
	}
	if err == nil {
		if exposed := given.CheckSecrets(nil, nil); exposed != nil {
			err = exposed
		}
	}
	if err == nil && !token.ExpireTime.After(token.IssueTime) {
		err = provider.Errorf(provider.InvalidResponse, "the token expired at %s", token.ExpireTime.Format(time.RFC3339))
	}
	var failure *provider.Error
	if errors.As(err, &failure) {
		preview.Err = failure
		return preview, nil
	}
	preview.Token = shown(c, token)
	return preview, err
}

// exchangeMarked exchanges a caller's token with markers in place of what the caller gives.
func (c *credential) exchangeMarked(ctx context.Context, last provider.Grant) (*provider.Answer, error) {
	names := c.Delegated.Request.Names()
	marker := func(name string) string {
		if !slices.Contains(names, name) || c.Values[name] != nil {
			return ""
		}
		return "{" + name + "}"
	}
	list := func(name string) []string {
		if marker(name) == "" {
			return nil
		}
		return []string{marker(name)}
	}
	return c.Delegation().Delegate(ctx, provider.DelegateRequest{
		SubjectToken: marker("subject_token"), SubjectTokenType: marker("subject_token_type"),
		ActorToken: marker("actor_token"), ActorTokenType: marker("actor_token_type"),
		Audience: list("audience"), Resource: list("resource"), RequestedTokenType: marker("requested_token_type"),
	}, last)
}

// recordExchange returns the request that exchanges a caller's token.
func (r *recorder) recordExchange(ctx context.Context, c *credential) string {
	own := *r
	r.steps, r.answer, r.requests = nil, "", nil
	_, _ = c.exchangeMarked(ctx, provider.Grant{}) // it is not sent
	sent := strings.Join(r.requests, "")
	*r = own
	return sent
}

// shown returns what readers would get of a token, without the token itself.
func shown(c *credential, token provider.Token) map[string]any {
	lifetime := token.ExpireTime.Sub(token.IssueTime)
	token.AccessToken = fmt.Sprintf("(%d characters)", len(token.AccessToken))
	data := map[string]any{}
	for name, value := range token.Extra {
		data[name] = value
	}
	maps.Copy(data, map[string]any{
		"access_token": token.AccessToken, "token_type": c.api.TokenType(&token),
		"lifetime": lifetime.Round(time.Second).String(),
	})
	c.api.AddTo(data, &token)
	if len(token.Scope) > 0 {
		data["scope"] = token.Scope
	}
	return data
}

// masked returns fields with a marker in place of each secret that does not sign, the markers, and those of
// the secrets that sign, by their values.
func (p *Provider) masked(fields json.RawMessage) (masked json.RawMessage, markers []string, keys map[string]string, err error) {
	var given map[string]any
	if err := provider.DecodeFields(fields, &given); err != nil {
		return nil, nil, nil, err
	}
	keys = map[string]string{}
	for name, value := range maps.Clone(given) {
		marker := "{" + name + "}"
		text, isText := value.(string)
		switch f := p.fields[name]; {
		case f == nil || !f.Secret || !isText || text == "":
		case f.Type == "private_key" || p.signsWith(name):
			keys[text] = marker
		default:
			given[name] = marker
			markers = append(markers, marker)
		}
	}
	masked, err = json.Marshal(given)
	return masked, markers, keys, err
}

// signsWith reports whether a field is the key of an assertion.
func (p *Provider) signsWith(name string) bool {
	return slices.ContainsFunc(p.compiled, func(g *grant) bool {
		return g.assertion != nil && g.assertion.key == name || g.clientAssertion != nil && g.clientAssertion.key == name
	})
}

// A recorder records requests instead of sending them.
type recorder struct {
	steps    []exchange.Step
	answer   string
	status   int
	markers  []string
	keys     map[string]string
	requests []string
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	text, err := r.describe(req)
	if err != nil {
		return nil, err
	}
	text = uuids.ReplaceAllString(text, "{uuid}")
	for key, marker := range r.keys { // a definition may also send it
		for _, form := range formsOf(key) {
			text = strings.ReplaceAll(text, form, marker)
		}
	}
	r.requests = append(r.requests, text)
	body, status := r.answer, r.status
	if n := len(r.requests); n <= len(r.steps) {
		body, status = answerOf(r.steps[n-1]), http.StatusOK
	} else if body == "" {
		return nil, errNotSent
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
}

// formsOf returns the forms in which a request may have a text.
func formsOf(text string) []string {
	var quoted bytes.Buffer
	encoder := json.NewEncoder(&quoted)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text) // a string can be encoded
	inJSON := strings.TrimSpace(quoted.String())
	return []string{
		text, inJSON[1 : len(inJSON)-1], url.QueryEscape(text), url.PathEscape(text),
		base64.StdEncoding.EncodeToString([]byte(text)),
	}
}

// answerOf returns an answer to a step that has what is kept of it.
func answerOf(s exchange.Step) string {
	root := map[string]any{}
	for name, pointer := range s.Keep {
		object := root
		parsed, err := jsonpointer.New(pointer)
		if err != nil || parsed.IsEmpty() {
			continue
		}
		parts := parsed.DecodedTokens()
		for _, part := range parts[:len(parts)-1] {
			next, isObject := object[part].(map[string]any)
			if !isObject {
				next = map[string]any{}
				object[part] = next
			}
			object = next
		}
		object[parts[len(parts)-1]] = "{" + name + "}"
	}
	raw, err := json.Marshal(root)
	if err != nil {
		return "{}"
	}
	return string(raw)
}

var jwt = regexp.MustCompile(`eyJ[A-Za-z0-9_-]+\.eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+`)

var uuids = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

// describe returns a request as text: its line, its headers and its body, with each parameter of a form on
// a line of its own.
func (r *recorder) describe(req *http.Request) (string, error) {
	var out strings.Builder
	fmt.Fprintf(&out, "%s %s\n", req.Method, unescaped(req.URL.String(), r.markers))
	for _, name := range sortedKeys(req.Header) {
		if name == "User-Agent" || name == "Cache-Control" {
			continue
		}
		fmt.Fprintf(&out, "%s: %s\n", name, r.header(req.Header.Get(name)))
	}
	if req.Body == nil {
		return jwts(out.String()), nil
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return "", err
	}
	out.WriteString("\n")
	if req.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		out.Write(bytes.TrimSpace(body))
		return jwts(out.String()), nil
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return "", err
	}
	for _, name := range sortedKeys(form) {
		fmt.Fprintf(&out, "%s=%s\n", name, form.Get(name))
	}
	return jwts(strings.TrimSpace(out.String())), nil
}

// header returns the value of a header, with what HTTP Basic encodes.
func (r *recorder) header(value string) string {
	encoded, isBasic := strings.CutPrefix(value, "Basic ")
	if decoded, err := base64.StdEncoding.DecodeString(encoded); isBasic && err == nil {
		return "Basic base64(" + unescaped(string(decoded), r.markers) + ")"
	}
	return value
}

// unescaped undoes the escapes of markers.
func unescaped(text string, markers []string) string {
	for _, marker := range markers {
		text = strings.ReplaceAll(text, url.QueryEscape(marker), marker)
	}
	return text
}

// jwts describes the JWTs in a text.
func jwts(text string) string { return jwt.ReplaceAllStringFunc(text, describeJWT) }

// describeJWT returns the header and the claims of a JWT.
func describeJWT(token string) string {
	parts := strings.Split(token, ".")
	header, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil || len(parts) != 3 {
		return "(a token)"
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "(a token)"
	}
	return fmt.Sprintf("JWT(%s, %s)", header, claims)
}

package exchange

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A Unit is how an answer states when a token expires.
type Unit string

// The units. The first three are of a lifetime, the others of a time by the vendor's clock.
const (
	Seconds      Unit = "s"
	Milliseconds Unit = "ms"
	Minutes      Unit = "min"
	Unix         Unit = "unix"
	UnixMilli    Unit = "unix_ms"
	RFC3339      Unit = "rfc3339"
	Date         Unit = "date" // at whose beginning, in UTC, the token expires
)

// Units are all units.
var Units = []Unit{Seconds, Milliseconds, Minutes, Unix, UnixMilli, RFC3339, Date}

// A Reading describes where the answer to a token request has what. Its members are JSON Pointers
// (RFC 6901); "" stands for a member that the answer does not have.
type Reading struct {
	Token, Expiry, RefreshToken, Scope, TokenType string
	ExpiryUnit                                    Unit

	// Header or Cookie is the response header or the cookie with the token, instead of Token.
	Header, Cookie string

	// IsText is whether the whole body is the token: text, or a JSON string.
	IsText bool

	// OK is a member that must be true in an answer that has a token.
	OK string

	// Extra are members for readers, by the names that readers get.
	Extra map[string]string

	// Granted are members that state what was granted of a field, by the field's name.
	Granted map[string]GrantedAt
}

// A GrantedAt is where an answer states what was granted of a field: a list or a map of texts. Member is the
// place of the text in each element of a list; "" for the element itself. Always are elements or entries
// that the vendor grants whatever is requested.
type GrantedAt struct {
	At     string   `json:"at"`
	Member string   `json:"member,omitempty"`
	Always []string `json:"always,omitempty"`
}

// read returns what a body states; nil if it states nothing.
func (g GrantedAt) read(body any) any {
	raw := provider.Member(body, g.At)
	var entries map[string]string
	if json.Unmarshal(raw, &entries) == nil && entries != nil {
		return entries
	}
	var elements []any
	if json.Unmarshal(raw, &elements) != nil || elements == nil {
		return nil
	}
	list := []string{}
	for _, element := range elements {
		text, isText := element.(string)
		if g.Member != "" {
			text, isText = shown(provider.Member(element, g.Member)), true
		}
		if isText {
			list = append(list, text)
		}
	}
	return list
}

// OAuth reads the answer of RFC 6749 §5.1.
var OAuth = Reading{
	Token: "/access_token", Expiry: "/expires_in", RefreshToken: "/refresh_token",
	Scope: "/scope", TokenType: "/token_type", ExpiryUnit: Seconds,
}

// A tokenResponse is what an answer has.
type tokenResponse struct {
	accessToken, refreshToken, tokenType string
	expiresIn                            time.Duration // as provider.Lifetime returns it
	expiresAt                            time.Time
	scope                                provider.Texts
	extra                                map[string]string
	granted                              map[string]provider.Granted
}

// readToken reads an answer. The refresh token counts even if there is a failure.
func (r Reading) readToken(reply *provider.Reply) (tokenResponse, *provider.Error) {
	if r.IsText {
		return readText(reply)
	}
	body, failure := decode(reply)
	if failure != nil && r.Header == "" && r.Cookie == "" {
		return tokenResponse{}, failure
	}
	t := tokenResponse{
		accessToken:  r.accessToken(reply, body),
		refreshToken: text(provider.Member(body, r.RefreshToken)),
		tokenType:    strings.TrimSpace(text(provider.Member(body, r.TokenType))), // some vendors write "Bearer "
	}
	for name, pointer := range r.Extra {
		if value := shown(provider.Member(body, pointer)); value != "" {
			if t.extra == nil {
				t.extra = map[string]string{}
			}
			t.extra[name] = value
		}
	}
	isRefused := reply.HasError() || r.OK != "" && string(provider.Member(body, r.OK)) != "true"
	switch {
	case t.accessToken == "" && isRefused:
		return tokenResponse{}, reply.Refusal()
	case isRefused && !reply.HasError():
		refusal := reply.Refusal()
		refusal.Reason += "; " + r.OK + " is not true"
		return t, refusal
	case t.accessToken == "" || isRefused:
		return t, reply.NoToken(r.place())
	}
	if t.tokenType == "" || strings.EqualFold(t.tokenType, "Bearer") { // RFC 6749 §5.1
		t.tokenType = "Bearer"
	}
	t.expiresIn, t.expiresAt = r.ExpiryUnit.read(provider.Member(body, r.Expiry))
	_ = t.scope.UnmarshalJSON(provider.Member(body, r.Scope))
	for name, at := range r.Granted {
		if value := at.read(body); value != nil {
			if t.granted == nil {
				t.granted = map[string]provider.Granted{}
			}
			t.granted[name] = provider.Granted{Value: value, Ignored: at.Always}
		}
	}
	return t, nil
}

// accessToken returns the token of a response.
func (r Reading) accessToken(reply *provider.Reply, body any) string {
	switch {
	case r.Header != "":
		return reply.Header.Get(r.Header)
	case r.Cookie != "":
		for _, cookie := range (&http.Response{Header: reply.Header}).Cookies() {
			if cookie.Name == r.Cookie {
				return cookie.Value
			}
		}
		return ""
	}
	return text(provider.Member(body, r.Token))
}

// place returns where the token is, for errors.
func (r Reading) place() string {
	switch {
	case r.Header != "":
		return "in the header " + r.Header
	case r.Cookie != "":
		return "in the cookie " + r.Cookie
	}
	return "at " + r.Token
}

// readText reads an answer whose body is the token.
func readText(reply *provider.Reply) (tokenResponse, *provider.Error) {
	body := bytes.TrimSpace(reply.Body)
	switch {
	case len(body) == 0 || bytes.HasPrefix(body, []byte("{")) || bytes.HasPrefix(body, []byte("<")):
		return tokenResponse{}, reply.NoToken("as its body")
	case bytes.HasPrefix(body, []byte(`"`)):
		return tokenResponse{accessToken: text(body), tokenType: "Bearer"}, nil
	case json.Valid(body): // such as null
		return tokenResponse{}, reply.NoToken("as its body")
	}
	return tokenResponse{accessToken: string(body), tokenType: "Bearer"}, nil
}

// decode decodes the JSON object of a response.
func decode(reply *provider.Reply) (any, *provider.Error) {
	if !bytes.HasPrefix(bytes.TrimSpace(reply.Body), []byte("{")) {
		return nil, reply.NotJSON()
	}
	decoder := json.NewDecoder(bytes.NewReader(reply.Body))
	decoder.UseNumber()
	var body any
	if decoder.Decode(&body) != nil {
		return nil, reply.NotJSON()
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) { // more follows
		return nil, reply.NotJSON()
	}
	return body, nil
}

// shown returns a string, a number or a boolean as text; "" for any other value.
func shown(raw json.RawMessage) string {
	if value := text(raw); value != "" {
		return value
	}
	if len(raw) > 0 && strings.IndexByte("-0123456789tf", raw[0]) >= 0 {
		return string(raw)
	}
	return ""
}

// text returns a JSON string; "" if raw is not one.
func text(raw json.RawMessage) string {
	var t provider.Text
	_ = t.UnmarshalJSON(raw)
	return string(t)
}

// lifetimes are the units of a lifetime.
var lifetimes = map[Unit]time.Duration{Seconds: time.Second, Milliseconds: time.Millisecond, Minutes: time.Minute}

// read returns a stated lifetime, or a stated time.
func (u Unit) read(raw json.RawMessage) (lifetime time.Duration, at time.Time) {
	if unit, isLifetime := lifetimes[u]; isLifetime {
		var number provider.Number
		_ = number.UnmarshalJSON(raw)
		return provider.Lifetime(json.RawMessage(number), unit), time.Time{}
	}
	if u == Date {
		day, _ := time.Parse(time.DateOnly, text(raw)) // otherwise it states none
		return 0, day
	}
	return 0, provider.StatedTime(raw, u == RFC3339, u == UnixMilli)
}

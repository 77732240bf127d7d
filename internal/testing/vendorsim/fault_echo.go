package vendorsim

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Echo is a fault: the vendor rejects the request and repeats all of it.
func Echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = io.WriteString(w, "bad request: "+r.URL.String()+" ")
	for name, values := range r.Header {
		_, _ = io.WriteString(w, name+"="+values[0]+" ")
	}
	_, _ = w.Write(body)
}

// Encodings are the encodings in which vendors may repeat what they were sent, by name.
var Encodings = map[string]func(string) string{
	"plain":      func(s string) string { return s },
	"upper case": strings.ToUpper,
	"URL":        url.QueryEscape,
	"URL path":   url.PathEscape,
	"base64":     func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"base64url":  func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
	"JSON": func(s string) string {
		quoted, _ := json.Marshal(s)
		return string(quoted)
	},
	// As an encoder that escapes every character.
	"JSON, all of it escaped": func(s string) string {
		var escaped strings.Builder
		for _, r := range s {
			code := "000" + strconv.FormatInt(int64(r), 16)
			escaped.WriteString(`\u` + code[len(code)-4:])
		}
		return escaped.String()
	},
	"HTML":                html.EscapeString,
	"with a blank in it":  func(s string) string { return s[:len(s)/2] + " " + s[len(s)/2:] },
	"cut":                 func(s string) string { return s[:min(len(s), 19)] },
	"hexadecimal, paired": func(s string) string { return strings.TrimSpace(fmt.Sprintf("% x", s)) },
	"with bidi characters": func(s string) string {
		return "\u202e" + s[:len(s)/2] + "\u2066" + s[len(s)/2:] + "\u2069\u202c"
	},
}

// EchoAs is a fault: a response with the given status that repeats every part of the request
// that may be a secret, each encoded with encode. The response is plain text or, if asError is
// set, an error of RFC 6749.
func EchoAs(status int, encode func(string) string, asError bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var parts []string
		for _, part := range sent(r) {
			parts = append(parts, encode(part))
		}
		text := "cannot accept " + strings.Join(parts, " ")
		if asError {
			reply{status: status, body: map[string]string{"error": "invalid_request", "error_description": text}}.write(w)
			return
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
}

// sent returns the parts of a request that may be a secret. Their order matters, because an
// error message may be cut off.
func sent(r *http.Request) []string {
	parts := sentAsJSON(r)
	form := r.URL.Query()
	if err := r.ParseForm(); err == nil {
		form = r.Form
	}
	for _, name := range slices.Sorted(maps.Keys(form)) {
		if !slices.Contains([]string{"grant_type", "client_id", "client_assertion_type", "scope"}, name) {
			parts = append(parts, form[name]...)
		}
	}
	for _, name := range []string{"Refresh-Token", "X-Api-Key", "Authorization"} {
		parts = append(parts, r.Header[name]...)
	}
	if id, secret, ok := r.BasicAuth(); ok {
		parts = append(parts, secret, id+":"+secret)
		if _, plain, err := unescape(id, secret); err == nil {
			parts = append(parts, plain)
		}
	}
	return parts
}

// sentAsJSON returns the texts of a JSON object, and leaves the body as it was.
func sentAsJSON(r *http.Request) []string {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	var object map[string]any
	if json.Unmarshal(body, &object) != nil {
		return nil
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if text, isText := object[name].(string); isText && name != "grant_type" {
			parts = append(parts, text)
		}
	}
	return parts
}

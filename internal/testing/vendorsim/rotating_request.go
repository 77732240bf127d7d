package vendorsim

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
)

// plainHeaders are the headers that each request can have.
var plainHeaders = []string{"Accept", "Accept-Encoding", "Cache-Control", "Connection", "Content-Length", "Content-Type", "User-Agent"}

// wrongRequest returns the reply to a request of a management API that has what the vendor does not document: another
// method, header or parameter of the query, or a body without one of the given kind. It returns nil for a right one.
func wrongRequest(r *http.Request, method string, headers, query []string, body any) *reply {
	var wrong reply
	switch problem := checkHeaders(r, headers); {
	case r.Method != method:
		wrong = violation(http.StatusMethodNotAllowed, "must be a "+method)
	case problem != "":
		wrong = violation(http.StatusBadRequest, problem)
	default:
		for name, values := range r.URL.Query() {
			if !slices.Contains(query, name) || len(values) > 1 {
				wrong = violation(http.StatusBadRequest, "unknown or repeated parameter "+name)
				return &wrong
			}
		}
		if problem := checkBody(r, body); problem != "" {
			wrong = violation(http.StatusBadRequest, problem)
			return &wrong
		}
		return nil
	}
	return &wrong
}

func checkHeaders(r *http.Request, allowed []string) (problem string) {
	for name, values := range r.Header {
		isKnown := slices.ContainsFunc(slices.Concat(allowed, plainHeaders), func(one string) bool { return strings.EqualFold(one, name) })
		if !isKnown || len(values) > 1 {
			return "unknown or repeated header " + name
		}
	}
	return ""
}

// checkBody decodes a JSON body, which must have no members that into does not have; into is nil if there must be no
// body.
func checkBody(r *http.Request, into any) (problem string) {
	body, err := io.ReadAll(r.Body)
	switch {
	case err != nil:
		return "the body cannot be read"
	case into == nil && len(body) > 0:
		return "must have no body"
	case into == nil:
		return ""
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return "Content-Type must be application/json"
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return "the body is not the documented one: " + err.Error()
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return "the body must be one JSON value"
	}
	return ""
}

// bearer returns the token of a request; "" if there is none.
func bearer(r *http.Request) string {
	token, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !isBearer {
		return ""
	}
	return token
}

// rfc3339 returns a time as APIs state it.
func rfc3339(at time.Time) string { return at.UTC().Format(time.RFC3339) }

// statedTime parses a time in UTC; the zero time for "".
func statedTime(text string) (time.Time, bool) {
	if text == "" {
		return time.Time{}, true
	}
	at, err := time.Parse(time.RFC3339, text)
	return at, err == nil && strings.HasSuffix(text, "Z")
}

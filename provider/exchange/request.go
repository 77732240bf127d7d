package exchange

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A Request describes an HTTP request. A parameter, a header or a JSON member whose value is not set is
// left out. At most one of Form and JSON is set.
type Request struct {
	Method  string // POST if empty
	URL     string // the endpoint, where it is not given otherwise
	Query   map[string]Template
	Headers map[string]Template
	Form    map[string]Template
	JSON    *Tree
}

// Names returns the names of the placeholders.
func (r Request) Names() []string {
	var names []string
	for _, templates := range []map[string]Template{r.Query, r.Headers, r.Form} {
		for _, template := range templates {
			names = append(names, template.Names()...)
		}
	}
	if r.JSON != nil {
		names = append(names, r.JSON.Names()...)
	}
	return names
}

// An authentication is the part of a request that authenticates the client.
type authentication struct {
	params url.Values // parameters of the body
	header string     // Authorization; "" for none
}

// build returns the request to an endpoint. field is what the endpoint's URL comes from.
func (r Request) build(ctx context.Context, field, endpoint string, values Values, auth authentication) (*http.Request, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, provider.Errorf(provider.Invalid, "%s: not a valid URL for a request", field)
	}
	query, err := fillAll(r.Query, values)
	if err != nil {
		return nil, err
	}
	if len(query) > 0 {
		all := u.Query()
		for name, texts := range query {
			all[name] = texts
		}
		u.RawQuery = all.Encode()
	}
	body, contentType, err := r.body(values, auth.params)
	if err != nil {
		return nil, err
	}
	method := r.Method
	if method == "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, provider.Errorf(provider.Invalid, "%s: not a valid URL for a request", field)
	}
	setNonEmpty(req.Header, "Content-Type", contentType)
	req.Header.Set("Accept", "application/json")
	setNonEmpty(req.Header, "Authorization", auth.header)
	headers, err := fillAll(r.Headers, values)
	if err != nil {
		return nil, err
	}
	for name, texts := range headers {
		req.Header[http.CanonicalHeaderKey(name)] = texts
	}
	return req, nil
}

// body returns the body with the parameters of the client's authentication, which make a request
// without a body a form.
func (r Request) body(values Values, params url.Values) (body io.Reader, contentType string, err error) {
	if r.JSON != nil {
		filled, err := r.JSON.fill(values)
		if err != nil {
			return nil, "", err
		}
		if object, isObject := filled.(map[string]any); isObject {
			for name := range params {
				object[name] = params.Get(name)
			}
		}
		var text bytes.Buffer
		encoder := json.NewEncoder(&text)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(filled); err != nil {
			return nil, "", provider.Errorf(provider.Invalid, "the request cannot be encoded as JSON")
		}
		return strings.NewReader(strings.TrimSuffix(text.String(), "\n")), "application/json", nil
	}
	form, err := fillAll(r.Form, values)
	if err != nil {
		return nil, "", err
	}
	for name, texts := range params {
		form[name] = texts
	}
	if len(form) == 0 {
		return nil, "", nil
	}
	return strings.NewReader(form.Encode()), "application/x-www-form-urlencoded", nil
}

// fillAll fills templates by name, without those that are not set.
func fillAll(templates map[string]Template, values Values) (url.Values, error) {
	filled := url.Values{}
	for name, template := range templates {
		if list, isRepeated := values[template.placeholder()].(Repeated); isRepeated {
			if len(list) > 0 {
				filled[name] = list
			}
			continue
		}
		text, isSet, err := template.fill(values, verbatim)
		if err != nil {
			return nil, err
		}
		if isSet {
			filled.Set(name, text)
		}
	}
	return filled, nil
}

func setNonEmpty(to interface{ Set(name, value string) }, name, value string) {
	if value != "" {
		to.Set(name, value)
	}
}

// FillURL returns the URL of a template. Values are escaped for their place, except in the host, where
// their patterns have to exclude what could change it. Its error names a value that is not set.
func FillURL(template Template, values Values) (string, error) {
	var out strings.Builder
	if len(template.parts) == 0 {
		return template.text, nil
	}
	for _, p := range template.parts {
		if p.name == "" {
			out.WriteString(p.literal)
			continue
		}
		value, err := p.value(values)
		if err != nil {
			return "", err
		}
		if value == "" {
			return "", provider.Errorf(provider.Invalid, "%s: must be set, as it is part of a URL; a parameter in query is left out instead", p.name)
		}
		if value == "." || value == ".." {
			return "", provider.Errorf(provider.Invalid, "%s: is not a segment of a URL", p.name)
		}
		out.WriteString(escapeIn(out.String(), value))
	}
	return out.String(), nil
}

// escapeIn escapes a value for its place behind the first part of a URL.
func escapeIn(before, value string) string {
	_, rest, hasScheme := strings.Cut(before, "://")
	switch {
	case !hasScheme || !strings.Contains(rest, "/"):
		return value
	case strings.Contains(rest, "?"):
		return url.QueryEscape(value)
	}
	return url.PathEscape(value)
}

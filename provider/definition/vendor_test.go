package definition_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/catalogue"
	"vault-plugin-secrets-tokenbroker/provider/definition"
)

// A vendor records requests, and gives its answers in turn; the last one again and again.
type vendor struct {
	answers  []answer
	requests []string // method, URL, sorted headers and body
}

type answer struct {
	status int
	body   string
	header http.Header
}

func ok(body string) answer { return answer{status: http.StatusOK, body: body} }

func (v *vendor) RoundTrip(req *http.Request) (*http.Response, error) {
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s", req.Method, req.URL)
	for name, values := range req.Header {
		if name != "User-Agent" && name != "Cache-Control" && name != "Accept" && name != "Content-Type" {
			fmt.Fprintf(&text, " [%s: %s]", name, strings.Join(values, ", "))
		}
	}
	if req.Body != nil {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&text, " %s", body)
	}
	a := v.answers[min(len(v.requests), len(v.answers)-1)]
	v.requests = append(v.requests, text.String())
	header := a.header.Clone()
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{StatusCode: a.status, Header: header, Body: io.NopCloser(strings.NewReader(a.body)), Request: req}, nil
}

func tryOpen(t *testing.T, p *definition.Provider, v *vendor, fields object, set ...func(*provider.Settings)) (provider.Credential, error) {
	t.Helper()
	raw, err := json.Marshal(fields)
	require.NoError(t, err)
	if v == nil {
		v = &vendor{}
	}
	client, err := provider.NewClient(provider.ClientOptions{Timeout: time.Minute, Transport: v})
	require.NoError(t, err)
	settings := provider.Settings{Fields: raw, Client: client, WriteTime: time.Now()}
	for _, set := range set {
		set(&settings)
	}
	return p.Open(settings)
}

// openWith opens a credential with other settings than those of a credential with a secret.
func openWith(t *testing.T, p *definition.Provider, v *vendor, fields object, set func(*provider.Settings)) provider.Credential {
	t.Helper()
	credential, err := tryOpen(t, p, v, fields, set)
	require.NoError(t, err)
	return credential
}

func open(t *testing.T, p *definition.Provider, v *vendor, fields object) provider.Credential {
	t.Helper()
	credential, err := tryOpen(t, p, v, fields)
	require.NoError(t, err)
	return credential
}

// refused asserts that fields are refused with an error of kind Invalid, and returns it.
func refused(t *testing.T, p *definition.Provider, fields object) string {
	t.Helper()
	_, err := tryOpen(t, p, nil, fields)
	var invalid *provider.Error
	require.ErrorAs(t, err, &invalid, "%v", fields)
	assert.Equal(t, provider.Invalid, invalid.Kind)
	return invalid.Reason
}

func exchanged(t *testing.T, c provider.Credential, last provider.Grant) *provider.Answer {
	t.Helper()
	got, err := c.Exchange(t.Context(), last)
	require.NoError(t, err)
	return got
}

// listed returns the definition of a vendor of the catalogue.
func listed(t *testing.T, name string) *definition.Provider {
	t.Helper()
	p := catalogue.Lookup(name)
	require.NotNil(t, p, name)
	return p
}

// without returns fields without one of them.
func without(fields object, name string) object {
	rest := object{}
	for field, value := range fields {
		if field != name {
			rest[field] = value
		}
	}
	return rest
}

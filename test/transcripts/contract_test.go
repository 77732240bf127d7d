package transcripts

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/tools/txtar"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/catalogue"
	"vault-plugin-secrets-tokenbroker/provider/definition"
)

// transcriptsOf returns the transcripts of a vendor, one for each variant of a grant.
func transcriptsOf(t *testing.T, p *definition.Provider) []*transcript {
	t.Helper()
	archive, err := txtar.ParseFile(filepath.Join("testdata", p.Name()+".txtar"))
	require.NoError(t, err)
	var all []*transcript
	for _, file := range archive.Files {
		grant, part, _ := strings.Cut(file.Name, "/")
		i := slices.IndexFunc(all, func(s *transcript) bool { return s.grant == grant })
		if i < 0 {
			i = len(all)
			all = append(all, &transcript{T: t, p: p, grant: grant, parts: map[string]string{}})
		}
		all[i].parts[part] = strings.TrimRight(string(file.Data), "\n")
	}
	return all
}

// fields returns the fields of the transcript's credential.
func (s *transcript) fields() map[string]any {
	s.Helper()
	var fields map[string]any
	require.NoError(s.T, json.Unmarshal([]byte(s.parts["fields"]), &fields))
	for name, value := range fields {
		if text, isText := value.(string); isText && fixtures[text] != "" {
			fields[name] = fixtures[text]
		}
	}
	if len(s.p.GrantTypes()) > 1 {
		fields["grant_type"] = s.grant
	}
	return fields
}

// openWith returns the credential of fields, whose requests go to a transport.
func (s *transcript) openWith(fields map[string]any, transport http.RoundTripper) (provider.Credential, error) {
	s.Helper()
	raw, err := json.Marshal(fields)
	require.NoError(s.T, err)
	client, err := provider.NewClient(provider.ClientOptions{Timeout: time.Minute, Transport: transport})
	require.NoError(s.T, err)
	settings := provider.Settings{Fields: raw, Client: client, WriteTime: time.Now()}
	if issuer := s.parts["issuer"]; issuer != "" {
		settings.Issuer, settings.Subject, settings.Thumbprint = issuer, "config/"+s.p.Name()+"/prod", "key-of-the-key-pair"
	}
	if token := s.parts["identity-token"]; token != "" {
		settings.IdentityToken = s.identityToken
	}
	return s.p.Open(settings)
}

// identityToken returns the identity token of the transcript, for which the fields say the audience.
func (s *transcript) identityToken(_ context.Context, audience string, ttl time.Duration) (string, error) {
	assert.Equal(s.T, s.fields()["identity_token_audience"], audience)
	assert.Equal(s.T, time.Hour, ttl)
	return s.parts["identity-token"], nil
}

func eachVendor(t *testing.T, check func(t *testing.T, p *definition.Provider)) {
	for _, name := range catalogue.Names() {
		t.Run(name, func(t *testing.T) { check(t, catalogue.Lookup(name)) })
	}
}

var (
	// instruction matches a description that tells the reader to do something.
	instruction = regexp.MustCompile(`^(?i)(enter|give|set|use|specify|provide|your|please)\b`)

	// othersPages are not a vendor's own.
	othersPages = regexp.MustCompile(`(^|\.)(stackoverflow\.com|medium\.com|wikipedia\.org|reddit\.com|dev\.to|pipedream\.com|nango\.dev|zapier\.com|merge\.dev)$`)
)

func TestEachVendorIsDescribed(t *testing.T) {
	eachVendor(t, func(t *testing.T, p *definition.Provider) {
		assert.NotEmpty(t, p.Title)
		assert.NotEmpty(t, p.Notes, "the operator learns what to create")
		assert.NotEmpty(t, p.Evidence)
		assert.NotEmpty(t, p.Docs)
		for _, page := range p.Docs {
			u, err := url.Parse(page)
			require.NoError(t, err)
			assert.Equal(t, "https", u.Scheme, page)
			assert.NotRegexp(t, othersPages, u.Hostname(), "the page is the vendor's own")
		}
		for name, field := range p.Definition.Fields {
			about := field.Description
			assert.False(t, strings.HasSuffix(about, "."), "%s is described by a noun phrase: %s", name, about)
			assert.NotRegexp(t, instruction, about, name)
			assert.NotContains(t, about, "\n", name)
		}
		assert.Empty(t, p.Warnings())
		for _, argument := range strings.Fields(p.Example()) {
			name, _, _ := strings.Cut(argument, "=")
			assert.Contains(t, p.Fields(), name, "the example's fields exist")
		}
	})
}

func TestNoNameStandsForTwoVendors(t *testing.T) {
	plain := func(name string) string {
		return strings.ToLower(regexp.MustCompile(`[^\pL\pN]`).ReplaceAllString(name, ""))
	}
	owners := map[string]string{"kensho": "kensho", "sitecore": "sitecore", "oauth2": "oauth2"}
	for _, vendor := range catalogue.Names() {
		p := catalogue.Lookup(vendor)
		for _, name := range slices.Compact(slices.Sorted(slices.Values(append([]string{plain(vendor), plain(p.Title)}, p.OtherNames...)))) {
			assert.Empty(t, owners[name], "%s is a name of %s and of %s", name, owners[name], vendor)
			owners[name] = vendor
			found := catalogue.Find(name)
			if assert.NotNil(t, found, name) {
				assert.Equal(t, vendor, found.Name(), "%s is found", name)
			}
		}
	}
}

func TestGuarantee13EachVendorsSecretsGoToBoundedHosts(t *testing.T) {
	eachVendor(t, func(t *testing.T, p *definition.Provider) {
		for _, s := range transcriptsOf(t, p) {
			c, err := s.openWith(s.fields(), nil)
			require.NoError(t, err, s.grant)
			for _, destination := range c.Destinations().URLs {
				u, err := url.Parse(destination)
				require.NoError(t, err)
				assert.Equal(t, "https", u.Scheme, destination)
				assert.Nil(t, u.User)
				assert.Regexp(t, `^[a-z0-9]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+(:\d+)?$`, strings.ToLower(u.Host), "a public host")
			}
			s.hostile(c)
		}
	})
}

// hostile gives each field that is not a secret what could change a host, and checks that it does not.
func (s *transcript) hostile(credential provider.Credential) {
	s.Helper()
	hosts := func(c provider.Credential) (hosts []string) {
		for _, destination := range c.Destinations().URLs {
			hosts = append(hosts, provider.Host(destination))
		}
		return hosts
	}
	for name := range s.p.Definition.Fields {
		whole := s.fields()
		whole[name] = "evil.example"
		if c, err := s.openWith(whole, nil); err == nil && slices.ContainsFunc(hosts(c), func(host string) bool {
			return strings.HasPrefix(host, "evil.example") && !strings.HasPrefix(host, "evil.example.")
		}) {
			continue // the operator names the host
		}
		for _, value := range []string{"evil.example/", "evil.example#", "evil.example?", `evil.example\`, "x@evil.example", "evil.example:1/", "%2e", "evil.example%2f"} {
			fields := s.fields()
			if _, isText := fields[name].(string); !isText {
				continue
			}
			fields[name] = value
			c, err := s.openWith(fields, nil)
			if err != nil {
				continue
			}
			for _, host := range hosts(c) {
				assert.NotRegexp(s.T, `^evil\.example(:\d+)?$`, host, "%s=%s", name, value)
			}
			if !slices.Equal(hosts(credential), hosts(c)) {
				assert.Regexp(s.T, `^[a-z0-9.:-]+$`, strings.Join(hosts(c), ""), "%s=%s", name, value)
			}
		}
	}
}

// canary begins each secret of the tests below. It has no run that is redacted for its length.
const canary = "cAn4ryOf5GzQ"

// withCanaries returns the transcript's fields with secrets that begin with the canary, but for those that
// must have a form of their own, such as keys.
func (s *transcript) withCanaries() (fields map[string]any, secrets []string) {
	s.Helper()
	fields = s.fields()
	for name, schema := range s.p.Fields() {
		given, isText := fields[name].(string)
		if !isText || !schema.DisplayAttrs.Sensitive {
			continue
		}
		fields[name] = canary + "." + name[:min(len(name), 6)]
		if _, err := s.openWith(fields, nil); err != nil {
			fields[name] = given
		} else {
			secrets = append(secrets, name)
		}
	}
	return fields, secrets
}

// An echo refuses the request of one number, and sends back all of it. It answers those before as the
// transcript has it.
type echo struct {
	s        *transcript
	answers  []step
	refused  int
	requests int
}

func (e *echo) RoundTrip(req *http.Request) (*http.Response, error) {
	e.requests++
	if e.requests <= e.refused {
		return response(e.s.T, req, e.answers[e.requests-1].answer)
	}
	said := []string{req.URL.RawQuery, req.URL.Path}
	for _, values := range req.Header {
		said = append(said, values...)
		if _, encoded, isBasic := strings.Cut(values[0], "Basic "); isBasic {
			decoded, err := base64.StdEncoding.DecodeString(encoded)
			if err != nil {
				return nil, err
			}
			said = append(said, string(decoded))
		}
	}
	if req.Body != nil {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		said = append(said, string(body))
		if form, err := url.ParseQuery(string(body)); err == nil {
			for _, values := range form {
				said = append(said, values...)
			}
		}
	}
	var text string
	for _, one := range said {
		if strings.Contains(one, canary) { // errors quote only the beginning of a message
			text = one[max(0, strings.Index(one, canary)-20):]
			break
		}
	}
	quoted, err := json.Marshal(map[string]any{"error": "invalid_request", "message": "you sent " + text})
	if err != nil {
		return nil, err
	}
	return response(e.s.T, req, "400\n\n"+string(quoted))
}

func TestGuarantee6NoVendorsErrorQuotesASecret(t *testing.T) {
	eachVendor(t, func(t *testing.T, p *definition.Provider) {
		for _, s := range transcriptsOf(t, p) {
			fields, _ := s.withCanaries()
			steps := s.steps()
			for i := range steps {
				c, err := s.openWith(fields, &echo{s: s, answers: steps, refused: i})
				require.NoError(t, err)
				_, err = c.Exchange(t.Context(), provider.Grant{})
				var failure *provider.Error
				require.ErrorAs(t, err, &failure)
				assert.NotContains(t, strings.ToLower(failure.Error()), strings.ToLower(canary), s.grant)
				assert.NotContains(t, failure.Error(), base64.StdEncoding.EncodeToString([]byte(canary)), s.grant)
			}
		}
	})
}

func TestGuarantee6EachVendorsSecretsAreWriteOnly(t *testing.T) {
	e := engine.New(t)
	eachVendor(t, func(t *testing.T, p *definition.Provider) {
		e.T = t
		for i, s := range transcriptsOf(t, p) {
			fields, secrets := s.withCanaries()
			fields["verify"] = false
			name := fmt.Sprintf("%s-%d", p.Name(), i)
			path := "config/" + p.Name() + "/" + name
			if s.parts["issuer"] != "" { // only a key pair has one
				e.Keypair(name, map[string]any{"publish": true, "issuer": "https://vault.example.com/v1/tokens/jwks/" + name, "allowed_subjects": fields["assertion_subject"]})
				delete(fields, "private_key")
				fields["private_key_source"], secrets = "generated", nil
			}
			e.Write(path, fields)
			read, err := json.Marshal(e.Read(path).Data)
			require.NoError(t, err)
			assert.NotContains(t, string(read), canary)
			assert.Subset(t, e.Read(path).Data["secrets_set"], secrets)
			for name, value := range fixtures {
				if strings.HasPrefix(name, "@c") {
					continue // a certificate is public
				}
				assert.NotContains(t, string(read), strings.Split(value, "\n")[1], "a key is not returned")
			}
		}
	})
	e.T = t
}

package definition_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/catalogue"
	"vault-plugin-secrets-tokenbroker/provider/definition"
	"vault-plugin-secrets-tokenbroker/provider/providertest"
)

// FuzzParse checks that no text makes Parse panic, that a refusal names a place, and that what is accepted
// opens, or fails with the name of a field, and sends nothing to a host that a value has chosen.
func FuzzParse(f *testing.F) {
	for _, name := range catalogue.Names() {
		f.Add(catalogue.Lookup(name).Text(), "acme")
	}
	for _, value := range []string{"evil.example/", "a@evil.example", "a#", "a?", `a\`, "a:1", "\x00", "%2f", "acmé", strings.Repeat("a", 300)} {
		f.Add([]byte(base), value)
	}
	f.Fuzz(func(t *testing.T, text []byte, value string) {
		d, err := definition.Parse("acme", text)
		if err != nil {
			var invalid *provider.Error
			require.ErrorAs(t, err, &invalid)
			require.Equal(t, provider.Invalid, invalid.Kind)
			require.Regexp(t, `^definition: (/|not JSON|is the name of a file|\d+ bytes)`, invalid.Reason)
			return
		}
		p := definition.NewProvider(d)
		p.Fields()
		require.NotEmpty(t, p.Example())
		fields := object{}
		for name, field := range d.Fields {
			if len(field.Allowed) > 0 && name != "scope" {
				continue
			}
			if field.Type == "" || field.Type == "string" {
				fields[name] = value
			}
		}
		for _, grant := range d.GrantTypes() {
			fields["grant_type"] = grant
			raw, err := json.Marshal(fields)
			require.NoError(t, err)
			client, err := provider.NewClient(provider.ClientOptions{Timeout: time.Minute, Transport: &vendor{answers: []answer{ok(`{"access_token":"t","expires_in":60}`)}}})
			require.NoError(t, err)
			c, err := p.Open(provider.Settings{Fields: raw, Client: client, WriteTime: time.Now()})
			if err != nil {
				var invalid *provider.Error
				require.ErrorAs(t, err, &invalid)
				require.Regexp(t, `^[a-z][a-z0-9_]*: |^cannot read the stored fields`, invalid.Reason)
				continue
			}
			for _, destination := range c.Destinations().URLs {
				u, err := url.Parse(destination)
				require.NoError(t, err)
				require.Nil(t, u.User)
				require.NotContains(t, u.Host, "@")
			}
			_, err = c.Exchange(t.Context(), provider.Grant{})
			var failure *provider.Error
			require.True(t, err == nil || errors.As(err, &failure), "%v", err)
		}
	})
}

// FuzzAnswer sends answers through a definition of the catalogue, with a nested token.
func FuzzAnswer(f *testing.F) {
	fuzzAnswers(f, catalogue.Lookup("tableau"), object{"host": "a.example", "site": "s", "token_name": "n", "token_secret": "s"},
		`{"credentials":{"token":"${access}","site":{"id":"i"},"user":{"id":"u"}}}`,
		`{"error":{"summary":"x","detail":"${sent}","code":"401001"}}`)
}

// FuzzStepAnswer sends answers to both of two requests.
func FuzzStepAnswer(f *testing.F) {
	fuzzAnswers(f, catalogue.Lookup("dowjones"), object{"client_id": "c", "username": "u", "password": "p"},
		`{"access_token":"${access}","id_token":"${refresh}","expires_in":3600}`,
		`{"access_token":"${access}","id_token":{"a":1}}`,
		`{"access_token":"${access}","id_token":"${sent}","error":"${access}"}`)
}

// FuzzTextAnswer sends answers that are the token as a whole.
func FuzzTextAnswer(f *testing.F) {
	fuzzAnswers(f, catalogue.Lookup("adobe-commerce"), object{"host": "a.example", "username": "u", "password": "p"},
		`"${access}"`, `${access}`, `null`, `["${access}"]`, `{"message":"${sent}"}`, `"${sent}"`, "\"${access}\n\"")
}

// FuzzSignedAnswer sends answers to a request that a key signs, with a date of expiry.
func FuzzSignedAnswer(f *testing.F) {
	fuzzAnswers(f, catalogue.Lookup("github-app"), object{"client_id": "c", "private_key": rsaKey(), "installation_id": "7"},
		`{"token":"${access}","expires_at":"2026-03-01T11:20:00Z"}`,
		`{"token":"${access}","expires_at":"0001-01-01T00:00:00Z"}`,
		`{"token":"${access}","expires_at":"9999-12-31T23:59:59.999999999+23:59"}`,
		`{"message":"${sent}"}`)
}

// FuzzHeaderAnswer sends answers whose token is in a header or in a cookie. A token is what the vendor set,
// as a whole, or there is an error.
func FuzzHeaderAnswer(f *testing.F) {
	open := func(answer string) *definition.Provider {
		d, err := definition.Parse("acme", []byte(strings.Replace(base, `"token_url"`, `"answer": `+answer+`, "token": {"default_ttl": "5m"}, "token_url"`, 1)))
		require.NoError(f, err)
		return definition.NewProvider(d)
	}
	inHeader, inCookie := open(`{"token_header": "X-Token"}`), open(`{"token_cookie": "session"}`)
	for _, value := range []string{"at-1", "session=at-1; Path=/; Secure", `session="at 1"`, "session=", "session", "other=1", "; ;", "session=a\"b", "é", " ", "a\tb"} {
		f.Add(value, http.StatusOK, "")
		f.Add(value, http.StatusOK, `{"error":"invalid_grant","access_token":"at-2"}`)
		f.Add(value, http.StatusUnauthorized, "<html>")
	}
	f.Fuzz(func(t *testing.T, value string, status int, body string) {
		for p, header := range map[*definition.Provider]string{inHeader: "X-Token", inCookie: "Set-Cookie"} {
			v := &vendor{answers: []answer{{status, body, http.Header{header: {value}}}}}
			c, err := tryOpen(t, p, v, object{"account": "acme", "client_id": "c", "client_secret": "s"})
			require.NoError(t, err)
			given, err := c.Exchange(t.Context(), provider.Grant{})
			var token provider.Token
			if err == nil {
				token, err = given.Token(provider.TTL{}, provider.Token{})
			}
			if err != nil {
				var failure *provider.Error
				require.ErrorAs(t, err, &failure)
				require.NotEqual(t, provider.Invalid, failure.Kind, failure.Reason)
				continue
			}
			require.Contains(t, value, token.AccessToken)
			require.True(t, status/100 == 2 && token.AccessToken != "")
			require.Equal(t, 5*time.Minute, token.ExpireTime.Sub(token.IssueTime).Round(time.Minute))
		}
	})
}

func fuzzAnswers(f *testing.F, p *definition.Provider, fields object, bodies ...string) {
	var seeds []providertest.AnswerSeed
	for _, body := range bodies {
		seeds = append(seeds, providertest.AnswerSeed{Kind: p.Name(), Status: 200, Body: body})
	}
	providertest.Fuzz(f, providertest.Contract{Provider: p, Kinds: map[string]providertest.Kind{p.Name(): {Fields: fields}}}, seeds...)
}

// FuzzOwnAnswer sends answers through a definition that reads an absolute expiry, a flag and extra members.
func FuzzOwnAnswer(f *testing.F) {
	d, err := definition.Parse("acme", []byte(strings.NewReplacer(
		`"token_url"`, `"answer": {"token": "/t/0", "expiry": "/at", "expiry_unit": "rfc3339", "ok": "/ok", "error": "/fault/code", "extra": {"region": "/region"}}, "token_url"`,
	).Replace(base)))
	require.NoError(f, err)
	providertest.Fuzz(f, providertest.Contract{Provider: definition.NewProvider(d), Kinds: map[string]providertest.Kind{
		"acme": {Fields: object{"account": "acme", "client_id": "c", "client_secret": "s"}},
	}},
		providertest.AnswerSeed{Kind: "acme", Status: 200, Body: `{"ok":true,"t":["${access}"],"at":"2026-03-01T11:20:00Z","region":"eu"}`},
		providertest.AnswerSeed{Kind: "acme", Status: 200, Body: `{"ok":false,"fault":{"code":"${sent}"},"message":"${plain}"}`},
		providertest.AnswerSeed{Kind: "acme", Status: 200, Body: `{"ok":true,"t":["${access}"],"at":7,"region":{"a":1}}`},
	)
}

// FuzzRefreshAnswer sends answers through a password with a refresh token.
func FuzzRefreshAnswer(f *testing.F) {
	d, err := definition.Parse("acme", []byte(strings.NewReplacer(
		`"client_secret": {},`, `"client_secret": {}, "username": {}, "password": {},`,
		`"request": {"form": {`, `"refresh": {"form": {"refresh_token": "{refresh_token}"}}, "request": {"form": {"username": "{username}", "password": "{password}", `,
	).Replace(base)))
	require.NoError(f, err)
	providertest.Fuzz(f, providertest.Contract{Provider: definition.NewProvider(d), Kinds: map[string]providertest.Kind{
		"password": {Fields: object{"account": "acme", "client_id": "c", "client_secret": "s", "username": "u", "password": "p"}, ExpiresIn: "expires_in", ExpiresInUnit: time.Second, Replaced: "refresh_token"},
	}},
		providertest.AnswerSeed{Kind: "password", Status: 200, Body: `{"access_token":"${access}","refresh_token":"${refresh}","expires_in":60}`},
		providertest.AnswerSeed{Kind: "password", Status: 400, Body: `{"error":"invalid_grant","error_description":"${sent}"}`},
	)
}

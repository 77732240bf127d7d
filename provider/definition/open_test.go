package definition_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/definition"
)

var acme = object{"account": "acme", "client_id": "c", "client_secret": "s"}

// with returns fields with others.
func with(fields object, more ...any) object {
	all := without(fields, "")
	for i := 0; i < len(more); i += 2 {
		all[more[i].(string)] = more[i+1]
	}
	return all
}

// threeGrants is a definition with a refresh token, a key, or a secret.
func threeGrants() []change {
	return []change{
		{"/fields/refresh_token", object{}}, {"/fields/private_key", object{}}, {"/auth", nil},
		{"/grants", []any{
			object{"grant_type": "refresh_token", "auth": "client_secret_post", "needs": []string{"refresh_token", "client_id", "client_secret"}, "request": object{"form": object{"grant_type": "refresh_token", "refresh_token": "{refresh_token}"}}},
			object{"grant_type": "private_key_jwt", "auth": "private_key_jwt", "needs": []string{"private_key", "client_id"}, "request": object{"form": object{"grant_type": "client_credentials", "scope": "{scope}"}}},
			object{"grant_type": "client_credentials", "auth": "client_secret_post", "needs": []string{"client_id", "client_secret"}, "request": object{"form": object{"grant_type": "client_credentials", "scope": "{scope}"}}},
		}},
	}
}

func TestTheFirstGrantWhoseNeedsAreSetIsChosen(t *testing.T) {
	p := parsed(t, threeGrants()...)
	for name, test := range map[string]struct {
		fields object
		grant  string
	}{
		"secret":                       {acme, "client_credentials"},
		"refresh token":                {with(acme, "refresh_token", "r"), "refresh_token"},
		"key":                          {with(without(acme, "client_secret"), "private_key", rsaKey()), "private_key_jwt"},
		"empty refresh token":          {with(acme, "refresh_token", ""), "client_credentials"},
		"a field that is null":         {with(acme, "refresh_token", nil), "client_credentials"},
		"named, though another is set": {with(acme, "grant_type", "client_credentials"), "client_credentials"},
	} {
		grant := open(t, p, nil, test.fields).(interface{ GrantTypeName() string }).GrantTypeName()
		assert.Equal(t, test.grant, grant, name)
	}
}

func TestAnErrorNamesTheFieldAndTheFix(t *testing.T) {
	three, one := parsed(t, threeGrants()...), parsed(t)
	typed := parsed(t,
		change{"/fields/mode", object{"description": "the mode", "allowed": []any{"live", "test"}, "default": "live"}},
		change{"/fields/days", object{"description": "the days", "type": "duration"}},
		change{"/fields/all", object{"description": "whether all", "type": "bool"}},
		change{"/fields/password", object{}},
		change{"/grants/0/request/form/mode", "{mode}"}, change{"/grants/0/request/form/days", "{days}"},
		change{"/grants/0/request/form/all", "{all}"}, change{"/grants/0/request/form/pw", "{password}"},
	)
	for _, test := range []struct {
		got, want string
	}{
		{refused(t, one, without(acme, "account")), "account: must be set: the account (acme of https://acme.vendor.example)"},
		{refused(t, one, without(acme, "client_secret")), "client_secret: must be set: the client secret"},
		{refused(t, one, with(acme, "account", "")), "account: must be set"},
		{refused(t, one, with(acme, "account", "a b")), `account: "a b" is not what Acme needs; give the account (acme of https://acme.vendor.example)`},
		{refused(t, one, with(acme, "client_id", "“c”")), "client_id: is quoted"},
		{refused(t, one, with(acme, "client_secret", "Bearer s")), `client_secret: begins with "Bearer"`},
		{refused(t, one, with(acme, "client_secret", "a\nb")), "client_secret: contains a line break"},
		{refused(t, one, with(acme, "scope", []string{"a b"})), `scope: "a b" is not a scope`},
		{refused(t, one, with(acme, "scope", []string{"ä"})), "scope: contains a line break, a control character or a non-ASCII"},
		{refused(t, one, with(acme, "scope", 7)), "cannot read the stored fields; write the credential again"},
		{refused(t, three, with(acme, "grant_type", "password")), `grant_type: unknown grant type "password" (allowed: refresh_token, private_key_jwt, client_credentials)`},
		{refused(t, three, with(acme, "grant_type", "refresh_token")), "refresh_token: must be set with grant_type=refresh_token: the refresh token"},
		{refused(t, three, without(acme, "client_secret")), "private_key: must be set with grant_type=private_key_jwt"},
		{refused(t, three, with(acme, "refresh_token", "r", "scope", []string{"a"})), `scope: is not used with grant_type=refresh_token; omit it, or clear it with scope=""`},
		{refused(t, three, with(acme, "private_key", rsaKey())), `client_secret: is not used with grant_type=private_key_jwt`},
		{refused(t, typed, with(acme, "mode", "prod")), `mode: unknown value "prod" (allowed: live, test)`},
		{refused(t, typed, with(acme, "days", "soon")), "cannot read the stored fields"},
		{refused(t, typed, with(acme, "all", "maybe")), "cannot read the stored fields"},
		{refused(t, typed, with(acme, "password", "a\nb")), "password: contains a line break"},
	} {
		assert.Contains(t, test.got, test.want)
	}
	for _, name := range []string{"client_secret", "password"} {
		assert.NotContains(t, refused(t, typed, with(acme, name, "quoted-s3cr3t\n")), "s3cr3t", "guarantee 6: %s is not quoted", name)
	}
	open(t, typed, nil, with(acme, "password", "pässword with ünicode"))
}

func TestNoPastedValueChangesTheHost(t *testing.T) {
	host := func(name, field, pasted string, more object) string {
		t.Helper()
		fields := with(more, field, pasted)
		credential, err := tryOpen(t, listed(t, name), nil, fields)
		if err != nil {
			var invalid *provider.Error
			require.ErrorAs(t, err, &invalid)
			require.Equal(t, provider.Invalid, invalid.Kind)
			return "refused"
		}
		u, err := url.Parse(credential.Destinations().URLs[0])
		require.NoError(t, err)
		return u.Host
	}
	auth0 := object{"client_id": "c", "client_secret": "s", "audience": "https://api.acme.com"}
	tableau := object{"site": "s", "token_name": "n", "token_secret": "s"}
	snowflake := object{"client_id": "c", "client_secret": "s", "refresh_token": "r"}
	for pasted, want := range map[string]string{
		"acme.us":                                  "acme.us.auth0.com",
		"https://acme.us.auth0.com/":               "acme.us.auth0.com",
		"http://acme.us.auth0.com":                 "acme.us.auth0.com",
		"HTTPS://ACME.US.AUTH0.COM/api/v2/?x=y#z":  "acme.us.auth0.com",
		" " + "acme.us ":                           "acme.us.auth0.com",
		"ACME.US":                                  "acme.us.auth0.com",
		"acme.us.auth0.com:443":                    "refused",
		"https://acme.us.auth0.com:8443/":          "refused",
		"https://user@acme.us.auth0.com/":          "refused",
		"https://evil.example/acme.us.auth0.com":   "refused",
		"evil.example/.auth0.com":                  "refused",
		"evil.example#.auth0.com":                  "refused",
		"evil.example?.auth0.com":                  "refused",
		`evil.example\.auth0.com`:                  "refused",
		"acme%2eus":                                "refused",
		"acme.us%2f":                               "refused",
		"evil.example%23":                          "refused",
		"acme.us\n":                                "acme.us.auth0.com",
		"ac\nme":                                   "refused",
		"acmé":                                     "refused",
		"acme。us":                                  "refused", // U+3002, which IDNA takes for a dot
		"[::1]":                                    "refused",
		"127.0.0.1":                                "refused",
		"https://":                                 "refused",
		"https://acme.us.auth0.com.evil.example/":  "refused",
		"{client_id}":                              "refused",
		"https://https://acme.us.auth0.com/":       "refused",
		"acme.us.auth0.com.":                       "refused",
		strings.Repeat("a", 300):                   "refused",
		"https://acme.us.auth0.com/oauth/token?a=": "acme.us.auth0.com",
	} {
		assert.Equal(t, want, host("auth0", "domain", pasted, auth0), "%q", pasted)
	}
	for pasted, want := range map[string]string{
		"https://prod-uswest-c.online.tableau.com/#/site/marketing": "prod-uswest-c.online.tableau.com",
		"PROD-USWEST-C.online.tableau.com":                          "prod-uswest-c.online.tableau.com",
		"https://bi.acme.com":                                       "bi.acme.com",
		"https://user:pw@bi.acme.com/":                              "refused",
		"bi.acme.com:8443":                                          "refused",
		"bi.acme.com@evil.example":                                  "refused",
		"bi..acme.com":                                              "refused",
	} {
		assert.Equal(t, want, host("tableau", "host", pasted, tableau), "%q", pasted)
	}
	for pasted, want := range map[string]string{
		"org-acme": "org-acme.snowflakecomputing.com",
		"https://org-acme.snowflakecomputing.com": "org-acme.snowflakecomputing.com",
		"Org_Acme":     "Org_Acme.snowflakecomputing.com",
		"org.acme/x":   "refused",
		"org-acme.com": "refused",
	} {
		assert.Equal(t, want, host("snowflake", "account", pasted, snowflake), "%q", pasted)
	}
}

func TestAValueInAPathIsEscaped(t *testing.T) {
	p := parsed(t, change{"/fields/account/pattern", nil}, change{"/token_url", "https://vendor.example/{account}/token?of={account}"})
	for given, want := range map[string]string{
		"acme":         "https://vendor.example/acme/token?of=acme",
		"a/b":          "https://vendor.example/a%2Fb/token?of=a%2Fb",
		"a?b#c":        "https://vendor.example/a%3Fb%23c/token?of=a%3Fb%23c",
		"a&b=c":        "https://vendor.example/a&b=c/token?of=a%26b%3Dc",
		"../x":         "https://vendor.example/..%2Fx/token?of=..%2Fx",
		"a b":          "https://vendor.example/a%20b/token?of=a+b",
		"evil.example": "https://vendor.example/evil.example/token?of=evil.example",
	} {
		assert.Equal(t, []string{want}, open(t, p, nil, with(acme, "account", given)).Destinations().URLs)
	}
}

func TestFieldsAreSentInTheirTypes(t *testing.T) {
	p := parsed(t,
		change{"/fields/list", object{"description": "x", "type": "list", "default": "a,b"}},
		change{"/fields/lifetime", object{"description": "x", "type": "duration", "default": "1h"}},
		change{"/fields/all", object{"description": "x", "type": "bool", "default": "true"}},
		change{"/fields/note", object{"description": "x"}},
		change{"/grants/0/request", object{"json": object{
			"list": "{list}", "lifetime": "{lifetime}", "all": "{all}", "note": "{note}", "text": "for {lifetime} s", "joined": "{list|joined}", "fixed": 7,
		}}},
		change{"/fields/scope", nil}, change{"/auth", "none"}, change{"/fields/client_id", nil}, change{"/fields/client_secret", nil},
	)
	for name, test := range map[string]struct {
		fields object
		want   string
	}{
		"defaults": {object{"account": "a"}, `{"all":true,"fixed":7,"joined":"a b","lifetime":3600,"list":["a","b"],"text":"for 3600 s"}`},
		"given": {object{"account": "a", "list": []string{"c"}, "lifetime": 60, "all": false, "note": "a<&>b"},
			`{"all":false,"fixed":7,"joined":"c","lifetime":60,"list":["c"],"note":"a<&>b","text":"for 60 s"}`},
		"cleared": {object{"account": "a", "list": []string{}, "lifetime": nil, "all": nil, "note": ""}, `{"all":true,"fixed":7,"joined":"a b","lifetime":3600,"list":["a","b"],"text":"for 3600 s"}`},
	} {
		v := &vendor{answers: []answer{ok(`{"access_token":"t","expires_in":60}`)}}
		exchanged(t, open(t, p, v, test.fields), provider.Grant{})
		assert.Equal(t, []string{"POST https://a.vendor.example/token " + test.want}, v.requests, name)
	}
}

func TestScopesFollowTheVendorsRules(t *testing.T) {
	sent := func(changes []change, scope any) (string, []string) {
		t.Helper()
		v := &vendor{answers: []answer{ok(`{"access_token":"t","expires_in":60}`)}}
		fields := acme
		if scope != nil {
			fields = with(acme, "scope", scope)
		}
		c := open(t, parsed(t, changes...), v, fields)
		exchanged(t, c, provider.Grant{})
		_, body, _ := strings.Cut(v.requests[0], "/token ")
		form, err := url.ParseQuery(body)
		require.NoError(t, err)
		return form.Get("scope"), c.Scope()
	}
	text, scope := sent(nil, []string{"b", "a"})
	assert.Equal(t, "b a", text)
	assert.Equal(t, []string{"b", "a"}, scope)
	text, _ = sent([]change{{"/scope/separator", ","}}, []string{"b", "a"})
	assert.Equal(t, "b,a", text)
	text, scope = sent([]change{{"/scope/default", []any{"x", "y"}}}, nil)
	assert.Equal(t, "x y", text)
	assert.Equal(t, []string{"x", "y"}, scope)
	text, _ = sent([]change{{"/scope/default", []any{"x"}}}, []string{"a"})
	assert.Equal(t, "a", text)

	single := parsed(t, change{"/scope/single", true})
	assert.Equal(t, "scope: Acme allows one scope for a token; store a credential for each", refused(t, single, with(acme, "scope", []string{"a", "b"})))
	suffix := parsed(t, change{"/scope/suffix", "/.default"})
	assert.Equal(t, `scope: invalid scope "a" for Acme; give one that ends with /.default, such as https://api.example.com/.default`, refused(t, suffix, with(acme, "scope", []string{"b/.default", "a"})))

	unused := append(threeGrants(), change{"/scope/default", []any{"x"}})
	c := open(t, parsed(t, unused...), nil, with(acme, "refresh_token", "r"))
	assert.Empty(t, c.Scope(), "the grant sends no scope")
}

func TestRulesForTokensReachTheAnswer(t *testing.T) {
	p := parsed(t, change{"/token", object{"default_ttl": "2h", "single": true, "refresh_window": "30s", "on_the_hour": true}})
	v := &vendor{answers: []answer{ok(`{"access_token":"t"}`)}}
	got := exchanged(t, open(t, p, v, acme), provider.Grant{})
	assert.Equal(t, 2*time.Hour, got.DefaultTTL)
	assert.True(t, got.InvalidatesPrevious)
	assert.True(t, got.OnTheHour)
	assert.Equal(t, 30*time.Second, got.RenewalWindow)
	_, err := open(t, p, v, acme).Narrow([]string{"a"})
	require.ErrorContains(t, err, "scope: an exchange invalidates the previous token")

	reused := exchanged(t, open(t, parsed(t, change{"/token", object{"reused": true}}), &vendor{answers: []answer{ok(`{"access_token":"t","expires_in":600}`)}}, acme), provider.Grant{})
	token, err := reused.Token(provider.TTL{}, provider.Token{})
	require.NoError(t, err)
	assert.WithinDuration(t, token.ExpireTime, token.RenewableFrom, time.Millisecond, "an exchange before it expires gains nothing")
}

func TestAPIHeadersHaveTheFieldsOfTheCredential(t *testing.T) {
	p := parsed(t, change{"/api", object{"header": "X-Token", "headers": object{"X-Client": "{client_id}", "X-Scope": "{scope}"}}})
	api := open(t, p, nil, acme).(provider.Presented).API()
	assert.Equal(t, "X-Token: t", api.HTTPHeader(&provider.Token{AccessToken: "t"}))
	assert.Equal(t, map[string]string{"X-Client": "c"}, api.Headers, "one without a value is left out")
	assert.Nil(t, open(t, parsed(t), nil, acme).(provider.Presented).API(), "nil for the usual way")
}

// opened opens a credential of a changed definition, whose vendor returns a text.
func opened(t *testing.T, answer string, status int, fields object, changes ...change) (provider.Credential, error) {
	t.Helper()
	raw, err := json.Marshal(fields)
	require.NoError(t, err)
	client, err := provider.NewClient(provider.ClientOptions{Timeout: time.Minute, Transport: vendorsim.Transport(vendorsim.Answer(status, answer))})
	require.NoError(t, err)
	return parsed(t, changes...).Open(provider.Settings{Fields: raw, Client: client})
}

func TestTheSeparatorOfScopesAlsoSeparatesThoseThatAreGranted(t *testing.T) {
	separated := []change{{"/fields/scope", object{}}, {"/scope", object{"separator": ";"}}, {"/grants/0/request/form/scope", "{scope}"}}
	fields := object{"account": "acme", "client_id": "id", "client_secret": "secret"}
	c, err := opened(t, `{"access_token":"at-0123456789","expires_in":60,"scope":"read;write"}`, http.StatusOK, with(fields, "scope", []string{"read", "write"}), separated...)
	require.NoError(t, err)
	answer, err := c.Exchange(t.Context(), provider.Grant{})
	require.NoError(t, err)
	assert.Equal(t, []string{"read", "write"}, answer.Scope)

	_, err = opened(t, "", http.StatusOK, with(fields, "scope", []string{"read;write"}), separated...)
	assert.EqualError(t, err, `scope: "read;write" are several scopes; separate them with commas here (the engine sends ";" between them)`)
}

func TestMistakesOfADefinitionAreErrors(t *testing.T) {
	fields := object{"account": "acme", "client_id": "a", "client_secret": "b"}
	_, err := opened(t, "", http.StatusOK, object{"account": "acme", "client_secret": "b"}, change{"/fields/client_id", nil}, change{"/auth", nil}, change{"/grants/0/basic", []any{"a:b", "{client_secret}"}})
	require.EqualError(t, err, "basic: contains a colon, which HTTP Basic cannot carry")

	_, err = opened(t, "", http.StatusOK, with(fields, "client_id", "a:b"), change{"/auth", "client_secret_basic_unencoded"})
	require.EqualError(t, err, "client_id: contains a colon, which HTTP Basic cannot carry")

	_, err = opened(t, "", http.StatusOK, with(fields, "part", ".."), change{"/fields/part", object{"description": "the part (x)"}}, change{"/token_url", "https://{account}.vendor.example/{part}/token"})
	require.EqualError(t, err, "part: is not a segment of a URL")

	for _, text := range []string{"null", `["abc"]`, "12345678", "true"} {
		credential, err := opened(t, text, http.StatusOK, fields, change{"/answer", object{"text": true}})
		require.NoError(t, err)
		_, err = credential.Exchange(t.Context(), provider.Grant{})
		require.ErrorContains(t, err, "contains no access token", text)
	}

	for place, answer := range map[string]object{
		"at /data/token": {"token": "/data/token"}, "in the header X-Token": {"token_header": "X-Token"}, "in the cookie session": {"token_cookie": "session"},
		"as its body": {"text": true},
	} {
		credential, err := opened(t, "{}", http.StatusOK, fields, change{"/answer", answer})
		require.NoError(t, err)
		_, err = credential.Exchange(t.Context(), provider.Grant{})
		require.ErrorContains(t, err, "contains no access token "+place)
	}

	nested := strings.Repeat("(", 998) + "a" + strings.Repeat(")", 998)
	_, err = definition.Parse("acme", []byte(strings.Replace(base, "[a-z0-9-]+", nested, 1)))
	require.ErrorContains(t, err, "definition: /fields/account/pattern")
}

func TestAMissingFieldIsNamedWithTheOthersThatAreMissing(t *testing.T) {
	_, err := opened(t, "", http.StatusOK, object{})
	require.Error(t, err)
	for _, name := range []string{"account", "client_id", "client_secret"} {
		assert.Contains(t, err.Error(), name)
	}
}

func TestWhatTheVendorSaysWhereTheDefinitionLooksIsQuoted(t *testing.T) {
	fields := object{"account": "acme", "client_id": "id", "client_secret": "secret-0123456789"}
	for _, c := range []struct {
		status       int
		answer, says string
		reading      object
	}{
		{401, `{"problem":{"id":"bad_credentials"}}`, "401 Unauthorized: bad_credentials", object{"error": "/problem/id"}},
		{401, `{"problem":{"id":"E1"},"message":"no such key"}`, "401 Unauthorized: E1: no such key", object{"error": "/problem/id"}},
		{401, `{"error":"E1"}`, "401 Unauthorized: E1", object{"error": "/error"}},
		{401, `{"problem":{"id":"secret-0123456789"}}`, "401 Unauthorized", object{"error": "/problem/id"}},
		{200, `{"okk":true,"access_token":"at-0123456789"}`, "; /ok is not true", object{"ok": "/ok"}},
	} {
		credential, err := opened(t, c.answer, c.status, fields, change{"/answer", c.reading})
		require.NoError(t, err)
		_, err = credential.Exchange(t.Context(), provider.Grant{})
		require.ErrorContains(t, err, c.says)
		assert.NotContains(t, err.Error(), "secret-0123")
	}
}

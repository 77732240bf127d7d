package guarantees_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const (
	redirectURI = "https://vault.example.com/v1/kensho/callback"
	person      = "alice@example.com"
)

// A consenting engine has a credential, named after a person, whose refresh token a consent yields.
type consenting struct {
	*engine.Engine
	client vendorsim.OAuthClient
}

func newConsenting(t *testing.T) *consenting {
	t.Helper()
	e := &consenting{Engine: engine.New(t), client: vendorsim.OAuthClient{
		ID: engine.ClientID, Secret: engine.ClientSecret, Scopes: []string{"openid", "read"}, AuthMethods: []string{vendorsim.SecretBasic},
		Grants: []string{vendorsim.RefreshTokenGrant, vendorsim.AuthorizationCodeGrant, vendorsim.DeviceCodeGrant}, RedirectURI: redirectURI, Rotate: true,
	}}
	e.Sim.AddOAuthClient(e.client)
	resp, status, message := e.Request(logical.UpdateOperation, "config/oauth2/"+person, map[string]any{
		"issuer": vendorsim.OAuthIssuer, "client_id": engine.ClientID, "client_secret": engine.ClientSecret, "auth_style": "client_secret_basic",
		"grant_type": "refresh_token", "scope": "openid,read", "redirect_uri": redirectURI,
	})
	require.Equal(t, http.StatusOK, status, message)
	require.Equal(t, []string{"the credential is not verified, as a person must consent first: begin with a write to authorize/" + person}, resp.Warnings)
	return e
}

// begin begins a consent and returns the URL for the person's browser.
func (e *consenting) begin() string {
	e.T.Helper()
	resp, status, message := e.Request(logical.UpdateOperation, "authorize/"+person, map[string]any{"claims": "email,sub"})
	require.Equal(e.T, http.StatusOK, status, message)
	assert.EqualValues(e.T, 600, resp.Data["expires_in"])
	return resp.Data["authorization_url"].(string)
}

// open opens a URL of the callback in a browser, and returns the status and the page.
func (e *consenting) open(to string) (status int, page string) {
	e.T.Helper()
	return e.openAt(e.Engine, to)
}

func (e *consenting) openAt(at *engine.Engine, to string) (status int, page string) {
	e.T.Helper()
	u, err := url.Parse(to)
	require.NoError(e.T, err)
	data := map[string]any{}
	for name, values := range u.Query() { // as Vault does it
		data[name] = values
		if len(values) == 1 {
			data[name] = values[0]
		}
	}
	resp, _, message := at.Request(logical.ReadOperation, "callback", data)
	require.NotNil(e.T, resp, message)
	require.Equal(e.T, "text/html; charset=utf-8", resp.Data[logical.HTTPContentType])
	return resp.Data[logical.HTTPStatusCode].(int), string(resp.Data[logical.HTTPRawBody].([]byte))
}

func (e *consenting) consent() map[string]any {
	e.T.Helper()
	return e.Read("authorize/" + person).Data
}

func TestAPersonsConsentYieldsTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newConsenting(t)
		assert.Equal(t, "required", e.consent()["state"])
		status, message := e.Refused("creds/" + person)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "no person has consented yet")

		back := e.Sim.Consent(e.begin(), person)
		assert.Equal(t, "pending", e.consent()["state"])
		e.Restart() // guarantee 10: between the consent and the return
		status, page := e.open(back)
		require.Equal(t, http.StatusOK, status, page)
		assert.Contains(t, page, "alice@example.com")
		assert.NotContains(t, page, "<script")

		token := e.Creds(person).Data["access_token"]
		assert.Equal(t, map[string]any{
			"state": "connected", "consent_time": "2000-01-01T00:00:00Z", "claims": map[string]any{"email": person, "sub": "sub-of-" + person}, "scope": []string{"openid", "read"},
		}, e.consent())
		assert.Contains(t, e.Read("config/oauth2/" + person).Data["secrets_set"], "refresh_token")
		e.Restart()
		assert.Equal(t, token, e.Creds(person).Data["access_token"], "guarantee 3: stored in the write of the refresh token")
		e.Pass(50 * time.Minute)
		assert.NotEqual(t, token, e.Creds(person).Data["access_token"], "the refresh token is exchanged")

		// Another person takes over.
		before := e.Creds(person).Data["access_token"]
		status, page = e.open(e.Sim.Consent(e.begin(), "bob@example.com"))
		require.Equal(t, http.StatusOK, status, page)
		assert.NotEqual(t, before, e.Creds(person).Data["access_token"], "guarantee 8")
		assert.Equal(t, "bob@example.com", e.consent()["claims"].(map[string]any)["email"])

		_, status, message = e.Request(logical.DeleteOperation, "config/oauth2/"+person, nil)
		require.Equal(t, http.StatusOK, status, message)
		engine.AssertStorageEmpty(t, e.Engine)
	})
}

func TestAVaultThatNoBrowserReachesTakesThePastedURL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newConsenting(t)
		paste := func(url string) (*logical.Response, int, string) {
			return e.Request(logical.UpdateOperation, "authorize/"+person, map[string]any{"redirect": url})
		}
		back := e.Sim.Consent(e.begin(), person)
		for _, wrong := range []string{"not a URL", redirectURI, strings.Replace(back, "state=", "state=x", 1)} {
			_, status, _ := paste(wrong)
			assert.Equal(t, http.StatusBadRequest, status, wrong)
		}
		resp, status, message := paste(" " + back + "\n")
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, "connected", resp.Data["state"])
		e.Creds(person)
		_, status, message = paste(back)
		assert.Equal(t, http.StatusConflict, status)
		assert.Contains(t, message, "used already")
	})
}

// Only the state decides, and it is valid once, for ten minutes, for one mount, and for the credential as it
// was.
func TestAReturnThatIsNotOfThePendingConsentYieldsNothing(t *testing.T) {
	type returns func(e *consenting, back string) string
	with := func(name string, value func(string) string) returns {
		return func(_ *consenting, back string) string {
			u, _ := url.Parse(back)
			query := u.Query()
			query.Set(name, value(query.Get(name)))
			u.RawQuery = query.Encode()
			return u.String()
		}
	}
	to := func(text string) func(string) string { return func(string) string { return text } }
	for name, test := range map[string]struct {
		change returns
		status int
		says   string
	}{
		"a guess":               {with("state", func(s string) string { return string(s[0]^1) + s[1:] }), 400, "not valid"},
		"of another name":       {with("state", func(s string) string { return strings.Split(s, ".")[0] + ".YWxpY2U" }), 400, "not valid"},
		"no state":              {with("state", to("")), 400, "not valid"},
		"a state of a mile":     {with("state", to(strings.Repeat("A", 1<<20))), 400, "not valid"},
		"a state with a path":   {with("state", func(s string) string { return strings.Split(s, ".")[0] + ".Li4vLi4vY29uZmln" }), 400, "not valid"},
		"a state twice":         {func(_ *consenting, back string) string { return back + "&state=x" }, 400, "not valid"},
		"of the consent before": {func(e *consenting, back string) string { e.begin(); return back }, 400, "not valid"},
		"too late":              {func(_ *consenting, back string) string { time.Sleep(10 * time.Minute); return back }, 410, "expired"},
		"of a changed credential": {func(e *consenting, back string) string {
			e.Write("config/oauth2/"+person, map[string]any{"scope": "openid", "verify": false})
			return back
		}, 409, "changed"},
		"of a deleted credential": {func(e *consenting, back string) string {
			_, status, message := e.Request(logical.DeleteOperation, "config/oauth2/"+person, nil)
			require.Equal(e.T, http.StatusOK, status, message)
			return back
		}, 400, "not valid"},
		"no code":         {with("code", to("")), 403, "neither a code nor an error"},
		"a wrong code":    {with("code", to("code-of-nobody")), 502, "code"},
		"another issuer":  {with("iss", to("https://evil.example")), 502, "another issuer"},
		"no issuer":       {with("iss", to("")), 502, "does not say from which issuer"},
		"an expired code": {func(_ *consenting, back string) string { time.Sleep(2 * time.Minute); return back }, 502, "code"},
		"a code used before": {func(e *consenting, back string) string {
			e.open(back)
			_, status, message := e.Request(logical.UpdateOperation, "config/oauth2/"+person, map[string]any{"refresh_token": "", "verify": false})
			require.Equal(e.T, http.StatusOK, status, message)
			return back
		}, 409, "used already"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newConsenting(t)
				back := test.change(e, e.Sim.Consent(e.begin(), person))
				stored := e.Dump()
				status, page := e.open(back)
				assert.Equal(t, test.status, status, page)
				assert.Contains(t, page, test.says)
				if test.status == http.StatusBadRequest {
					assert.Equal(t, stored, e.Dump(), "a guess changes nothing")
				}
				_, status, _ = e.Request(logical.ReadOperation, "creds/"+person, nil)
				assert.Equal(t, http.StatusBadRequest, status)
			})
		})
	}
}

func TestAStateOfAnotherMountIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, other := newConsenting(t), newConsenting(t)
		other.begin()
		back := one.Sim.Consent(one.begin(), person)
		status, _ := one.openAt(other.Engine, back)
		assert.Equal(t, http.StatusBadRequest, status)
		metrics := other.MetricsText()
		assert.Contains(t, metrics, `tokenbroker_consents_total{result="unknown"} 1.0`)
		status, _ = one.open(back)
		assert.Equal(t, http.StatusOK, status)
	})
}

func TestADoubleClickExchangesTheCodeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newConsenting(t)
		back := e.Sim.Consent(e.begin(), person)
		before := e.Exchanges()
		statuses := make(chan int, 2)
		for range 2 {
			go func() {
				status, _ := e.open(back)
				statuses <- status
			}()
		}
		assert.ElementsMatch(t, []int{http.StatusOK, http.StatusConflict}, []int{<-statuses, <-statuses})
		posts := 0
		for _, call := range e.Sim.Calls()[before:] {
			if call.Method == http.MethodPost {
				posts++
			}
		}
		assert.Equal(t, 1, posts)
		e.Creds(person)
	})
}

func TestARefusalIsShownAsTextAndStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newConsenting(t)
		back := e.Sim.Refuse(e.begin(), `<img src=x onerror=alert(1)>"';`+"\r\nSet-Cookie: a=b")
		status, page := e.open(back)
		assert.Equal(t, http.StatusForbidden, status)
		assert.NotContains(t, page, "<img")
		assert.NotContains(t, page, "\r")
		assert.Contains(t, page, "access_denied")
		assert.Equal(t, "refused", e.consent()["state"])
		assert.Contains(t, e.consent()["error"], "access_denied: <img src=x")
		status, _ = e.open(back)
		assert.Equal(t, http.StatusConflict, status)
		status, _ = e.open(e.Sim.Consent(e.begin(), person))
		assert.Equal(t, http.StatusOK, status, "the person may think again")
	})
}

func TestAnIDTokenThatIsNotForThisRequestYieldsNothing(t *testing.T) {
	for name, conduct := range map[string]vendorsim.OAuthConduct{
		"another issuer":   {IDToken: map[string]any{"iss": "https://evil.example"}},
		"another audience": {IDToken: map[string]any{"aud": "another-client"}},
		"another nonce":    {IDToken: map[string]any{"nonce": "another"}},
		"expired":          {IDToken: map[string]any{"exp": time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC).Unix()}},
		"forged":           {ForgedIDToken: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newConsenting(t)
				e.Sim.Behave(vendorsim.Conduct{OAuth: conduct})
				status, page := e.open(e.Sim.Consent(e.begin(), person))
				assert.Equal(t, http.StatusBadGateway, status, page)
				assert.Contains(t, page, "ID token")
				assert.Equal(t, "failed", e.consent()["state"])
				assert.NotContains(t, e.Read("config/oauth2/" + person).Data["secrets_set"], "refresh_token")
			})
		})
	}
}

func TestAConsentWithoutARefreshTokenSaysWhatToAskFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newConsenting(t)
		e.client.NoRefreshToken = true
		e.Sim.AddOAuthClient(e.client)
		status, page := e.open(e.Sim.Consent(e.begin(), person))
		assert.Equal(t, http.StatusBadGateway, status)
		assert.Contains(t, page, "offline_access")

		e.client.NoRefreshToken = false
		e.Sim.AddOAuthClient(e.client)
		for _, unusable := range []string{"null", " rt", "r\tt", "é"} {
			e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(e.Sim.Amend(func(answer map[string]any) {
				if answer["refresh_token"] != nil {
					answer["refresh_token"] = unusable
				}
			}))})
			status, page := e.open(e.Sim.Consent(e.begin(), person))
			assert.Equal(t, http.StatusBadGateway, status, "%q", unusable)
			assert.Contains(t, page, "no usable refresh token")
		}
	})
}

package oauth2_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
)

// answered returns the result of an exchange whose response has status 200.
func answered(t *testing.T, body string) (provider.Token, *provider.Answer, error) {
	t.Helper()
	credential, err := tryOpen(t, vendorsim.Answer(200, body), map[string]any{"client_secret": clientSecret, "auth_style": "client_secret_basic", "refresh_token": refreshToken})
	require.NoError(t, err)
	answer, err := credential.Exchange(t.Context(), provider.Grant{})
	if err != nil {
		return provider.Token{}, nil, err
	}
	token, err := answer.Token(provider.TTL{Default: time.Hour}, provider.Token{})
	return token, answer, err
}

func TestAnErrorBesideATokenIsARefusalAndKeepsTheRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, answer, err := answered(t, `{"access_token": "a", "refresh_token": "the-next-0123456789", "error": "invalid_grant", "error_description": "used twice"}`)
		require.ErrorContains(t, err, "invalid_grant: used twice")
		require.NotNil(t, answer.Grant)
		assert.Equal(t, "the-next-0123456789", answer.Grant.RefreshToken)
	})
}

func TestAFormIsReadLikeJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token, answer, err := answered(t, "access_token=a%2Bb&expires_in=60&refresh_token=the-next-0123456789&scope=read+write&token_type=bearer\n")
		require.NoError(t, err)
		assert.Equal(t, "a+b", token.AccessToken)
		assert.Equal(t, time.Minute, token.ExpireTime.Sub(token.IssueTime))
		assert.Equal(t, []string{"read", "write"}, token.Scope)
		assert.Equal(t, "the-next-0123456789", answer.Grant.RefreshToken)

		for name, body := range map[string]string{
			"two tokens":      "access_token=a&access_token=b",
			"a bad escape":    "access_token=%zz",
			"unknown members": "token=a&expires_in=60",
			"text after it":   "access_token=a, which you know",
		} {
			_, _, err := answered(t, body)
			var e *provider.Error
			require.ErrorAs(t, err, &e, name)
			assert.Equal(t, provider.InvalidResponse, e.Kind, name)
		}
	})
}

func TestNoControlCharacterOfAnAnswerIsShown(t *testing.T) {
	for name, test := range map[string]struct{ body, says string }{
		"a header in the type":        {`{"access_token": "a", "token_type": "Bearer\r\nX-Evil: 1\u001b[2J"}`, "token_type"},
		"a space in the type":         {`{"access_token": "a", "token_type": "Bearer x"}`, "token_type"},
		"a type of 900 KB":            {`{"access_token": "a", "token_type": "` + strings.Repeat("a", 900<<10) + `"}`, "token_type"},
		"a type of 101 bytes":         {`{"access_token": "a", "token_type": "` + strings.Repeat("a", 101) + `"}`, "token_type"},
		"a non-ASCII type":            {`{"access_token": "a", "token_type": "é"}`, "token_type"},
		"a URI with a quote":          {`{"access_token": "a", "token_type": "urn:a\"b"}`, "token_type"},
		"an escape in the scope":      {`{"access_token": "a", "scope": "read \u001b[2J"}`, "scope"},
		"a quote in the scope":        {`{"access_token": "a", "scope": ["read", "wr\"ite"]}`, "scope"},
		"a bidi character in a scope": {`{"access_token": "a", "scope": "re\u202ead"}`, "scope"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, _, err := answered(t, test.body)
				var e *provider.Error
				require.ErrorAs(t, err, &e)
				assert.Equal(t, provider.InvalidResponse, e.Kind)
				assert.Contains(t, e.Reason, "the vendor's "+test.says)
				assert.NotContains(t, e.Reason, "X-Evil")
			})
		})
	}
	for stated, want := range map[string]string{
		"bearer": "Bearer", "DPoP": "DPoP", "N_A": "N_A", "urn:ietf:params:oauth:token-type:access_token": "urn:ietf:params:oauth:token-type:access_token",
		"https://a.example/type?v=1": "https://a.example/type?v=1", "": "Bearer",
	} {
		synctest.Test(t, func(t *testing.T) {
			token, _, err := answered(t, `{"access_token": "a", "token_type": "`+stated+`"}`)
			require.NoError(t, err)
			assert.Equal(t, want, token.TokenType)
		})
	}
}

func TestAResponseIsReadInEveryFormat(t *testing.T) {
	for body, scope := range map[string][]string{
		`{"access_token": "a", "token_type": "bearer", "scope": "read"}`:           {"read"},
		`{"access_token": "a", "token_type": "Bearer", "scope": ["read", "list"]}`: {"read", "list"},
		`{"access_token": "a", "scope": null}`:                                     {"asked", "with,comma"},
		`{"access_token": "a", "scope": "chat:write,commands"}`:                    {"chat:write", "commands"},
		`{"access_token": "a", "scope": "chat:write, commands ,"}`:                 {"chat:write", "commands"},
		`{"access_token": "a", "scope": ["chat:write,commands", 7, "list a"]}`:     {"chat:write", "commands", "list", "a"},
		`{"access_token": "a", "scope": "asked with,comma"}`:                       {"asked", "with,comma"},
		`{"access_token": "a", "scope": "asked,with,comma"}`:                       {"asked", "with,comma"},
		`{"access_token": "a", "scope": ",with,comma,,other,with"}`:                {"with,comma", "other", "with"},
		`access_token=a&scope=repo%2Cgist&token_type=bearer`:                       {"repo", "gist"},
	} {
		synctest.Test(t, func(t *testing.T) {
			credential, err := tryOpen(t, vendorsim.Answer(200, body), map[string]any{"client_secret": clientSecret, "scope": []string{"asked", "with,comma"}})
			require.NoError(t, err)
			answer, err := credential.Exchange(t.Context(), provider.Grant{})
			require.NoError(t, err)
			assert.Equal(t, "Bearer", answer.TokenType)
			assert.Equal(t, scope, answer.Scope)
		})
	}
}

func TestAnErrorBesideAnEmptyTokenIsARefusal(t *testing.T) {
	for _, body := range []string{`{"access_token": null, "error": "invalid_grant"}`, `{"access_token": "", "error": "invalid_grant"}`} {
		synctest.Test(t, func(t *testing.T) {
			credential, err := tryOpen(t, vendorsim.Answer(200, body), map[string]any{"client_secret": clientSecret, "auth_style": "client_secret_basic"})
			require.NoError(t, err)
			_, err = credential.Exchange(t.Context(), provider.Grant{})
			var e *provider.Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, provider.Rejected, e.Kind)
		})
	}
}

func TestAFractionalLifetimeIsAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		credential, err := tryOpen(t, vendorsim.Answer(200, `{"access_token": "a", "expires_in": 3600.5}`), map[string]any{"client_secret": clientSecret})
		require.NoError(t, err)
		answer, err := credential.Exchange(t.Context(), provider.Grant{})
		require.NoError(t, err)
		assert.Equal(t, 3600500*time.Millisecond, answer.ExpiresIn)
	})
}

func TestAnErrorInA200ResponseIsARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := newSim(func(c *vendorsim.OAuthClient) { c.AuthMethods = []string{vendorsim.SecretPost} })
		sim.Behave(vendorsim.Conduct{OAuth: vendorsim.OAuthConduct{Slack: true}})
		credential := open(t, sim, map[string]any{"client_secret": clientSecret, "auth_style": "client_secret_post", "refresh_token": "of-nobody-0123456789"})
		_, err := credential.Exchange(t.Context(), provider.Grant{})
		var e *provider.Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, provider.Rejected, e.Kind)
		assert.NotContains(t, e.Reason, "of-nobody")
	})
}

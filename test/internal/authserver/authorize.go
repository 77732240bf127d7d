package authserver

import (
	"context"
	"errors"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"

	"golang.org/x/oauth2"
)

// Authorize performs the authorization code grant (RFC 6749 §4.1) for an Attended client with
// a secret or without any, and returns the refresh token.
func (s *Server) Authorize(ctx context.Context, c Client, scope ...string) (refreshToken string, err error) {
	metadata, err := s.Metadata(ctx)
	if err != nil {
		return "", err
	}
	config := oauth2.Config{
		ClientID: c.ID, ClientSecret: c.Secret,
		Endpoint:    oauth2.Endpoint{AuthURL: metadata.AuthorizationEndpoint, TokenURL: metadata.TokenEndpoint, AuthStyle: oauth2.AuthStyleInParams},
		RedirectURL: redirectURI,
		Scopes:      append(scope, "offline_access"),
	}
	verifier := oauth2.GenerateVerifier()
	code, err := consent(ctx, config.AuthCodeURL("", oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("prompt", "consent")))
	if err != nil {
		return "", err
	}
	token, err := config.Exchange(ctx, code, oauth2.VerifierOption(verifier))
	if err != nil {
		return "", err
	}
	if token.RefreshToken == "" {
		return "", errors.New("the response has no refresh token")
	}
	return token.RefreshToken, nil
}

// consent logs in and gives consent as a user does in a browser, and returns the authorization
// code.
func consent(ctx context.Context, authURL string) (code string, err error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return "", err
	}
	browser := &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.String(), redirectURI) {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	at, err := step(ctx, browser, http.MethodGet, authURL, nil)
	for _, form := range []url.Values{{"prompt": {"login"}, "login": {"operator"}}, {"prompt": {"consent"}}} {
		if err == nil {
			at, err = step(ctx, browser, http.MethodPost, at.String(), form)
		}
	}
	if err != nil {
		return "", err
	}
	if code = at.Query().Get("code"); code == "" {
		return "", errors.New("the server redirected to " + at.String() + " without a code")
	}
	return code, nil
}

// step sends a request with form as its body, and returns the URL after all redirects.
func step(ctx context.Context, browser *http.Client, method, to string, form url.Values) (*url.URL, error) {
	req, err := http.NewRequestWithContext(ctx, method, to, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := browser.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode >= http.StatusMultipleChoices {
		return res.Location()
	}
	return res.Request.URL, nil
}

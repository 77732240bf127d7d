package main

import (
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// The client and the person of the third act.
const (
	saasClient = "demo-client"
	saasSecret = "demo-client-secret"
	person     = "alice@example.com"
)

// consent runs the third act: a person consents in the vendor's page, and the token is there.
func (t *tutorial) consent() error {
	t.heading("## 11. A person consents in a browser, and Vault stores the refresh token")
	callback := t.server.Address + "/v1/saas/callback"
	t.vendors.AddOAuthClient(vendorsim.OAuthClient{
		ID: saasClient, Secret: saasSecret, Scopes: []string{"openid", "files.read"}, RedirectURI: callback, Rotate: true,
		AuthMethods: []string{vendorsim.SecretBasic}, Grants: []string{vendorsim.AuthorizationCodeGrant, vendorsim.RefreshTokenGrant},
	})
	for _, args := range [][]string{
		{"secrets", "enable", "-path=saas", "tokenbroker"},
		{"write", "saas/config/oauth2/" + person, "issuer=" + vendorsim.URL(t.vendorURL, vendorsim.OAuthIssuer),
			"client_id=" + saasClient, "client_secret=" + saasSecret, "grant_type=refresh_token", "scope=openid,files.read", "redirect_uri=" + callback},
	} {
		if _, err := t.shell.run(args...); err != nil {
			return err
		}
	}
	output, err := t.shell.run("write", "saas/authorize/"+person, "claims=email")
	if err != nil {
		return err
	}
	t.say("Alice opens the URL in her browser. The vendor's page asks her, and she clicks Allow.\nThe vendor sends the browser back to %s:", callback)
	page, err := allow(t, field(output, "authorization_url"))
	if err != nil {
		return err
	}
	fmt.Print(indent(page))
	if !strings.Contains(page, "Connected") {
		return errors.New("the consent did not connect the credential")
	}
	for _, path := range []string{"saas/authorize/" + person, "saas/creds/" + person} {
		output, err := t.shell.run("read", path)
		if err != nil {
			return err
		}
		if token := field(output, "access_token"); token != "" && !t.vendors.Accepts(token) {
			return fmt.Errorf("the vendor does not accept the token of %s", path)
		}
	}
	return nil
}

var (
	tags  = regexp.MustCompile(`(?s)<head>.*</head>|<[^>]*>`)
	lines = regexp.MustCompile(`\n\s*\n*`)
)

// allow does what a browser does when a person opens the vendor's page and clicks Allow. It returns the text
// of the page on which the browser ends.
func allow(t *tutorial, authorizationURL string) (string, error) {
	form := url.Values{"person": {person}, "decision": {"allow"}}
	req, err := http.NewRequestWithContext(t.ctx, http.MethodPost, authorizationURL, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	text := html.UnescapeString(tags.ReplaceAllString(string(body), ""))
	return strings.TrimSpace(lines.ReplaceAllString(text, "\n")) + "\n", nil
}

package kensho

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// refresh is a credential with a refresh token. The token can be exchanged any number of
// times, and expires after seven days without use.
type refresh struct {
	client *provider.Client
	token  string
	url    *url.URL
	names  dialect
}

// A dialect has a product's names for the parameter of the request and for the members of
// the response.
type dialect struct {
	parameter string
	answer    func(reply) (accessToken, refreshToken provider.Text)
}

// reply has the members of both dialects.
type reply struct {
	AccessToken       provider.Text `json:"accessToken"`
	RefreshToken      provider.Text `json:"refreshToken"`
	SnakeAccessToken  provider.Text `json:"access_token"`
	SnakeRefreshToken provider.Text `json:"refresh_token"`
}

var (
	linkDialect = dialect{
		parameter: "refreshToken",
		answer:    func(r reply) (provider.Text, provider.Text) { return r.AccessToken, r.RefreshToken },
	}
	sisterDialect = dialect{
		parameter: "refresh_token",
		answer:    func(r reply) (provider.Text, provider.Text) { return r.SnakeAccessToken, r.SnakeRefreshToken },
	}
)

func openRefresh(c config, client *provider.Client) (provider.Credential, error) {
	if err := provider.CheckFormValue("refresh_token", c.RefreshToken); err != nil {
		return nil, err
	}
	host, names := c.Product, sisterDialect
	if c.Product == "link" {
		host, names = "link-streaming", linkDialect
	}
	raw := "https://" + host + ".kensho.com/oauth2/refresh"
	if c.RefreshURL != "" {
		raw = c.RefreshURL
	}
	if err := provider.CheckURL("refresh_url", raw); err != nil {
		return nil, err
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	return &refresh{client: client, token: c.RefreshToken, url: u, names: names}, nil
}

// idleLifetime is how long a refresh token stays valid without use, as Kensho documents it.
const idleLifetime = 7 * 24 * time.Hour

// MaxIdle returns seven days.
func (r *refresh) MaxIdle() time.Duration { return idleLifetime }

// Scope returns nil, as only the vendor knows the scope.
func (r *refresh) Scope() []string { return nil }

// Destinations returns the refresh URL.
func (r *refresh) Destinations() provider.Destinations {
	return provider.Destinations{URLs: []string{r.url.String()}}
}

// Narrow returns an error, as the refresh endpoint takes no scope.
func (r *refresh) Narrow([]string) (provider.Credential, error) {
	return nil, provider.Errorf(provider.Invalid, "scope: a Kensho refresh token yields only tokens of its own scope; omit scope, or use a credential with a key pair")
}

// Exchange calls the refresh endpoint. The response states no expiry: the access token
// expires on the full hour, UTC, unless it is a JWT with another exp.
func (r *refresh) Exchange(ctx context.Context, last provider.Grant) (*provider.Answer, error) {
	token := r.token
	if last.RefreshToken != "" {
		token = last.RefreshToken
	}
	u := *r.url
	query := u.Query()
	query.Set(r.names.parameter, token)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, provider.Errorf(provider.Invalid, "refresh_url: not a valid URL for a request")
	}

	res, err := r.client.Do(req, token)
	if err != nil {
		return nil, provider.CheckField(err, "refresh_url")
	}
	var body reply
	if err := res.Decode(&body); err != nil {
		return nil, provider.CheckField(err, "refresh_url")
	}
	accessToken, rotated := r.names.answer(body)
	answer := &provider.Answer{AccessToken: string(accessToken), OnTheHour: true, Clock: res.Clock}
	if accessToken == "" {
		answer.Unusable = res.NoToken("") // a rotated refresh token still counts
	}
	if next := provider.Replacement(string(rotated), token); next != "" {
		answer.Grant = &provider.Grant{RefreshToken: next}
	}
	return answer, nil
}

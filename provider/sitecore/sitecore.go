// Package sitecore exchanges credentials of Sitecore Search.
package sitecore

import (
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-tokenbroker/provider"
)

const (
	defaultBaseURL = "https://api.rfksrv.com"
	endpoint       = "/account/1/access-token"

	// The vendor's documented defaults for a request without expiries.
	defaultAccessExpiry  = 24 * time.Hour
	defaultRefreshExpiry = 7 * 24 * time.Hour
)

// Provider implements [provider.Provider] for Sitecore Search.
type Provider struct{}

// config has the fields of a Sitecore credential.
type config struct {
	APIKey        string           `json:"api_key"`
	RefreshToken  string           `json:"refresh_token"`
	Scope         []string         `json:"scope"`
	AccessExpiry  provider.Seconds `json:"access_expiry"`
	RefreshExpiry provider.Seconds `json:"refresh_expiry"`
	BaseURL       string           `json:"base_url"`
}

// Name returns "sitecore".
func (Provider) Name() string { return "sitecore" }

// Summary describes Sitecore Search in one line.
func (Provider) Summary() string { return "Sitecore Search" }

// About returns where the credentials come from.
func (Provider) About() provider.About {
	return provider.About{
		Notes: "Generate an API key in the Customer Engagement Console. Its access tokens are valid for access_expiry, 1 day by default. " +
			"The Ingestion API takes the API key itself",
		Docs: []string{
			"https://doc.sitecore.com/search/en/developers/search-developer-guide/api-authentication-and-authorization.html",
			"https://doc.sitecore.com/search/en/developers/search-developer-guide/get-an-access-token-and-a-refresh-token.html",
		},
		Evidence: "documentation",
	}
}

// Example returns the fields of a typical credential.
func (Provider) Example() string { return "api_key=... scope=discover,event" }

// Fields returns the fields of an API key and of a refresh token.
func (Provider) Fields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"api_key": {
			Type:         framework.TypeString,
			Description:  "The API key from the Customer Engagement Console. It yields pairs of an access token and a refresh token.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "API key", Sensitive: true},
		},
		"refresh_token": {
			Type:         framework.TypeString,
			Description:  "A refresh token. Required without api_key. With one, the engine uses the refresh token first.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Refresh token", Sensitive: true},
		},
		"scope": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "The scopes to request with the API key, such as discover or event. Needs api_key. Default: discover.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Scope"},
		},
		"access_expiry": {
			Type:         framework.TypeDurationSecond,
			Description:  "The lifetime of access tokens to request with the API key. Without api_key, the lifetime that was requested for the refresh token's pair. Default: the vendor's (1 day).",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Access token expiry"},
		},
		"refresh_expiry": {
			Type:         framework.TypeDurationSecond,
			Description:  "The lifetime of refresh tokens to request with the API key. Needs api_key. Default: the vendor's (7 days).",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Refresh token expiry"},
		},
		"base_url": {
			Type:         framework.TypeString,
			Description:  "The URL of the vendor's host, such as a staging or regional one, without the path of the endpoint. Default: " + defaultBaseURL + ".",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Base URL"},
		},
	}
}

// Open validates the fields.
func (Provider) Open(s provider.Settings) (provider.Credential, error) {
	var c config
	if err := provider.DecodeFields(s.Fields, &c); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	if len(c.Scope) == 0 && c.APIKey != "" {
		c.Scope = []string{"discover"}
	}
	if c.BaseURL == "" {
		c.BaseURL = defaultBaseURL
	}
	return newCredential(c, s.Client), nil
}

func (c config) check() error {
	if c.APIKey == "" {
		switch {
		case c.RefreshToken == "":
			return provider.Errorf(provider.Invalid, "a Sitecore credential needs api_key, or refresh_token, or both")
		case len(c.Scope) > 0:
			return provider.Errorf(provider.Invalid, `scope: needs api_key, as a refresh token keeps its original scope; omit it, or clear it with scope=""`)
		case c.RefreshExpiry != 0:
			return provider.Errorf(provider.Invalid, "refresh_expiry: needs api_key, which yields refresh tokens; omit it, or clear it with refresh_expiry=0")
		}
	}
	if err := provider.CheckSecret("api_key", c.APIKey); err != nil {
		return err
	}
	if err := provider.CheckSecret("refresh_token", c.RefreshToken); err != nil {
		return err
	}
	if err := provider.CheckScope("scope", c.Scope); err != nil {
		return err
	}
	if c.BaseURL == "" {
		return nil
	}
	if strings.Contains(c.BaseURL, "?") {
		return provider.Errorf(provider.Invalid, "base_url: must not contain a query (?…), as the endpoint's path is appended")
	}
	return provider.CheckURL("base_url", c.BaseURL)
}

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

	// What the vendor documents for expiries that a request leaves out.
	defaultAccessExpiry  = 24 * time.Hour
	defaultRefreshExpiry = 7 * 24 * time.Hour
)

// Provider is Sitecore Search.
type Provider struct{}

// config is what an operator sets of a Sitecore credential.
type config struct {
	APIKey        string           `json:"api_key"`
	RefreshToken  string           `json:"refresh_token"`
	Scope         []string         `json:"scope"`
	AccessExpiry  provider.Seconds `json:"access_expiry"`
	RefreshExpiry provider.Seconds `json:"refresh_expiry"`
	BaseURL       string           `json:"base_url"`
}

// Name is "sitecore".
func (Provider) Name() string { return "sitecore" }

// Summary says what Sitecore Search is.
func (Provider) Summary() string { return "Sitecore Search" }

// Fields are an API key, a refresh token, and what to ask for with the key.
func (Provider) Fields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"api_key": {
			Type:         framework.TypeString,
			Description:  "The API key from the Customer Engagement Console. It mints pairs of access and refresh tokens.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "API key", Sensitive: true},
		},
		"refresh_token": {
			Type:         framework.TypeString,
			Description:  "A refresh token, used before the API key, or instead of one.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Refresh token", Sensitive: true},
		},
		"scope": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "The scopes to mint tokens for, such as discover or event. Needs api_key. Default: discover.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Scope"},
		},
		"access_expiry": {
			Type:         framework.TypeDurationSecond,
			Description:  "The lifetime to ask for of access tokens; with a refresh token alone, the one that it was minted with. Default: left to the vendor (1 day).",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Access token expiry"},
		},
		"refresh_expiry": {
			Type:         framework.TypeDurationSecond,
			Description:  "The lifetime to ask for of refresh tokens. Needs api_key. Default: left to the vendor (7 days).",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Refresh token expiry"},
		},
		"base_url": {
			Type:         framework.TypeString,
			Description:  "The host to call, for a staging or regional one, without the path of the endpoint. Default: " + defaultBaseURL + ".",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Base URL"},
		},
	}
}

// Open checks the fields.
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
			return provider.Errorf(provider.Invalid, `scope: needs api_key, as a refresh token keeps the scope that it was minted with; leave it out or clear it with scope=""`)
		case c.RefreshExpiry != 0:
			return provider.Errorf(provider.Invalid, "refresh_expiry: needs api_key, which mints refresh tokens; leave it out or clear it with refresh_expiry=0")
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
		return provider.Errorf(provider.Invalid, "base_url: must not hold a query (?…); the endpoint's path is put behind it")
	}
	return provider.CheckURL("base_url", c.BaseURL)
}

// Package kensho exchanges credentials of S&P Global's Kensho products: Link, Scribe, NERD,
// Classify, Extract, kfinance and Caterpillar.
package kensho

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-tokenbroker/provider"
)

// Provider implements [provider.Provider] for Kensho.
type Provider struct{}

// products are the values of the field product, the default first. Each has a scope
// kensho:app:<product>.
var products = []string{"link", "scribe", "nerd", "classify", "extract", "kfinance", "caterpillar"}

// kinds are the kinds of credential. The fields that are set choose exactly one of them:
// needs are its required fields, options its optional ones.
var kinds = []struct {
	needs   []string
	options []string
}{
	{needs: []string{"refresh_token"}, options: []string{"refresh_url"}},
	{needs: []string{"client_id", "private_key"}, options: []string{"key_id", "scope", "token_url", "assertion_audience"}},
	{needs: []string{"access_token"}},
}

// config has the fields of a Kensho credential.
type config struct {
	Product      string   `json:"product"`
	RefreshToken string   `json:"refresh_token"`
	RefreshURL   string   `json:"refresh_url"`
	ClientID     string   `json:"client_id"`
	PrivateKey   string   `json:"private_key"`
	KeyID        string   `json:"key_id"`
	Scope        []string `json:"scope"`
	TokenURL     string   `json:"token_url"`
	AccessToken  string   `json:"access_token"`

	AssertionAudience string `json:"assertion_audience"`

	// MaxTTL is a field of every credential.
	MaxTTL provider.Seconds `json:"max_ttl"`
}

// Name returns "kensho".
func (Provider) Name() string { return "kensho" }

// Summary describes Kensho in one line.
func (Provider) Summary() string { return "Kensho (S&P Global): Link and its sister products" }

// About returns where the credentials come from.
func (Provider) About() provider.About {
	return provider.About{
		Notes: "Copy a refresh token from the Account page of the product, or give Kensho a public key and store the client ID that it sends. " +
			"A refresh token expires after 7 days without use; the engine uses it before then. Access tokens of a refresh token expire on the full hour, UTC",
		Docs: []string{
			"https://link-streaming.kensho.com/docs/guides/authentication-quickstart",
			"https://docs.kensho.com/authentication/keypair",
			"https://docs.kensho.com/llmreadyapi/kf-authentication",
		},
		Evidence: "documentation",
	}
}

// Example returns the fields of a typical credential.
func (Provider) Example() string { return "refresh_token=..." }

// Fields returns the fields of the three kinds of credential.
func (Provider) Fields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"product": {
			Type:          framework.TypeString,
			Description:   "The product that the credential is for. It determines the refresh URL of a refresh token and the default scope of a key pair.",
			Default:       "link",
			AllowedValues: provider.Allowed(products),
			DisplayAttrs:  &framework.DisplayAttributes{Name: "Product"},
		},
		"refresh_token": {
			Type:         framework.TypeString,
			Description:  "The refresh token from the product's Account page.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Refresh token", Sensitive: true},
		},
		"refresh_url": {
			Type:         framework.TypeString,
			Description:  "The URL of the refresh endpoint. Default: the product's own.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Refresh URL"},
		},
		"client_id": {
			Type:         framework.TypeString,
			Description:  "The client ID that Kensho issued for the public key.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Client ID"},
		},
		"private_key": {
			Type:         framework.TypeString,
			Description:  "The RSA private key in PEM (PKCS#1 or PKCS#8, 2048 to 8192 bits).",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Private key", Sensitive: true, EditType: "file"},
		},
		"key_id": {
			Type:         framework.TypeString,
			Description:  "The key ID, sent as the kid of assertions. Needed only if Kensho asks for one.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Key ID"},
		},
		"scope": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "The scopes to request with a key pair. Default: kensho:app:<product>.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Scope"},
		},
		"token_url": {
			Type:         framework.TypeString,
			Description:  "The token endpoint for a key pair, such as a proxy in front of Kensho. Default: " + defaultTokenURL + ".",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Token URL"},
		},
		"assertion_audience": {
			Type:         framework.TypeString,
			Description:  "The audience (aud) of a key pair's assertions. It does not depend on token_url. Default: " + defaultTokenURL + ".",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Assertion audience"},
		},
		"access_token": {
			Type:         framework.TypeString,
			Description:  "An access token copied from the Account page. It is served until it expires, on the hour, and cannot be renewed.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Access token", Sensitive: true},
		},
	}
}

// Open returns a credential of the kind that the fields determine.
func (Provider) Open(s provider.Settings) (provider.Credential, error) {
	var c config
	if err := provider.DecodeFields(s.Fields, &c); err != nil {
		return nil, err
	}
	if c.Product == "" {
		c.Product = products[0]
	}
	if !slices.Contains(products, c.Product) {
		return nil, provider.Errorf(provider.Invalid, "product: unknown product %s (allowed: %s)", provider.Quote(c.Product), strings.Join(products, ", "))
	}
	kind, err := choose(s.Fields)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "refresh_token":
		return openRefresh(c, s.Client)
	case "client_id":
		return openKeyPair(c, s.Client)
	default:
		return openPasted(c, s.WriteTime)
	}
}

// choose returns the first required field of the kind that the fields determine. Its error
// is of kind Invalid if they determine none or several, or are incomplete.
func choose(fields json.RawMessage) (string, error) {
	var set map[string]any
	if err := provider.DecodeFields(fields, &set); err != nil {
		return "", err
	}
	isSet := func(name string) bool { return set[name] != nil }

	chosen := -1
	for i, kind := range kinds {
		if !slices.ContainsFunc(kind.needs, isSet) {
			continue
		}
		if chosen >= 0 {
			return "", provider.Errorf(provider.Invalid, "%s and %s are mutually exclusive; keep one, and clear the other with %s",
				strings.Join(kinds[chosen].needs, "+"), strings.Join(kind.needs, "+"), clearing(kinds[chosen].needs))
		}
		chosen = i
	}
	if chosen < 0 {
		return "", provider.Errorf(provider.Invalid, "a Kensho credential needs refresh_token, or client_id and private_key, or access_token")
	}
	for _, name := range kinds[chosen].needs {
		if !isSet(name) {
			return "", provider.Errorf(provider.Invalid, "%s: must be set; a key pair needs client_id and private_key", name)
		}
	}
	for i, kind := range kinds {
		for _, name := range kind.options {
			if i != chosen && isSet(name) {
				return "", provider.Errorf(provider.Invalid, "%s: applies only to %s, not to %s; omit it, or clear it with %s",
					name, strings.Join(kind.needs, "+"), strings.Join(kinds[chosen].needs, "+"), clearing([]string{name}))
			}
		}
	}
	return kinds[chosen].needs[0], nil
}

func clearing(names []string) string {
	return strings.Join(names, `="" `) + `=""`
}

func scopeOf(product string) string { return fmt.Sprintf("kensho:app:%s", product) }

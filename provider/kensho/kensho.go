// Package kensho exchanges credentials of S&P Global's Kensho products: Link, and
// its sisters Scribe, NERD, Classify, Extract, kfinance and Caterpillar.
package kensho

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-tokenbroker/provider"
)

// Provider is Kensho.
type Provider struct{}

// products are the vendor's scopes, kensho:app:<product>.
var products = []string{"link", "scribe", "nerd", "classify", "extract", "kfinance", "caterpillar"}

// kinds are the ways to hold a credential: exactly one is to be chosen, by the
// fields that it needs. The others are its options.
var kinds = []struct {
	needs   []string
	options []string
}{
	{needs: []string{"refresh_token"}, options: []string{"refresh_url"}},
	{needs: []string{"client_id", "private_key"}, options: []string{"key_id", "scope", "token_url", "assertion_audience"}},
	{needs: []string{"access_token"}},
}

// config is what an operator sets of a Kensho credential.
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

	// MaxTTL is every credential's own.
	MaxTTL provider.Seconds `json:"max_ttl"`
}

// Name is "kensho".
func (Provider) Name() string { return "kensho" }

// Summary says what Kensho is.
func (Provider) Summary() string { return "Kensho (S&P Global): Link and its sister products" }

// Fields are those of the three kinds of credential.
func (Provider) Fields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"product": {
			Type:          framework.TypeString,
			Description:   "The product that the credential is for. It decides the host and the form of the refresh, and the scope of a key pair.",
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
			Description:  "Where to refresh, in place of the product's own URL.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Refresh URL"},
		},
		"client_id": {
			Type:         framework.TypeString,
			Description:  "The Client ID that Kensho gave for the public half of the key pair.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Client ID"},
		},
		"private_key": {
			Type:         framework.TypeString,
			Description:  "The private half of the RSA key pair, in PEM (PKCS#1 or PKCS#8, 2048 to 8192 bits).",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Private key", Sensitive: true, EditType: "file"},
		},
		"key_id": {
			Type:         framework.TypeString,
			Description:  "The key's ID, sent as the assertion's kid where Kensho asks for one.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Key ID"},
		},
		"scope": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "The scopes to ask for with a key pair. Default: kensho:app:<product>.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Scope"},
		},
		"token_url": {
			Type:         framework.TypeString,
			Description:  "Where to exchange the key pair's assertion: a proxy in front of Kensho. Default: " + defaultTokenURL + ".",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Token URL"},
		},
		"assertion_audience": {
			Type:         framework.TypeString,
			Description:  "The aud of a key pair's assertions, wherever token_url has them sent. Default: " + defaultTokenURL + ".",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Assertion audience"},
		},
		"access_token": {
			Type:         framework.TypeString,
			Description:  "An access token copied from the Account page. It is served until it dies, on the hour.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Access token", Sensitive: true},
		},
	}
}

// Open chooses the kind of credential by the fields that are set.
func (Provider) Open(s provider.Settings) (provider.Credential, error) {
	var c config
	if err := provider.DecodeFields(s.Fields, &c); err != nil {
		return nil, err
	}
	if c.Product == "" {
		c.Product = products[0]
	}
	if !slices.Contains(products, c.Product) {
		return nil, provider.Errorf(provider.Invalid, "product: %s is none of %s", provider.Quote(c.Product), strings.Join(products, ", "))
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

// choose returns the first needed field of the one kind of credential that the
// fields make up.
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
			return "", provider.Errorf(provider.Invalid, "%s and %s contradict each other: give one, and clear the other with %s",
				strings.Join(kinds[chosen].needs, "+"), strings.Join(kind.needs, "+"), clearing(kinds[chosen].needs))
		}
		chosen = i
	}
	if chosen < 0 {
		return "", provider.Errorf(provider.Invalid, "a Kensho credential needs refresh_token, or client_id and private_key, or access_token")
	}
	for _, name := range kinds[chosen].needs {
		if !isSet(name) {
			return "", provider.Errorf(provider.Invalid, "%s: is missing; a key pair needs client_id and private_key", name)
		}
	}
	for i, kind := range kinds {
		for _, name := range kind.options {
			if i != chosen && isSet(name) {
				return "", provider.Errorf(provider.Invalid, "%s: goes with %s alone, not with %s; leave it out or clear it with %s",
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

// Package oauth2 exchanges credentials of any vendor who speaks OAuth 2.0: client
// secrets, private keys and refresh tokens.
package oauth2

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-tokenbroker/provider"
)

// Provider is OAuth 2.0.
type Provider struct{}

// config is what an operator sets of an OAuth 2.0 credential.
type config struct {
	TokenURL          string            `json:"token_url"`
	Issuer            string            `json:"issuer"`
	RevocationURL     string            `json:"revocation_url"`
	GrantType         string            `json:"grant_type"`
	ClientID          string            `json:"client_id"`
	ClientSecret      string            `json:"client_secret"`
	PrivateKey        string            `json:"private_key"`
	KeyID             string            `json:"key_id"`
	SigningAlgorithm  string            `json:"signing_algorithm"`
	AuthStyle         string            `json:"auth_style"`
	RefreshToken      string            `json:"refresh_token"`
	Scope             []string          `json:"scope"`
	TokenParams       map[string]string `json:"token_params"`
	AssertionAudience string            `json:"assertion_audience"`
	AssertionSubject  string            `json:"assertion_subject"`
	ScopeInAssertion  bool              `json:"scope_in_assertion"`
	IdleExpiry        provider.Seconds  `json:"idle_expiry"`
	SingleToken       bool              `json:"single_token"`
	TransientErrors   []string          `json:"transient_errors"`

	// DefaultTTL is every credential's own, or that of the preset.
	DefaultTTL provider.Seconds `json:"default_ttl"`
}

// grantTypes are those of the field grant_type, and what is sent for each.
var grantTypes = map[string]string{
	"refresh_token":       RefreshToken,
	"client_credentials":  ClientCredentials,
	"jwt_bearer":          JWTBearer,
	"account_credentials": AccountCredentials,
}

// Name is "oauth2".
func (Provider) Name() string { return "oauth2" }

// Summary says what OAuth 2.0 is to the engine.
func (Provider) Summary() string { return "any vendor who speaks OAuth 2.0" }

// Fields are where the authorization server is, who the client is, and what it asks for.
func (Provider) Fields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"preset": {
			Type:          framework.TypeString,
			Description:   "A well-known vendor, whose URLs and ways need not be given. Other fields win over what it fills in.",
			AllowedValues: provider.Allowed(presetNames()),
			DisplayAttrs:  &framework.DisplayAttributes{Name: "Preset"},
		},
		"preset_params": {
			Type:         framework.TypeKVPairs,
			Description:  "What the preset has to know of your account at the vendor, such as domain=....",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Preset parameters"},
		},
		"token_url": {
			Type:         framework.TypeString,
			Description:  "The vendor's token endpoint.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Token URL"},
		},
		"issuer": {
			Type:         framework.TypeString,
			Description:  "The vendor's issuer, in place of token_url: its metadata (OpenID Connect Discovery, or RFC 8414) has the endpoints.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Issuer"},
		},
		"revocation_url": {
			Type:         framework.TypeString,
			Description:  "The vendor's revocation endpoint (RFC 7009), if there is one and the issuer's metadata does not have it.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Revocation URL"},
		},
		"grant_type": {
			Type:          framework.TypeString,
			Description:   "The grant to exchange. Default: refresh_token where there is a refresh token, else client_credentials.",
			AllowedValues: provider.Allowed(slices.Sorted(maps.Keys(grantTypes))),
			DisplayAttrs:  &framework.DisplayAttributes{Name: "Grant type"},
		},
		"client_id": {
			Type:         framework.TypeString,
			Description:  "The client's ID; of jwt_bearer, the assertion's issuer.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Client ID"},
		},
		"client_secret": {
			Type:         framework.TypeString,
			Description:  "The client's secret.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Client secret", Sensitive: true},
		},
		"private_key": {
			Type:         framework.TypeString,
			Description:  "The client's private key, in PEM: RSA of 2048 to 8192 bits, EC on P-256, P-384 or P-521, or Ed25519.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Private key", Sensitive: true, EditType: "file"},
		},
		"key_id": {
			Type:         framework.TypeString,
			Description:  "The key's ID, sent as the assertion's kid. Default: none, or the key_id of a generated key pair.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Key ID"},
		},
		"signing_algorithm": {
			Type:          framework.TypeString,
			Description:   "The algorithm to sign with, one that the key is for. Default: RS256 with an RSA key; ES256, ES384 or ES512 with an EC key, by its curve; EdDSA with an Ed25519 key.",
			AllowedValues: provider.Allowed(provider.Algorithms),
			DisplayAttrs:  &framework.DisplayAttributes{Name: "Signing algorithm"},
		},
		"auth_style": {
			Type:          framework.TypeString,
			Description:   "How the client proves itself. Default: by private_key if there is one, not at all if there is no secret either, else client_secret_basic is tried, then client_secret_post, and what worked is remembered. client_secret_basic_unencoded is for vendors that do not undo the encoding of RFC 6749 §2.3.1.",
			AllowedValues: provider.Allowed(authStyles),
			DisplayAttrs:  &framework.DisplayAttributes{Name: "Client authentication"},
		},
		"refresh_token": {
			Type:         framework.TypeString,
			Description:  "The refresh token. One that the vendor replaces is kept by the engine.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Refresh token", Sensitive: true},
		},
		"scope": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "The scopes to ask for. Default: left to the vendor.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Scope"},
		},
		"token_params": {
			Type:         framework.TypeKVPairs,
			Description:  "What else to send to the token endpoint, such as audience=... or resource=.... It is read back: no place for secrets.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Token parameters"},
		},
		"assertion_audience": {
			Type:         framework.TypeString,
			Description:  "The aud of assertions. Default: the token endpoint.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Assertion audience"},
		},
		"assertion_subject": {
			Type:         framework.TypeString,
			Description:  "Whom a jwt_bearer grant asks for: the assertion's sub.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Assertion subject"},
		},
		"scope_in_assertion": {
			Type:         framework.TypeBool,
			Description:  "Whether the scopes of a jwt_bearer grant go into the assertion and not into the form.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Scope in the assertion"},
		},
		"single_token": {
			Type:         framework.TypeBool,
			Description:  "Whether the vendor ends an access token when the next is exchanged: the next is not exchanged before the last has died, then.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Single token"},
		},
		"transient_errors": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "Error codes of the vendor for failures that pass by themselves, beside those that the engine knows, such as temporarily_unavailable. Any other error code is a rejection, unless the status is 429 or 5xx or the answer says when to retry.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Transient errors"},
		},
		"idle_expiry": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long the refresh token lives unused, if it dies of disuse: it is exchanged every keepalive_interval then.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Idle expiry"},
		},
	}
}

// Open checks the fields.
func (Provider) Open(s provider.Settings) (provider.Credential, error) {
	fields, err := Expand(s.Fields)
	if err != nil {
		return nil, err
	}
	var c config
	if err := provider.DecodeFields(fields, &c); err != nil {
		return nil, err
	}
	if err := c.complete(); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	client := Client{
		HTTP:                s.Client.WithTransient(c.TransientErrors),
		Server:              &Server{Issuer: c.Issuer, Endpoints: Endpoints{Token: c.TokenURL, Revocation: c.RevocationURL}, Field: urlField(s.Fields)},
		GrantType:           grantTypes[c.GrantType],
		ID:                  c.ClientID,
		Secret:              c.ClientSecret,
		AuthStyle:           c.AuthStyle,
		Assertion:           Assertion{Audience: c.AssertionAudience, Subject: c.AssertionSubject, HoldsScope: c.ScopeInAssertion},
		Refresh:             c.RefreshToken,
		Scopes:              c.Scope,
		Params:              c.TokenParams,
		DefaultTTL:          c.DefaultTTL.Duration(),
		IdleExpiry:          c.IdleExpiry.Duration(),
		InvalidatesPrevious: c.SingleToken,
	}
	if c.PrivateKey != "" {
		signer, err := provider.NewSigner(c.PrivateKey, c.SigningAlgorithm, cmp.Or(c.KeyID, s.Thumbprint))
		if err != nil {
			return nil, err
		}
		client.Signer = signer
	}
	return &client, nil
}

// complete fills in what follows from what is set.
func (c *config) complete() error {
	if c.GrantType == "" {
		c.GrantType = "client_credentials"
		if c.RefreshToken != "" {
			c.GrantType = "refresh_token"
		}
	}
	if grantTypes[c.GrantType] == "" {
		return provider.Errorf(provider.Invalid, "grant_type: %s is none of %s", provider.Quote(c.GrantType), strings.Join(slices.Sorted(maps.Keys(grantTypes)), ", "))
	}
	if c.AuthStyle != "" && !slices.Contains(authStyles, c.AuthStyle) {
		return provider.Errorf(provider.Invalid, "auth_style: %s is none of %s", provider.Quote(c.AuthStyle), strings.Join(authStyles, ", "))
	}
	if c.AuthStyle == "" {
		switch {
		case c.PrivateKey != "" && c.GrantType != "jwt_bearer":
			c.AuthStyle = PrivateKeyJWT
		case c.ClientSecret == "":
			c.AuthStyle = None
		}
	}
	return nil
}

package oauth2

import (
	"maps"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

// Fields returns the fields of the authorization server, of the client and of the request.
func (Provider) Fields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"token_url": {
			Type:         framework.TypeString,
			Description:  "The vendor's token endpoint.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Token URL"},
		},
		"issuer": {
			Type:         framework.TypeString,
			Description:  "The vendor's issuer, instead of token_url. The endpoints come from its metadata (OpenID Connect Discovery or RFC 8414).",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Issuer"},
		},
		"revocation_url": {
			Type:         framework.TypeString,
			Description:  "The vendor's revocation endpoint (RFC 7009). Default: that of the issuer's metadata, if any.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Revocation URL"},
		},
		"authorization_url": {
			Type:         framework.TypeString,
			Description:  "The vendor's authorization endpoint, where a person consents (authorize/<name>). Default: that of the issuer's metadata, if any.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Authorization URL"},
		},
		"authorization_params": {
			Type:         framework.TypeKVPairs,
			Description:  "Additional parameters of the authorization URL, such as access_type=offline.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Authorization parameters"},
		},
		"device_authorization_url": {
			Type:         framework.TypeString,
			Description:  "The vendor's device authorization endpoint (RFC 8628), for a consent with flow=device. Default: that of the issuer's metadata, if any.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Device authorization URL"},
		},
		"redirect_uri": provider.RedirectURIField(),
		"grant_type": {
			Type:          framework.TypeString,
			Description:   "The grant type. With refresh_token and no refresh_token, a person must consent at authorize/<name>. With token_exchange, the credential has no token of its own, and only exchanges those of callers at exchange/<name>. Default: refresh_token if refresh_token or authorization_url is set, otherwise client_credentials.",
			AllowedValues: provider.Allowed(slices.Sorted(maps.Keys(grantTypes))),
			DisplayAttrs:  &framework.DisplayAttributes{Name: "Grant type"},
		},
		"client_id": {
			Type:         framework.TypeString,
			Description:  "The client ID. With jwt_bearer, the issuer (iss) of the assertion.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Client ID"},
		},
		"client_secret": {
			Type:         framework.TypeString,
			Description:  "The client secret.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Client secret", Sensitive: true},
		},
		"private_key": {
			Type:         framework.TypeString,
			Description:  "The client's private key in PEM: RSA of 2048 to 8192 bits, EC on P-256, P-384 or P-521, or Ed25519.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Private key", Sensitive: true, EditType: "file"},
		},
		"certificate": {
			Type:         framework.TypeString,
			Description:  "The client's certificate in PEM, with the certificates that issued it, for auth_style=tls_client_auth. It is that of the private key.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Certificate", EditType: "file"},
		},
		"key_id": {
			Type:         framework.TypeString,
			Description:  "The key ID, sent as the kid of assertions. Default: none, or the key_id of a generated key pair.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Key ID"},
		},
		"signing_algorithm": {
			Type:          framework.TypeString,
			Description:   "The algorithm of assertions, which must fit the key. Default: RS256 for an RSA key; ES256, ES384 or ES512 for an EC key, by its curve; EdDSA for an Ed25519 key.",
			AllowedValues: provider.Allowed(provider.Algorithms),
			DisplayAttrs:  &framework.DisplayAttributes{Name: "Signing algorithm"},
		},
		"auth_style": {
			Type:          framework.TypeString,
			Description:   "How the client authenticates. Default: tls_client_auth if there is a certificate, private_key_jwt if there is a private_key, identity_token if there is an identity_token_audience, none if there is no client_secret either. With a client_secret, the engine tries client_secret_basic, then client_secret_post, and remembers which one worked. client_secret_basic_unencoded is for vendors that do not decode the encoding of RFC 6749 §2.3.1, tls_client_auth for a client certificate (RFC 8705), identity_token for a token of this server that the vendor trusts (RFC 7523).",
			AllowedValues: provider.Allowed(exchange.AuthStyles),
			DisplayAttrs:  &framework.DisplayAttributes{Name: "Client authentication"},
		},
		"refresh_token": {
			Type:         framework.TypeString,
			Description:  "The refresh token. If the vendor rotates it, the engine stores the new one.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Refresh token", Sensitive: true},
		},
		"scope": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "The scopes to request. Default: the vendor's.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Scope"},
		},
		"audience": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "The audiences to request tokens for (audience of the token request), where the vendor takes them. Default: the vendor's.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Audience"},
		},
		"resource": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "The resources to request tokens for, as absolute URIs (RFC 8707), where the vendor takes them. Default: the vendor's.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Resource"},
		},
		"token_params": {
			Type:         framework.TypeKVPairs,
			Description:  "Further parameters of the token request, such as audience=... or resource=.... A caller of exchange/<name> cannot change them. A read returns them, so do not put secrets here.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Token parameters"},
		},
		"assertion_audience": {
			Type:         framework.TypeString,
			Description:  "The audience (aud) of assertions. Default: the endpoint that receives the assertion.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Assertion audience"},
		},
		"assertion_subject": {
			Type:         framework.TypeString,
			Description:  "The subject (sub) of the assertion of a jwt_bearer grant: the user to act for.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Assertion subject"},
		},
		"identity_token_audience": {
			Type:         framework.TypeString,
			Description:  "The audience of the server's identity tokens, for auth_style=identity_token. Needs Vault Enterprise.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Identity token audience"},
		},
		"identity_token_ttl": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long an identity token is valid. Default: 1h.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Identity token TTL"},
		},
		"scope_in_assertion": {
			Type:         framework.TypeBool,
			Description:  "Whether to send the scopes of a jwt_bearer grant in the assertion instead of in the form.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Scope in the assertion"},
		},
		"single_token": {
			Type:         framework.TypeBool,
			Description:  "Whether an exchange invalidates the previous access token. If so, the engine renews a token only after it has expired.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Single token"},
		},
		"transient_errors": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "The vendor's error codes for transient failures, in addition to those that the engine knows, such as temporarily_unavailable. Any other error code is a rejection, unless the status is 429 or 5xx or the response has a Retry-After.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Transient errors"},
		},
		"idle_expiry": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long the refresh token stays valid without use, if it expires from disuse. If set, the engine exchanges it every keepalive_interval.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Idle expiry"},
		},
	}
}

// RoleFields implements provider.Narrowable.
func (Provider) RoleFields() map[string]provider.RoleField {
	return map[string]provider.RoleField{"audience": {}, "resource": {}, "token_params": {Adds: true}, "assertion_subject": {}}
}

package authserver

import (
	"crypto"

	"github.com/go-jose/go-jose/v4"
)

// A Client is the registration of a client (RFC 7591 §2).
type Client struct {
	ID         string              `json:"client_id"`
	Secret     string              `json:"client_secret,omitempty"`
	AuthMethod string              `json:"token_endpoint_auth_method"`
	Algorithm  string              `json:"token_endpoint_auth_signing_alg,omitempty"`
	Keys       *jose.JSONWebKeySet `json:"jwks,omitempty"`
	KeysURI    string              `json:"jwks_uri,omitempty"`
	Grants     []string            `json:"grant_types"`
	Scope      string              `json:"scope"`

	// RedirectURIs and ResponseTypes are for the authorization code grant.
	RedirectURIs  []string `json:"redirect_uris"`
	ResponseTypes []string `json:"response_types"`
}

// redirectURI has no server. Authorize takes the code from the redirect and does not follow it.
const redirectURI = "https://client.example/callback"

// Unattended returns a client for the client credentials grant.
func Unattended(id, secret, authMethod string) Client {
	return Client{
		ID: id, Secret: secret, AuthMethod: authMethod,
		Grants: []string{"client_credentials"}, Scope: "read write",
		RedirectURIs: []string{}, ResponseTypes: []string{},
	}
}

// Attended returns a client that a user authorizes with Authorize.
func Attended(id, secret, authMethod string) Client {
	return Client{
		ID: id, Secret: secret, AuthMethod: authMethod,
		Grants: []string{"authorization_code", "refresh_token"}, Scope: "read write offline_access",
		RedirectURIs: []string{redirectURI}, ResponseTypes: []string{"code"},
	}
}

// SignedBy returns the client with private_key_jwt authentication. key is the public key of its
// signatures.
func (c Client) SignedBy(key crypto.PublicKey, id, algorithm string) Client {
	c.AuthMethod, c.Algorithm = "private_key_jwt", algorithm
	c.Keys = &jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key, KeyID: id, Algorithm: algorithm, Use: "sig"}}}
	return c
}

// PublishedAt returns the client with private_key_jwt authentication. The server fetches its keys from a URL.
func (c Client) PublishedAt(keysURI, algorithm string) Client {
	c.AuthMethod, c.Algorithm, c.KeysURI = "private_key_jwt", algorithm, keysURI
	return c
}

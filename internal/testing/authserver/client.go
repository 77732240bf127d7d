package authserver

import (
	"crypto"

	"github.com/go-jose/go-jose/v4"
)

// A Client is one that the server knows (RFC 7591 §2).
type Client struct {
	ID         string              `json:"client_id"`
	Secret     string              `json:"client_secret,omitempty"`
	AuthMethod string              `json:"token_endpoint_auth_method"`
	Algorithm  string              `json:"token_endpoint_auth_signing_alg,omitempty"`
	Keys       *jose.JSONWebKeySet `json:"jwks,omitempty"`
	Grants     []string            `json:"grant_types"`
	Scope      string              `json:"scope"`

	// RedirectURIs and ResponseTypes are of the grant authorization_code.
	RedirectURIs  []string `json:"redirect_uris"`
	ResponseTypes []string `json:"response_types"`
}

// redirectURI is where nobody is: the code is taken out of it on the way.
const redirectURI = "https://client.example/callback"

// Unattended is a client that gets tokens of its own, by client_credentials.
func Unattended(id, secret, authMethod string) Client {
	return Client{
		ID: id, Secret: secret, AuthMethod: authMethod,
		Grants: []string{"client_credentials"}, Scope: "read write",
		RedirectURIs: []string{}, ResponseTypes: []string{},
	}
}

// Attended is a client that a user authorizes: see Authorize.
func Attended(id, secret, authMethod string) Client {
	return Client{
		ID: id, Secret: secret, AuthMethod: authMethod,
		Grants: []string{"authorization_code", "refresh_token"}, Scope: "read write offline_access",
		RedirectURIs: []string{redirectURI}, ResponseTypes: []string{"code"},
	}
}

// SignedBy is the client with private_key_jwt: the public half of the key that it
// signs by, the key's ID, and the algorithm.
func (c Client) SignedBy(key crypto.PublicKey, id, algorithm string) Client {
	c.AuthMethod, c.Algorithm = "private_key_jwt", algorithm
	c.Keys = &jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key, KeyID: id, Algorithm: algorithm, Use: "sig"}}}
	return c
}

package tokenbroker

import (
	"context"
	"fmt"
	"net/http"
	"regexp"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/credential"
)

// jwksPaths are the paths of pathJWKS, as patterns of Vault's unauthenticated paths. They return only what a
// vendor must know.
var jwksPaths = []string{"jwks/+", "jwks/+" + discovery}

// discovery is where OpenID Connect Discovery 1.0 has the document of an issuer, below the issuer.
const discovery = "/.well-known/openid-configuration"

const jwksPrefix = "jwks/"

func (b *backend) pathJWKS() []*framework.Path {
	path := func(suffix, operation, mediaType, summary, help, example string, document func(*credential.KeySet) []byte) *framework.Path {
		read := &framework.PathOperation{
			Callback: func(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
				return b.readKeySet(ctx, req.Storage, d.Get("name").(string), mediaType, document)
			},
			Summary:                     summary,
			ForwardPerformanceStandby:   true,
			ForwardPerformanceSecondary: true,
			Responses:                   map[int][]framework.Response{200: {{Description: "OK", MediaType: mediaType}}},
			DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "read", OperationSuffix: operation},
		}
		return &framework.Path{
			Pattern:         jwksPrefix + apipath.NamePattern("name") + regexp.QuoteMeta(suffix) + "$",
			DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix},
			Fields:          map[string]*framework.FieldSchema{"name": keypairNameField()},
			Operations:      map[logical.Operation]framework.OperationHandler{logical.ReadOperation: read, logical.HeaderOperation: read},
			HelpSynopsis:    summary,
			HelpDescription: withExample(help, example),
		}
	}
	return []*framework.Path{
		path("", "jwks", "application/jwk-set+json", "Read the public keys of a published key pair (RFC 7517).", jwksHelpDescription,
			"vault read -format=raw kensho/jwks/batch", func(set *credential.KeySet) []byte { return set.JWKS }),
		path(discovery, "openid-configuration", "application/json", "Read the OpenID discovery document of a published key pair.", discoveryHelpDescription,
			"vault read -format=raw kensho/jwks/batch"+discovery, func(set *credential.KeySet) []byte { return set.Discovery }),
	}
}

// noKeySet is the answer for every name without a published key pair, so that nobody learns which names
// exist.
const noKeySet = `{"errors":["no key pair is published here"]}`

// readKeySet returns one of the documents of a key pair. It reads storage only after a start or a
// change, as anyone may ask.
func (b *backend) readKeySet(ctx context.Context, s logical.Storage, name, mediaType string, document func(*credential.KeySet) []byte) (*logical.Response, error) {
	set, err := b.store.KeySet(ctx, s, name)
	switch {
	case err != nil:
		b.Logger().Debug("cannot read the published keys", "keypair", name, "error", err) // anyone may ask
		return nil, logical.CodedError(http.StatusServiceUnavailable, "storage is unavailable; try again")
	case set == nil || document(set) == nil:
		return raw(http.StatusNotFound, "application/json", "no-store", []byte(noKeySet)), nil
	}
	return raw(http.StatusOK, mediaType, fmt.Sprintf("public, max-age=%d", int(set.MaxAge.Seconds())), document(set)), nil
}

func raw(status int, mediaType, cacheControl string, body []byte) *logical.Response {
	return &logical.Response{Data: map[string]any{
		logical.HTTPStatusCode: status, logical.HTTPContentType: mediaType,
		logical.HTTPRawBody: body, logical.HTTPCacheControlHeader: cacheControl,
	}}
}

const jwksHelpDescription = `
Not authenticated, as vendors have no token of Vault. Give a vendor the URL of this path
as the jwks_uri of the client. It has the active key, the pending one, and former ones
until what they have signed has expired. The Cache-Control header says for how long a
vendor may cache them: it then sees each key before the key signs.

The answer is 404 unless keypair/<name> has publish=true.
`

const discoveryHelpDescription = `
Not authenticated. For vendors that take an issuer in place of a jwks_uri (OpenID Connect
Discovery 1.0). The issuer and the jwks_uri are the issuer of keypair/<name>, which is
the URL of jwks/<name>.

The answer is 404 unless keypair/<name> has publish=true and an issuer.
`

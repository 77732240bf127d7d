package engine

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// NextClientID is the client ID that Kensho assigns to the pending key pair.
const NextClientID = "0oa2clientid3"

// Activate activates the pending pair of the key pair prod. It returns the HTTP status and error
// message that a client sees.
func (e *Engine) Activate(data map[string]any) (status int, message string) {
	e.T.Helper()
	_, status, message = e.Request(logical.UpdateOperation, "keypair/prod/activate", data)
	return status, message
}

// Tokens returns the access tokens of prod and scribe, by name.
func (e *Engine) Tokens() map[string]any {
	e.T.Helper()
	return map[string]any{"prod": e.Creds("prod").Data["access_token"], "scribe": e.Creds("scribe").Data["access_token"]}
}

// Keypair generates a key pair, and returns the response. It fails the test unless the response
// matches the path's schema.
func (e *Engine) Keypair(name string, data map[string]any) *logical.Response {
	e.T.Helper()
	resp, status, message := e.Request(logical.UpdateOperation, "keypair/"+name, data)
	require.Equal(e.T, http.StatusOK, status, message)
	declared := schema.GetResponseSchema(e.T, e.Route("keypair/"+name), logical.UpdateOperation)
	schema.ValidateResponse(e.T, declared, resp, true)
	return resp
}

// Pending generates a pending pair, and returns its response. The fields have the names of an
// active pair, without the prefix pending_.
func (e *Engine) Pending(name string, data map[string]any) *logical.Response {
	e.T.Helper()
	resp := e.Keypair(name, data)
	fields := map[string]any{}
	for field, value := range resp.Data {
		if of, isPending := strings.CutPrefix(field, "pending_"); isPending {
			fields[of] = value
		}
	}
	delete(fields, "published_time")
	assert.Len(e.T, fields, 5)
	resp.Data = fields
	return resp
}

// PublicKey parses the PEM public key of a response.
func PublicKey(t *testing.T, answer any) any {
	t.Helper()
	block, rest := pem.Decode([]byte(answer.(string)))
	require.NotNil(t, block)
	assert.Empty(t, rest)
	assert.Equal(t, "PUBLIC KEY", block.Type)
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	require.NoError(t, err)
	return key
}

// Register adds a client with a response's PEM public key to the simulated Kensho.
func (e *Engine) Register(client string, answer any) {
	e.T.Helper()
	e.Sim.AddClient(client, PublicKey(e.T, answer).(*rsa.PublicKey), "")
}

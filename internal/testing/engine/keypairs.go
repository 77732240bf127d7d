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

// NextClientID is the client ID that Kensho gives for a pending pair.
const NextClientID = "0oa2clientid3"

// Activate activates the pending pair of the key pair prod.
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

// Keypair makes a key pair, and returns what is answered.
func (e *Engine) Keypair(name string, data map[string]any) *logical.Response {
	e.T.Helper()
	resp, status, message := e.Request(logical.UpdateOperation, "keypair/"+name, data)
	require.Equal(e.T, http.StatusOK, status, message)
	declared := schema.GetResponseSchema(e.T, e.Route("keypair/"+name), logical.UpdateOperation)
	schema.ValidateResponse(e.T, declared, resp, true)
	return resp
}

// Pending makes a pair that is to take the active one's place, and returns what is
// answered of it, in the fields of an active one.
func (e *Engine) Pending(name string, data map[string]any) *logical.Response {
	e.T.Helper()
	resp := e.Keypair(name, data)
	fields := map[string]any{}
	for field, value := range resp.Data {
		if of, isPending := strings.CutPrefix(field, "pending_"); isPending {
			fields[of] = value
		}
	}
	assert.Len(e.T, fields, 5)
	resp.Data = fields
	return resp
}

// PublicKey is the key of an answer.
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

// Register has Kensho know the public half of an answer by a client ID.
func (e *Engine) Register(client string, answer any) {
	e.T.Helper()
	e.Sim.AddClient(client, PublicKey(e.T, answer).(*rsa.PublicKey), "")
}

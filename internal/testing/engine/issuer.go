package engine

import (
	"maps"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// mountURL is the URL of the mount, as vendors reach it.
const mountURL = "https://vault.example.com/v1/" + MountPoint

// PublishKeypair generates a key pair with an issuer that vendors can reach, and returns the issuer.
func (e *Engine) PublishKeypair(name string, data map[string]any) string {
	e.T.Helper()
	issuer := mountURL + "jwks/" + name
	all := map[string]any{"publish": true, "issuer": issuer}
	maps.Copy(all, data)
	e.Keypair(name, all)
	e.Sim.AddIdentityProvider(issuer, e.Fetch)
	return issuer
}

// Fetch reads a URL of the mount, at any host, as anyone can. It is a vendorsim.Fetch.
func (e *Engine) Fetch(url string) (status int, body []byte) {
	_, path, isOurs := strings.Cut(url, "/v1/"+MountPoint)
	if !isOurs {
		return http.StatusNotFound, nil
	}
	resp, status, _ := e.Request(logical.ReadOperation, path, nil)
	if resp == nil || resp.Data[logical.HTTPRawBody] == nil {
		return status, nil
	}
	return resp.Data[logical.HTTPStatusCode].(int), resp.Data[logical.HTTPRawBody].([]byte)
}

// AddEntraApp adds an application of Entra that trusts a subject of an issuer, and returns the fields of its
// credential.
func (e *Engine) AddEntraApp(id, issuer, subject string) map[string]any {
	e.Sim.AddEntraApp(vendorsim.EntraApp{
		Tenant: "acme.example", ClientID: id, Subject: subject,
		Trust: vendorsim.Trust{Issuer: issuer, Audiences: []string{vendorsim.EntraAudience}},
	})
	return map[string]any{"tenant": "acme.example", "client_id": id}
}

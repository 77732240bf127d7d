//go:build e2e

package e2e

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/test/internal/authserver"
)

// engine is an application that reads its tokens from the engine.
type engine struct {
	*mount
	credential credential
	configured bool
}

func newEngine(t *testing.T, c credential) application {
	t.Helper()
	return &engine{mount: enable(t, "oauth2-"+strings.ToLower(rand.Text())), credential: c}
}

func (e *engine) exchange() (accessToken string, err error) {
	if e.configured {
		err = e.send("refresh/shared", nil)
	} else {
		err = e.configure()
	}
	if err != nil {
		return "", err
	}
	accessToken, _, err = e.read("creds/shared")
	return accessToken, err
}

// lease reads a dedicated token, which end revokes with its lease.
func (e *engine) lease() (accessToken string, end func() error, err error) {
	if !e.configured {
		err = e.configure()
	}
	if err == nil {
		err = e.send("roles/own", map[string]any{"config": "shared", "dedicated": true})
	}
	if err != nil {
		return "", nil, err
	}
	accessToken, lease, err := e.read("creds/own")
	return accessToken, func() error {
		return e.root.Sys().RevokeWithOptionsWithContext(e.t.Context(), &api.RevokeOptions{LeaseID: lease, Sync: true})
	}, err
}

func (e *engine) configure() error {
	c := e.credential
	fields := map[string]any{
		"issuer": c.server.Issuer, "client_id": c.client.ID, "auth_style": c.client.AuthMethod,
		"scope": c.scope, "token_params": c.params,
	}
	for field, value := range map[string]string{
		"client_secret": c.client.Secret, "refresh_token": c.refreshToken, "key_id": c.keyID, "signing_algorithm": c.client.Algorithm,
	} {
		if value != "" {
			fields[field] = value
		}
	}
	if c.key != nil {
		der, err := x509.MarshalPKCS8PrivateKey(c.key)
		require.NoError(e.t, err)
		fields["private_key"] = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	if err := e.send("config/oauth2/shared", fields); err != nil {
		return err
	}
	e.configured = true
	return nil
}

func (e *engine) send(path string, data map[string]any) error {
	_, err := e.root.Logical().WriteWithContext(e.t.Context(), e.path+"/"+path, data)
	return err
}

func (e *engine) read(path string) (accessToken, lease string, err error) {
	secret, err := e.root.Logical().ReadWithContext(e.t.Context(), e.path+"/"+path)
	if err != nil {
		return "", "", err
	}
	accessToken, _ = secret.Data["access_token"].(string)
	return accessToken, secret.LeaseID, nil
}

func TestRealServerRevokesDroppedTokens(t *testing.T) {
	client := authserver.Unattended("client", "secret-of-the-client", "client_secret_basic")
	server := startAuthServer(t, client)
	e := newEngine(t, credential{server: server, client: client, scope: []string{"read"}}).(*engine)
	first, err := e.exchange()
	require.NoError(t, err)
	assertActive(t, server, first, client, "read")

	require.NoError(t, e.send("refresh/shared", map[string]any{"drop": true}))
	second, _, err := e.read("creds/shared")
	require.NoError(t, err)
	assertInactive(t, server, first)
	assertActive(t, server, second, client, "read")

	_, err = e.root.Logical().DeleteWithContext(t.Context(), e.path+"/config/oauth2/shared")
	require.NoError(t, err)
	assertInactive(t, server, second)
}

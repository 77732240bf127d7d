//go:build e2e

// Package e2e tests the plugin as it ships in a real server: VAULT names the
// server's binary, PLUGIN the plugin's, PLUGIN_VERSION the version that it was
// built with, and KUBERNETES_AUTH Vault's auth method for Kubernetes if the server is
// built without it. `make e2e` sets them.
package e2e

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/process"
	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const (
	pluginName   = "tokenbroker"
	refreshToken = "refresh-token-of-kensho-0123456789"
	apiKey       = "01-4d3c2b1a-0f9e8d7c6b5a49382716051423324150617283940a1"
	clientID     = "0oa1clientid2"
)

// patience is the longest wait for an event. It is long for busy machines, and costs time only if
// the event does not come.
const patience = 5 * time.Minute

// world is a server on which the plugin is registered.
type world struct {
	server  *vaultserver.Server
	root    *api.Client
	version string
	log     *logBuffer // the log of the server and its plugins
	outside *outside   // the answers to the tests' requests
}

// w is the dev-mode server that most tests share.
var w *world

func TestMain(m *testing.M) {
	status, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

func runAll(m *testing.M) (status int, err error) {
	// The tests' folders, some with a copy of the repository, are removed also if a signal ends
	// the tests.
	scratch, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		return 1, err
	}
	if err := errors.Join(process.RemoveAtExit(scratch), os.Setenv("GOTMPDIR", scratch)); err != nil {
		return 1, err
	}
	w, err = newWorld(context.Background(), vaultserver.StartDev)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, w.server.Stop()) }()
	defer closeBrowser()
	return m.Run(), tallyCanaries()
}

// starter is vaultserver.StartDev or vaultserver.StartRaft.
type starter func(ctx context.Context, binary string, log io.Writer, environ ...string) (*vaultserver.Server, error)

func newWorld(ctx context.Context, start starter) (*world, error) {
	w, err := bareWorld(ctx, start)
	if err != nil {
		return nil, err
	}
	if err := w.register(ctx); err != nil {
		return nil, errors.Join(err, w.server.Stop())
	}
	return w, nil
}

// atTrace is the environment of a server that logs at the lowest level.
var atTrace = []string{"VAULT_LOG_LEVEL=trace", "BAO_LOG_LEVEL=trace"}

// bareWorld returns a world without the plugin. environ is added to the server's environment.
func bareWorld(ctx context.Context, start starter, environ ...string) (_ *world, err error) {
	binary, plugin, version := os.Getenv("VAULT"), os.Getenv("PLUGIN"), os.Getenv("PLUGIN_VERSION")
	if binary == "" || plugin == "" || version == "" {
		return nil, errors.New("run these tests by `make e2e`: VAULT, PLUGIN or PLUGIN_VERSION is not set")
	}
	w := &world{log: &logBuffer{}, outside: &outside{}, version: version}
	environ = append(environ, atTrace...)
	if w.server, err = start(ctx, binary, w.log, environ...); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, w.log)
	}
	if w.root, err = w.server.Client(); err != nil {
		return nil, errors.Join(err, w.server.Stop())
	}
	if err := w.watch(ctx); err != nil {
		return nil, errors.Join(err, w.server.Stop())
	}
	return w, nil
}

// register registers the plugin, and the auth method if there is one to register.
func (w *world) register(ctx context.Context) error {
	err := w.registerPlugin(ctx, "secret", pluginName, os.Getenv("PLUGIN"), "-version="+w.version)
	if method := os.Getenv("KUBERNETES_AUTH"); err == nil && method != "" {
		err = w.registerPlugin(ctx, "auth", "kubernetes", method)
	}
	return err
}

func (w *world) registerPlugin(ctx context.Context, kind, name, binary string, options ...string) error {
	if err := w.server.InstallPlugin(binary); err != nil {
		return err
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	args := append([]string{
		"plugin", "register",
		fmt.Sprintf("-sha256=%x", sha256.Sum256(content)), "-command=" + filepath.Base(binary),
	}, options...)
	output, err := w.server.Command(ctx, w.server.Token, append(args, kind, name)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, output)
	}
	return nil
}

// logBuffer collects the server's output, and the plugin's with it.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// mount is a mount of the engine, with its own simulated vendors.
type mount struct {
	*world
	t    *testing.T
	path string
	sim  *vendorsim.Sim
	base string // the URL of the simulated vendors
}

var privateKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func privateKeyPEM() string { return encodeKey(privateKey()) }

func encodeKey(key *rsa.PrivateKey) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
}

// enable mounts the engine on the shared server. Its vendors accept refreshToken, apiKey, and
// clientID with privateKey.
func enable(t *testing.T, path string) *mount {
	t.Helper()
	return w.enable(t, path)
}

func (w *world) enable(t *testing.T, path string) *mount {
	t.Helper()
	return w.enableAs(t, pluginName, path)
}

// enableAs mounts the engine under the name with which the plugin is registered.
func (w *world) enableAs(t *testing.T, plugin, path string) *mount {
	t.Helper()
	m := &mount{world: w, t: t, path: path, sim: vendorsim.New()}
	server := httptest.NewServer(m.sim)
	t.Cleanup(server.Close)
	m.base = server.URL
	m.behave(vendorsim.Conduct{})
	m.sim.AddRefreshToken("link-streaming", refreshToken)
	m.sim.AddAPIKey(apiKey)
	m.sim.AddClient(clientID, &privateKey().PublicKey, "")

	require.NoError(t, w.root.Sys().MountWithContext(t.Context(), path, &api.MountInput{
		Type: plugin, Config: api.MountConfigInput{PluginVersion: w.version},
	}))
	t.Cleanup(func() {
		require.NoError(t, w.root.Sys().UnmountWithContext(context.Background(), path))
		require.Empty(t, m.sim.Violations(), "requests that no vendor documents")
		w.assertNoSecretLeft(t, m.sim)
	})
	return m
}

// behave changes the behavior of the vendors. Tokens that Kensho issues for a refresh token expire
// in 50 minutes and not on the full hour, which might come during a test.
func (m *mount) behave(c vendorsim.Conduct) {
	c.HourOffset = hourOffset()
	m.sim.Behave(c)
}

// hourOffset returns the offset from the full hour of a time in 50 minutes.
func hourOffset() time.Duration {
	expiry := time.Now().Add(50 * time.Minute).Truncate(time.Second)
	return expiry.Sub(expiry.Truncate(time.Hour))
}

// kensho returns the fields of a credential with the refresh token, and without a keepalive, which
// might come during a test.
func (m *mount) kensho() map[string]any {
	return map[string]any{
		"refresh_token": refreshToken, "keepalive_interval": 0,
		"refresh_url": vendorsim.URL(m.base, "https://link-streaming.kensho.com/oauth2/refresh"),
	}
}

// keyPair returns the fields of a credential with the key pair.
func (m *mount) keyPair() map[string]any {
	return map[string]any{
		"client_id": clientID, "private_key": privateKeyPEM(),
		"token_url": vendorsim.URL(m.base, "https://kensho.okta.com/oauth2/default/v1/token"),
	}
}

// sitecore returns the fields of a credential with the API key.
func (m *mount) sitecore() map[string]any {
	return map[string]any{"api_key": apiKey, "scope": "discover", "base_url": vendorsim.URL(m.base, "https://api.rfksrv.com")}
}

func (m *mount) write(path string, data map[string]any) {
	m.t.Helper()
	_, err := m.root.Logical().WriteWithContext(m.t.Context(), m.path+"/"+path, data)
	require.NoError(m.t, err)
}

// creds reads a token, and fails the test unless the vendor accepts it.
func (m *mount) creds(name string) *api.Secret {
	m.t.Helper()
	secret, err := m.root.Logical().ReadWithContext(m.t.Context(), m.path+"/creds/"+name)
	require.NoError(m.t, err)
	require.True(m.t, m.sim.Accepts(secret.Data["access_token"].(string)))
	return secret
}

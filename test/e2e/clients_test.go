//go:build e2e

package e2e

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/process"
	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const (
	// clientLifetime is the lifetime of the tokens that the clients send, and clientLifetimes is for how many of them each runs.
	clientLifetime  = 40 * time.Second
	clientLifetimes = 3

	// An outage begins when the token is still valid for outageBegin, which is before the clients read again. A short one ends
	// before the token does, and a long one after it.
	outageBegin = 14 * time.Second
	shortOutage = 6 * time.Second
	longOutage  = outageBegin + 6*time.Second
)

// clients are the commands of examples/clients, relative to that folder.
var clients = map[string][]string{
	"Go":      {"./client"},
	"Node.js": {"node", "client.mjs"},
	"Python":  {"/usr/bin/python3", "client.py"}, // Debian's, for which python3-hvac is installed
	"shell":   {"bash", "client.sh"},
}

// A vendorAPI is the API of a vendor, which counts the calls with each token.
type vendorAPI struct {
	sim *vendorsim.Sim

	mu      sync.Mutex
	tokens  map[string]int
	refused int // calls with a token that is not valid
}

func (a *vendorAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	a.mu.Lock()
	defer a.mu.Unlock()
	if !isBearer || !a.sim.Accepts(token) {
		a.refused++
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	a.tokens[token]++
}

// sent returns the valid tokens that were sent, with the number of calls, and the number of other calls.
func (a *vendorAPI) sent() (tokens map[string]int, refused int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.tokens), a.refused
}

// A frontDoor is a proxy of a server that can be down.
type frontDoor struct {
	isDown  atomic.Bool
	refused atomic.Int64 // requests
	server  http.Handler
}

func (f *frontDoor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.isDown.Load() {
		f.refused.Add(1)
		panic(http.ErrAbortHandler) // no answer
	}
	f.server.ServeHTTP(w, r)
}

// Given tokens with a lifetime of 40 s, each client sends only valid ones for three lifetimes, although the vendor is down in the first,
// Vault in the second until after the token has expired, and although its login ends every 30 s.
func TestClientsSendOnlyValidTokens(t *testing.T) {
	t.Parallel()
	own := ownWorld(t, vaultserver.StartDev)
	m := own.enable(t, "kensho")
	conduct := vendorsim.Conduct{Lifetime: clientLifetime}
	m.behave(conduct)
	m.write("config/kensho/prod", m.keyPair())
	d := m.deploy("app-lease-free")
	_, err := own.root.Logical().WriteWithContext(t.Context(), "auth/approle/role/app-lease-free", map[string]any{"token_ttl": "30s", "token_max_ttl": "30s"})
	require.NoError(t, err)

	address, err := url.Parse(own.server.Address)
	require.NoError(t, err)
	vault := &frontDoor{server: httputil.NewSingleHostReverseProxy(address)}
	door := httptest.NewServer(vault)
	t.Cleanup(door.Close)
	programs := filepath.Join(filepath.Dir(d.dir), "clients")
	build := exec.CommandContext(t.Context(), "go", "build", "-C", "../../examples/clients", "-o", filepath.Join(programs, "client"), ".")
	output, err := build.CombinedOutput()
	require.NoError(t, err, "%s", output)
	for _, file := range []string{"role-id", "secret-id"} {
		require.NoError(t, os.Symlink(filepath.Join(d.dir, file), filepath.Join(programs, file)))
	}
	apis := map[string]*vendorAPI{}
	for name, command := range clients {
		api := &vendorAPI{sim: m.sim, tokens: map[string]int{}}
		apis[name] = api
		server := httptest.NewServer(api)
		t.Cleanup(server.Close)
		d.client(t, name, programs, command, "VAULT_ADDR="+door.URL, "API_URL="+server.URL+"/v1/me")
	}

	first := d.await(apis, nil)
	pauseUntil(t, m.sim.Expiry(first).Add(-outageBegin))
	conduct.Fault = vendorsim.Always(vendorsim.Answer(http.StatusServiceUnavailable, ""))
	m.behave(conduct)
	pauseUntil(t, m.sim.Expiry(first).Add(-outageBegin).Add(shortOutage))
	conduct.Fault = nil
	m.behave(conduct)
	second := d.await(apis, map[string]bool{first: true})
	pauseUntil(t, m.sim.Expiry(second).Add(-outageBegin))
	vault.isDown.Store(true)
	pauseUntil(t, m.sim.Expiry(second).Add(-outageBegin).Add(longOutage))
	vault.isDown.Store(false)
	assert.GreaterOrEqual(t, int(vault.refused.Load()), len(clients), "each client has asked Vault meanwhile")
	third := d.await(apis, map[string]bool{first: true, second: true})
	pauseUntil(t, m.sim.Expiry(third))
	for name, api := range apis {
		tokens, refused := api.sent()
		calls := 0
		for _, count := range tokens {
			calls += count
		}
		t.Logf("%-8s  %d lifetimes, %d tokens, %d calls, %d with an expired token", name, clientLifetimes, len(tokens), calls, refused)
		assert.Zero(t, refused, "%s: calls with a token that is not valid", name)
		assert.GreaterOrEqual(t, len(tokens), clientLifetimes, name)
	}
}

// pauseUntil waits for a time in the lifetime of a token, which has not passed.
func pauseUntil(t *testing.T, end time.Time) {
	t.Helper()
	require.Greater(t, time.Until(end), time.Duration(0), "this machine is too busy: the time has passed")
	select {
	case <-t.Context().Done():
	case <-time.After(time.Until(end)):
	}
}

// client runs a client until the test ends.
func (d *deployment) client(t *testing.T, name, dir string, command []string, environ ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, environ...)
	cmd.Stdout, cmd.Stderr = d.log, d.log
	running, err := process.Start(cmd)
	require.NoError(t, err, name)
	t.Cleanup(func() {
		assert.NoError(t, running.StopGroup(), name)
		if t.Failed() {
			t.Log(d.log)
		}
	})
}

// await waits until each API has been called with a token that is none of the former ones, and returns one of these tokens that
// is still valid for longer than outageBegin.
func (d *deployment) await(apis map[string]*vendorAPI, former map[string]bool) (token string) {
	d.t.Helper()
	for time.Until(d.sim.Expiry(token)) < outageBegin { // on a busy machine, the last client may be late
		for name, api := range apis {
			require.Eventually(d.t, func() bool {
				tokens, _ := api.sent()
				isNew := false
				for sent := range tokens {
					if isNew = isNew || !former[sent]; !former[sent] && d.sim.Expiry(sent).After(d.sim.Expiry(token)) {
						token = sent
					}
				}
				return isNew
			}, patience, 100*time.Millisecond, "%s: no new token\n%s", name, d.log)
		}
	}
	return token
}

package tokenbroker_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/tally"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// The addresses of the in-memory network.
const (
	vendorAddress = "127.0.0.1:8443"
	otherAddress  = "127.0.0.1:9443"
)

// A network is an engine that reaches its vendors over an in-memory network. Each kind of
// credential is there with a valid token that is due for renewal, where its tokens are
// renewed ahead, and with none.
type network struct {
	*engine
	vendor    *endpoint
	other     *endpoint
	authority *authority
	heard     witness
	configs   map[string]string // paths of the credentials, by name
	tokens    map[string]string // valid tokens, by name
}

const tokenLifetime = time.Hour

// networkKinds are the fields of each kind of credential, by its path.
func networkKinds() map[string]map[string]any {
	return map[string]map[string]any{
		"kensho/refresh":  {"refresh_token": oddRefreshToken, "refresh_url": "https://link-streaming.kensho.com/oauth2/refresh"},
		"kensho/keys":     {"client_id": clientID, "private_key": privateKeyPEM(), "token_url": "https://kensho.okta.com/oauth2/default/v1/token"},
		"sitecore/search": {"api_key": oddAPIKey, "access_expiry": tokenLifetime.String(), "base_url": "https://api.rfksrv.com"},
		"oauth2/client":   {"client_id": clientID, "client_secret": oddSecret, "token_url": vendorsim.OAuthTokenURL},
	}
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{
		engine: newEngine(t), vendor: &endpoint{}, other: &endpoint{}, authority: newAuthority(t),
		configs: map[string]string{}, tokens: map[string]string{},
	}
	n.transport, n.dial = nil, func(ctx context.Context, _, address string) (net.Conn, error) {
		to := map[string]*endpoint{vendorAddress: n.vendor, otherAddress: n.other}[address]
		require.NotNil(t, to, address)
		return to.dial(ctx, address)
	}
	t.Cleanup(func() { time.Sleep(time.Second) }) // the vendor notices at its next write that the engine hung up
	n.heard.listen(n.engine)
	n.sim.AddRefreshToken("link-streaming", oddRefreshToken)
	n.sim.AddAPIKey(oddAPIKey)
	n.sim.AddOAuthClient(vendorsim.OAuthClient{
		ID: clientID, Secret: oddSecret, Lifetime: tokenLifetime,
		AuthMethods: []string{vendorsim.SecretBasic}, Grants: []string{vendorsim.ClientCredentialsGrant},
	})
	n.sim.Behave(vendorsim.Conduct{KeyPairLifetime: tokenLifetime})
	n.restore()
	for path, data := range networkKinds() {
		_, kind, _ := strings.Cut(path, "/")
		for _, field := range []string{"refresh_url", "token_url", "base_url"} {
			if url, ok := data[field].(string); ok {
				data[field] = vendorsim.URL("https://"+vendorAddress, url)
			}
		}
		data["ca_cert"], data["request_timeout"] = n.authority.pem(), requestTimeout.String()
		if kind != "refresh" { // whose tokens expire at the hour, so that none is renewed before
			n.configs[kind+"-valid"] = "config/" + path + "-valid"
			n.write(n.configs[kind+"-valid"], data)
			n.tokens[kind+"-valid"] = tokenOf(n.creds(kind + "-valid"))
		}
		data["verify"] = false
		n.configs[kind+"-none"] = "config/" + path + "-none"
		n.write(n.configs[kind+"-none"], data)
	}
	until(0, 50, 0)
	return n
}

// requestTimeout is shorter than a reader with a valid token waits for its renewal (2 s),
// so that the reader sees what becomes of it.
const requestTimeout = time.Second

// restore makes the vendor answer as documented.
func (n *network) restore() {
	n.t.Helper()
	n.vendor.handle(secured(n.authority.issue(n.t, "127.0.0.1", 24*time.Hour), serving(n.t, n.sim)))
}

// request is the engine's, of which everything is looked through for secrets.
func (n *network) request(op logical.Operation, path string, data map[string]any) (*logical.Response, int, string) {
	n.t.Helper()
	resp, status, message := n.engine.request(op, path, data)
	n.heard.hear(n.t, path, resp, message)
	return resp, status, message
}

func TestFaultsOfTheNetworkAreBoundedAndPassByThemselves(t *testing.T) {
	row := tally.Row{Fault: "vendor: network"}
	for _, fault := range networkFaults() {
		t.Run(fault.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				fault.strike(n)
				asked := time.Now()
				failures := n.readAll(fault)
				assert.LessOrEqual(t, time.Since(asked), requestTimeout)

				row.Tried += len(n.configs)
				row.Failed += failures
				row.Failed += n.recovers()
				row.Leaks += n.heard.leaks(n.engine, []string{oddRefreshToken, oddAPIKey, oddSecret})
			})
		})
	}
	tally.Record(t, row)
}

// readAll reads all credentials at once during a fault, and counts those that should have
// been served.
func (n *network) readAll(fault networkFault) (failures int) {
	n.t.Helper()
	var mu sync.Mutex
	var readers sync.WaitGroup
	for name := range n.configs {
		readers.Go(func() {
			resp, status, message := n.request(logical.ReadOperation, "creds/"+name, nil)
			_, what, _ := n.request(logical.ReadOperation, "status/"+name, nil)
			assert.Equal(n.t, http.StatusOK, what)
			valid := n.tokens[name]
			switch {
			case valid == "":
				assert.Equal(n.t, fault.outcome.status, status, message)
				assert.Contains(n.t, message, fault.outcome.says)
				assert.Contains(n.t, message, vendorAddress)
				assert.Contains(n.t, message, fault.says)
				assert.Contains(n.t, message, "; next attempt at ")
			case status != http.StatusOK:
				mu.Lock()
				defer mu.Unlock()
				failures++
				assert.Fail(n.t, "promise 4: a reader got nothing though there is a valid token", "%s: %d %s", name, status, message)
			default:
				assert.Equal(n.t, valid, tokenOf(resp), name)
				assert.Contains(n.t, fmt.Sprint(resp.Warnings), fault.says)
				assert.Contains(n.t, fmt.Sprint(resp.Warnings), "next attempt at")
			}
		})
	}
	readers.Wait()
	for name := range n.configs {
		state := "failed"
		if n.tokens[name] != "" {
			state = "degraded"
		}
		resp, _, _ := n.request(logical.ReadOperation, "status/"+name, nil)
		assert.Equal(n.t, state, resp.Data["state"], name)
		assert.Contains(n.t, resp.Data["last_error"], fault.says)
		assert.Equal(n.t, 1, resp.Data["consecutive_failures"], name)
	}
	return failures
}

// recovers restores the vendor, and counts the credentials that are still not served.
func (n *network) recovers() (failures int) {
	n.t.Helper()
	n.restore()
	for name, config := range n.configs {
		_, status, message := n.request(logical.UpdateOperation, config, map[string]any{"request_timeout": 10, "verify": true})
		if status != http.StatusOK {
			failures++
			assert.Fail(n.t, "the vendor answers again", "%s: %d %s", name, status, message)
			continue
		}
		resp, status, message := n.request(logical.ReadOperation, "creds/"+name, nil)
		require.Equal(n.t, http.StatusOK, status, message)
		assert.True(n.t, n.sim.Accepts(tokenOf(resp)))
		assert.NotEqual(n.t, n.tokens[name], tokenOf(resp))
	}
	return failures
}

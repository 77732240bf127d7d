package faults_test

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

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/tally"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// The addresses of the in-memory network.
const (
	vendorAddress = "127.0.0.1:8443"
	otherAddress  = "127.0.0.1:9443"
)

// network is an engine that reaches its vendors over an in-memory network. It has two credentials
// of each kind: one with a valid token that is due for renewal, unless the kind is not renewed
// before expiry, and one without a token.
type network struct {
	*engine.Engine
	vendor    *endpoint
	other     *endpoint
	authority *authority
	witness   engine.Witness
	configs   map[string]string // paths of the credentials, by name
	tokens    map[string]string // valid tokens, by name
	unsent    map[string]bool   // the names whose requests were not sent, as the host was down
}

const tokenLifetime = time.Hour

// networkKinds returns the fields of each kind of credential, by path.
func networkKinds() map[string]map[string]any {
	return map[string]map[string]any{
		"kensho/refresh":  {"refresh_token": oddRefreshToken, "refresh_url": "https://link-streaming.kensho.com/oauth2/refresh"},
		"kensho/keys":     {"client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM(), "token_url": "https://kensho.okta.com/oauth2/default/v1/token"},
		"sitecore/search": {"api_key": oddAPIKey, "access_expiry": tokenLifetime.String(), "base_url": "https://api.rfksrv.com"},
		"oauth2/client":   {"client_id": engine.ClientID, "client_secret": oddSecret, "token_url": vendorsim.OAuthTokenURL},
	}
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{
		Engine: engine.New(t), vendor: &endpoint{}, other: &endpoint{}, authority: newAuthority(t),
		configs: map[string]string{}, tokens: map[string]string{}, unsent: map[string]bool{},
	}
	n.Transport, n.Dial = nil, func(ctx context.Context, _, address string) (net.Conn, error) {
		to := map[string]*endpoint{vendorAddress: n.vendor, otherAddress: n.other}[address]
		require.NotNil(t, to, address)
		return to.dial(ctx, address)
	}
	t.Cleanup(func() { time.Sleep(time.Second) }) // the vendor notices a closed connection at its next write
	n.witness.Attach(n.Engine)
	n.Sim.AddRefreshToken("link-streaming", oddRefreshToken)
	n.Sim.AddAPIKey(oddAPIKey)
	n.Sim.AddOAuthClient(vendorsim.OAuthClient{
		ID: engine.ClientID, Secret: oddSecret, Lifetime: tokenLifetime,
		AuthMethods: []string{vendorsim.SecretBasic}, Grants: []string{vendorsim.ClientCredentialsGrant},
	})
	n.Sim.Behave(vendorsim.Conduct{Lifetime: tokenLifetime})
	n.restore()
	for path, data := range networkKinds() {
		_, kind, _ := strings.Cut(path, "/")
		for _, field := range []string{"refresh_url", "token_url", "base_url"} {
			if url, ok := data[field].(string); ok {
				data[field] = vendorsim.URL("https://"+vendorAddress, url)
			}
		}
		data["ca_cert"], data["request_timeout"] = n.authority.pem(), requestTimeout.String()
		if kind != "refresh" { // Kensho's refresh tokens yield nothing before the hour, so none is renewed ahead
			n.configs[kind+"-valid"] = "config/" + path + "-valid"
			n.Write(n.configs[kind+"-valid"], data)
			n.tokens[kind+"-valid"] = engine.TokenOf(n.Creds(kind + "-valid"))
		}
		data["verify"] = false
		n.configs[kind+"-none"] = "config/" + path + "-none"
		n.Write(n.configs[kind+"-none"], data)
	}
	engine.Until(0, 50, 0)
	return n
}

// requestTimeout is shorter than the time that a reader with a valid token waits for its renewal
// (2 s), so that the reader sees the result.
const requestTimeout = time.Second

// A host that leaves sentBeforeDown requests without an answer is down, so when a fault shows at once,
// the requests of the last readers are not sent, and their errors say so.
const (
	sentBeforeDown = 5
	hostIsDown     = vendorAddress + " does not answer the requests of several credentials"
)

// restore makes the vendor answer as documented.
func (n *network) restore() {
	n.T.Helper()
	n.vendor.handle(withTLS(n.authority.issue(n.T, "127.0.0.1", 24*time.Hour), serving(n.T, n.Sim)))
}

// request sends a request, and records the response for the search for secrets.
func (n *network) request(op logical.Operation, path string, data map[string]any) (*logical.Response, int, string) {
	n.T.Helper()
	resp, status, message := n.Request(op, path, data)
	n.witness.Record(n.T, path, resp, message)
	return resp, status, message
}

func TestFaultsOfTheNetworkAreBoundedAndRecover(t *testing.T) {
	row := tally.Row{Fault: "vendor: network"}
	for _, fault := range networkFaults() {
		t.Run(fault.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				fault.inject(n)
				asked := time.Now()
				failures := n.readAll(fault)
				assert.LessOrEqual(t, time.Since(asked), requestTimeout)

				row.Tried += len(n.configs)
				row.Failed += failures
				row.Failed += n.checkRecovery()
				row.Leaks += n.witness.Leaks(n.Engine, []string{oddRefreshToken, oddAPIKey, oddSecret})
			})
		})
	}
	tally.Record(t, row)
}

// readAll reads all credentials at once during a fault, checks the results, and returns the number
// of readers that got nothing although there is a valid token.
func (n *network) readAll(fault networkFault) (failures int) {
	n.T.Helper()
	var mu sync.Mutex
	var readers sync.WaitGroup
	for name := range n.configs {
		readers.Go(func() {
			resp, status, message := n.request(logical.ReadOperation, "creds/"+name, nil)
			_, what, _ := n.request(logical.ReadOperation, "status/"+name, nil)
			assert.Equal(n.T, http.StatusOK, what)
			valid := n.tokens[name]
			says := fault.outcome.says
			if strings.Contains(message+fmt.Sprint(resp), hostIsDown) {
				says = hostIsDown
				mu.Lock()
				n.unsent[name] = true
				mu.Unlock()
			}
			switch {
			case valid == "":
				assert.Equal(n.T, fault.outcome.status, status, message)
				assert.Contains(n.T, message, says)
				assert.Contains(n.T, message, vendorAddress)
				assert.Contains(n.T, message, fault.says)
				assert.Contains(n.T, message, "; next attempt at ")
			case status != http.StatusOK:
				mu.Lock()
				defer mu.Unlock()
				failures++
				assert.Fail(n.T, "guarantee 4: no token was served although one is valid", "%s: %d %s", name, status, message)
			default:
				assert.Equal(n.T, valid, engine.TokenOf(resp), name)
				assert.Contains(n.T, fmt.Sprint(resp.Warnings), fault.says)
				assert.Contains(n.T, fmt.Sprint(resp.Warnings), "next attempt at")
			}
		})
	}
	readers.Wait()
	assert.LessOrEqual(n.T, len(n.unsent), len(n.configs)-sentBeforeDown)
	for name := range n.configs {
		if n.unsent[name] {
			continue
		}
		state := "failed"
		if n.tokens[name] != "" {
			state = "degraded"
		}
		resp, _, _ := n.request(logical.ReadOperation, "status/"+name, nil)
		assert.Equal(n.T, state, resp.Data["state"], name)
		assert.Contains(n.T, resp.Data["last_error"], fault.says)
		assert.Equal(n.T, 1, resp.Data["consecutive_failures"], name)
	}
	return failures
}

// checkRecovery restores the vendor, and returns the number of credentials that still fail.
func (n *network) checkRecovery() (failures int) {
	n.T.Helper()
	n.restore()
	for name, config := range n.configs {
		_, status, message := n.request(logical.UpdateOperation, config, map[string]any{"request_timeout": 10, "verify": true})
		if status != http.StatusOK {
			failures++
			assert.Fail(n.T, "the credential fails although the vendor answers again", "%s: %d %s", name, status, message)
			continue
		}
		resp, status, message := n.request(logical.ReadOperation, "creds/"+name, nil)
		require.Equal(n.T, http.StatusOK, status, message)
		assert.True(n.T, n.Sim.Accepts(engine.TokenOf(resp)))
		assert.NotEqual(n.T, n.tokens[name], engine.TokenOf(resp))
	}
	return failures
}

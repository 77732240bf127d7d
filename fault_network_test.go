package tokenbroker_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/tally"
	"vault-plugin-secrets-tokenbroker/internal/vendorsim"
)

// A network is an engine whose vendors are at the other end of a line. It has credentials
// with a token that is good, and credentials with none.
type network struct {
	*engine
	line      *line
	authority *authority
	heard     witness
	configs   map[string]string // where credentials are, by name
	tokens    map[string]string // that are good, by name
}

// networkKinds are the credentials of each of which there are two, with the URL that
// leads to the line.
func networkKinds() map[string]map[string]any {
	return map[string]map[string]any{
		"kensho/refresh":  {"refresh_token": oddRefreshToken, "refresh_url": "https://link-streaming.kensho.com/oauth2/refresh"},
		"kensho/keys":     {"client_id": clientID, "private_key": privateKeyPEM(), "token_url": "https://kensho.okta.com/oauth2/default/v1/token"},
		"sitecore/search": {"api_key": oddAPIKey, "access_expiry": "8h", "base_url": "https://api.rfksrv.com"},
		"oauth2/client":   {"client_id": clientID, "client_secret": oddSecret, "token_url": vendorsim.OAuthTokenURL},
	}
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{engine: newEngine(t), line: newLine(t), authority: newAuthority(t), configs: map[string]string{}, tokens: map[string]string{}}
	n.transport = nil // which is the network
	n.heard.listen(n.engine)
	n.sim.AddRefreshToken("link-streaming", oddRefreshToken)
	n.sim.AddAPIKey(oddAPIKey)
	n.sim.AddOAuthClient(vendorsim.OAuthClient{
		ID: clientID, Secret: oddSecret, Lifetime: kindLife,
		AuthMethods: []string{vendorsim.SecretBasic}, Grants: []string{vendorsim.ClientCredentialsGrant},
	})
	n.sim.Behave(vendorsim.Conduct{KeyPairLifetime: kindLife})
	n.isWell()
	for path, data := range networkKinds() {
		_, kind, _ := strings.Cut(path, "/")
		for _, field := range []string{"refresh_url", "token_url", "base_url"} {
			if url, ok := data[field].(string); ok {
				data[field] = vendorsim.URL("https://"+n.line.addr, url)
			}
		}
		data["ca_cert"] = n.authority.pem()
		if kind != "refresh" { // whose tokens die on the hour, by the real clock
			n.write("config/"+path+"-good", data)
			n.write("refresh/"+kind+"-good", nil)
			n.tokens[kind+"-good"] = n.age(kind+"-good", 7*time.Hour)
			n.configs[kind+"-good"] = "config/" + path + "-good"
		}
		data["verify"] = false
		n.write("config/"+path+"-none", data)
		n.configs[kind+"-none"] = "config/" + path + "-none"
	}
	// From now on there is little time for an answer. A write would end the tokens.
	for _, config := range n.configs {
		n.amend(config, func(entry map[string]any) { entry["fields"].(map[string]any)["request_timeout"] = 1 })
	}
	n.restart()
	return n
}

// isWell has the vendor answer as documented.
func (n *network) isWell() {
	n.t.Helper()
	n.line.meet(secured(n.authority.issue(n.t, "127.0.0.1", time.Hour), serving(n.t, n.sim)))
}

// amend changes what is in storage behind the engine's back.
func (n *network) amend(key string, change func(entry map[string]any)) {
	n.t.Helper()
	stored, err := n.storage.Get(n.t.Context(), key)
	require.NoError(n.t, err)
	var entry map[string]any
	require.NoError(n.t, json.Unmarshal(stored.Value, &entry))
	change(entry)
	stored, err = logical.StorageEntryJSON(key, entry)
	require.NoError(n.t, err)
	require.NoError(n.t, n.storage.Put(n.t.Context(), stored))
}

// age has it that a name's token was issued so long ago, and that there is so much less
// of it left. It returns the token.
func (n *network) age(name string, by time.Duration) (accessToken string) {
	n.t.Helper()
	n.amend("state/"+name, func(state map[string]any) {
		token := state["tokens"].(map[string]any)[""].(map[string]any)
		for _, field := range []string{"issue_time", "expire_time"} {
			at, err := time.Parse(time.RFC3339, token[field].(string))
			require.NoError(n.t, err)
			token[field] = at.Add(-by)
		}
		accessToken = token["access_token"].(string)
	})
	return accessToken
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
			n := newNetwork(t)
			fault.strike(n)
			asked := time.Now()
			failures := n.readAll(fault)
			assert.Less(t, time.Since(asked), 10*time.Second, "request_timeout is 1 s")

			row.Tried += len(n.configs)
			row.Failed += failures
			row.Failed += n.recovers(fault)
			row.Leaks += n.heard.leaks(n.engine, []string{oddRefreshToken, oddAPIKey, oddSecret})
		})
	}
	tally.Record(t, row)
}

// readAll reads all credentials at once while a fault strikes, and counts those that
// should have been served.
func (n *network) readAll(fault networkFault) (failures int) {
	n.t.Helper()
	var mu sync.Mutex
	var readers sync.WaitGroup
	for name := range n.configs {
		readers.Go(func() {
			resp, status, message := n.request(logical.ReadOperation, "creds/"+name, nil)
			_, what, _ := n.request(logical.ReadOperation, "status/"+name, nil)
			assert.Equal(n.t, http.StatusOK, what)
			good := n.tokens[name]
			switch {
			case good == "":
				assert.Equal(n.t, fault.outcome.status, status, message)
				assert.Contains(n.t, message, fault.outcome.says+n.line.addr+": ")
				assert.Contains(n.t, message, fault.says)
				assert.Contains(n.t, message, "; next attempt at ")
			case status != http.StatusOK:
				mu.Lock()
				defer mu.Unlock()
				failures++
				assert.Fail(n.t, "promise 4: a reader got nothing though there is a good token", "%s: %d %s", name, status, message)
			default:
				assert.Equal(n.t, good, tokenOf(resp), name)
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

// recovers has the vendor be well again, and counts the credentials that are not.
func (n *network) recovers(fault networkFault) (failures int) {
	n.t.Helper()
	if fault.mend != nil {
		fault.mend(n)
	}
	n.isWell()
	for name, config := range n.configs {
		_, status, message := n.request(logical.UpdateOperation, config, map[string]any{"request_timeout": 10})
		if status != http.StatusOK {
			failures++
			assert.Fail(n.t, "the vendor is well", "%s: %d %s", name, status, message)
			continue
		}
		resp, status, message := n.request(logical.ReadOperation, "creds/"+name, nil)
		require.Equal(n.t, http.StatusOK, status, message)
		assert.True(n.t, n.sim.Accepts(tokenOf(resp)))
		assert.NotEqual(n.t, n.tokens[name], tokenOf(resp))
	}
	return failures
}

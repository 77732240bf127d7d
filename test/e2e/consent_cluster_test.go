//go:build e2e

package e2e

import (
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/tally"
	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// consentCluster is a mount on three nodes with credentials that people consent to.
type consentCluster struct {
	*consenting
	nodes   *vaultserver.Cluster
	clients []*api.Client // by node
	active  int
}

func newConsentCluster(t *testing.T) *consentCluster {
	t.Helper()
	nodes, world, clients := startCluster(t)
	x := &consentCluster{nodes: nodes, clients: clients}
	x.consenting = &consenting{mount: world.enable(t, "saas")}
	x.addConsentClient(x.callback())
	return x
}

// callback returns the redirect URI. Browsers reach any node by it, as through a load balancer.
func (x *consentCluster) callback() string { return x.nodes.Nodes[0].Address + "/v1/saas/callback" }

// in returns the cluster for a part of the test, when its nodes agree on an active one.
func (x *consentCluster) in(t *testing.T) *consentCluster {
	t.Helper()
	m := *x.mount
	m.t = t
	y := &consentCluster{consenting: &consenting{mount: &m}, nodes: x.nodes, clients: x.clients}
	y.find(unknownNode)
	return y
}

// find waits for an active node other than former, and sends requests to it.
func (x *consentCluster) find(former int) {
	x.t.Helper()
	x.active = awaitLeader(x.t, x.nodes, former)
	x.root = x.clients[x.active]
	awaitRead(x.t, x.root, x.path+"/vendors/oauth2")
}

// standbys returns the nodes that are not active.
func (x *consentCluster) standbys() []int { return []int{(x.active + 1) % 3, (x.active + 2) % 3} }

// decide plays the person who allows what an authorization URL asks for, and returns where the vendor sends the
// browser.
func (x *consentCluster) decide(at, person string) (back string) {
	x.t.Helper()
	browser := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(x.t.Context(), http.MethodPost, at, strings.NewReader(url.Values{"person": {person}, "decision": {"allow"}}.Encode()))
	require.NoError(x.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := browser.Do(req)
	require.NoError(x.t, err)
	require.NoError(x.t, resp.Body.Close())
	require.Equal(x.t, http.StatusFound, resp.StatusCode)
	return resp.Header.Get("Location")
}

var heading = regexp.MustCompile(`<h1[^>]*>([^<]*)</h1>`)

// open opens a URL of callback at a node, and returns the status and the heading of the engine's page. It tries
// again while the cluster has no active node, for which Vault has no page.
func (x *consentCluster) open(node int, back string) (status int, title string) {
	_, query, _ := strings.Cut(back, "?")
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		req, err := http.NewRequestWithContext(x.t.Context(), http.MethodGet, x.nodes.Nodes[node].Address+"/v1/saas/callback?"+query, nil)
		if err != nil {
			x.t.Error(err)
			return 0, ""
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			continue
		}
		page, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err == nil && strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
			found := heading.FindSubmatch(page)
			if assert.NotNil(x.t, found, string(page)) {
				return resp.StatusCode, string(found[1])
			}
			return resp.StatusCode, ""
		}
	}
	assert.Fail(x.t, "no page of the engine", "node %d", node)
	return 0, ""
}

// assertConnected checks that a credential has one token of the person's consent at all nodes, for one exchange
// of the code.
func (x *consentCluster) assertConnected(name, back string) {
	x.t.Helper()
	u, err := url.Parse(back)
	require.NoError(x.t, err)
	assert.Equal(x.t, 1, x.sim.SentCodes()[u.Query().Get("code")], "the code is exchanged once")
	x.assertOneToken(name)
}

func (x *consentCluster) assertOneToken(name string) {
	x.t.Helper()
	data := x.read("authorize/" + name).Data
	assert.Equal(x.t, "connected", data["state"])
	assert.Equal(x.t, map[string]any{"email": name}, data["claims"])
	tokens := map[any]bool{}
	for node, client := range x.clients {
		secret, err := client.Logical().ReadWithContext(x.t.Context(), x.path+"/token/"+name)
		require.NoError(x.t, err, "node %d", node)
		token := secret.Data["access_token"].(string)
		assert.True(x.t, x.sim.Accepts(token))
		tokens[token] = true
	}
	assert.Len(x.t, tokens, 1)
}

// device begins a consent on another device, and returns the code that the person enters.
func (x *consentCluster) device(name string) string {
	x.t.Helper()
	secret, err := x.root.Logical().WriteWithContext(x.t.Context(), x.path+"/authorize/"+name, map[string]any{"flow": "device", "claims": "email"})
	require.NoError(x.t, err)
	return secret.Data["user_code"].(string)
}

// polls returns how often the vendor was asked for the result of a consent on another device.
func (x *consentCluster) polls() int {
	polls := 0
	for _, call := range x.sim.Calls() {
		if strings.Contains(call.Body, url.QueryEscape(vendorsim.DeviceCodeGrant)) {
			polls++
		}
	}
	return polls
}

// awaitPoll waits for the next poll.
func (x *consentCluster) awaitPoll() {
	x.t.Helper()
	before := x.polls()
	require.Eventually(x.t, func() bool { return x.polls() > before }, patience, 10*time.Millisecond, "the vendor is not polled")
}

// awaitConnected waits until a pending consent on another device is connected. It tries again while the cluster
// has no active node.
func (x *consentCluster) awaitConnected(name string) {
	x.t.Helper()
	var last any
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		secret, err := x.root.Logical().ReadWithContext(x.t.Context(), x.path+"/authorize/"+name)
		if err != nil {
			require.True(x.t, isVaultsOwn(err), err)
			continue
		}
		if last = secret.Data["state"]; last == "connected" {
			return
		}
		require.Equal(x.t, "pending", last, "%v", secret.Data)
	}
	require.Fail(x.t, "the consent is not connected", "%s is %v", name, last)
}

// failOver breaks the active node, waits until another one is active, and returns the former one.
func (x *consentCluster) failOver(breaking func(x *consentCluster, node int) error) (former int) {
	x.t.Helper()
	former = x.active
	require.NoError(x.t, breaking(x, former))
	x.find(former)
	return former
}

// Guarantee 10 for consents: pending ones are in storage, so that any node ends them, and one only.
func TestGuarantee10ConsentsOutliveTheActiveNode(t *testing.T) {
	t.Parallel()
	cluster := newConsentCluster(t)

	t.Run("the browser returns to a standby", func(t *testing.T) {
		x := cluster.in(t)
		for i, node := range x.standbys() {
			name := []string{"alice@example.com", "bob@example.com"}[i]
			x.add(name, x.callback())
			back := x.decide(x.begin(name), name)
			status, title := x.open(node, back)
			assert.Equal(t, http.StatusOK, status)
			assert.Equal(t, "Connected", title)
			x.assertConnected(name, back)
		}
	})

	t.Run("the browser returns to all nodes at once", func(t *testing.T) {
		x := cluster.in(t)
		x.behave(vendorsim.Conduct{Latency: 200 * time.Millisecond})
		defer x.behave(vendorsim.Conduct{})
		x.add("carol@example.com", x.callback())
		for range 10 {
			back := x.decide(x.begin("carol@example.com"), "carol@example.com")
			statuses, titles := make([]int, 3), make([]string, 3)
			var all sync.WaitGroup
			for node := range x.clients {
				all.Go(func() { statuses[node], titles[node] = x.open(node, back) })
			}
			all.Wait()
			assert.ElementsMatch(t, []int{http.StatusOK, http.StatusConflict, http.StatusConflict}, statuses)
			assert.ElementsMatch(t, []string{"Connected", "This link was used already", "This link was used already"}, titles)
			x.assertConnected("carol@example.com", back)
		}
	})

	for name, f := range map[string]struct {
		breaking func(x *consentCluster, node int) error
		mending  func(x *consentCluster, node int) error
	}{
		"the active node steps down": {
			func(x *consentCluster, node int) error {
				return x.clients[node].Sys().StepDownWithContext(x.t.Context())
			},
			func(*consentCluster, int) error { return nil },
		},
		"the active node is killed": {
			func(x *consentCluster, node int) error { return x.nodes.Nodes[node].Kill() },
			func(x *consentCluster, node int) error { return x.nodes.Nodes[node].Start(x.t.Context()) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := cluster.in(t)
			x.behave(vendorsim.Conduct{OAuth: vendorsim.OAuthConduct{SlowDown: true}})
			defer x.behave(vendorsim.Conduct{})
			x.add("dora@example.com", x.callback())
			x.add("emil@example.com", x.callback())
			back := x.decide(x.begin("dora@example.com"), "dora@example.com")
			code := x.device("emil@example.com")
			x.awaitPoll()
			former, before := x.failOver(f.breaking), len(x.sim.Consents())
			polls := x.polls()

			status, title := x.open(x.active, back)
			assert.Equal(t, http.StatusOK, status)
			assert.Equal(t, "Connected", title)
			require.NoError(t, f.mending(x, former))
			require.NoError(t, x.nodes.Settle(t.Context()))
			x.find(unknownNode)
			x.assertConnected("dora@example.com", back)
			status, title = x.open(former, back)
			assert.Equal(t, http.StatusConflict, status)
			assert.Equal(t, "This link was used already", title)

			require.Eventually(t, func() bool { return x.polls() > polls }, patience, 10*time.Millisecond, "the new active node does not poll")
			assert.Equal(t, "pending", x.read("authorize/emil@example.com").Data["state"])
			x.sim.Approve(code, "emil@example.com")
			x.awaitConnected("emil@example.com")
			x.assertOneToken("emil@example.com")
			assert.Len(t, x.sim.Consents(), before+2, "each consent is exchanged once")
			assert.Zero(t, x.sim.EarlyPolls())
		})
	}

	// The former node resumes in the middle of its work, and does not know yet that it is not active.
	t.Run("the active node is suspended while the person consents", func(t *testing.T) {
		x := cluster.in(t)
		x.add("fay@example.com", x.callback())
		for range tally.Times(1, 5) {
			code := x.device("fay@example.com")
			x.awaitPoll()
			before := len(x.sim.Consents())
			former := x.failOver(func(x *consentCluster, node int) error { return x.nodes.Pause(node) })
			x.sim.Approve(code, "fay@example.com")
			require.NoError(t, x.nodes.Resume(former))
			x.awaitConnected("fay@example.com")
			require.NoError(t, x.nodes.Settle(t.Context()))
			x.find(unknownNode)
			x.assertOneToken("fay@example.com")
			assert.Len(t, x.sim.Consents(), before+1, "the consent is exchanged once")
		}
	})
	assert.Empty(t, cluster.sim.Violations())
}

// addConsentClient adds the client that people consent to.
func (m *mount) addConsentClient(callback string) {
	m.sim.AddOAuthClient(vendorsim.OAuthClient{
		ID: "saas", Secret: "saas-client-secret-0123", Scopes: []string{"openid", "read"}, AuthMethods: []string{vendorsim.SecretBasic},
		Grants:      []string{vendorsim.RefreshTokenGrant, vendorsim.AuthorizationCodeGrant, vendorsim.DeviceCodeGrant},
		RedirectURI: callback, Rotate: true,
	})
}

// add stores a credential that a person must consent to.
func (x *consentCluster) add(name, callback string) {
	x.t.Helper()
	x.write("config/oauth2/"+name, map[string]any{
		"issuer": vendorsim.URL(x.base, vendorsim.OAuthIssuer), "client_id": "saas", "client_secret": "saas-client-secret-0123",
		"auth_style": "client_secret_basic", "grant_type": "refresh_token", "scope": "openid,read", "redirect_uri": callback,
	})
}

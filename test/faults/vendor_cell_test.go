package faults_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
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

// A stateOfToken is how it stands with the access token when a fault strikes.
type stateOfToken string

const (
	tokenGood    stateOfToken = "good token" // and due for a fresher one
	tokenExpired stateOfToken = "expired token"
	noToken      stateOfToken = "no token"
)

// An outcome is what becomes of a fault for a reader whom no good token is left for.
type outcome struct {
	status int
	says   string
	pause  time.Duration // until the first attempt after, give or take jitter
	jitter float64       // as a part of it
}

var (
	rejected        = outcome{http.StatusBadRequest, "the vendor rejected the credential: ", 5 * time.Minute, 0}
	unavailable     = outcome{http.StatusServiceUnavailable, "the vendor is unavailable and no good token is left: ", time.Second, 0.2}
	invalidResponse = outcome{http.StatusBadGateway, "the vendor's answer is unusable: ", time.Second, 0.2}
)

// A vendorFault is what a vendor does who does not answer as documented.
type vendorFault struct {
	name   string
	strike func(*vendorsim.Conduct, *vendorsim.Sim, kindOfCredential)
	says   string // of why there is no token

	retryAfter time.Duration                               // what the vendor asks for
	loses      func(kindOfCredential) bool                 // whether the credential is lost by it; nil is never
	meets      func(kindOfCredential) bool                 // which credentials it can meet; nil is all
	check      func(*vendorCell, *logical.Response) string // of a fault that is none: what is wrong with what was read
	lies       bool                                        // whether its tokens die earlier than the vendor says
}

// counts are what came of all cells of a matrix. Gone are the credentials that died with
// an answer that nobody got, which no engine can help.
type counts struct{ tried, dead, failed, leaks, gone atomic.Int64 }

// A vendorCell is one fault, striking one kind of credential in one state of its token.
type vendorCell struct {
	*engine.Engine
	fault  vendorFault
	kind   kindOfCredential
	counts *counts

	token    string // the last that was served
	failures int
	heard    engine.Witness
}

// playFaults has each fault strike each kind of credential, in each state of its token.
func playFaults(t *testing.T, row string, faults []vendorFault, play func(*vendorCell)) {
	t.Helper()
	result := &counts{}
	cell := 0
	t.Run("cells", func(t *testing.T) {
		for _, fault := range faults {
			for _, kind := range kindsOfCredential() {
				if fault.meets != nil && !fault.meets(kind) {
					continue
				}
				for _, state := range []stateOfToken{tokenGood, tokenExpired, noToken} {
					if cell++; !tally.IsSampled(cell) {
						continue
					}
					t.Run(fault.name+"/"+kind.name+"/"+string(state), func(t *testing.T) {
						t.Parallel()
						synctest.Test(t, func(t *testing.T) {
							c := newVendorCell(t, fault, kind, result)
							c.reach(state)
							play(c)
							result.leaks.Add(int64(c.heard.Leaks(c.Engine, kind.secrets())))
						})
					})
				}
			}
		}
	})
	note := ""
	if gone := result.gone.Load(); gone > 0 {
		note = fmt.Sprintf("%d refresh tokens were replaced in an answer that nobody got; a write mended each", gone)
	}
	tally.Record(t, tally.Row{
		Fault: row, Tried: int(result.tried.Load()), Note: note,
		Dead: int(result.dead.Load()), Failed: int(result.failed.Load()), Leaks: int(result.leaks.Load()),
	})
}

func newVendorCell(t *testing.T, fault vendorFault, kind kindOfCredential, result *counts) *vendorCell {
	t.Helper()
	result.tried.Add(1)
	c := &vendorCell{Engine: engine.New(t), fault: fault, kind: kind, counts: result}
	c.heard.Attach(c.Engine)
	kind.know(c.Sim, oddRefreshToken)
	c.Sim.Behave(kind.conduct())
	engine.Until(0, 2, 0)
	return c
}

// config is where the credential is.
func (c *vendorCell) config() string { return "config/" + c.kind.path + "/prod" }

// reach brings the token into a state.
func (c *vendorCell) reach(state stateOfToken) {
	c.T.Helper()
	if state == noToken {
		c.write(map[string]any{"verify": false})
		return
	}
	c.write(nil)
	resp, status, message := c.request(logical.ReadOperation, "creds/prod", nil)
	require.Equal(c.T, http.StatusOK, status, message)
	c.served(resp)
	switch {
	case state == tokenExpired && c.kind.hourly:
		engine.Until(1, 10, 0)
	case state == tokenExpired:
		time.Sleep(kindLife + 10*time.Minute)
	case c.kind.hourly:
		engine.Until(0, 5, 0) // it is to be kept alive every minute
	default:
		time.Sleep(kindLife*3/4 + 5*time.Minute)
	}
}

// write writes the credential, with some more fields.
func (c *vendorCell) write(more map[string]any) {
	c.T.Helper()
	data := map[string]any{}
	for _, fields := range []map[string]any{c.kind.data, more} {
		for field, value := range fields {
			data[field] = value
		}
	}
	_, status, message := c.request(logical.UpdateOperation, c.config(), data)
	require.Equal(c.T, http.StatusOK, status, message)
}

// strike has the fault strike from now on.
func (c *vendorCell) strike() {
	conduct := c.kind.conduct()
	c.fault.strike(&conduct, c.Sim, c.kind)
	c.Sim.Behave(conduct)
}

// recover has the vendor answer as documented again.
func (c *vendorCell) recover() {
	for c.Sim.InFlight() > 0 {
		time.Sleep(time.Second)
	}
	c.Sim.Behave(c.kind.conduct())
}

// request is the engine's, of which everything is looked through for secrets.
func (c *vendorCell) request(op logical.Operation, path string, data map[string]any) (*logical.Response, int, string) {
	c.T.Helper()
	resp, status, message := c.Request(op, path, data)
	c.heard.Record(c.T, path, resp, message)
	return resp, status, message
}

// alive is whether the last token that was served is good. No cell comes near its end.
func (c *vendorCell) alive() bool {
	return c.token != "" && time.Until(c.Sim.Death(c.token)) > time.Minute
}

// ask reads a token in a way that has the vendor called if he may be. While a token of
// Kensho's is good nothing but the keepalive does that.
func (c *vendorCell) ask() (*logical.Response, int, string) {
	c.T.Helper()
	if c.kind.hourly && c.alive() {
		require.NoError(c.T, c.Tick())
	}
	return c.request(logical.ReadOperation, "creds/prod", nil)
}

// press reads a token as a reader does who has reason to know that the vendor gives no
// fresher one: who wants one that is good for longer.
func (c *vendorCell) press() (*logical.Response, int, string) {
	c.T.Helper()
	var data map[string]any
	if c.kind.hourly && c.alive() {
		data = map[string]any{"min_ttl": "1h"}
	}
	return c.request(logical.ReadOperation, "creds/prod", data)
}

// served notes a token that was served, which the vendor must take until the lease ends.
func (c *vendorCell) served(resp *logical.Response) {
	c.T.Helper()
	c.token = engine.TokenOf(resp)
	left := time.Until(c.Sim.Death(c.token))
	if !c.Sim.Accepts(c.token) || resp.Secret.TTL > left-min(30*time.Second, left/20) {
		c.counts.dead.Add(1)
		assert.Fail(c.T, "guarantee 1: a lease outlives its token", "the token has %s, the lease %s", left, resp.Secret.TTL)
	}
	assert.GreaterOrEqual(c.T, resp.Secret.TTL, time.Second)
}

func (c *vendorCell) status() map[string]any {
	c.T.Helper()
	resp, status, message := c.request(logical.ReadOperation, "status/prod", nil)
	require.Equal(c.T, http.StatusOK, status, message)
	return resp.Data
}

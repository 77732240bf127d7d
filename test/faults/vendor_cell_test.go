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

// stateOfToken is the state of the cached access token when a fault begins.
type stateOfToken string

const (
	tokenValid   stateOfToken = "valid token" // due for renewal
	tokenExpired stateOfToken = "expired token"
	noToken      stateOfToken = "an answer without a token"
)

// outcome is the expected result of a fault for a reader without a valid token.
type outcome struct {
	status int
	says   string
	pause  time.Duration // from the first failure to the next attempt, plus or minus jitter
	jitter float64       // a fraction of pause
}

var (
	rejected        = outcome{http.StatusBadRequest, "the vendor rejected the credential: ", 5 * time.Minute, 0}
	unavailable     = outcome{http.StatusServiceUnavailable, "the vendor is unavailable and there is no valid token: ", time.Second, 0.2}
	invalidResponse = outcome{http.StatusBadGateway, "invalid response from the vendor: ", time.Second, 0.2}
)

// vendorFault is a way in which a vendor does not answer as documented.
type vendorFault struct {
	name   string
	inject func(*vendorsim.Conduct, *vendorsim.Sim, kindOfCredential)
	says   string // a part of the error message

	retryAfter time.Duration                               // the Retry-After of the vendor
	losesGrant func(kindOfCredential) bool                 // whether the fault loses a rotated refresh token; nil means never
	appliesTo  func(kindOfCredential) bool                 // the credentials to which the fault applies; nil means all
	check      func(*vendorCell, *logical.Response) string // for harmless faults: returns what is wrong with the response
	overstates bool                                        // whether the stated lifetime is longer than the real one
}

// counts are the results of all cells of a matrix. lost counts rotated refresh tokens in answers
// that never arrived, which no engine can avoid.
type counts struct{ tried, expired, failed, leaks, lost atomic.Int64 }

// vendorCell is one fault of the matrix, for one kind of credential in one state of its token.
type vendorCell struct {
	*engine.Engine
	fault  vendorFault
	kind   kindOfCredential
	counts *counts

	token    string // the last token served
	failures int
	witness  engine.Witness
}

// playFaults runs each fault for each kind of credential in each state of its token.
func playFaults(t *testing.T, row string, faults []vendorFault, play func(*vendorCell)) {
	t.Helper()
	result := &counts{}
	cell := 0
	t.Run("cells", func(t *testing.T) {
		for _, fault := range faults {
			for _, kind := range kindsOfCredential() {
				if fault.appliesTo != nil && !fault.appliesTo(kind) {
					continue
				}
				for _, state := range []stateOfToken{tokenValid, tokenExpired, noToken} {
					if cell++; !tally.IsSampled(cell) {
						continue
					}
					t.Run(fault.name+"/"+kind.name+"/"+string(state), func(t *testing.T) {
						t.Parallel()
						synctest.Test(t, func(t *testing.T) {
							c := newVendorCell(t, fault, kind, result)
							c.reach(state)
							play(c)
							result.leaks.Add(int64(c.witness.Leaks(c.Engine, kind.secrets())))
						})
					})
				}
			}
		}
	})
	note := ""
	if lost := result.lost.Load(); lost > 0 {
		note = fmt.Sprintf("%d rotated refresh tokens were in answers that never arrived; a write of the credential fixed each", lost)
	}
	tally.Record(t, tally.Row{
		Fault: row, Tried: int(result.tried.Load()), Note: note,
		Invalid: int(result.expired.Load()), Failed: int(result.failed.Load()), Leaks: int(result.leaks.Load()),
	})
}

func newVendorCell(t *testing.T, fault vendorFault, kind kindOfCredential, result *counts) *vendorCell {
	t.Helper()
	result.tried.Add(1)
	c := &vendorCell{Engine: engine.New(t), fault: fault, kind: kind, counts: result}
	c.witness.Attach(c.Engine)
	if kind.lacks != "" && fault.says == noAccessToken {
		c.fault.says = kind.lacks
	}
	kind.register(c.Sim, oddRefreshToken)
	c.Sim.Behave(kind.conduct())
	if kind.definition != "" {
		c.Write("vendors/"+kind.path, map[string]any{"definition": kind.definition})
	}
	engine.Until(0, 2, 0)
	return c
}

// config returns the path of the credential.
func (c *vendorCell) config() string { return "config/" + c.kind.path + "/prod" }

// reach writes the credential and brings its token into a state.
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
		time.Sleep(kindLifetime + 10*time.Minute)
	case c.kind.hourly:
		engine.Until(0, 5, 0) // a keepalive is due every minute
	default:
		time.Sleep(kindLifetime*3/4 + 5*time.Minute)
	}
}

// write writes the credential with additional fields.
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

// inject makes the vendor behave with the fault from now on.
func (c *vendorCell) inject() {
	conduct := c.kind.conduct()
	c.fault.inject(&conduct, c.Sim, c.kind)
	c.Sim.Behave(conduct)
}

// restore makes the vendor answer as documented again.
func (c *vendorCell) restore() {
	for c.Sim.InFlight() > 0 {
		time.Sleep(time.Second)
	}
	c.Sim.Behave(c.kind.conduct())
}

// request sends a request, and records the response for the search for secrets.
func (c *vendorCell) request(op logical.Operation, path string, data map[string]any) (*logical.Response, int, string) {
	c.T.Helper()
	resp, status, message := c.Request(op, path, data)
	c.witness.Record(c.T, path, resp, message)
	return resp, status, message
}

// hasValidToken reports whether the last token served is valid for more than a minute.
func (c *vendorCell) hasValidToken() bool {
	return c.token != "" && time.Until(c.Sim.Expiry(c.token)) > time.Minute
}

// read reads a token in a way that causes an exchange, unless the engine backs off. While a Kensho
// token is valid, only the keepalive of a sweep does that.
func (c *vendorCell) read() (*logical.Response, int, string) {
	c.T.Helper()
	if c.kind.hourly && c.hasValidToken() {
		require.NoError(c.T, c.Tick())
	}
	return c.request(logical.ReadOperation, "creds/prod", nil)
}

// readForLonger reads a token in a way that yields a warning if the vendor issues no newer one.
// While a Kensho token is valid, only a read with a longer min_ttl does that.
func (c *vendorCell) readForLonger() (*logical.Response, int, string) {
	c.T.Helper()
	var data map[string]any
	if c.kind.hourly && c.hasValidToken() {
		data = map[string]any{"min_ttl": "1h"}
	}
	return c.request(logical.ReadOperation, "creds/prod", data)
}

// served records a served token, and checks that the vendor accepts it until the lease ends.
func (c *vendorCell) served(resp *logical.Response) {
	c.T.Helper()
	c.token = engine.TokenOf(resp)
	left := time.Until(c.Sim.Expiry(c.token))
	if !c.Sim.Accepts(c.token) || resp.Secret.TTL > left-min(30*time.Second, left/20) {
		c.counts.expired.Add(1)
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

package simulation_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// The kinds of the simulation's credentials, and of their readers.
var (
	simKinds = []string{
		"opaque", "JWT", "opaque, rotating", "JWT, rotating", "key pair", "API key", "refresh token of a pair",
		"OAuth 2.0, rotating", "OAuth 2.0, secret", generatedKind,
		jsonKind, passwordKind, stepsKind, signedRequestKind, signedTokenKind,
	}
	simReaders = []string{"agents", "poller", "once a day", "none"}
)

// account is a credential of the simulation, with a vendor of its own.
type account struct {
	name, kind, readers string
	sim                 *vendorsim.Sim
	conduct             vendorsim.Conduct // the documented behavior
	path                string
	fields              map[string]any

	mu      sync.Mutex
	events  []event
	outages []outage
	dropped time.Time // the expiry of the last token that an operator has dropped
	served  time.Time // the latest expiry of a token that a reader has
}

// event is a read with a lease until a time, or an operator's change, which needs an exchange or
// drops the token without one.
type event struct {
	at, until      time.Time
	exchange, ends bool
}

// outage is a time in which the vendor was down or throttling, including the time for which the
// engine may back off after it. With isOfConsent, the vendor rejects the refresh token.
type outage struct {
	from, until time.Time
	isOfConsent bool
}

func (m *month) newAccount(i int) *account {
	a := &account{
		name:    fmt.Sprintf("c%03d", i),
		kind:    simKinds[i%len(simKinds)],
		readers: simReaders[i/len(simKinds)%len(simReaders)],
		sim:     vendorsim.New(),
	}
	a.sim.Forgetful()
	// Each vendor has a loopback port of its own.
	base := fmt.Sprintf("http://127.0.0.1:%d", 10_000+i)
	a.conduct = vendorsim.Conduct{
		Latency: time.Duration(20+m.random.IntN(300)) * time.Millisecond,
		Skew:    time.Duration(m.random.IntN(9*60)-4*60-30) * time.Second,
		JWT:     strings.HasPrefix(a.kind, "JWT"),
		Rotate:  strings.HasSuffix(a.kind, "rotating"),
	}
	a.sim.Behave(a.conduct)
	switch a.kind {
	case "key pair":
		a.sim.AddClient(engine.ClientID, &engine.PrivateKey().PublicKey, "")
		a.path = "config/kensho/" + a.name
		a.fields = map[string]any{"client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM(), "token_url": vendorsim.URL(base, "https://kensho.okta.com/oauth2/default/v1/token")}
	case "API key":
		a.sim.AddAPIKey(engine.APIKey)
		a.path = "config/sitecore/" + a.name
		a.fields = map[string]any{"api_key": engine.APIKey, "base_url": vendorsim.URL(base, "https://api.rfksrv.com")}
	case "refresh token of a pair":
		a.sim.AddPair(engine.RefreshToken, 12*time.Hour, 90*24*time.Hour)
		a.path = "config/sitecore/" + a.name
		a.fields = map[string]any{"refresh_token": engine.RefreshToken, "access_expiry": "12h", "base_url": vendorsim.URL(base, "https://api.rfksrv.com")}
	case "OAuth 2.0, rotating", "OAuth 2.0, secret":
		client := vendorsim.OAuthClient{
			ID: engine.ClientID, Secret: engine.ClientSecret, Rotate: a.conduct.Rotate, AuthMethods: []string{vendorsim.SecretPost},
			Grants: []string{vendorsim.RefreshTokenGrant, vendorsim.ClientCredentialsGrant},
		}
		a.sim.AddOAuthClient(client)
		a.path = "config/oauth2/" + a.name
		a.fields = map[string]any{"token_url": vendorsim.URL(base, vendorsim.OAuthTokenURL), "client_id": engine.ClientID, "client_secret": engine.ClientSecret}
		if a.conduct.Rotate {
			a.sim.AddOAuthRefreshToken(client, engine.RefreshToken)
			a.fields["refresh_token"], a.fields["idle_expiry"] = engine.RefreshToken, "7d"
		}
	case jsonKind, passwordKind, stepsKind, signedRequestKind, signedTokenKind:
		a.define(i)
	case generatedKind:
		a.path = "config/oauth2/" + a.name
		a.fields = map[string]any{"token_url": vendorsim.URL(base, vendorsim.OAuthTokenURL), "client_id": engine.ClientID, "private_key_source": "generated"}
	default:
		a.sim.AddRefreshToken("link-streaming", engine.RefreshToken)
		a.path = "config/kensho/" + a.name
		a.fields = map[string]any{"refresh_token": engine.RefreshToken, "refresh_url": vendorsim.URL(base, "https://link-streaming.kensho.com/oauth2/refresh")}
	}
	return a
}

// simulateOutages simulates the vendor's outages of minutes and hours, throttling and slow answers.
func (m *month) simulateOutages(a *account, rng *rand.Rand) {
	for !m.ended(time.Duration(rng.ExpFloat64() * float64(4*24*time.Hour))) {
		conduct, spell := a.conduct, time.Duration(1+rng.IntN(30))*time.Minute
		backoff := 7 * time.Minute // the longest back-off, and a renewal that fails in it
		switch rng.IntN(6) {
		case 0, 1:
			conduct.Fault = vendorsim.Always(vendorsim.Answer(http.StatusServiceUnavailable, `"down"`))
		case 2:
			conduct.Fault = vendorsim.Always(vendorsim.Reset)
			spell = time.Duration(1+rng.IntN(12)) * time.Hour
		case 3:
			seconds := 30 + rng.IntN(1800)
			conduct.Fault = vendorsim.Always(vendorsim.Throttle(fmt.Sprint(seconds)))
			backoff = max(backoff, time.Duration(seconds+60)*time.Second)
		case 4:
			conduct.Fault = vendorsim.Always(vendorsim.Hang)
		case 5: // slow, but within request_timeout
			conduct.Latency = time.Duration(1+rng.IntN(8)) * time.Second
			spell, backoff = time.Duration(1+rng.IntN(12))*time.Hour, 0
		}
		a.sim.Behave(conduct)
		if conduct.Fault != nil {
			a.mu.Lock()
			now := time.Now()
			a.outages = append(a.outages, outage{from: now, until: now.Add(spell + backoff)})
			a.mu.Unlock()
		}
		time.Sleep(spell)
		a.sim.Behave(a.conduct)
	}
}

// operator changes a credential at random times: a setting, the credential itself, a refresh, an
// invalidation as by another node, or a key rotation.
func (m *month) operator(a *account, rng *rand.Rand) {
	for !m.ended(time.Duration(rng.ExpFloat64() * float64(20*24*time.Hour))) {
		if a.kind == generatedKind && rng.IntN(2) == 0 {
			m.rotate(a, rng)
			continue
		}
		if a.kind == jsonKind && rng.IntN(4) == 0 {
			m.redefine(rng)
			continue
		}
		fields := map[string]any{"request_timeout": 10 + rng.IntN(3)}
		switch rng.IntN(6) {
		case 0:
			// A refresh may take long. The token is invalid before the next one exists only
			// with drop=true.
			drops := rng.IntN(2) == 0
			if drops {
				a.note(event{at: time.Now(), ends: true})
			}
			if status, _ := m.send(logical.UpdateOperation, "refresh/"+a.name, map[string]any{"drop": drops}, nil); status == http.StatusOK {
				a.note(event{at: time.Now(), exchange: true})
			}
			continue
		case 1:
			m.Backend.InvalidateKey(context.Background(), "state/"+a.name+"/own")
			continue
		case 2:
			fields["verify"] = false
			a.note(event{at: time.Now(), ends: true})
			status, message := m.send(logical.UpdateOperation, a.path, fields, nil)
			assert.Equal(m.T, http.StatusOK, status, message)
			continue
		}
		if a.fields["refresh_token"] != nil && strings.HasPrefix(a.path, "config/kensho/") && rng.IntN(2) == 0 {
			fields["refresh_token"] = fmt.Sprintf("from-the-account-page-%d", rng.Uint64())
			a.sim.AddRefreshToken("link-streaming", fields["refresh_token"].(string))
		}
		if status, _ := m.send(logical.UpdateOperation, a.path, fields, nil); status == http.StatusOK {
			m.writes.Add(1)
			a.note(event{at: time.Now(), exchange: true})
		}
	}
}

func (a *account) note(e event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = append(a.events, e)
	if e.ends {
		_, a.dropped = a.sim.Issued()
	}
}

// validUntil returns the expiry of the last token issued, or the zero time if it was dropped.
func (a *account) validUntil() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, expiry := a.sim.Issued(); expiry.After(a.dropped) {
		return expiry
	}
	return time.Time{}
}

// servedUntil is validUntil of the tokens that readers have.
func (a *account) servedUntil() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.served.After(a.dropped) {
		return a.served
	}
	return time.Time{}
}

// serve notes the expiry of a token that a reader has.
func (a *account) serve(expiry time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if expiry.After(a.served) {
		a.served = expiry
	}
}

// excused reports whether an outage overlaps the given time.
func (a *account) excused(from, until time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, outage := range a.outages {
		if !until.Before(outage.from) && !from.After(outage.until) {
			return true
		}
	}
	return false
}

// least returns the minimum number of exchanges in hindsight: one per token lifetime in which a
// reader had a lease, one per keepalive, and one per exchange that an operator caused.
func (a *account) least() int {
	const keepalive = 24 * time.Hour
	expiresUnused := strings.HasPrefix(a.path, "config/kensho/") && a.kind != "key pair" || a.fields["idle_expiry"] != nil
	exchanges := 0
	var last, expiry time.Time
	exchange := func(at time.Time) {
		exchanges++
		last, expiry = at, at.Add(a.lifetime(at))
	}
	for _, e := range a.events {
		for expiresUnused && exchanges > 0 && e.at.Sub(last) > keepalive {
			exchange(last.Add(keepalive))
		}
		switch {
		case e.ends:
			expiry = e.at
		case e.exchange || e.at.After(expiry):
			exchange(e.at)
		}
		for e.until.After(expiry) {
			exchange(expiry)
		}
	}
	return exchanges
}

func (a *account) lifetime(at time.Time) time.Duration {
	switch a.kind {
	case "key pair", "OAuth 2.0, rotating", "OAuth 2.0, secret", generatedKind, jsonKind, passwordKind, stepsKind, signedRequestKind:
		return time.Hour
	case signedTokenKind:
		return 59 * time.Minute
	case readerKind:
		return readerTokenLifetime
	case "API key":
		return 24 * time.Hour
	case "refresh token of a pair":
		return 12 * time.Hour
	}
	vendors := at.Add(a.conduct.Skew)
	return vendors.Truncate(time.Hour).Add(time.Hour).Sub(vendors)
}

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

// How the credentials of the simulation are made, and who reads them.
var (
	simKinds   = []string{"opaque", "JWT", "opaque, rotating", "JWT, rotating", "key pair", "API key", "refresh token of a pair", "OAuth 2.0, rotating", "OAuth 2.0, secret", generatedKind}
	simReaders = []string{"agents", "poller", "once a day", "nobody"}
)

// account is one credential of the simulation, with a vendor of its own.
type account struct {
	name, kind, readers string
	sim                 *vendorsim.Sim
	conduct             vendorsim.Conduct // on a good day
	path                string
	fields              map[string]any

	mu     sync.Mutex
	events []event
	bad    []badSpell
	void   time.Time // the death of the last token that an operator has done away with
}

// event is a read that was served, with a lease until then, or what an operator did:
// something that takes an exchange, or something that ends the token without one.
type event struct {
	at, until      time.Time
	exchange, ends bool
}

// badSpell is when the vendor was down or throttling, and until when the engine may
// leave it alone for that.
type badSpell struct{ from, until time.Time }

func (m *month) newAccount(i int) *account {
	a := &account{
		name:    fmt.Sprintf("c%03d", i),
		kind:    simKinds[i%len(simKinds)],
		readers: simReaders[i/len(simKinds)%len(simReaders)],
		sim:     vendorsim.New(),
	}
	a.sim.Forgetful()
	// A loopback port stands for the vendor.
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

// weather is the vendor's bad days: outages of minutes and of hours, throttling,
// slow answers.
func (m *month) weather(a *account, rng *rand.Rand) {
	for !m.over(time.Duration(rng.ExpFloat64() * float64(4*24*time.Hour))) {
		conduct, spell := a.conduct, time.Duration(1+rng.IntN(30))*time.Minute
		leave := 7 * time.Minute // the longest backoff, and a renewal that fails in it
		switch rng.IntN(6) {
		case 0, 1:
			conduct.Fault = vendorsim.Always(vendorsim.Answer(http.StatusServiceUnavailable, `"down"`))
		case 2:
			conduct.Fault = vendorsim.Always(vendorsim.Reset)
			spell = time.Duration(1+rng.IntN(12)) * time.Hour
		case 3:
			seconds := 30 + rng.IntN(1800)
			conduct.Fault = vendorsim.Always(vendorsim.Throttle(fmt.Sprint(seconds)))
			leave = max(leave, time.Duration(seconds+60)*time.Second)
		case 4:
			conduct.Fault = vendorsim.Always(vendorsim.Hang)
		case 5: // slow, and in time all the same
			conduct.Latency = time.Duration(1+rng.IntN(8)) * time.Second
			spell, leave = time.Duration(1+rng.IntN(12))*time.Hour, 0
		}
		a.sim.Behave(conduct)
		if conduct.Fault != nil {
			a.mu.Lock()
			now := time.Now()
			a.bad = append(a.bad, badSpell{from: now, until: now.Add(spell + leave)})
			a.mu.Unlock()
		}
		time.Sleep(spell)
		a.sim.Behave(a.conduct)
	}
}

// operator writes a setting now and then, or the credential itself, refreshes it, or
// has another node write about it.
func (m *month) operator(a *account, rng *rand.Rand) {
	for !m.over(time.Duration(rng.ExpFloat64() * float64(20*24*time.Hour))) {
		if a.kind == generatedKind && rng.IntN(2) == 0 {
			m.rotate(a, rng)
			continue
		}
		fields := map[string]any{"request_timeout": 10 + rng.IntN(3)}
		switch rng.IntN(6) {
		case 0:
			// The vendor may let the operator wait. Only one who drops the token ends it
			// before there is another.
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
		_, a.void = a.sim.Issued()
	}
}

// goodUntil is when the last token dies that the engine has been given and has not
// been told to forget.
func (a *account) goodUntil() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, death := a.sim.Issued(); death.After(a.void) {
		return death
	}
	return time.Time{}
}

// excused is whether the vendor gave a reason to fail at some time from to until.
func (a *account) excused(from, until time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, spell := range a.bad {
		if !until.Before(spell.from) && !from.After(spell.until) {
			return true
		}
	}
	return false
}

// least is how many exchanges would have done by hindsight: one for each token's
// lifetime while somebody held a lease, one for each keepalive, and one for each that
// an operator asked for.
func (a *account) least() int {
	const keepalive = 24 * time.Hour
	diesOfDisuse := strings.HasPrefix(a.path, "config/kensho/") && a.kind != "key pair" || a.fields["idle_expiry"] != nil
	exchanges := 0
	var last, death time.Time
	exchange := func(at time.Time) {
		exchanges++
		last, death = at, at.Add(a.lifetime(at))
	}
	for _, e := range a.events {
		for diesOfDisuse && exchanges > 0 && e.at.Sub(last) > keepalive {
			exchange(last.Add(keepalive))
		}
		switch {
		case e.ends:
			death = e.at
		case e.exchange || e.at.After(death):
			exchange(e.at)
		}
		for e.until.After(death) {
			exchange(death)
		}
	}
	return exchanges
}

func (a *account) lifetime(at time.Time) time.Duration {
	switch a.kind {
	case "key pair", "OAuth 2.0, rotating", "OAuth 2.0, secret", generatedKind:
		return time.Hour
	case "API key":
		return 24 * time.Hour
	case "refresh token of a pair":
		return 12 * time.Hour
	}
	vendors := at.Add(a.conduct.Skew)
	return vendors.Truncate(time.Hour).Add(time.Hour).Sub(vendors)
}

package simulation_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// oauth2 is the vendor without a rule for the lifetime of refresh tokens. The operator knows it, or nobody.
const oauth2 = "oauth2"

// lifetimes are the vendors of people, with the lifetime of their refresh tokens.
var lifetimes = map[string]time.Duration{"monthly": 30 * day, "quarterly": 90 * day, oauth2: 60 * day}

// definitionOf returns the definition of a vendor whose refresh tokens have a fixed end.
func definitionOf(vendor string, lifetime time.Duration) string {
	return fmt.Sprintf(`{
		"title": %q,
		"fields": {
			"tenant": {"description": "the tenant", "pattern": "[a-z0-9]+", "required": true},
			"client_id": {"required": true}, "client_secret": {"required": true}, "refresh_token": {}
		},
		"token_url": "https://{tenant}.people.example/oauth2/token",
		"auth": "client_secret_basic",
		"grants": [{
			"grant_type": "refresh_token", "needs": ["client_id", "client_secret", "refresh_token"],
			"request": {"form": {"grant_type": "refresh_token", "refresh_token": "{refresh_token}"}}
		}],
		"authorization": {
			"url": "https://{tenant}.people.example/oauth2/authorize", "device_url": "https://{tenant}.people.example/oauth2/device_authorization",
			"issuer": "https://{tenant}.people.example"
		},
		"refresh_token": {"lifetime": "%dd"}
	}`, vendor, int(lifetime/day))
}

// person is somebody who consents to a credential, whose vendor is the kind of the account.
type person struct {
	*account
	client vendorsim.OAuthClient
	flow   string // "browser", "pasted" or "device"
	temper string // when the person acts on a warning: "prompt", "late" or, after the first consent, "never"

	writes    atomic.Int64 // that change what pending consents are for
	connected atomic.Int64 // number of the last consent that the person knows to be connected

	// The account's mu guards the following fields. They are of the last consent.
	number    int
	consented time.Time // zero if there is none
	ends      time.Time // of the refresh token at the vendor
	date      time.Time // of the operator's field expires; zero if it is not set
	withdrawn time.Time // zero if it is not
	warned    bool
}

// unending is the end of an outage that lasts until the next consent.
var unending = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

func (y *year) newPerson(i int) *person {
	vendors := []string{"monthly", "quarterly", oauth2}
	p := &person{
		account: &account{
			name: fmt.Sprintf("person%d@example.com", i), kind: vendors[i%len(vendors)], sim: vendorsim.New(),
			readers: []string{"agent", "once a day", "once a day", "none"}[i%4],
			outages: []outage{{from: time.Now(), until: unending, isOfConsent: true}},
		},
		flow:   []string{"browser", "pasted", "device"}[i/len(vendors)%3],
		temper: []string{"prompt", "late", "prompt", "late", "never"}[i%5],
	}
	p.sim.Forgetful()
	p.conduct = vendorsim.Conduct{
		Latency: time.Duration(20+y.random.IntN(300)) * time.Millisecond,
		Skew:    time.Duration(y.random.IntN(9*60)-4*60-30) * time.Second,
		JWT:     i%2 == 0,
		OAuth:   vendorsim.OAuthConduct{SlowDown: i%4 == 2},
	}
	p.sim.Behave(p.conduct)
	issuer := "https://" + p.host()
	p.sim.AddOAuthServer(vendorsim.OAuthServer{
		Issuer: issuer, TokenURL: issuer + "/oauth2/token", Metadata: []string{vendorsim.OAuthMetadata, vendorsim.OpenIDMetadata},
	})
	p.client = vendorsim.OAuthClient{
		Issuer: issuer, ID: engine.ClientID, Secret: engine.ClientSecret, Scopes: []string{"openid", "read"}, AuthMethods: []string{vendorsim.SecretBasic},
		Grants:      []string{vendorsim.RefreshTokenGrant, vendorsim.AuthorizationCodeGrant, vendorsim.DeviceCodeGrant},
		RedirectURI: "https://vault.example.com/v1/kensho/callback", Rotate: i%2 == 0, Lifetime: 8 * time.Hour, RefreshLifetime: lifetimes[p.kind],
	}
	p.sim.AddOAuthClient(p.client)
	p.path = "config/" + p.kind + "/" + p.name
	p.fields = map[string]any{"client_id": engine.ClientID, "client_secret": engine.ClientSecret, "scope": "openid,read", "redirect_uri": p.client.RedirectURI}
	if p.kind == oauth2 {
		p.fields["issuer"], p.fields["grant_type"], p.fields["auth_style"] = issuer, "refresh_token", vendorsim.SecretBasic
	} else {
		p.fields["tenant"] = p.tenant()
	}
	return p
}

func (p *person) tenant() string { return strings.TrimSuffix(p.name, "@example.com") }

func (p *person) host() string { return p.tenant() + ".people.example" }

// isRequired returns whether the engine must, and whether it may, say at a time that a person must consent. It
// learns of a withdrawal by the next exchange.
func (p *person) isRequired(now time.Time) (mustBe, mayBe bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case len(p.sim.Consents()) != p.number: // the person is about to consent again
		return false, true
	case p.consented.IsZero():
		return true, true
	}
	until := p.warnTime()
	mustBe = !until.IsZero() && now.After(until.Add(lateness))
	return mustBe, !p.withdrawn.IsZero() || !until.IsZero() && now.After(until.Add(-lateness)) || now.After(p.ends.Add(-lateness))
}

// warnTime returns when the engine must warn of the end of the refresh token; zero if it knows none. The caller
// holds the lock.
func (p *person) warnTime() time.Time {
	switch {
	case p.kind != oauth2:
		return p.ends.Add(-horizon)
	case !p.date.IsZero():
		return p.date.Add(-horizon)
	}
	return time.Time{}
}

// isOverdue reports whether the event of the end of the refresh token must have come.
func (p *person) isOverdue(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	until := p.warnTime()
	return !p.consented.IsZero() && !until.IsZero() && now.After(until.Add(15*time.Minute)) // watch looks every ten
}

func (p *person) warn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.warned = true
}

func (p *person) hasConsentedSince(t time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.consented.After(t)
}

func (p *person) isWarned() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.warned || p.consented.IsZero()
}

func (p *person) describe() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprintf("consented %s, ends %s, date %s, withdrawn %s", p.consented, p.ends, p.date, p.withdrawn)
}

// hasConsented notes a consent that the vendor has exchanged at a time.
func (p *person) hasConsented(number int, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.number, p.consented, p.withdrawn, p.warned = number, at, time.Time{}, false
	if p.date.Before(at.Add(horizon)) {
		p.date = time.Time{} // the engine drops the date of the former refresh token
	}
	p.ends = at.Add(p.client.RefreshLifetime)
	p.outages = slices.DeleteFunc(p.outages, func(o outage) bool { return o.until.Equal(unending) && o.from.After(at) })
	for i := range p.outages {
		if p.outages[i].until.Equal(unending) {
			p.outages[i].until = at
		}
	}
	p.outages = append(p.outages, outage{from: p.ends.Add(-lateness), until: unending, isOfConsent: true})
}

// withdraw plays a person who withdraws the consent at the vendor.
func (p *person) withdraw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.consented.IsZero() || !p.withdrawn.IsZero() {
		return
	}
	p.withdrawn = time.Now()
	p.outages = append(p.outages, outage{from: p.withdrawn, until: unending, isOfConsent: true})
	p.sim.Withdraw(p.name)
}

// change changes a credential at random times: the person withdraws the consent, and the operator rotates the
// client's secret, writes a setting or asks for an exchange.
func (y *year) change(p *person, rng *rand.Rand) {
	for n := 0; !y.ended(time.Duration(rng.ExpFloat64() * float64(20*day))); n++ {
		switch rng.IntN(5) {
		case 0:
			p.withdraw()
		case 1, 2:
			y.rotateSecret(p, fmt.Sprintf("client-secret-%d-of-%s", n, p.tenant()))
		case 3:
			y.send(logical.UpdateOperation, p.path, map[string]any{"request_timeout": 10 + rng.IntN(3)}, nil)
		case 4:
			y.send(logical.UpdateOperation, "refresh/"+p.name, nil, nil)
		}
	}
}

// rotateSecret replaces the client's secret. The vendor accepts both until the engine has the new one.
func (y *year) rotateSecret(p *person, secret string) {
	p.client.NextSecret = secret
	p.sim.AddOAuthClient(p.client)
	for wait := time.Hour; ; wait = min(2*wait, day) {
		asked := time.Now()
		p.writes.Add(1)
		status, message := y.send(logical.UpdateOperation, p.path, map[string]any{"client_secret": secret}, nil)
		p.writes.Add(1)
		if status == http.StatusOK {
			break
		}
		if !p.excused(asked, time.Now()) {
			y.T.Errorf("%s: %s: the client's secret is not replaced: %d %s", asked, p.name, status, message)
		}
		if y.ended(wait) {
			return
		}
	}
	p.client.Secret, p.client.NextSecret = secret, ""
	p.sim.AddOAuthClient(p.client)
	y.writes.Add(1)
}

// live plays the person, who consents at first, and again some time after each warning.
func (y *year) live(p *person, rng *rand.Rand) {
	for !y.ended(time.Duration(rng.ExpFloat64() * float64(6*time.Hour))) {
		for p.hasRefreshToken() {
			if y.ended(time.Hour) {
				return
			}
		}
		delay := time.Duration(rng.Int64N(int64(3 * day)))
		switch {
		case p.connected.Load() == 0:
			delay = time.Minute
		case p.temper == "never":
			return
		case p.temper == "late": // some of them after the end
			delay = time.Duration(rng.Int64N(int64(20 * day)))
		}
		if y.ended(delay) {
			return
		}
		if y.consent(p, rng) && p.kind == oauth2 && rng.IntN(4) > 0 {
			y.writeDate(p, rng)
		}
	}
}

// hasRefreshToken reports whether no warning has come since the last consent.
func (p *person) hasRefreshToken() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.consented.IsZero() && !p.warned
}

// writeDate plays the operator who writes the end of the new refresh token, some time after the consent.
func (y *year) writeDate(p *person, rng *rand.Rand) {
	if y.ended(time.Duration(rng.Int64N(int64(day)))) || y.settle() {
		return
	}
	p.mu.Lock()
	date := p.ends.UTC().Truncate(time.Second)
	p.mu.Unlock()
	status, message := y.send(logical.UpdateOperation, p.path, map[string]any{"expires": date.Format(time.RFC3339)}, nil)
	switch {
	case status == http.StatusOK:
		p.mu.Lock()
		p.date = date
		p.mu.Unlock()
	case status != http.StatusInternalServerError:
		assert.Fail(y.T, "the date is refused", "%d %s", status, message)
	}
}

// secondsOf returns a duration of whole seconds between two numbers of them.
func secondsOf(rng *rand.Rand, least, most int) time.Duration {
	return time.Duration(least+rng.IntN(most-least)) * time.Second
}

// statusOf returns the status that a browser gets.
func statusOf(resp *logical.Response, status int) int {
	if resp != nil && resp.Data[logical.HTTPStatusCode] != nil {
		return resp.Data[logical.HTTPStatusCode].(int)
	}
	return status
}

// pageOf returns the page that a browser gets, or the message.
func pageOf(resp *logical.Response, message string) string {
	if resp != nil && resp.Data[logical.HTTPRawBody] != nil {
		return string(resp.Data[logical.HTTPRawBody].([]byte))
	}
	return strconv.Quote(message)
}

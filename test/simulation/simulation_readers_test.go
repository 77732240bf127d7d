package simulation_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// readerKind is the kind of the accounts of readers.
const readerKind = "reader of a role"

// readerTokenLifetime is the lifetime of the tokens of readers.
const readerTokenLifetime = 6 * time.Hour

// crowdSpan returns the simulated time, and the number of readers of each service.
func crowdSpan() (span time.Duration, readers int) {
	if testing.Short() {
		return 2 * day, 20
	}
	return 12 * day, 100
}

// A crowd is a run of the simulation in which many readers share roles, and each gets a token of its own.
type crowd struct {
	*month
	disk     *engine.FaultyStorage
	services []*service
	readers  []*reader

	denied, strangers, older, named, orphans, news, deletions, most atomic.Int64
}

// A service is a credential that can act for people, with a vendor of its own.
type service struct {
	*account
	client vendorsim.OAuthClient

	// mu guards the client's Subjects, and changed: no token from before is served to a read that begins
	// after done.
	mu            sync.Mutex
	changed, done time.Time
}

// A reader is a person with an entity, who reads a role of a service.
type reader struct {
	*account
	of       *service
	scope    string // what the reader asks for; "" for all that the role has
	lastRead atomic.Int64
}

// TestManyReadersOfOneRole checks guarantees 1, 3, 4, 6, 8, 10, 14 and 15 of roles whose tokens depend on the
// reader's identity: hundreds of people come, leave, and are no longer known to the vendor, during outages,
// failures of storage, failovers, and changes and deletions of the credential.
func TestManyReadersOfOneRole(t *testing.T) {
	started := time.Now()
	span, _ := crowdSpan()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, *seed)
		c.run()
		c.checkResults()
	})
	t.Logf("simulated %s in %s", span, time.Since(started).Round(time.Millisecond))
}

func newCrowd(t *testing.T, seed uint64) *crowd {
	span, readers := crowdSpan()
	m := &month{Engine: engine.New(t), random: rand.New(rand.NewPCG(seed, 2)), end: time.Now().Add(span)}
	c := &crowd{month: m, disk: m.BreakStorage()}
	c.disk.Forgetful = true
	hosts := map[string]http.Handler{}
	for i := range 3 {
		s := c.newService(i)
		hosts[s.name+".example"] = s.sim
		for j := range readers {
			c.readers = append(c.readers, c.newReader(s, j))
		}
		s.register()
	}
	c.Transport = vendorsim.Transport(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { hosts[r.Host].ServeHTTP(w, r) }))
	c.Restart()
	return c
}

func (c *crowd) newService(i int) *service {
	s := &service{account: &account{name: fmt.Sprintf("service%d", i), sim: vendorsim.New()}}
	s.conduct = vendorsim.Conduct{Latency: time.Duration(20+c.random.IntN(300)) * time.Millisecond, JWT: i == 1}
	s.sim.Forgetful()
	s.sim.Behave(s.conduct)
	issuer := "https://" + s.name + ".example"
	s.sim.AddOAuthServer(vendorsim.OAuthServer{Issuer: issuer, TokenURL: issuer + "/oauth2/token", RevocationURL: issuer + "/oauth2/revoke"})
	s.client = vendorsim.OAuthClient{
		Issuer: issuer, ID: engine.ClientID, Keys: map[string]crypto.PublicKey{"": serviceKey().Public()}, Scopes: []string{"read", "write"},
		Grants: []string{vendorsim.JWTBearerGrant}, Lifetime: readerTokenLifetime,
	}
	s.path = "config/oauth2/" + s.name
	s.fields = map[string]any{
		"token_url": issuer + "/oauth2/token", "client_id": engine.ClientID, "private_key": serviceKeyPEM(), "grant_type": "jwt_bearer", "scope": "read,write",
	}
	if i == 2 {
		s.fields["revocation_url"] = issuer + "/oauth2/revoke"
	}
	c.services, c.accounts = append(c.services, s), append(c.accounts, s.account)
	return s
}

// newReader adds a reader to Vault, and all but a few to the vendor.
func (c *crowd) newReader(s *service, i int) *reader {
	r := &reader{of: s, account: &account{
		kind: readerKind, name: fmt.Sprintf("person-%03d-of-%s", i, s.name), sim: s.sim, path: s.path, fields: s.fields,
		readers: []string{"agent", "agent", "agent", "once a day", "leaver"}[i%5],
	}}
	if i%20 == 7 {
		r.readers = "stranger"
	} else {
		s.client.Subjects = append(s.client.Subjects, r.name)
	}
	if i%4 == 1 {
		r.scope = "read"
	}
	c.AddReader(r.name, r.name)
	return r
}

// serviceKey is the key of all services, on an elliptic curve, as the others sign more slowly.
var serviceKey = sync.OnceValue(func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

func serviceKeyPEM() string {
	der, err := x509.MarshalPKCS8PrivateKey(serviceKey())
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// register tells the vendor of its people, of whom a copy is made as they change.
func (s *service) register() {
	client := s.client
	client.Subjects = append(slices.Clone(s.client.Subjects), engine.ClientID) // the credential's own tokens
	s.sim.AddOAuthClient(client)
}

func (c *crowd) run() {
	for _, s := range c.services {
		c.create(s)
	}
	var all sync.WaitGroup
	rng := func() *rand.Rand { return rand.New(rand.NewPCG(c.random.Uint64(), c.random.Uint64())) }
	for _, s := range c.services {
		outages, operator, churn := rng(), rng(), rng()
		all.Go(func() { c.simulateOutages(s.account, outages) })
		all.Go(func() { c.operate(s, operator) })
		all.Go(func() { c.churn(s, churn) })
	}
	for _, r := range c.readers {
		reads := rng()
		all.Go(func() { c.live(r, reads) })
	}
	disk, restarts := rng(), rng()
	all.Go(func() { c.simulateStorage(disk) })
	all.Go(func() {
		for !c.ended(time.Duration(restarts.ExpFloat64() * float64(day))) {
			if c.isSettled() {
				c.restart(func() { c.Backend.Cleanup(context.Background()) })
			}
		}
	})
	all.Go(c.ticker)
	all.Go(c.inspect)
	all.Wait()
	for _, r := range c.readers {
		r.note(event{at: c.end, ends: true})
	}
}

// role returns the path of the role that all readers of a service share.
func (s *service) role() string { return "roles/" + s.name + "-each" }

// create stores a credential and its role.
func (c *crowd) create(s *service) {
	c.until(s.path, s.fields)
	c.until(s.role(), map[string]any{"config": s.name, "assertion_subject": "{{identity.entity.aliases.accessor.name}}"})
}

// until writes until the write succeeds, through outages and failures of storage.
func (c *crowd) until(path string, fields map[string]any) {
	for {
		if status, _ := c.send(logical.UpdateOperation, path, fields, nil); status == http.StatusOK || c.ended(time.Minute) {
			return
		}
	}
}

// inspect checks several times a day that storage has no more than the readers need, and that nothing outside
// names a person.
func (c *crowd) inspect() {
	for !c.ended(4 * time.Hour) {
		for _, sent := range c.Events() {
			if sent.Kind == "tokenbroker/credential-rejected" {
				c.news.Add(1)
				c.T.Errorf("%s: %v, though only people are rejected", time.Now(), sent.Metadata)
			}
			if strings.Contains(fmt.Sprint(sent.Metadata), "person-") {
				c.named.Add(1)
				c.T.Errorf("a person is named: %v", sent)
			}
		}
		for _, s := range c.services {
			c.send(logical.ReadOperation, "status/"+s.name, nil, nil)
		}
		c.send(logical.ReadOperation, "metrics", nil, nil)
		for line := range strings.Lines(c.Outside.Text()) {
			if strings.Contains(line, "person-") {
				c.named.Add(1)
				c.T.Errorf("a person is named: %s", line)
			}
		}
		c.Outside.Reset()
		if !c.isSettled() {
			continue
		}
		variants, recent := 0, 0
		all := c.Dump()
		for key := range all {
			if strings.HasPrefix(key, "variant/") {
				variants++
			}
			name, _, _ := strings.Cut(strings.TrimPrefix(key, "state/"), "/")
			if base, digest, isVariant := strings.Cut(name, "~"); isVariant && all["variant/"+base+"/"+digest] == "" {
				c.orphans.Add(1)
				c.T.Errorf("%s: %s belongs to nothing", time.Now(), key)
			}
		}
		for _, r := range c.readers {
			if time.Now().UnixNano()-r.lastRead.Load() < int64(3*readerTokenLifetime+2*time.Hour) {
				recent++
			}
		}
		c.most.Store(max(c.most.Load(), int64(variants)))
		if variants > recent {
			c.orphans.Add(1)
			c.T.Errorf("%s: %d variants in storage for %d recent readers", time.Now(), variants, recent)
		}
	}
}

// checkResults logs and checks the results.
func (c *crowd) checkResults() {
	tokens, least := 0, 0
	for _, s := range c.services {
		issued, _ := s.sim.Issued()
		tokens += issued
		assert.Empty(c.T, s.sim.Violations(), s.name)
	}
	for _, r := range c.readers {
		least += r.least()
	}
	span, _ := crowdSpan()
	ratio := float64(tokens) / float64(least)
	c.T.Logf("seed %d: %s of %d readers of %d credentials: %d reads (%d failed, %d of people whom the vendor does not know), %d writes and refreshes, %d deletions, %d failovers, at most %d variants in storage; %d exchanges, minimum %d: %.3f",
		*seed, span, len(c.readers), len(c.services), c.reads.Load(), c.failed.Load(), c.denied.Load(), c.writes.Load(), c.deletions.Load(), c.restarts.Load(), c.most.Load(), tokens, least, ratio)
	c.T.Logf("tokens served that expire before their lease: %d; tokens of another person: %d; tokens from before a change: %d; reads failed with a valid token or an available vendor: %d; entries left in storage: %d; persons named outside: %d; people's rejections reported as the credential's: %d",
		c.expired.Load(), c.strangers.Load(), c.older.Load(), c.failedWrongly.Load(), c.orphans.Load(), c.named.Load(), c.news.Load())
	for what, n := range map[string]int64{
		"expired": c.expired.Load(), "of another person": c.strangers.Load(), "from before": c.older.Load(), "failed wrongly": c.failedWrongly.Load(),
		"left": c.orphans.Load(), "named": c.named.Load(), "news": c.news.Load(),
	} {
		assert.Zero(c.T, n, what)
	}
	assert.LessOrEqual(c.T, ratio, 1.4)
	assert.True(c.T, testing.Short() || c.deletions.Load() > 0 && c.writes.Load() > 0 && c.restarts.Load() > 0 && c.denied.Load() > 0)

	// Nobody reads, so storage returns to its size.
	c.Pass(3*readerTokenLifetime + 2*time.Hour)
	for key := range c.Dump() {
		assert.False(c.T, strings.HasPrefix(key, "variant/") || strings.Contains(key, "~"), "%s is left in storage", key)
	}
	for _, s := range c.services {
		for _, path := range []string{s.role(), s.path} {
			_, status, message := c.Request(logical.DeleteOperation, path, nil)
			require.Equal(c.T, http.StatusOK, status, message)
		}
	}
	assert.Empty(c.T, c.Dump(), "entries left in storage")
	c.Backend.Cleanup(context.Background())
}

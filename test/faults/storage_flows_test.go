package faults_test

import (
	"crypto"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// A storageFlow is something that is asked of the engine.
// storageFlow is a request, with its precondition and the check of its result.
type storageFlow struct {
	given func(*stage)
	when  func(*stage) answer

	// again repeats a request that can succeed only once; nil if when can be repeated.
	again func(*stage) answer

	// then returns what is wrong after the request has succeeded, or "".
	then func(*stage) string

	// cached is whether the request makes no storage call.
	cached bool
}

func ask(op logical.Operation, path string, data map[string]any) func(*stage) answer {
	return func(s *stage) answer { return s.ask(op, path, data) }
}

func reads(path string) func(*stage) answer { return ask(logical.ReadOperation, path, nil) }

func writes(path string, data map[string]any) func(*stage) answer {
	return ask(logical.UpdateOperation, path, data)
}

func deletes(path string) func(*stage) answer { return ask(logical.DeleteOperation, path, nil) }

// rotating makes the vendor rotate refresh tokens. Nothing is stored yet.
func rotating(s *stage) {
	s.Sim.Behave(vendorsim.Conduct{Rotate: true})
	s.Sim.AddRefreshToken("link-streaming", engine.AnotherToken)
}

// warm adds a credential whose refresh token has been rotated twice, and reads its token.
func warm(s *stage) {
	rotating(s)
	s.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
	s.Write("refresh/prod", nil)
	s.older = engine.TokenOf(s.Creds("prod"))
}

// and runs steps in order.
func and(steps ...func(*stage)) func(*stage) {
	return func(s *stage) {
		for _, step := range steps {
			step(s)
		}
	}
}

func cold(s *stage) { s.Restart() }

// nextHour passes the time until a token of the first hour has expired.
func nextHour(*stage) { engine.Until(1, 0, 5) }

// sweeps sends a tick. It must return within 30 seconds, because Vault holds a lock; storage calls
// that hang continue after it.
func sweeps(s *stage) answer {
	began := time.Now()
	err := s.Tick()
	switch {
	case time.Since(began) > 30*time.Second:
		s.T.Errorf("guarantee 11: a tick took %s", time.Since(began))
	case s.storage.Pending.Load() > 0:
		return answer{status: http.StatusInternalServerError, message: "storage calls continue"}
	}
	return done(err)
}

// rewritten checks that reads see the credential as last written.
func rewritten(s *stage) string {
	if got := s.Read("config/kensho/prod").Data["request_timeout"]; got != 20 {
		return "the older settings are read"
	}
	switch a := s.ask(logical.ReadOperation, "creds/prod", nil); {
	case a.status != http.StatusOK:
		return "there is no token: " + a.message
	case a.token() == s.older:
		return "the older token is served"
	}
	return ""
}

func written(s *stage) string {
	if a := s.ask(logical.ReadOperation, "creds/prod", nil); a.status != http.StatusOK {
		return "there is no token: " + a.message
	}
	return ""
}

// deleted checks that the credential cannot be read, and left nothing in storage.
func deleted(s *stage) string {
	for _, path := range []string{"creds/prod", "token/prod", "status/prod"} {
		if a := s.ask(logical.ReadOperation, path, nil); a.status != http.StatusBadRequest {
			return path + " can be read"
		}
	}
	if stored := s.stored(); stored != "map[]" {
		return "left in storage: " + stored
	}
	return ""
}

func refreshed(s *stage) string {
	if engine.TokenOf(s.Creds("prod")) == s.older {
		return "the older token is served"
	}
	return ""
}

func withRole(s *stage) {
	s.Engine = engine.NewNarrowed(s.T)
	s.Creds("link")
	s.Creds("prod")
}

func roleWritten(s *stage) string {
	if got := s.Read("roles/web").Data["ttl"]; got != int64(300) {
		return "the role is not as it was written"
	}
	if a := s.ask(logical.ReadOperation, "creds/web", nil); a.status != http.StatusOK || a.Secret.TTL > 5*time.Minute {
		return "readers do not see the role: " + a.message
	}
	return ""
}

func roleDeleted(s *stage) string {
	if a := s.ask(logical.ReadOperation, "creds/link", nil); a.status != http.StatusBadRequest {
		return "the deleted role can be read"
	}
	return ""
}

// withLease adds a dedicated role and one of its leases.
func withLease(s *stage) {
	s.Engine = engine.NewOAuth(s.T)
	s.Write("roles/mine", map[string]any{"max_leases": 0})
	s.Creds("api")
	s.lease = s.Creds("mine")
}

func revokes(s *stage) answer { return done(s.Revoke(s.lease)) }

func revoked(s *stage) string {
	switch {
	case s.Sim.Accepts(engine.TokenOf(s.lease)):
		return "the token is still valid"
	case s.Sim.Accepts(s.older):
		return "the shared token is still valid"
	}
	return ""
}

// deletesWithLease deletes a credential. If the first attempt succeeds, the shared token must be
// revoked too; before a second attempt, the engine may have lost it.
func deletesWithLease(s *stage) answer {
	shared := engine.TokenOf(s.Creds("api"))
	a := deletes("config/oauth2/api")(s)
	if a.status == http.StatusOK {
		s.older = shared
	}
	return a
}

// signing adds two credentials with one key pair and a pending pair. The vendor rotates their
// refresh tokens.
func signing(s *stage) {
	s.Engine = engine.NewSigning(s.T)
	s.pending = s.Read("keypair/prod").Data["pending_key_id"]
}

// signingOne is signing with one credential.
func signingOne(s *stage) {
	signing(s)
	s.Request(logical.DeleteOperation, "config/oauth2/b", nil)
}

func activated(s *stage) string {
	if s.Read("keypair/prod").Data["key_id"] != s.pending {
		return "the older pair is active"
	}
	// From now on, the vendor accepts only the new key.
	key := engine.PublicKey(s.T, s.Read("keypair/prod").Data["public_key"])
	s.Sim.AddOAuthClient(engine.SigningClient(map[string]crypto.PublicKey{s.pending.(string): key}))
	return ""
}

// activates activates the pair if it is still pending.
func activates(s *stage) answer {
	if s.Read("keypair/prod").Data["key_id"] == s.pending {
		return answer{status: http.StatusOK}
	}
	return writes("keypair/prod/activate", nil)(s)
}

var storageFlows = map[string]storageFlow{
	"a credential is written":                {given: rotating, when: writes("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken}), then: written},
	"a credential is written without verify": {given: rotating, when: writes("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "verify": false}), then: written},
	"a credential gets another secret":       {given: warm, when: writes("config/kensho/prod", map[string]any{"refresh_token": engine.AnotherToken, "request_timeout": 20}), then: rewritten},
	"a credential gets another secret, cold": {given: and(warm, cold), when: writes("config/kensho/prod", map[string]any{"refresh_token": engine.AnotherToken, "request_timeout": 20}), then: rewritten},
	"a credential gets another setting":      {given: warm, when: writes("config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true}), then: rewritten},
	"a credential gets another setting without verify": {
		given: and(warm, cold), when: writes("config/kensho/prod", map[string]any{"request_timeout": 20, "max_ttl": "100h", "verify": false}), then: rewritten,
	},
	"a credential is patched":       {given: warm, when: ask(logical.PatchOperation, "config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true}), then: rewritten},
	"a credential is deleted":       {given: warm, when: deletes("config/kensho/prod"), then: deleted},
	"a credential is deleted, cold": {given: and(warm, cold), when: deletes("config/kensho/prod"), then: deleted},
	"a credential is deleted with its leases": {
		given: and(withLease, func(s *stage) { s.Request(logical.DeleteOperation, "roles/mine", nil) }), when: deletesWithLease, again: deletes("config/oauth2/api"), then: revoked,
	},
	"a credential's settings are read":    {given: warm, when: reads("config/kensho/prod")},
	"a credential's status is read, cold": {given: and(warm, cold), when: reads("status/prod")},
	"credentials are listed":              {given: warm, when: ask(logical.ListOperation, "config/", nil)},

	"a token is read, warm":           {given: warm, when: reads("creds/prod"), cached: true},
	"a token is read, cold":           {given: and(warm, cold), when: reads("creds/prod")},
	"an expired token is read":        {given: and(warm, nextHour), when: reads("creds/prod")},
	"an expired token is read, cold":  {given: and(warm, nextHour, cold), when: reads("creds/prod")},
	"a token is read without a lease": {given: and(warm, nextHour, cold), when: reads("token/prod")},
	"the first token of an unverified credential is read": {
		given: and(rotating, func(s *stage) {
			s.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "verify": false})
		}), when: reads("creds/prod"),
	},
	"a token that another node changed is read": {given: warm, when: func(s *stage) answer {
		s.Backend.InvalidateKey(s.T.Context(), "config/kensho/prod")
		s.Backend.InvalidateKey(s.T.Context(), "state/prod/own")
		return reads("creds/prod")(s)
	}},
	"a token is read with a min_ttl": {given: func(s *stage) {
		s.Write("config/kensho/prod", engine.KeyPairFields())
		s.Creds("prod")
		engine.Until(0, 20, 0)
	}, when: ask(logical.ReadOperation, "creds/prod", map[string]any{"min_ttl": 3000})},
	"a token that is due for renewal is read": {given: func(s *stage) {
		s.Write("config/kensho/prod", engine.KeyPairFields())
		s.Creds("prod")
		engine.Until(0, 50, 0)
	}, when: reads("creds/prod")},
	"a Sitecore token is read that its refresh token renews": {given: func(s *stage) {
		s.Engine = engine.NewSearch(s.T)
		s.Creds("search")
		engine.Until(1, 30, 0)
	}, when: reads("creds/search")},
	"a token is refreshed":             {given: warm, when: writes("refresh/prod", nil), then: refreshed},
	"a token is refreshed, cold":       {given: and(warm, nextHour, cold), when: writes("refresh/prod", nil), then: refreshed},
	"a token is dropped and refreshed": {given: warm, when: writes("refresh/prod", engine.Drop), then: refreshed},
	"a token is dropped and revoked": {given: withLease, when: writes("refresh/api", engine.Drop), then: func(s *stage) string {
		if a := s.ask(logical.ReadOperation, "creds/api", nil); a.status != http.StatusOK {
			return a.message
		}
		return ""
	}},

	"a sweep renews a token":         {given: and(warm, nextHour), when: sweeps},
	"a sweep renews two tokens":      {given: and(withRole, func(*stage) { engine.Until(0, 50, 0) }), when: sweeps},
	"a sweep has everything to load": {given: and(warm, nextHour, cold), when: sweeps},
	"a sweep renews an unused credential": {given: and(rotating, func(s *stage) {
		s.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		time.Sleep(25 * time.Hour)
	}, cold), when: sweeps},

	"a role is written":             {given: withRole, when: writes("roles/web", map[string]any{"config": "prod", "ttl": "5m"}), then: roleWritten},
	"a role is changed":             {given: and(withRole, func(s *stage) { s.Write("roles/web", map[string]any{"config": "prod"}); s.Creds("web") }), when: writes("roles/web", map[string]any{"ttl": "5m"}), then: roleWritten},
	"a role is deleted":             {given: withRole, when: deletes("roles/link"), then: roleDeleted},
	"a role's settings are read":    {given: withRole, when: reads("roles/link")},
	"roles are listed":              {given: withRole, when: ask(logical.ListOperation, "roles/", nil)},
	"a role's token is read, cold":  {given: and(withRole, nextHour, cold), when: reads("creds/link")},
	"a role's token is read, stale": {given: and(withRole, nextHour), when: reads("creds/link")},

	"a dedicated token is read":                              {given: withLease, when: reads("creds/mine")},
	"a dedicated token is read, cold, beside an expired one": {given: and(withLease, nextHour, cold), when: reads("creds/mine")},
	"a dedicated token is revoked":                           {given: withLease, when: revokes, then: revoked},
	"a dedicated token is revoked, cold":                     {given: and(withLease, cold), when: revokes, then: revoked},

	"a key pair is generated":                 {given: func(*stage) {}, when: writes("keypair/prod", map[string]any{"key_type": "ec-p256"})},
	"a pending pair is generated":             {given: signing, when: writes("keypair/prod", map[string]any{"key_type": "ec-p256"})},
	"a key pair is read":                      {given: signing, when: reads("keypair/prod")},
	"a key pair is deleted":                   {given: func(s *stage) { s.Keypair("prod", map[string]any{"key_type": "ec-p256"}) }, when: deletes("keypair/prod")},
	"a pair is activated for one credential":  {given: signingOne, when: writes("keypair/prod/activate", nil), again: activates, then: activated},
	"a pair is activated for two credentials": {given: signing, when: writes("keypair/prod/activate", nil), again: activates, then: activated},
	"a pair is activated, cold":               {given: and(signing, cold), when: writes("keypair/prod/activate", nil), again: activates, then: activated},
	"a credential with a key pair is deleted": {given: signing, when: deletes("config/oauth2/a"), then: func(s *stage) string {
		if a := s.ask(logical.ReadOperation, "creds/a", nil); a.status != http.StatusBadRequest {
			return "creds/a can be read"
		}
		return ""
	}},
	"a credential with a key pair is written": {given: signing, when: writes("config/oauth2/a", map[string]any{"request_timeout": 20, "verify": true})},
}

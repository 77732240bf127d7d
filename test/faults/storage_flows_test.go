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
type storageFlow struct {
	given func(*stage)
	when  func(*stage) answer

	// again repeats it where it can only be done once; nil if it can be done again.
	again func(*stage) answer

	// then says what is wrong although it has been done; empty if nothing is.
	then func(*stage) string

	// cached is whether it asks storage nothing.
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

// rotating has a vendor who replaces refresh tokens, and nothing stored yet.
func rotating(s *stage) {
	s.Sim.Behave(vendorsim.Conduct{Rotate: true})
	s.Sim.AddRefreshToken("link-streaming", engine.AnotherToken)
}

// warm has a credential whose refresh token was replaced more than once, and a reader.
func warm(s *stage) {
	rotating(s)
	s.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
	s.Write("refresh/prod", nil)
	s.older = engine.TokenOf(s.Creds("prod"))
}

// and does one thing after the other.
func and(steps ...func(*stage)) func(*stage) {
	return func(s *stage) {
		for _, step := range steps {
			step(s)
		}
	}
}

func cold(s *stage) { s.Restart() }

// nextHour is when a token of the first hour is dead.
func nextHour(*stage) { engine.Until(1, 0, 5) }

// sweeps is a tick of Vault's, which holds a lock meanwhile, and leaves what storage has
// not answered yet to go on without it.
func sweeps(s *stage) answer {
	began := time.Now()
	err := s.Tick()
	switch {
	case time.Since(began) > 30*time.Second:
		s.T.Errorf("guarantee 11: a tick took %s", time.Since(began))
	case s.storage.Pending.Load() > 0:
		return answer{status: http.StatusInternalServerError, message: "it goes on"}
	}
	return done(err)
}

// rewritten is whether the credential is as it was written last.
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

// deleted is whether the credential is gone for good.
func deleted(s *stage) string {
	for _, path := range []string{"creds/prod", "token/prod", "status/prod"} {
		if a := s.ask(logical.ReadOperation, path, nil); a.status != http.StatusBadRequest {
			return path + " can be read"
		}
	}
	if stored := s.stored(); stored != "map[]" {
		return "there is left " + stored
	}
	return ""
}

func refreshed(s *stage) string {
	if engine.TokenOf(s.Creds("prod")) == s.older {
		return "the leaked token is served"
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

// lending has a dedicated role, and a lease of it.
func lending(s *stage) {
	s.Engine = engine.NewOAuth(s.T)
	s.Write("roles/mine", map[string]any{"max_leases": 0})
	s.Creds("api")
	s.lease = s.Creds("mine")
}

func revokes(s *stage) answer { return done(s.Revoke(s.lease)) }

func revoked(s *stage) string {
	switch {
	case s.Sim.Accepts(engine.TokenOf(s.lease)):
		return "the token lives"
	case s.Sim.Accepts(s.older):
		return "the shared token lives"
	}
	return ""
}

// deletesLender deletes a credential; if that is done at the first attempt, its shared
// token dies too. (At the second there may be nothing left that tells of it.)
func deletesLender(s *stage) answer {
	shared := engine.TokenOf(s.Creds("api"))
	a := deletes("config/oauth2/api")(s)
	if a.status == http.StatusOK {
		s.older = shared
	}
	return a
}

// signing has two credentials with one key pair, whose refresh tokens the vendor replaces,
// and a pending pair.
func signing(s *stage) {
	s.Engine = engine.NewSigning(s.T)
	s.pending = s.Read("keypair/prod").Data["pending_key_id"]
}

// signingAlone has one.
func signingAlone(s *stage) {
	signing(s)
	s.Request(logical.DeleteOperation, "config/oauth2/b", nil)
}

func activated(s *stage) string {
	if s.Read("keypair/prod").Data["key_id"] != s.pending {
		return "the older pair is active"
	}
	// The vendor takes the older one no more.
	key := engine.PublicKey(s.T, s.Read("keypair/prod").Data["public_key"])
	s.Sim.AddOAuthClient(engine.SigningClient(map[string]crypto.PublicKey{s.pending.(string): key}))
	return ""
}

// activates activates a pair that is still pending.
func activates(s *stage) answer {
	if s.Read("keypair/prod").Data["key_id"] == s.pending {
		return answer{status: http.StatusOK}
	}
	return writes("keypair/prod/activate", nil)(s)
}

var storageFlows = map[string]storageFlow{
	"a credential is written":                {given: rotating, when: writes("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken}), then: written},
	"a credential is written unchecked":      {given: rotating, when: writes("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "verify": false}), then: written},
	"a credential gets another secret":       {given: warm, when: writes("config/kensho/prod", map[string]any{"refresh_token": engine.AnotherToken, "request_timeout": 20}), then: rewritten},
	"a credential gets another secret, cold": {given: and(warm, cold), when: writes("config/kensho/prod", map[string]any{"refresh_token": engine.AnotherToken, "request_timeout": 20}), then: rewritten},
	"a credential gets another setting":      {given: warm, when: writes("config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true}), then: rewritten},
	"a credential gets another setting unchecked": {
		given: and(warm, cold), when: writes("config/kensho/prod", map[string]any{"request_timeout": 20, "max_ttl": "100h", "verify": false}), then: rewritten,
	},
	"a credential is patched":       {given: warm, when: ask(logical.PatchOperation, "config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true}), then: rewritten},
	"a credential is deleted":       {given: warm, when: deletes("config/kensho/prod"), then: deleted},
	"a credential is deleted, cold": {given: and(warm, cold), when: deletes("config/kensho/prod"), then: deleted},
	"a credential is deleted with what it lent": {
		given: and(lending, func(s *stage) { s.Request(logical.DeleteOperation, "roles/mine", nil) }), when: deletesLender, again: deletes("config/oauth2/api"), then: revoked,
	},
	"a credential's settings are read":    {given: warm, when: reads("config/kensho/prod")},
	"a credential's status is read, cold": {given: and(warm, cold), when: reads("status/prod")},
	"credentials are listed":              {given: warm, when: ask(logical.ListOperation, "config/", nil)},

	"a token is read, warm":               {given: warm, when: reads("creds/prod"), cached: true},
	"a token is read, cold":               {given: and(warm, cold), when: reads("creds/prod")},
	"a token is read that has died":       {given: and(warm, nextHour), when: reads("creds/prod")},
	"a token is read that has died, cold": {given: and(warm, nextHour, cold), when: reads("creds/prod")},
	"a token is read without a lease":     {given: and(warm, nextHour, cold), when: reads("token/prod")},
	"a token is read that nobody has checked": {
		given: and(rotating, func(s *stage) {
			s.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "verify": false})
		}), when: reads("creds/prod"),
	},
	"a token is read that another node changed": {given: warm, when: func(s *stage) answer {
		s.Backend.InvalidateKey(s.T.Context(), "config/kensho/prod")
		s.Backend.InvalidateKey(s.T.Context(), "state/prod/own")
		return reads("creds/prod")(s)
	}},
	"a newer token is read": {given: func(s *stage) {
		s.Write("config/kensho/prod", engine.KeyPairFields())
		s.Creds("prod")
		engine.Until(0, 20, 0)
	}, when: ask(logical.ReadOperation, "creds/prod", map[string]any{"min_ttl": 3000})},
	"a token is read early": {given: func(s *stage) {
		s.Write("config/kensho/prod", engine.KeyPairFields())
		s.Creds("prod")
		engine.Until(0, 50, 0)
	}, when: reads("creds/prod")},
	"a token is read that Sitecore's other token pays for": {given: func(s *stage) {
		s.Engine = engine.NewSearch(s.T)
		s.Creds("search")
		engine.Until(1, 30, 0)
	}, when: reads("creds/search")},
	"a token is refreshed":             {given: warm, when: writes("refresh/prod", nil), then: refreshed},
	"a token is refreshed, cold":       {given: and(warm, nextHour, cold), when: writes("refresh/prod", nil), then: refreshed},
	"a token is dropped and refreshed": {given: warm, when: writes("refresh/prod", engine.Drop), then: refreshed},
	"a token is dropped and revoked": {given: lending, when: writes("refresh/api", engine.Drop), then: func(s *stage) string {
		if a := s.ask(logical.ReadOperation, "creds/api", nil); a.status != http.StatusOK {
			return a.message
		}
		return ""
	}},

	"a sweep renews a token":         {given: and(warm, nextHour), when: sweeps},
	"a sweep renews two tokens":      {given: and(withRole, func(*stage) { engine.Until(0, 50, 0) }), when: sweeps},
	"a sweep has everything to load": {given: and(warm, nextHour, cold), when: sweeps},
	"a sweep keeps a credential alive": {given: and(rotating, func(s *stage) {
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

	"a dedicated token is read":                                 {given: lending, when: reads("creds/mine")},
	"a dedicated token is read, cold, beside one that has died": {given: and(lending, nextHour, cold), when: reads("creds/mine")},
	"a dedicated token is revoked":                              {given: lending, when: revokes, then: revoked},
	"a dedicated token is revoked, cold":                        {given: and(lending, cold), when: revokes, then: revoked},

	"a key pair is made":                      {given: func(*stage) {}, when: writes("keypair/prod", map[string]any{"key_type": "ec-p256"})},
	"another pair is made":                    {given: signing, when: writes("keypair/prod", map[string]any{"key_type": "ec-p256"})},
	"a key pair is read":                      {given: signing, when: reads("keypair/prod")},
	"a key pair is deleted":                   {given: func(s *stage) { s.Keypair("prod", map[string]any{"key_type": "ec-p256"}) }, when: deletes("keypair/prod")},
	"a pair is activated for one credential":  {given: signingAlone, when: writes("keypair/prod/activate", nil), again: activates, then: activated},
	"a pair is activated for two credentials": {given: signing, when: writes("keypair/prod/activate", nil), again: activates, then: activated},
	"a pair is activated, cold":               {given: and(signing, cold), when: writes("keypair/prod/activate", nil), again: activates, then: activated},
	"a credential with a key pair is deleted": {given: signing, when: deletes("config/oauth2/a"), then: func(s *stage) string {
		if a := s.ask(logical.ReadOperation, "creds/a", nil); a.status != http.StatusBadRequest {
			return "creds/a can be read"
		}
		return ""
	}},
	"a credential takes up a key pair": {given: signing, when: writes("config/oauth2/a", map[string]any{"request_timeout": 20, "verify": true})},
}

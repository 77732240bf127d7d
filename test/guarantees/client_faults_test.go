package guarantees_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const evil = "https://evil.example.com/token"

// refusePuts makes storage refuse writes of keys with a prefix, until the returned function is called.

func refusePuts(storage *engine.FaultyStorage, prefix string) (end func()) {
	refuse := func(c engine.StorageCall) engine.Fault {
		if c.Op == "put" && strings.HasPrefix(c.Key, prefix) {
			return engine.Fault{Err: engine.ErrStorage}
		}
		return engine.Fault{}
	}
	storage.OnCall.Store(&refuse)
	return func() { storage.OnCall.Store(nil) }
}

func failWith(e *engine.Engine, status int, body string) {
	e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(func(w http.ResponseWriter, _ *http.Request) {
		vendorsim.Answer(status, body)(w, nil)
	})})
}

func (e *sharing) post(path string, data map[string]any) (int, string) {
	_, status, message := e.Request(logical.UpdateOperation, path, data)
	return status, message
}

func (e *sharing) has(path string) bool {
	_, status, _ := e.Request(logical.ReadOperation, path, nil)
	return status == http.StatusOK
}

func newPeople(t *testing.T) (*sharing, *consenting) {
	e := newSharing(t)
	e.Write("clients/people", map[string]any{
		"vendor": "oauth2", "token_url": vendorsim.OAuthTokenURL, "authorization_url": "https://auth.example.com/oauth2/authorize", "client_id": engine.ClientID,
		"client_secret": engine.ClientSecret, "auth_style": "client_secret_basic", "redirect_uri": redirectURI, "scope": "read", "grant_type": "refresh_token",
	})
	return e, &consenting{Engine: e.Engine}
}

func (e *sharing) begin() string {
	resp, status, message := e.Request(logical.UpdateOperation, "authorize/"+person, nil)
	require.Equal(e.T, http.StatusOK, status, message)
	return e.Sim.Consent(resp.Data["authorization_url"].(string), person)
}

func (e *sharing) move() {
	status, message := e.post("clients/people", map[string]any{"token_url": evil, "client_secret": "mine"})
	require.Equal(e.T, http.StatusOK, status, message)
}

func (e *sharing) assertNothingToEvil(from int) {
	for _, call := range e.Sim.Calls()[from:] {
		assert.NotContains(e.T, call.URL, "evil.example.com", "guarantee 13: sent %s", call.Body)
	}
}

func TestGuarantee13ACodeDoesNotFollowAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, c := newPeople(t)
		e.post("config/oauth2/"+person, map[string]any{"client": "people"})
		back := e.begin()
		e.move()
		n := len(e.Sim.Calls())
		c.open(back)
		e.assertNothingToEvil(n)
	})
}

// F1b

func TestGuarantee13AnUnsavedRefreshTokenDoesNotFollowAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, c := newPeople(t)
		e.post("config/oauth2/"+person, map[string]any{"client": "people"})
		storage := e.BreakStorage()
		back := e.begin()
		end := refusePuts(storage, "config/")
		c.open(back) // 503: Vault keeps the refresh token in memory
		e.move()
		end()
		e.Pass(2 * time.Minute)
		n := len(e.Sim.Calls())
		e.post("refresh/"+person, nil)
		e.assertNothingToEvil(n)
	})
}

// F1c

func TestGuarantee13ARotatedTokenOfAFailedWriteDoesNotFollowAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newPeople(t)
		e.client.Rotate = true
		e.register(e.client.Secret)
		e.Sim.AddOAuthRefreshToken(e.client, "rt-of-carl-0123456789", "read")
		end := refusePuts(e.BreakStorage(), "config/")
		write := map[string]any{"client": "people", "refresh_token": "rt-of-carl-0123456789"}
		e.post("config/oauth2/carl", write) // rotated, only in memory; "send the same write again within an hour"
		end()
		e.move()
		n := len(e.Sim.Calls())
		failWith(e.Engine, http.StatusUnauthorized, `{"error":"invalid_client"}`)
		e.post("config/oauth2/carl", write)
		for _, call := range e.Sim.Calls()[n:] {
			assert.Contains(t, call.Body, "rt-of-carl-0123456789", "the rotated refresh token goes to %s", call.URL)
		}
	})
}

// newSigners has a client crm with the key pair first, which rotates refresh tokens, and alice.

func TestGuarantee8AnUnsavedTokenOfTheOldClientIsNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		storage := e.BreakStorage()
		e.Creds("alice")
		end := refusePuts(storage, "state/")
		e.post("refresh/alice", nil) // 500: the answer is in memory
		n := len(e.RequestedScopes())
		e.Write("clients/crm", map[string]any{"scope": "write"})
		end()
		time.Sleep(10 * time.Second)
		_ = e.Tick()
		e.Creds("alice")
		assert.Contains(t, e.RequestedScopes()[n:], "write", "guarantee 8: the token is of before the write")
	})
}

func TestAnErrorDoesNotProveANewSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.Write("clients/crm", map[string]any{"client_secret": "mistyped-0123456789"})
		failWith(e.Engine, 400, `{"error":"invalid_scope"}`)
		e.post("refresh/alice", nil)
		failWith(e.Engine, 400, `{"error":"unsupported_grant_type"}`)
		e.post("refresh/bob", nil)
		_ = e.Tick()
		assert.Contains(t, e.crm(), "former_secrets_set", "the only secret that works is dropped; nobody got a token with the new one")
	})
}

func TestGuarantee12DroppingAFormerSecretLetsNobodyWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.register(newSecret)
		e.Write("clients/crm", map[string]any{"client_secret": newSecret})
		e.Write("refresh/alice", nil)
		e.Write("refresh/bob", nil)
		time.Sleep(3 * time.Hour) // no token is valid, nothing has swept
		e.Sim.Behave(vendorsim.Conduct{Fault: func(*http.Request) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				body := make([]byte, 4096)
				n, _ := r.Body.Read(body)
				if strings.Contains(string(body[:n]), otherToken) {
					time.Sleep(25 * time.Second)
				}
				vendorsim.Answer(200, `{"access_token":"at-0123456789","token_type":"Bearer","expires_in":3600}`)(w, nil)
			}
		}})
		go e.Request(logical.ReadOperation, "creds/bob", nil)
		time.Sleep(100 * time.Millisecond)
		go func() { _ = e.Tick() }()
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		_, status, message := e.Request(logical.ReadOperation, "creds/alice", nil)
		assert.Equal(t, http.StatusOK, status, message)
		assert.Less(t, time.Since(began), 5*time.Second, "alice waits for bob's exchange")
		time.Sleep(2 * time.Minute)
	})
}

func TestGuarantee5TheSameSecretAgainClearsTheBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.register(newSecret)
		e.Pass(2 * time.Hour)
		e.Refused("creds/alice")
		e.register(engine.ClientSecret) // corrected at the vendor
		e.Write("clients/crm", map[string]any{"client_secret": engine.ClientSecret})
		assert.True(t, e.has("creds/alice"), "guarantee 5: a write clears the back-off")
	})
}

func TestASecretThatWasNotTriedYetIsAFormerOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.register("secret-b-of-crm")
		e.Write("clients/crm", map[string]any{"client_secret": "secret-b-of-crm"})
		e.Write("clients/crm", map[string]any{"client_secret": newSecret}) // the vendor does not know it yet
		status, message := e.post("refresh/alice", nil)
		assert.Equal(t, http.StatusOK, status, message)
	})
}

func TestARejectedClientIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.register(newSecret)
		e.Pass(2 * time.Hour)
		_, message := e.Refused("creds/alice")
		assert.Contains(t, message, "clients/crm")
		assert.NotContains(t, message, "write a new one to config/oauth2/alice")
	})
}

func TestAnExpiryDateRotatesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.Write("clients/crm", map[string]any{"expires": "2003-01-01"})
		assert.NotContains(t, e.crm(), "former_secrets_set")
	})
}

func TestAWriteOfAClientCostsWhatItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		for i := range 500 {
			e.Write(fmt.Sprintf("config/oauth2/u%d", i), map[string]any{"client": "crm", "refresh_token": fmt.Sprintf("rt-of-user-%d-0123456789", i), "verify": false})
		}
		_ = e.Tick()
		storage := e.BreakStorage()
		for _, step := range []struct {
			name string
			most int // storage calls
			do   func()
		}{
			{"a description", 10, func() { e.Write("clients/crm", map[string]any{"description": "x"}) }},
			{"a sweep after it", 10, func() { _ = e.Tick() }},
			{"a secret", 10, func() { e.Write("clients/crm", map[string]any{"client_secret": newSecret}) }},
			{"a read", 510, func() { e.Read("clients/crm") }},
		} {
			before := len(storage.Calls())
			step.do()
			assert.LessOrEqual(t, len(storage.Calls())-before, step.most, step.name)
		}
	})
}

// Guarantee 6: an error of the vendor quotes no former secret.
func TestGuarantee6AFormerSecretIsMasked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.Write("clients/crm", map[string]any{"client_secret": newSecret})
		failWith(e.Engine, http.StatusUnauthorized, `{"error":"invalid_client","error_description":"neither `+engine.ClientSecret+` nor `+newSecret+`"}`)
		status, message := e.post("refresh/alice", nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.NotContains(t, message, engine.ClientSecret)
		assert.NotContains(t, message, newSecret)
	})
}

// A standby learns of a change by the invalidation of its key.
func TestAnotherNodesWriteOfAClientCountsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		token := e.Creds("alice").Data["access_token"]
		other := e.Backend
		e.Restart()
		e.Write("clients/crm", map[string]any{"scope": "write"})
		e.Backend = other
		e.Backend.InvalidateKey(t.Context(), "client/crm")
		assert.NotEqual(t, token, e.Creds("alice").Data["access_token"])
	})
}

func TestACredentialIsNotStoredWithAClientThatWasChangedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.Sim.Behave(vendorsim.Conduct{Latency: 5 * time.Second})
		e.Sim.AddOAuthRefreshToken(e.client, "rt-of-carl-0123456789", "read", "write")
		written := make(chan string, 1)
		go func() {
			_, message := e.post("config/oauth2/carl", map[string]any{"client": "crm", "refresh_token": "rt-of-carl-0123456789"})
			written <- message
		}()
		time.Sleep(time.Second)
		e.Write("clients/crm", map[string]any{"scope": "write"})
		assert.Contains(t, <-written, "clients/crm was changed while the credential was verified, and nothing was stored; send the write again")
		assert.False(t, e.has("config/oauth2/carl"))
	})
}

func TestAFormerSecretServesRolesAndDedicatedTokensToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.Write("roles/narrow", map[string]any{"config": "bob", "scope": "read"})
		e.Write("clients/crm", map[string]any{"client_secret": newSecret})
		e.Creds("narrow")
		assert.Equal(t, 2, e.crm()["waiting_count"], "the former one was used")
		assert.Contains(t, e.Outside.Text(), "the vendor refuses the present secret, and accepts another one of the rotation")
	})
}

func TestTheExpiryOfAClientIsThatOfItsCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.Write("clients/crm", map[string]any{"expires": "2000-03-01"})
		assert.Equal(t, "2000-03-01T00:00:00Z", e.Read("status/alice").Data["expires"])
		e.Write("config/oauth2/alice", map[string]any{"expires": "2000-05-01"})
		assert.Equal(t, "2000-05-01T00:00:00Z", e.Read("status/alice").Data["expires"])
	})
}

// With other settings, a former secret may be one of another client at the vendor.
func TestAFormerSecretEndsWithOtherSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.Write("clients/crm", map[string]any{"client_secret": newSecret})
		e.Write("clients/crm", map[string]any{"token_params": "tier=gold"})
		assert.NotContains(t, e.crm(), "former_secrets_set")
	})
}

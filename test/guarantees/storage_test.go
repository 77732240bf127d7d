package guarantees_test

import (
	"fmt"
	"io"
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

// once makes only the next request fail with a fault.
func once(fault http.HandlerFunc) func(*http.Request) http.HandlerFunc {
	happened := false
	return func(*http.Request) http.HandlerFunc {
		if happened {
			return nil
		}
		happened = true
		return fault
	}
}

// atRevocation makes only revocation requests fail with a fault.
func atRevocation(fault http.HandlerFunc) func(*http.Request) http.HandlerFunc {
	return func(r *http.Request) http.HandlerFunc {
		if strings.HasSuffix(r.URL.Path, "/revoke") {
			return fault
		}
		return nil
	}
}

func TestGuarantee15TokensOfManyScopesFitIntoStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage, roles := engine.NewBounded(t, engine.RaftEntry, true)
		e.Sim.Behave(vendorsim.Conduct{TokenSize: 64 << 10})
		for range 2 { // the second time, all tokens have expired
			tokens := map[string]any{}
			for _, role := range roles {
				tokens[role] = e.Creds(role).Data["access_token"]
			}
			calls := e.Exchanges()
			e.Restart()
			for _, role := range roles {
				assert.Equal(t, tokens[role], e.Creds(role).Data["access_token"])
			}
			assert.Equal(t, calls, e.Exchanges(), "every token was stored")
			time.Sleep(2 * time.Hour)
		}
		assert.Zero(t, storage.Refused)
		for key, value := range e.Dump() {
			assert.Less(t, len(value), 80<<10, key)
		}
	})
}

func TestGuarantee15OversizedTokenFailsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, roles := engine.NewBounded(t, 16<<10, true)
		e.Creds(roles[1])
		e.OversizeTokens()
		status, message := e.Refused("creds/" + roles[0])
		assert.Equal(t, http.StatusInternalServerError, status)
		assert.Regexp(t, `^storage: state/api/[0-9a-f]{64}: 3\d{4} bytes exceed the maximum size of a storage entry: `, message)
		calls := e.Exchanges()
		for range 4 {
			e.Refused("creds/" + roles[0])
			time.Sleep(time.Minute)
		}
		assert.Equal(t, calls, e.Exchanges(), "no exchange is made whose token cannot be stored")
		e.Sim.Behave(vendorsim.Conduct{})
		e.Creds("api")
		for _, role := range roles[1:] {
			e.Creds(role)
		}
		data := e.Read("status/api").Data
		assert.Equal(t, "failed", data["state"], "some readers get no token")
		assert.Contains(t, data["storage_error"], "the maximum size of a storage entry")
		assert.Contains(t, data["scopes"].(map[string]any)["s0"].(map[string]any)["storage_error"], "the maximum size of a storage entry")

		time.Sleep(time.Minute)
		e.Creds(roles[0]) // the vendor's tokens fit again
		assert.Equal(t, "ok", e.Read("status/api").Data["state"])
	})
}

func TestGuarantee15RefreshTokenBesideAnOversizedTokenIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, roles := engine.NewBounded(t, 16<<10, true)
		e.OversizeTokens()
		e.Refused("creds/" + roles[0])
		e.Sim.Behave(vendorsim.Conduct{})
		e.Restart() // as after a crash
		e.Creds(roles[0])
		e.Creds("api")
	})
}

func TestGuarantee15DroppedTokensAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, _ := engine.NewBounded(t, engine.RaftEntry, true)
		e.Write("config/oauth2/api", map[string]any{"refresh_token": "", "grant_type": vendorsim.ClientCredentialsGrant}) // with a refresh token nothing is revoked, as revocation could end it too
		unrevoked := vendorsim.Conduct{TokenSize: 200 << 10, Fault: atRevocation(vendorsim.Answer(http.StatusServiceUnavailable, "later"))}
		for _, unrevoked.TokenSize = range []int{100, 200 << 10} {
			e.Sim.Behave(unrevoked)
			for range 12 {
				e.Write("refresh/api", map[string]any{"drop": true})
				time.Sleep(6 * time.Second) // the limit is ten refreshes a minute
			}
			assert.LessOrEqual(t, strings.Count(e.Dump()["state/api/own"], "access_token"), 1+8)
		}
		token := e.Creds("api").Data["access_token"]
		e.Restart()
		calls := e.Exchanges()
		assert.Equal(t, token, e.Creds("api").Data["access_token"])
		assert.Equal(t, calls, e.Exchanges())
		assert.Less(t, len(e.Dump()["state/api/own"]), engine.RaftEntry)

		e.Sim.Behave(vendorsim.Conduct{})
		e.Write("refresh/api", map[string]any{"drop": true})
		assert.GreaterOrEqual(t, len(e.Sim.Revoked()), 4, "dropped tokens are revoked once the vendor's revocation works again")
	})
}

// A stored token takes about as many bytes as it has, also if it has characters that JSON
// encoders escape.
func TestGuarantee15TokenIsStoredWithoutEscaping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, _ := engine.NewBounded(t, engine.RaftEntry, true)
		token := strings.Repeat("<", 200<<10)
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"token_type":"Bearer","expires_in":3600,"access_token":"`+token+`"}`)
		})})
		e.Write("refresh/api", nil)
		e.Restart()
		assert.Equal(t, token, e.Read("creds/api").Data["access_token"])
		assert.Less(t, len(e.Dump()["state/api/own"]), 210<<10)
	})
}

func TestGuarantee15OversizedAnswerIsRefusedAndLosesNoRefreshToken(t *testing.T) {
	for field, row := range map[string]struct{ value, message string }{
		"access_token": {strings.Repeat("a", 256<<10+1), "the vendor's access token is too long: 262145 bytes (at most 262144)"},
		"token_type":   {strings.Repeat("a", 101), "the vendor's token_type is not a type name or a URI of at most 100 bytes"},
		"scope":        {strings.Repeat("scope ", 4<<10), "the vendor's scope is too long: 24575 bytes (at most 16384)"},
	} {
		synctest.Test(t, func(t *testing.T) {
			e, _, _ := engine.NewBounded(t, engine.RaftEntry, true)
			before := e.Creds("api").Data["access_token"]
			e.Sim.Behave(vendorsim.Conduct{Fault: once(e.Sim.Amend(func(answer map[string]any) { answer[field] = row.value }))})
			_, status, message := e.Request(logical.UpdateOperation, "refresh/api", nil)
			assert.Equal(t, http.StatusBadGateway, status)
			assert.Contains(t, message, row.message)
			assert.Equal(t, before, e.Creds("api").Data["access_token"])
			e.Write("refresh/api", nil)
		})
	}
}

// An empty, malformed or oversized refresh token in an answer is ignored: storing it would
// make the credential unusable.
func TestInvalidRefreshTokenReplacesNone(t *testing.T) {
	for _, given := range []string{"", " ", "null", "undefined", "None", "nil", " padded", "\x00", "ü", strings.Repeat("z", 256<<10+1), strings.Repeat("z", 1<<20-200)} {
		synctest.Test(t, func(t *testing.T) {
			e, _, _ := engine.NewBounded(t, engine.RaftEntry, false)
			e.Sim.Behave(vendorsim.Conduct{Fault: once(e.Sim.Amend(func(answer map[string]any) { answer["refresh_token"] = given }))})
			e.Write("refresh/api", nil)
			e.Write("refresh/api", nil)
		})
	}
}

// Given a vendor with one valid token per client and storage that refuses its next token, the
// state is failed, in agreement with what readers get.
func TestStatusIsFailedWhenASingleTokenEndedUnstored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		fields := engine.SecretClient(true)
		fields["single_token"] = true
		e.Write("config/oauth2/api", fields)
		storage := e.BreakStorage()
		storage.Refuse.Store(true)
		e.Request(logical.UpdateOperation, "refresh/api", nil)
		e.Refused("creds/api")
		assert.Equal(t, "failed", e.Read("status/api").Data["state"])
		assert.NotContains(t, e.Read("status/api").Data, "expire_time")
		storage.Refuse.Store(false)
		e.Pass(time.Minute)
		e.Creds("api")
		assert.Equal(t, "ok", e.Read("status/api").Data["state"])
	})
}

func TestPanicAffectsOnlyItsOwnName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		e.Write("config/sitecore/search", map[string]any{"api_key": engine.APIKey})
		storage := e.BreakStorage()
		panicking := func(call engine.StorageCall) engine.Fault {
			if strings.HasPrefix(call.Key, "state/prod") {
				panic("a secret that no log may have")
			}
			return engine.Fault{Done: true}
		}
		e.Restart()
		storage.OnCall.Store(&panicking)
		for range 3 {
			e.Pass(time.Minute)
			status, message := e.Refused("creds/prod")
			assert.Equal(t, http.StatusInternalServerError, status)
			assert.Equal(t, "internal error; see the server's log", message)
			e.Creds("search")
		}
		assert.Equal(t, "1.0", e.Metrics()[`tokenbroker_credential_unusable{name="prod"}`])
		logged := fmt.Sprint(e.Lines())
		assert.Contains(t, logged, "panic caused by a bug in the engine; please report it")
		assert.NotContains(t, logged, "a secret that no log may have")
		storage.OnCall.Store(nil)
		e.Pass(5 * time.Minute)
		require.NotEmpty(t, e.Creds("prod").Data)
	})
}

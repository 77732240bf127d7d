package tokenbroker_test

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

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// once is a fault of the next answer.
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

// whereTheyRevoke is a fault of the vendor's revocation.
func whereTheyRevoke(fault http.HandlerFunc) func(*http.Request) http.HandlerFunc {
	return func(r *http.Request) http.HandlerFunc {
		if strings.HasSuffix(r.URL.Path, "/revoke") {
			return fault
		}
		return nil
	}
}

func TestGuarantee15TheTokensOfManyScopesFitIntoStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, storage, roles := newBoundedEngine(t, raftEntry, true)
		e.sim.Behave(vendorsim.Conduct{TokenSize: 64 << 10})
		for range 2 { // a second time when all have expired
			tokens := map[string]any{}
			for _, role := range roles {
				tokens[role] = e.creds(role).Data["access_token"]
			}
			calls := e.exchanges()
			e.restart()
			for _, role := range roles {
				assert.Equal(t, tokens[role], e.creds(role).Data["access_token"])
			}
			assert.Equal(t, calls, e.exchanges(), "all of it is in storage")
			time.Sleep(2 * time.Hour)
		}
		assert.Zero(t, storage.refused)
		for key, value := range e.dump() {
			assert.Less(t, len(value), 80<<10, key)
		}
	})
}

func TestGuarantee15ATokenThatStorageDoesNotTakeFailsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, roles := newBoundedEngine(t, 16<<10, true)
		e.creds(roles[1])
		e.lengthen()
		status, message := e.refused("creds/" + roles[0])
		assert.Equal(t, http.StatusInternalServerError, status)
		assert.Regexp(t, `^storage: state/api/[0-9a-f]{64} has 3\d{4} bytes, which is more than storage takes in one entry: `, message)
		calls := e.exchanges()
		for range 4 {
			e.refused("creds/" + roles[0])
			time.Sleep(time.Minute)
		}
		assert.Equal(t, calls, e.exchanges(), "the vendor is not asked for what cannot be stored")
		e.sim.Behave(vendorsim.Conduct{})
		e.creds("api")
		for _, role := range roles[1:] {
			e.creds(role)
		}
		data := e.read("status/api").Data
		assert.Equal(t, "failed", data["state"], "some readers get no token")
		assert.Contains(t, data["storage_error"], "is more than storage takes in one entry")
		assert.Contains(t, data["scopes"].(map[string]any)["s0"].(map[string]any)["storage_error"], "is more than storage takes in one entry")

		time.Sleep(time.Minute)
		e.creds(roles[0]) // the vendor's tokens are short again
		assert.Equal(t, "ok", e.read("status/api").Data["state"])
	})
}

func TestGuarantee15TheRefreshTokenBesideATokenThatStorageDoesNotTakeIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, roles := newBoundedEngine(t, 16<<10, true)
		e.lengthen()
		e.refused("creds/" + roles[0])
		e.sim.Behave(vendorsim.Conduct{})
		e.restart() // as if the server had been killed
		e.creds(roles[0])
		e.creds("api")
	})
}

func TestGuarantee15DroppedTokensAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, _ := newBoundedEngine(t, raftEntry, true)
		e.write("config/oauth2/api", map[string]any{"refresh_token": "", "grant_type": vendorsim.ClientCredentialsGrant}) // with which nothing is revoked, as it may end, too
		unrevoked := vendorsim.Conduct{TokenSize: 200 << 10, Fault: whereTheyRevoke(vendorsim.Answer(http.StatusServiceUnavailable, "later"))}
		for _, unrevoked.TokenSize = range []int{100, 200 << 10} {
			e.sim.Behave(unrevoked)
			for range 12 {
				e.write("refresh/api", map[string]any{"drop": true})
				time.Sleep(6 * time.Second) // for which another one is left
			}
			assert.LessOrEqual(t, strings.Count(e.dump()["state/api/own"], "access_token"), 1+8)
		}
		token := e.creds("api").Data["access_token"]
		e.restart()
		calls := e.exchanges()
		assert.Equal(t, token, e.creds("api").Data["access_token"])
		assert.Equal(t, calls, e.exchanges())
		assert.Less(t, len(e.dump()["state/api/own"]), raftEntry)

		e.sim.Behave(vendorsim.Conduct{})
		e.write("refresh/api", map[string]any{"drop": true})
		assert.GreaterOrEqual(t, len(e.sim.Revoked()), 4, "the last ones are revoked when the vendor does it again")
	})
}

func TestGuarantee15ATokenTakesNoMoreSpaceInStorageThanItHasBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, _ := newBoundedEngine(t, raftEntry, true)
		token := strings.Repeat("<", 200<<10)
		e.sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"token_type":"Bearer","expires_in":3600,"access_token":"`+token+`"}`)
		})})
		e.write("refresh/api", nil)
		e.restart()
		assert.Equal(t, token, e.read("creds/api").Data["access_token"])
		assert.Less(t, len(e.dump()["state/api/own"]), 210<<10)
	})
}

func TestGuarantee15AnAnswerOverItsBoundsIsRefusedAndSpendsNoRefreshToken(t *testing.T) {
	for field, row := range map[string]struct{ value, message string }{
		"access_token": {strings.Repeat("a", 256<<10+1), "the vendor's access token has 262145 bytes, and may have 262144"},
		"token_type":   {strings.Repeat("a", 101), "the vendor's token_type is not a type name or a URI of at most 100 bytes"},
		"scope":        {strings.Repeat("scope ", 4<<10), "the vendor's scope has 24575 bytes, and may have 16384"},
	} {
		synctest.Test(t, func(t *testing.T) {
			e, _, _ := newBoundedEngine(t, raftEntry, true)
			before := e.creds("api").Data["access_token"]
			e.sim.Behave(vendorsim.Conduct{Fault: once(e.sim.Amend(func(answer map[string]any) { answer[field] = row.value }))})
			_, status, message := e.request(logical.UpdateOperation, "refresh/api", nil)
			assert.Equal(t, http.StatusBadGateway, status)
			assert.Contains(t, message, row.message)
			assert.Equal(t, before, e.creds("api").Data["access_token"])
			e.write("refresh/api", nil)
		})
	}
}

// Guarantee 15: a refresh token that storage does not take would end the credential for good.
func TestARefreshTokenThatIsNoneOrTooLongReplacesNone(t *testing.T) {
	for _, given := range []string{"", " ", "null", "undefined", "None", "nil", " padded", "\x00", "ü", strings.Repeat("z", 256<<10+1), strings.Repeat("z", 1<<20-200)} {
		synctest.Test(t, func(t *testing.T) {
			e, _, _ := newBoundedEngine(t, raftEntry, false)
			e.sim.Behave(vendorsim.Conduct{Fault: once(e.sim.Amend(func(answer map[string]any) { answer["refresh_token"] = given }))})
			e.write("refresh/api", nil)
			e.write("refresh/api", nil)
		})
	}
}

// Row 22: what readers are served, and what status says, come from the same value.
func TestStatusSaysFailedWhereASingleTokenHasEndedThatIsNotStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newOAuthEngine(t)
		fields := secretClient(true)
		fields["single_token"] = true
		e.write("config/oauth2/api", fields)
		storage := e.moody()
		storage.refuse.Store(true)
		e.request(logical.UpdateOperation, "refresh/api", nil)
		e.refused("creds/api")
		assert.Equal(t, "failed", e.read("status/api").Data["state"])
		assert.NotContains(t, e.read("status/api").Data, "expire_time")
		storage.refuse.Store(false)
		e.pass(time.Minute)
		e.creds("api")
		assert.Equal(t, "ok", e.read("status/api").Data["state"])
	})
}

func TestAPanicCostsItsOwnNameAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", map[string]any{"refresh_token": refreshToken})
		e.write("config/sitecore/search", map[string]any{"api_key": apiKey})
		storage := e.moody()
		panicking := func(call storageCall) mood {
			if strings.HasPrefix(call.key, "state/prod") {
				panic("a secret that no log may have")
			}
			return mood{done: true}
		}
		e.restart()
		storage.meet.Store(&panicking)
		for range 3 {
			e.pass(time.Minute)
			status, message := e.refused("creds/prod")
			assert.Equal(t, http.StatusInternalServerError, status)
			assert.Equal(t, "the engine failed; the server's log has the reason", message)
			e.creds("search")
		}
		assert.Equal(t, "1.0", e.metrics()[`tokenbroker_credential_unusable{name="prod"}`])
		logged := fmt.Sprint(e.lines())
		assert.Contains(t, logged, "a fault of the engine: please report it")
		assert.NotContains(t, logged, "a secret that no log may have")
		storage.meet.Store(nil)
		e.pass(5 * time.Minute)
		require.NotEmpty(t, e.creds("prod").Data)
	})
}

package guarantees_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// Guarantee 14: also where only the caller says for what the token is.
func TestGuarantee14ACallersTokenForAnotherAudienceIsRefused(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		e.Sim.Behave(answering(`["payroll"]`))
		status, message := e.RefusedSwap("swap", with(ada, map[string]any{"audience": "ledger"}))
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "issued a token for payroll, which the role did not ask for")
		e.Sim.Behave(answering(`["ledger","payroll"]`))
		ben := map[string]any{"subject_token": subject(e, "ben"), "audience": "ledger"}
		resp, status, message := e.Request(logical.UpdateOperation, "exchange/swap", ben)
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, []string{"the vendor granted in audience what it was not asked for: payroll"}, resp.Warnings)
	})
}

func TestACallerLearnsThatItsTokenLacksAnAudience(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		e.Write("roles/two", map[string]any{"config": "swap", "audience": "ledger,payroll"})
		e.Sim.Behave(answering(`"ledger"`))
		for range 2 { // issued and cached
			resp, status, message := e.Request(logical.UpdateOperation, "exchange/two", ada)
			require.Equal(t, http.StatusOK, status, message)
			assert.Equal(t, []string{"the vendor did not grant all of the role's audience: this token lacks payroll"}, resp.Warnings)
		}
	})
}

// Guarantee 15: an answer without a token may be due to what one caller gave.
func TestGuarantee15ACallerWhoseAnswerIsUselessHarmsNoOther(t *testing.T) {
	for name, answer := range map[string]string{
		"own token": `{"access_token":"%s","token_type":"Bearer","expires_in":3600}`,
		"no token":  `{"issued_token_type":"none"}`,
	} {
		t.Run(name, func(t *testing.T) {
			delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
				body := answer
				if strings.Contains(body, "%s") {
					body = fmt.Sprintf(body, ada["subject_token"])
				}
				e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(http.StatusOK, body))})
				for range 5 {
					status, _ := e.RefusedSwap("swap", ada)
					assert.Equal(t, http.StatusBadGateway, status)
				}
				e.Sim.Behave(vendorsim.Conduct{})
				e.Swap("swap", map[string]any{"subject_token": subject(e, "ben")})
			})
		})
	}
}

// An attempt can last until after the caller's token has expired.
func TestNoOlderTokenOnceTheCallersTokenHasExpired(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, _ map[string]any) {
		brief := map[string]any{"subject_token": e.Sim.Subject(engine.ExchangeClient, "ada", 50*time.Minute, nil)}
		e.Swap("swap", brief)
		time.Sleep(50*time.Minute - time.Second)
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Hang)})
		status, _ := e.RefusedSwap("swap", brief)
		assert.Equal(t, http.StatusServiceUnavailable, status)
	})
}

// A token that nobody gets is revoked, also if it left the cache while its lease was stored.
func TestATokenThatIsReplacedBeforeItsLeaseIsStoredIsRevoked(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, _ map[string]any) {
		brief := map[string]any{"subject_token": e.Sim.Subject(engine.ExchangeClient, "ada", time.Second, nil)}
		slow := func(c engine.StorageCall) engine.Fault {
			if c.Op == "put" && strings.HasPrefix(c.Key, "lease/") {
				return engine.Fault{Wait: 3 * time.Second}
			}
			return engine.Fault{}
		}
		e.BreakStorage().OnCall.Store(&slow)
		var all sync.WaitGroup
		all.Go(func() { e.RefusedSwap("swap", brief) })
		time.Sleep(2 * time.Second)
		e.RefusedSwap("swap", brief) // drops the token, as the caller's has expired
		all.Wait()
		assert.Len(t, e.Sim.Revoked(), 1)
		assert.Empty(t, e.Leased())
	})
}

// Guarantee 6: the log does not name the caller, also if the vendor's error does.
func TestGuarantee6AnExchangeForAPersonNamesNobody(t *testing.T) {
	delegating(t, nil, func(t *testing.T, e *engine.Engine, ada map[string]any) {
		e.Write("roles/mine", map[string]any{"config": "swap", "audience": "{{identity.entity.aliases.accessor.name}}"})
		e.AddReader("1", "alice@example.com")
		for status, code := range map[int]string{http.StatusBadRequest: "invalid_target", http.StatusServiceUnavailable: "temporarily_unavailable"} {
			e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Answer(status, `{"error":"`+code+`","error_description":"not for alice@example.com"}`))})
			_, got, message := e.RequestWithin(engine.AsReader(t.Context(), "1"), logical.UpdateOperation, "exchange/mine", ada)
			assert.Equal(t, status, got)
			assert.Contains(t, message, "not for (the reader)")
			time.Sleep(time.Hour)
		}
		assert.Contains(t, fmt.Sprint(e.Lines()), "not for (the reader)")
		assert.NotContains(t, fmt.Sprint(e.Lines()), "alice@example.com")
		assert.NotContains(t, fmt.Sprint(e.Read("status/swap").Data), "alice@example.com")
	})
}

// Guarantee 15: a slow list of the variants of one credential does not hold up those of another.
func TestGuarantee15ASlowFirstReaderOfOneCredentialHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newPersonal(t)
		other := map[string]any{"token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM(), "grant_type": "jwt_bearer", "scope": "read"}
		e.Write("config/oauth2/slow", other)
		e.Write("roles/late", map[string]any{"config": "slow", "assertion_subject": "{{identity.entity.aliases.accessor.name}}"})
		stall := func(c engine.StorageCall) engine.Fault {
			if c.Op == "list" && strings.HasPrefix(c.Key, "variant/slow/") {
				return engine.Fault{Wait: 10 * time.Second}
			}
			return engine.Fault{}
		}
		e.BreakStorage().OnCall.Store(&stall)
		var late sync.WaitGroup
		for _, entity := range []string{"1", "2"} { // the second waits for the first
			late.Go(func() {
				_, status, message := e.as(entity, "creds/late")
				assert.Equal(t, http.StatusOK, status, message)
			})
		}
		time.Sleep(time.Second)
		began := time.Now()
		e.mine("1")
		assert.Less(t, time.Since(began), time.Second)
		late.Wait()
		assert.Greater(t, time.Since(began), 5*time.Second, "the list was slow")
	})
}

package keypairs_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// newSelfSigned returns an engine with the published key pair prod, and a vendor acme whose tokens the credential prod signs
// by itself with it, for a lifetime.
func newSelfSigned(t *testing.T, lifetime string, keypair map[string]any) *engine.Engine {
	t.Helper()
	e := engine.NewUnchecked(t)
	e.Write("vendors/acme", map[string]any{"definition": fmt.Sprintf(`{
		"title": "Acme", "fields": {"private_key": {}},
		"grants": [{"grant_type": "self_signed", "token": "{assertion}", "assertion": {"lifetime": %q, "claims": {"iss": "acme", "aud": "https://acme.example"}}}]
	}`, lifetime)})
	e.Keypair("prod", engine.With(engine.With(keypair, "key_type", "ec-p256"), "publish", true))
	e.Write("config/acme/prod", map[string]any{"private_key_source": "generated"})
	return e
}

// Given tokens that are valid for longer than 16 rotations take, the rotations wait.
func TestGuarantee17NoRetiredKeyIsDroppedHoweverOftenTheKeyPairRotates(t *testing.T) {
	for name, test := range map[string]struct {
		lifetime, period, ahead string
		last                    time.Duration
		atLeast                 int
	}{
		"1h, each 2m":    {"1h", "2m", "1m", 4 * time.Hour, 54},
		"24h, each hour": {"24h", "1h", "10m", 4 * day, 60},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newSelfSigned(t, test.lifetime, map[string]any{"rotation_period": test.period, "publish_ahead": test.ahead})
				lifetime, err := time.ParseDuration(test.lifetime)
				require.NoError(t, err)
				validUntil := map[string]time.Time{} // of tokens, by key
				for began := time.Now(); time.Since(began) < test.last; e.Pass(time.Minute) {
					validUntil[activeKey(e)] = time.Now().Add(lifetime)
					ids := published(e)
					for id, until := range validUntil {
						require.True(t, time.Now().After(until) || slices.Contains(ids, id), "a key is not published any more, and its tokens are valid for %s", time.Until(until))
					}
				}
				assert.GreaterOrEqual(t, len(validUntil), test.atLeast, "it rotates all the same")
				assert.Equal(t, 0, e.Read("keypair/prod").Data["rotation_failures"])
			})
		})
	}
}

func TestAnOperatorsActivationWaitsUntilARetiredKeyHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSelfSigned(t, "1h", map[string]any{})
		e.Write("config/acme/prod", map[string]any{"verify": false})
		began := time.Now()
		activate := func() (int, string) {
			_, status, message := e.Request(logical.UpdateOperation, "keypair/prod/activate", map[string]any{"force": true})
			return status, message
		}
		for range 16 {
			e.Pending("prod", nil)
			status, message := activate()
			require.Equal(t, http.StatusOK, status, message)
			time.Sleep(time.Minute)
		}
		e.Pending("prod", nil)
		before := e.Dump()
		status, message := activate()
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, "keypair/prod has 16 retired keys that stay published until what they have signed has expired, and cannot have more; the active pair is kept; wait until "+after(began, 70*time.Minute), message)
		assert.Equal(t, before, e.Dump())
		e.Pass(55 * time.Minute)
		status, message = activate()
		assert.Equal(t, http.StatusOK, status, message)
	})
}

// Readers still have the tokens that it has signed before.
func TestGuarantee17ARetiredKeyStaysPublishedForWhatItHasSignedBefore(t *testing.T) {
	const definition = `{
		"title": "Acme", "fields": {"private_key": {}},
		"grants": [{"grant_type": "self_signed", "token": "{assertion}", "assertion": {"lifetime": "20m", "claims": {"iss": "acme", "aud": "https://acme.example", "exp": null}}}]
	}`
	for name, stop := range map[string]func(e *engine.Engine){
		"the credential is deleted":     func(e *engine.Engine) { e.Request(logical.DeleteOperation, "config/acme/prod", nil) },
		"its tokens are valid for less": func(e *engine.Engine) { e.Write("config/acme/prod", map[string]any{"default_ttl": "20m"}) },
		"it uses another key pair":      func(e *engine.Engine) { e.Write("config/acme/prod", map[string]any{"keypair": "other"}) },
		"it is deleted after a restart": func(e *engine.Engine) { e.Restart(); e.Request(logical.DeleteOperation, "config/acme/prod", nil) },
		"it is deleted after a write": func(e *engine.Engine) {
			e.Write("keypair/prod", map[string]any{"publish": true})
			e.Request(logical.DeleteOperation, "config/acme/prod", nil)
		},
		"nothing": func(*engine.Engine) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Write("vendors/acme", map[string]any{"definition": definition})
				e.Keypair("other", map[string]any{"key_type": "ec-p256", "allowed_configs": "prod"})
				e.Keypair("prod", map[string]any{"key_type": "ec-p256", "publish": true, "rotation_period": "1h", "publish_ahead": "10m"})
				e.Write("config/acme/prod", map[string]any{"private_key_source": "generated", "default_ttl": "50m"})
				began := time.Now()
				e.Pass(59 * time.Minute)
				first := activeKey(e)
				stop(e)
				e.Pass(time.Minute)
				assert.Equal(t, after(began, 2*time.Hour), e.Read("keypair/prod").Data["retired_keys"].(map[string]any)[first])

				second := activeKey(e) // it has signed nothing for longer than the credential asks for now
				e.Pass(61 * time.Minute)
				kept := e.Read("keypair/prod").Data["retired_keys"].(map[string]any)[second]
				require.NotNil(t, kept)
				until, err := time.Parse(time.RFC3339, kept.(string))
				require.NoError(t, err)
				assert.Equal(t, name != "nothing", time.Until(until) <= 30*time.Minute, time.Until(until))
			})
		})
	}
}

// A key pair is also published after its credentials were written.
func TestGuarantee17AKeyPairThatIsPublishedLaterKnowsWhatItHasSigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSelfSigned(t, "1h", map[string]any{})
		e.Write("keypair/prod", map[string]any{"publish": false})
		e.Write("keypair/prod", map[string]any{"publish": true, "rotation_period": "1h", "publish_ahead": "10m"})
		began, first := time.Now(), activeKey(e)
		e.Pass(59 * time.Minute)
		e.Request(logical.DeleteOperation, "config/acme/prod", nil)
		e.Pass(time.Minute)
		assert.Equal(t, after(began, time.Hour+70*time.Minute), e.Read("keypair/prod").Data["retired_keys"].(map[string]any)[first])
	})
}

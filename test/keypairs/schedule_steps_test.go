package keypairs_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// monthly is a schedule of one rotation in 30 days.
var monthly = map[string]any{"rotation_period": "30d"}

const day = 24 * time.Hour

// published returns the key IDs at jwks/prod, in order.
func published(e *engine.Engine) []string {
	e.T.Helper()
	resp, status, message := e.Request(logical.ReadOperation, "jwks/prod", nil)
	require.Equal(e.T, http.StatusOK, status, message)
	var set struct {
		Keys []struct {
			KeyID string `json:"kid"`
		}
	}
	require.NoError(e.T, json.Unmarshal(resp.Data[logical.HTTPRawBody].([]byte), &set))
	var ids []string
	for _, key := range set.Keys {
		ids = append(ids, key.KeyID)
	}
	return ids
}

// after returns a time of the engine's answers.
func after(began time.Time, d time.Duration) string { return began.Add(d).UTC().Format(time.RFC3339) }

func TestEachStepOfARotationIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, nodes := engine.NewPublished(t, nil)
		began := time.Now()
		e.Write("keypair/prod", monthly)
		first := activeKey(e)
		e.Lines()
		e.Pass(29*day - time.Minute)
		read := e.Read("keypair/prod").Data
		assert.Equal(t, after(began, 30*day), read["next_vault_rotation"])
		assert.Nil(t, read["pending_key_id"])
		assert.Equal(t, []string{first}, published(e))

		e.Pass(time.Minute)
		read = e.Read("keypair/prod").Data
		next := read["pending_key_id"].(string)
		assert.Equal(t, "ec-p256", read["pending_key_type"], "the type is that of the active pair")
		assert.Equal(t, after(began, 29*day), read["pending_published_time"])
		assert.Equal(t, []string{first, next}, published(e))

		e.PassReading(day-time.Minute, time.Minute, nodes, func() { assert.Equal(t, first, activeKey(e)) })
		e.Pass(time.Minute)
		read = e.Read("keypair/prod").Data
		assert.Equal(t, next, read["key_id"])
		assert.Equal(t, after(began, 30*day), read["last_vault_rotation"])
		assert.Equal(t, after(began, 60*day), read["next_vault_rotation"])
		assert.Equal(t, []string{next, first}, published(e))
		const kept = 2*time.Minute + 10*time.Minute // the lifetime of an assertion, and for clocks
		assert.Equal(t, map[string]any{first: after(began, 30*day+kept)}, read["retired_keys"])

		e.Pass(kept - time.Minute)
		assert.Equal(t, []string{next, first}, published(e))
		e.Pass(time.Minute)
		assert.Equal(t, []string{next}, published(e))
		assert.Nil(t, e.Read("keypair/prod").Data["retired_keys"])
		noFailures(e)

		var logged []string
		for _, line := range e.Lines() {
			if line["keypair"] == "prod" {
				assert.Equal(t, next, line["key_id"])
				logged = append(logged, fmt.Sprint(line["@level"], ": ", line["@message"]))
			}
		}
		assert.Equal(t, []string{"info: next key published", "info: key pair rotated by its schedule"}, logged)
	})
}

// The private half of a former key is of no use any more.
func TestOnlyThePublicHalfOfARetiredKeyIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := engine.NewPublished(t, map[string]any{"rotation_period": "1h", "publish_ahead": "10m"})
		var before, after struct {
			Active struct {
				PrivateKey string `json:"private_key"`
			}
			Publication struct{ Retired []any }
		}
		require.NoError(t, json.Unmarshal([]byte(e.Dump()["keypair/prod"]), &before))
		e.Pass(61 * time.Minute)
		require.NoError(t, json.Unmarshal([]byte(e.Dump()["keypair/prod"]), &after))
		require.Len(t, after.Publication.Retired, 1)
		require.NotEmpty(t, before.Active.PrivateKey)
		secret, err := json.Marshal(before.Active.PrivateKey)
		require.NoError(t, err)
		assert.NotContains(t, e.Dump()["keypair/prod"], string(secret))
	})
}

func TestGuarantee17ARetiredKeyStaysPublishedUntilWhatItHasSignedHasExpired(t *testing.T) {
	for name, test := range map[string]struct {
		assertion  string
		defaultTTL string
		kept       time.Duration
	}{
		"tokens of 20 minutes":                     {`"lifetime": "20m", `, "0", 30 * time.Minute},
		"tokens without an exp, by default_ttl":    {`"lifetime": "20m", "exp": null, `, "50m", time.Hour},
		"tokens without an exp, by the definition": {`"lifetime": "20m", "exp": null, `, "0", 30 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				claims := `{"iss": "acme", "aud": "https://acme.example"`
				if test.assertion != `"lifetime": "20m", ` {
					claims += `, "exp": null`
				}
				e.Write("vendors/acme", map[string]any{"definition": `{
					"title": "Acme", "fields": {"private_key": {}},
					"grants": [{"grant_type": "self_signed", "token": "{assertion}", "assertion": {"lifetime": "20m", "claims": ` + claims + `}}}]
				}`})
				e.Keypair("prod", map[string]any{"publish": true, "rotation_period": "1h", "publish_ahead": "10m"})
				e.Write("config/acme/prod", map[string]any{"private_key_source": "generated", "default_ttl": test.defaultTTL})
				began := time.Now()
				first := activeKey(e)
				e.Pass(time.Hour)
				assert.Equal(t, map[string]any{first: after(began, time.Hour+test.kept)}, e.Read("keypair/prod").Data["retired_keys"])
			})
		})
	}
}

func TestAnActivationByAnOperatorRetiresTheKeyAndCountsAsARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, nodes := engine.NewPublished(t, nil)
		e.Write("keypair/prod", monthly)
		first := activeKey(e)
		e.PassReading(10*day, time.Hour, nodes, func() {})
		began := time.Now()
		next := e.Pending("prod", nil).Data["key_id"].(string)
		status, message := e.Activate(nil)
		assert.Equal(t, http.StatusBadRequest, status, message)
		e.Pass(time.Hour) // the vendor fetches the keys
		status, message = e.Activate(nil)
		require.Equal(t, http.StatusOK, status, message)
		read := e.Read("keypair/prod").Data
		assert.Equal(t, []string{next, first}, published(e))
		assert.Equal(t, after(began, time.Hour), read["last_vault_rotation"])
		assert.Equal(t, after(began, time.Hour+30*day), read["next_vault_rotation"])
	})
}

// After a leak, the former key must not stay published.
func TestAKeyPairThatIsPublishedAgainHasNoRetiredKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := engine.NewPublished(t, map[string]any{"rotation_period": "1h", "publish_ahead": "10m"})
		e.Pass(time.Hour)
		require.Len(t, published(e), 2)
		e.Write("keypair/prod", map[string]any{"publish": false, "rotation_period": 0})
		e.Write("keypair/prod", map[string]any{"publish": true})
		assert.Equal(t, []string{activeKey(e)}, published(e))
	})
}

func TestWithoutAScheduleNothingRotates(t *testing.T) {
	for name, clear := range map[string]map[string]any{
		"never set": nil, "cleared": {"rotation_period": 0}, "unpublished": {"rotation_period": 0, "publish": false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, _ := engine.NewPublished(t, nil)
				if clear != nil {
					e.Write("keypair/prod", monthly)
					e.Pass(29*day + time.Hour)
					e.Write("keypair/prod", clear)
				}
				first := activeKey(e)
				for range 50 {
					time.Sleep(day)
					require.NoError(t, e.Tick())
				}
				assert.Equal(t, first, activeKey(e))
			})
		})
	}
}

func TestAKeyPairWithoutCredentialsRotates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		first := e.Keypair("prod", map[string]any{"publish": true, "rotation_period": "1h", "publish_ahead": "10m"}).Data["key_id"]
		e.Pass(time.Hour)
		assert.NotEqual(t, first, e.Read("keypair/prod").Data["key_id"])
	})
}

// The vendor may not have fetched it before.
func TestGuarantee17AnOperatorsPendingPairIsPublishedBeforeItSigns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, nodes := engine.NewPublished(t, nil)
		e.Write("keypair/prod", monthly)
		first := activeKey(e)
		e.PassReading(30*day-time.Hour, time.Hour, nodes, func() {})
		next := e.Pending("prod", nil).Data["key_id"]
		e.PassReading(day-time.Minute, time.Minute, nodes, func() { assert.Equal(t, first, activeKey(e)) })
		e.Pass(2 * time.Minute)
		assert.Equal(t, next, activeKey(e))
		noFailures(e)
	})
}

// Consumers may have cached the keys for as long as they could before.
func TestAShorterPublishAheadWaitsForTheCachesOfBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, nodes := engine.NewPublished(t, monthly)
		e.PassReading(30*day-25*time.Hour, time.Hour, nodes, func() {})
		e.Write("keypair/prod", map[string]any{"publish_ahead": "10s", "rotation_period": "1m"}) // due at once
		first, changed := activeKey(e), time.Now()
		e.PassReading(59*time.Minute, time.Minute, nodes, func() { assert.Equal(t, first, activeKey(e)) })
		e.PassReading(2*time.Minute, time.Minute, nodes, func() {})
		assert.NotEqual(t, first, activeKey(e))
		assert.GreaterOrEqual(t, time.Since(changed), time.Hour)
		noFailures(e)
	})
}

func TestARotatingKeyPairTakesNoKeyID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const says = `key_id: must not be set, as keypair/prod rotates by a schedule, and each of its keys has an ID of its own; clear it with key_id="", or clear the schedule`
		e, _ := engine.NewPublished(t, map[string]any{"rotation_period": "30d"})
		_, status, message := e.Request(logical.UpdateOperation, "config/oauth2/prod", map[string]any{"key_id": "own", "verify": false})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, says, message)

		e.Write("keypair/prod", map[string]any{"rotation_period": 0})
		e.Write("config/oauth2/prod", map[string]any{"key_id": "own", "verify": false})
		before := e.Dump()
		_, status, message = e.Request(logical.UpdateOperation, "keypair/prod", map[string]any{"rotation_period": "30d"})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, "config/oauth2/prod uses the key pair and would stop working: "+says, message)
		assert.Equal(t, before, e.Dump())

		e.Write("config/oauth2/prod", map[string]any{"key_id": ""})
		e.Write("keypair/prod", map[string]any{"rotation_period": "30d"})
		e.Pending("prod", nil)
		e.Pass(time.Hour)
		status, message = e.Activate(map[string]any{"key_id": "own"})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "key_id: must not be set")
	})
}

// A clock that was far ahead must not stop the rotation for as long.
func TestTimesAheadOfTheClockAreCorrected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, nodes := engine.NewPublished(t, monthly)
		e.Pass(30*day + time.Hour) // one rotation, and the next key is not published yet
		e.Write("keypair/prod", map[string]any{"key_type": "ec-p256"})
		e.Amend("keypair/prod", func(entry map[string]any) {
			ahead := time.Now().Add(365 * day).UTC().Format(time.RFC3339)
			entry["pending"].(map[string]any)["published_time"] = ahead
			publication := entry["publication"].(map[string]any)
			publication["since"], publication["last_rotation"], publication["next_attempt"], publication["cached_until"] = ahead, ahead, ahead, ahead
		})
		e.Restart()
		first := activeKey(e)
		e.PassReading(29*day, time.Hour, nodes, func() { assert.Equal(t, first, activeKey(e)) })
		e.PassReading(2*day, time.Hour, nodes, func() {})
		assert.NotEqual(t, first, activeKey(e))
		noFailures(e)
	})
}

func TestAnOutageAtTheTimeOfARotationDelaysIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, nodes := engine.NewPublished(t, monthly)
		e.PassReading(30*day-time.Hour, time.Hour, nodes, func() {})
		first := activeKey(e)
		e.Lines()
		e.Sim.Behave(engine.Down())
		e.Pass(6 * time.Hour) // the rotation is due after one
		read := e.Read("keypair/prod").Data
		assert.Equal(t, first, read["key_id"])
		assert.Equal(t, "auth.example.com: 503 Service Unavailable: down; config/oauth2/prod keeps using the active pair of keypair/prod; the pending pair stays pending", read["rotation_error"])
		assert.Equal(t, 10, read["rotation_failures"], "after 1, 2, 4, 8, 16, 32 minutes, and then each hour")
		var last map[string]any
		warnings := 0
		for _, line := range e.Lines() {
			if line["@message"] == "cannot activate the next key; the active one stays in use" {
				last = line
				warnings++
			}
		}
		assert.Equal(t, 10, warnings)
		assert.EqualValues(t, 10, last["failures"])
		assert.Equal(t, read["next_attempt"], last["next_attempt"])
		assert.Equal(t, read["rotation_error"], last["error"])

		e.Restart() // the pauses outlast it
		require.NoError(t, e.Tick())
		assert.Equal(t, 10, e.Read("keypair/prod").Data["rotation_failures"])
		e.Sim.Behave(vendorsim.Conduct{})
		e.Pass(time.Hour)
		read = e.Read("keypair/prod").Data
		assert.NotEqual(t, first, read["key_id"])
		assert.Equal(t, 0, read["rotation_failures"])
		assert.Nil(t, read["rotation_error"])
		assert.Nil(t, read["next_attempt"])
		e.Creds("prod")
	})
}

// The vendor's answer would be lost.
func TestNoVendorIsAskedWhileStorageAcceptsNoWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, nodes := engine.NewPublished(t, map[string]any{"rotation_period": "70m", "publish_ahead": "10m"})
		first := activeKey(e)
		e.PassReading(65*time.Minute, time.Minute, nodes, func() {}) // published; the token is renewed at 45m
		storage := e.BreakStorage()
		storage.Refuse.Store(true)
		storage.RefuseProbe.Store(true)
		calls := e.TokenRequests()
		failed := 0
		for range 10 {
			time.Sleep(time.Minute)
			if e.Tick() != nil {
				failed++
			}
		}
		assert.Equal(t, 7, failed, "since the rotation is due")
		assert.Equal(t, calls, e.TokenRequests())
		assert.Equal(t, first, activeKey(e))
		storage.Refuse.Store(false)
		storage.RefuseProbe.Store(false)
		e.Pass(time.Minute)
		assert.NotEqual(t, first, activeKey(e))
	})
}

// Given a vendor that has stopped to fetch the keys, readers get tokens by the key that it knows.
func TestAVendorThatDoesNotKnowTheNextKeyKeepsAcceptingTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, nodes := engine.NewPublished(t, map[string]any{"rotation_period": "2h", "publish_ahead": "1h"})
		fetchNow := nodes[0].Fetch
		status, cacheControl, body := fetchNow()
		nodes[0].Fetch = func() (int, string, []byte) { return status, cacheControl, body }
		first := activeKey(e)
		e.PassReading(20*time.Hour, time.Minute, nodes, func() { assert.Equal(t, first, activeKey(e)) })
		nodes[0].Fetch = fetchNow
		e.PassReading(2*time.Hour, time.Minute, nodes, func() {})
		assert.NotEqual(t, first, activeKey(e))
	})
}

package tokenbroker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee1TheEarlierOfTwoExpiriesCountsWithEveryVendor(t *testing.T) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				until(0, 10, 0)
				stated := any(0)
				if kind.unit != 0 {
					stated = int64(time.Hour / kind.unit)
				}
				e := mount(t)
				e.answering(fmt.Sprintf(kind.answer, "${jwt}", stated), 15*time.Minute, nil)
				e.write(kind.path, kind.fields())
				lease := e.read("creds/prod").Secret.TTL
				assert.LessOrEqual(t, lease, 15*time.Minute-30*time.Second)
				assert.Greater(t, lease, 14*time.Minute)

				e.write(kind.path, map[string]any{"max_ttl": "5m"})
				lease = e.read("creds/prod").Secret.TTL
				assert.LessOrEqual(t, lease, 5*time.Minute-15*time.Second)
				assert.Greater(t, lease, 4*time.Minute)
				assert.EqualValues(t, 300, e.read(kind.path).Data["max_ttl"])
			})
		})
	}
}

func TestGuarantee1ATokenThatHasExpiredIsNotStored(t *testing.T) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				until(5, 10, 0)
				e := mount(t)
				for _, exp := range []time.Duration{-time.Second, -time.Minute, -3*time.Hour - 10*time.Minute} {
					e.answering(fmt.Sprintf(kind.answer, "${jwt}", `null`), exp, nil)
					_, status, message := e.request(logical.UpdateOperation, kind.path, kind.fields())
					assert.Equal(t, http.StatusBadGateway, status, message)
					assert.Contains(t, message, "has expired already")
					_, status, _ = e.request(logical.ReadOperation, kind.path, nil)
					assert.Equal(t, http.StatusNotFound, status, "nothing was stored")
				}
			})
		})
	}
}

func TestGuarantee1DefaultTTLTakesThePlaceOfWhatIsNoLifetime(t *testing.T) {
	for name, kind := range kinds {
		for _, stated := range []string{`0`, `-1`, `"0"`, `"never"`} {
			if kind.unit == 0 {
				continue
			}
			t.Run(name+" "+stated, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := mount(t)
					e.answering(fmt.Sprintf(kind.answer, "opaque-0123456789", stated), 0, nil)
					_, status, message := e.request(logical.UpdateOperation, kind.path, kind.fields())
					assert.Equal(t, http.StatusBadGateway, status)
					assert.Contains(t, message, "set default_ttl")

					fields := kind.fields()
					fields["default_ttl"] = "1h"
					e.write(kind.path, fields)
					for range 3 { // it is the same token each time, and no lifetime that is counted down
						lease := e.read("creds/prod").Secret.TTL
						assert.LessOrEqual(t, lease, time.Hour-30*time.Second)
						assert.Greater(t, lease, 10*time.Minute)
						time.Sleep(48 * time.Minute)
					}
				})
			})
		}
	}
}

func TestGuarantee1AnUntrustedDateDecidesNothing(t *testing.T) {
	for name, date := range map[string]func() time.Time{
		"1970":         func() time.Time { return time.Unix(0, 0) },
		"a day on":     func() time.Time { return time.Now().AddDate(0, 0, 1) },
		"8 years on":   func() time.Time { return time.Now().AddDate(8, 0, 0) },
		"11 min ahead": func() time.Time { return time.Now().Add(11 * time.Minute) },
	} {
		for kindName, kind := range kinds {
			t.Run(name+", "+kindName, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					until(0, 10, 0)
					e := mount(t)
					e.answering(fmt.Sprintf(kind.answer, "${jwt}", `null`), 20*time.Second, date)
					e.write(kind.path, kind.fields())
					lease := e.read("creds/prod")
					assert.LessOrEqual(t, lease.Secret.TTL, 20*time.Second)
					assert.Greater(t, lease.Secret.TTL, 15*time.Second)
					assert.Greater(t, max(e.read("status/prod").Data["clock_skew"].(int), -e.read("status/prod").Data["clock_skew"].(int)), 600, "it is reported")

					e.answering(fmt.Sprintf(kind.answer, "${jwt}", `null`), time.Hour, date)
					e.write("refresh/prod", nil)
					assert.Greater(t, e.read("creds/prod").Secret.TTL, 45*time.Minute)
				})
			})
		}
	}
}

// A vendor that goes on giving one token until it expires, and counts it down to 0.
func TestAReadAcrossTheExpiryOfATokenThatIsGivenAgainNeverFails(t *testing.T) {
	for name, conduct := range map[string]vendorsim.Conduct{
		"stated":               {Sticky: true},
		"in a string":          {Sticky: true, OAuth: vendorsim.OAuthConduct{Stringly: true}},
		"slow":                 {Sticky: true, Latency: 700 * time.Millisecond},
		"stated, a JWT":        {Sticky: true, JWT: true},
		"a JWT only":           {Sticky: true, JWT: true, Unstated: true},
		"a JWT only, skewed":   {Sticky: true, JWT: true, Unstated: true, Skew: 90*time.Second + 300*time.Millisecond},
		"a JWT only, undated":  {Sticky: true, JWT: true, Unstated: true, NoDate: true},
		"stated, clock behind": {Sticky: true, Skew: -2*time.Minute - 100*time.Millisecond},
	} {
		for path, fields := range map[string]map[string]any{"config/kensho/prod": keyPair(), "config/oauth2/prod": secretClient(false)} {
			t.Run(name+", "+path, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := newEngine(t)
					e.sim.AddOAuthClient(vendorsim.OAuthClient{
						ID: clientID, Secret: clientSecret, Scopes: []string{"read", "write"}, AuthMethods: []string{vendorsim.SecretBasic},
						Grants: []string{vendorsim.ClientCredentialsGrant},
					})
					time.Sleep(333 * time.Millisecond)
					e.sim.Behave(conduct)
					e.write(path, fields)
					for range 3 {
						_, death := e.sim.Issued()
						time.Sleep(time.Until(death.Add(-15 * time.Second)))
						for range 200 {
							asked := time.Now()
							e.creds("prod")
							assert.LessOrEqual(t, time.Since(asked), 16*time.Second)
							time.Sleep(170 * time.Millisecond)
						}
					}
					// Nobody has read it since it was issued until its last moments.
					for offset := -2500 * time.Millisecond; offset < 500*time.Millisecond; offset += 130 * time.Millisecond {
						time.Sleep(2 * time.Second)
						e.creds("prod")
						_, death := e.sim.Issued()
						time.Sleep(time.Until(death.Add(offset)))
						asked := time.Now()
						e.creds("prod")
						assert.LessOrEqual(t, time.Since(asked), 16*time.Second)
					}
				})
			})
		}
	}
}

func TestTheVendorsClockOutlivesAWriteOfTheCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.sim.Behave(vendorsim.Conduct{StrictDates: true, Skew: -20 * time.Second})
		e.write("config/kensho/prod", keyPair())
		assert.Equal(t, 2, e.exchanges(), "the refusal shows what the time is")
		e.write("config/kensho/prod", keyPair())
		e.write("config/kensho/other", keyPair())
		assert.Equal(t, 4, e.exchanges())
	})
}

func TestGuarantee1AStoredTokenOfTheFutureIsExchangedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/kensho/prod", keyPair())
		e.write("refresh/prod", nil)
		old := tokenOf(e.creds("prod"))
		// As if the clock had been an hour ahead, and set since.
		setForth(t, e.storage, time.Hour)
		e.restart()
		calls := e.exchanges()
		assert.NotEqual(t, old, tokenOf(e.creds("prod")))
		assert.Equal(t, calls+1, e.exchanges())
	})
}

// Guarantee 4: an attempt that a clock of the future has put off is not waited for.
func TestAStoredFailureOfTheFutureHoldsUpNothing(t *testing.T) {
	for _, ahead := range []time.Duration{time.Minute, time.Hour, 365 * 24 * time.Hour} {
		for name, fails := range map[string]vendorsim.Conduct{
			"the vendor is down": down(),
			"it is throttled":    {Fault: vendorsim.Always(vendorsim.Throttle("3000"))},
			"it is rejected":     {Fault: vendorsim.Always(vendorsim.Answer(http.StatusUnauthorized, `{"error":"invalid_client"}`))},
			"its scope is":       refuseScope(nerdScope),
		} {
			t.Run(ahead.String()+" ahead, "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := newNarrowedEngine(t)
					e.sim.Behave(fails)
					e.refused("creds/nerd")
					// As if the clock had been ahead, and set since.
					setForth(t, e.storage, ahead)
					e.restart()
					e.sim.Behave(down())
					status := e.read("status/prod").Data
					assert.NotContains(t, status, "next_attempt_time")
					assert.NotContains(t, status, "scopes")

					calls := e.exchanges()
					for range 5 {
						e.refused("creds/nerd")
					}
					assert.Equal(t, calls+1, e.exchanges(), "what fails now counts")
					e.sim.Behave(vendorsim.Conduct{})
					time.Sleep(3 * time.Second)
					e.creds("nerd")
				})
			})
		}
	}
}

// setForth dates all that is known of credentials on.
func setForth(t *testing.T, s logical.Storage, by time.Duration) {
	t.Helper()
	keys, err := logical.CollectKeysWithPrefix(context.Background(), s, "state/")
	require.NoError(t, err)
	require.NotEmpty(t, keys)
	for _, key := range keys {
		entry, err := s.Get(context.Background(), key)
		require.NoError(t, err)
		var value any
		require.NoError(t, json.Unmarshal(entry.Value, &value))
		entry.Value, err = json.Marshal(dated(value, by))
		require.NoError(t, err)
		require.NoError(t, s.Put(context.Background(), entry))
	}
}

func dated(value any, by time.Duration) any {
	switch v := value.(type) {
	case map[string]any:
		for name := range v {
			v[name] = dated(v[name], by)
		}
	case string:
		if at, err := time.Parse(time.RFC3339, v); err == nil {
			return at.Add(by)
		}
	}
	return value
}

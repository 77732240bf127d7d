package guarantees_test

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

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee1EarlierOfTwoExpiriesCountsForEveryVendor(t *testing.T) {
	for name, kind := range engine.Kinds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				engine.Until(0, 10, 0)
				stated := any(0)
				if kind.Unit != 0 {
					stated = int64(time.Hour / kind.Unit)
				}
				e := engine.NewUnchecked(t)
				e.AnswerWith(fmt.Sprintf(kind.Answer, "${jwt}", stated), 15*time.Minute, nil)
				e.Write(kind.Path, kind.Fields())
				lease := e.Read("creds/prod").Secret.TTL
				assert.LessOrEqual(t, lease, 15*time.Minute-30*time.Second)
				assert.Greater(t, lease, 14*time.Minute)

				e.Write(kind.Path, map[string]any{"max_ttl": "5m"})
				lease = e.Read("creds/prod").Secret.TTL
				assert.LessOrEqual(t, lease, 5*time.Minute-15*time.Second)
				assert.Greater(t, lease, 4*time.Minute)
				assert.EqualValues(t, 300, e.Read(kind.Path).Data["max_ttl"])
			})
		})
	}
}

func TestGuarantee1ExpiredTokenIsNotStored(t *testing.T) {
	for name, kind := range engine.Kinds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				engine.Until(5, 10, 0)
				e := engine.NewUnchecked(t)
				for _, exp := range []time.Duration{-time.Second, -time.Minute, -3*time.Hour - 10*time.Minute} {
					e.AnswerWith(fmt.Sprintf(kind.Answer, "${jwt}", `null`), exp, nil)
					_, status, message := e.Request(logical.UpdateOperation, kind.Path, kind.Fields())
					assert.Equal(t, http.StatusBadGateway, status, message)
					assert.Contains(t, message, "before it was received")
					_, status, _ = e.Request(logical.ReadOperation, kind.Path, nil)
					assert.Equal(t, http.StatusNotFound, status, "nothing was stored")
				}
			})
		})
	}
}

func TestGuarantee1DefaultTTLReplacesAnInvalidLifetime(t *testing.T) {
	for name, kind := range engine.Kinds {
		for _, stated := range []string{`0`, `-1`, `"0"`, `"never"`} {
			if kind.Unit == 0 {
				continue
			}
			t.Run(name+" "+stated, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := engine.NewUnchecked(t)
					e.AnswerWith(fmt.Sprintf(kind.Answer, "opaque-0123456789", stated), 0, nil)
					_, status, message := e.Request(logical.UpdateOperation, kind.Path, kind.Fields())
					assert.Equal(t, http.StatusBadGateway, status)
					assert.Contains(t, message, "set default_ttl")

					fields := kind.Fields()
					fields["default_ttl"] = "1h"
					e.Write(kind.Path, fields)
					for range 3 { // the vendor repeats the token, and default_ttl starts with each answer
						lease := e.Read("creds/prod").Secret.TTL
						assert.LessOrEqual(t, lease, time.Hour-30*time.Second)
						assert.Greater(t, lease, 10*time.Minute)
						time.Sleep(48 * time.Minute)
					}
				})
			})
		}
	}
}

func TestGuarantee1UntrustedDateIsIgnored(t *testing.T) {
	for name, date := range map[string]func() time.Time{
		"1970":          func() time.Time { return time.Unix(0, 0) },
		"a day ahead":   func() time.Time { return time.Now().AddDate(0, 0, 1) },
		"8 years ahead": func() time.Time { return time.Now().AddDate(8, 0, 0) },
		"11 min ahead":  func() time.Time { return time.Now().Add(11 * time.Minute) },
	} {
		for kindName, kind := range engine.Kinds {
			t.Run(name+", "+kindName, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					engine.Until(0, 10, 0)
					e := engine.NewUnchecked(t)
					e.AnswerWith(fmt.Sprintf(kind.Answer, "${jwt}", `null`), 20*time.Second, date)
					e.Write(kind.Path, kind.Fields())
					lease := e.Read("creds/prod")
					assert.LessOrEqual(t, lease.Secret.TTL, 20*time.Second)
					assert.Greater(t, lease.Secret.TTL, 15*time.Second)
					assert.Greater(t, max(e.Read("status/prod").Data["clock_skew"].(int), -e.Read("status/prod").Data["clock_skew"].(int)), 600, "it is reported")

					e.AnswerWith(fmt.Sprintf(kind.Answer, "${jwt}", `null`), time.Hour, date)
					e.Write("refresh/prod", nil)
					assert.Greater(t, e.Read("creds/prod").Secret.TTL, 45*time.Minute)
				})
			})
		}
	}
}

// Given a vendor that repeats one token until it expires, and counts its lifetime down to 0,
// reads before and after the expiry succeed.
func TestReadNeverFailsAcrossTheExpiryOfARepeatedToken(t *testing.T) {
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
		for path, fields := range map[string]map[string]any{"config/kensho/prod": engine.KeyPairFields(), "config/oauth2/prod": engine.SecretClient(false)} {
			t.Run(name+", "+path, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := engine.New(t)
					e.Sim.AddOAuthClient(vendorsim.OAuthClient{
						ID: engine.ClientID, Secret: engine.ClientSecret, Scopes: []string{"read", "write"}, AuthMethods: []string{vendorsim.SecretBasic},
						Grants: []string{vendorsim.ClientCredentialsGrant},
					})
					time.Sleep(333 * time.Millisecond)
					e.Sim.Behave(conduct)
					e.Write(path, fields)
					for range 3 {
						_, expiry := e.Sim.Issued()
						time.Sleep(time.Until(expiry.Add(-15 * time.Second)))
						for range 200 {
							asked := time.Now()
							e.Creds("prod")
							assert.LessOrEqual(t, time.Since(asked), 16*time.Second)
							time.Sleep(170 * time.Millisecond)
						}
					}
					// The first read after the issue comes in the token's last seconds.
					for offset := -2500 * time.Millisecond; offset < 500*time.Millisecond; offset += 130 * time.Millisecond {
						time.Sleep(2 * time.Second)
						e.Creds("prod")
						_, expiry := e.Sim.Issued()
						time.Sleep(time.Until(expiry.Add(offset)))
						asked := time.Now()
						e.Creds("prod")
						assert.LessOrEqual(t, time.Since(asked), 16*time.Second)
					}
				})
			})
		}
	}
}

func TestVendorClockIsKeptAcrossACredentialWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.Behave(vendorsim.Conduct{StrictDates: true, Skew: -20 * time.Second})
		e.Write("config/kensho/prod", engine.KeyPairFields())
		assert.Equal(t, 2, e.Exchanges(), "the Date of the refusal sets the clock")
		e.Write("config/kensho/prod", engine.KeyPairFields())
		e.Write("config/kensho/other", engine.KeyPairFields())
		assert.Equal(t, 4, e.Exchanges())
	})
}

func TestGuarantee1StoredTokenFromTheFutureIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		e.Write("refresh/prod", nil)
		old := engine.TokenOf(e.Creds("prod"))
		// As if the server's clock had been an hour ahead, and was corrected since.
		moveTimesForward(t, e.Storage, time.Hour)
		e.Restart()
		calls := e.Exchanges()
		assert.NotEqual(t, old, engine.TokenOf(e.Creds("prod")))
		assert.Equal(t, calls+1, e.Exchanges())
	})
}

// Guarantee 4: a back-off that a wrong clock dated in the future delays no attempt.
func TestStoredFailureFromTheFutureDelaysNothing(t *testing.T) {
	for _, ahead := range []time.Duration{time.Minute, time.Hour, 365 * 24 * time.Hour} {
		for name, fails := range map[string]vendorsim.Conduct{
			"the vendor is down":         engine.Down(),
			"the vendor throttles":       {Fault: vendorsim.Always(vendorsim.Throttle("3000"))},
			"the credential is rejected": {Fault: vendorsim.Always(vendorsim.Answer(http.StatusUnauthorized, `{"error":"invalid_client"}`))},
			"the scope is rejected":      engine.RefuseScope(engine.NerdScope),
		} {
			t.Run(ahead.String()+" ahead, "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := engine.NewNarrowed(t)
					e.Sim.Behave(fails)
					e.Refused("creds/nerd")
					// As if the server's clock had been ahead, and was corrected since.
					moveTimesForward(t, e.Storage, ahead)
					e.Restart()
					e.Sim.Behave(engine.Down())
					status := e.Read("status/prod").Data
					assert.NotContains(t, status, "next_attempt_time")
					assert.NotContains(t, status, "scopes")

					calls := e.Exchanges()
					for range 5 {
						e.Refused("creds/nerd")
					}
					assert.Equal(t, calls+1, e.Exchanges(), "the new failure starts a back-off of its own")
					e.Sim.Behave(vendorsim.Conduct{})
					time.Sleep(3 * time.Second)
					e.Creds("nerd")
				})
			})
		}
	}
}

// moveTimesForward adds a duration to every time in the stored state of all credentials.
func moveTimesForward(t *testing.T, s logical.Storage, by time.Duration) {
	t.Helper()
	keys, err := logical.CollectKeysWithPrefix(context.Background(), s, "state/")
	require.NoError(t, err)
	require.NotEmpty(t, keys)
	for _, key := range keys {
		entry, err := s.Get(context.Background(), key)
		require.NoError(t, err)
		var value any
		require.NoError(t, json.Unmarshal(entry.Value, &value))
		entry.Value, err = json.Marshal(timesMovedForward(value, by))
		require.NoError(t, err)
		require.NoError(t, s.Put(context.Background(), entry))
	}
}

// timesMovedForward returns value with a duration added to every time in it.
func timesMovedForward(value any, by time.Duration) any {
	switch v := value.(type) {
	case map[string]any:
		for name := range v {
			v[name] = timesMovedForward(v[name], by)
		}
	case string:
		if at, err := time.Parse(time.RFC3339, v); err == nil {
			return at.Add(by)
		}
	}
	return value
}

package broker

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"vault-plugin-secrets-tokenbroker/provider"
)

func TestANameThatNobodyReadsIsEvicted(t *testing.T) {
	testQuiet(t, func(t *testing.T, q *quiet) {
		first, err := q.read(t, "a")
		require.NoError(t, err)
		q.pass(t, time.Hour)
		assert.False(t, q.isEvicted("a"))
		q.pass(t, 10*time.Minute)
		assert.True(t, q.isEvicted("a"))
		for name, status := range q.Statuses() {
			assert.Equal(t, "a", name)
			assert.Equal(t, "ok", status.State)
			assert.Equal(t, "quiet", status.Vendor)
			assert.False(t, status.ExpireTime.IsZero())
		}
		again, err := q.read(t, "a")
		require.NoError(t, err)
		assert.Equal(t, first, again, "from storage")
		assert.Equal(t, 1, q.exchanges)
	})
}

func TestANameThatWasOnlyListedIsReadOnce(t *testing.T) {
	testQuiet(t, func(t *testing.T, q *quiet) {
		q.names = []string{"a", "b", "c"}
		q.pass(t, time.Minute)
		assert.True(t, q.isEvicted("b"))
		q.pass(t, 24*time.Hour)
		assert.Equal(t, 3, q.loads)
	})
}

func TestTheFirstSweepKeepsOneNameInMemoryAtATime(t *testing.T) {
	testQuiet(t, func(t *testing.T, q *quiet) {
		q.names = nil
		for i := range 1000 {
			q.names = append(q.names, fmt.Sprintf("c%04d", i))
		}
		require.NoError(t, q.Sweep(t.Context(), q.storage))
		assert.Equal(t, 1000, q.loads)
		assert.Equal(t, 1, q.mostRecords)
		assert.Empty(t, q.touches.take())
	})
}

func TestASweepWithNothingDueTouchesNoName(t *testing.T) {
	testQuiet(t, func(t *testing.T, q *quiet) {
		q.names, q.idle = nil, 30*24*time.Hour
		for i := range 1000 {
			q.names = append(q.names, fmt.Sprintf("c%04d", i))
		}
		for i := range 10 {
			for range 2 { // so that they are in use
				_, err := q.read(t, q.names[i])
				require.NoError(t, err)
			}
		}
		q.pass(t, 2*time.Minute)
		loads := q.loads
		require.NoError(t, q.Sweep(t.Context(), q.storage))
		assert.Empty(t, q.touches.take())
		e, _ := q.popDue(time.Now())
		assert.Nil(t, e)
		assert.Equal(t, loads, q.loads)
		assert.Len(t, q.queue, 1000, "each has its next keepalive")
	})
}

// The clock of a machine, which synctest does not have, has a monotonic reading.
func TestGuarantee1AnEvictedTokenIsAsOldAsItWasInMemory(t *testing.T) {
	q := newQuiet("a")
	_, err := q.read(t, "a")
	require.NoError(t, err)
	require.True(t, q.evictNow())
	_, err = q.read(t, "a")
	require.NoError(t, err)
	require.Equal(t, 1, q.exchanges)
	require.True(t, q.evictNow())
	// 25 hours pass by the monotonic clock, while the wall clock is set back by as much.
	m := *q.entries["a"].summary
	shiftMonotonic(&m.seen, -25*time.Hour)
	q.entries["a"].summary = &m
	_, err = q.read(t, "a")
	require.NoError(t, err)
	assert.Equal(t, 2, q.exchanges, "the first token has expired")
}

func TestGuarantee1ATokenOfAnotherClockIsNotEvicted(t *testing.T) {
	q := newQuiet("a")
	_, err := q.read(t, "a")
	require.NoError(t, err)
	r := q.cached("a")
	token := r.current.state.Tokens[ownScope]
	shiftMonotonic(&token.Seen, -time.Hour)
	r.current.state = r.current.state.withTokens(map[string]provider.Token{ownScope: token})
	assert.False(t, q.evictNow())
}

func TestGuarantee3AnUnsavedStateIsNotEvicted(t *testing.T) {
	testQuiet(t, func(t *testing.T, q *quiet) {
		_, err := q.read(t, "a")
		require.NoError(t, err)
		r := q.cached("a")
		latest := r.get().state.WithGrant(provider.Grant{RefreshToken: "the only one"})
		q.storage.isRefusing = true
		r.keepUnsaved(q.storage, latest, errors.New("the disk is full"))
		assert.False(t, q.evictNow())
		q.pass(t, 5*time.Hour)
		require.False(t, q.isEvicted("a"))
		q.storage.isRefusing = false
		q.pass(t, 5*time.Minute)
		assert.True(t, q.isEvicted("a"))
		_, err = q.read(t, "a")
		require.NoError(t, err)
		assert.Equal(t, "the only one", q.cached("a").get().state.Grant.RefreshToken)
	})
}

func TestGuarantee4AFailureThatIsNotInStorageIsNotEvicted(t *testing.T) {
	testQuiet(t, func(t *testing.T, q *quiet) {
		q.failure = provider.Errorf(provider.Unavailable, "down")
		q.storage.isRefusing = true
		_, err := q.read(t, "a")
		require.Error(t, err)
		q.cached("a").noteRefused(ownScope)
		q.storage.isRefusing = false
		q.pass(t, 3*time.Hour)
		assert.False(t, q.isEvicted("a"))
	})
}

func TestGuarantee5ARejectionOutlivesEviction(t *testing.T) {
	testQuiet(t, func(t *testing.T, q *quiet) {
		q.failure = provider.Errorf(provider.Rejected, "invalid_grant")
		_, err := q.read(t, "a")
		require.Error(t, err)
		q.pass(t, 3*time.Hour)
		require.True(t, q.isEvicted("a"))
		for _, status := range q.Statuses() {
			assert.True(t, status.IsRejected)
			assert.Equal(t, "failed", status.State)
			assert.Positive(t, status.OwnFailure.Count)
		}
		q.storage.isRefusing = true // a back-off begins that counts after the next eviction, too
		_, err = q.read(t, "a")
		require.Error(t, err)
		before := q.exchanges
		_, err = q.read(t, "a")
		require.Error(t, err)
		assert.Equal(t, before, q.exchanges)
	})
}

func TestGuarantee7AnEvictedCredentialStaysValid(t *testing.T) {
	testQuiet(t, func(t *testing.T, q *quiet) {
		q.idle = 7 * 24 * time.Hour
		q.pass(t, 2*time.Hour)
		require.True(t, q.isEvicted("a"))
		q.pass(t, 5*24*time.Hour)
		assert.InDelta(t, 5, q.exchanges, 1, "once a day")
		assert.True(t, q.isEvicted("a"))
		for _, status := range q.Statuses() {
			assert.Less(t, time.Until(status.CredentialExpireTime), 7*24*time.Hour)
			assert.Greater(t, time.Until(status.CredentialExpireTime), 5*24*time.Hour)
		}
	})
}

func TestGuarantee8AChangeOfAnEvictedNameCountsAtOnce(t *testing.T) {
	for how, change := range map[string]func(q *quiet){
		"forgotten":         func(q *quiet) { q.Forget("a") },
		"all are forgotten": func(q *quiet) { q.ForgetAll() },
		"unloaded":          func(q *quiet) { q.Unload("a") },
		"the client":        func(q *quiet) { q.UnloadUsers("app", false) },
		"the client, void":  func(q *quiet) { q.UnloadUsers("app", true) },
	} {
		t.Run(how, func(t *testing.T) {
			testQuiet(t, func(t *testing.T, q *quiet) {
				q.client = "app"
				_, err := q.read(t, "a")
				require.NoError(t, err)
				_, err = q.read(t, "a")
				require.NoError(t, err)
				q.pass(t, 3*time.Hour)
				require.True(t, q.isEvicted("a"))
				change(q)
				assert.False(t, q.IsInMemory("a"))
				for _, status := range q.Statuses() {
					assert.True(t, status.IsUnread)
				}
				loads := q.loads
				require.NoError(t, q.Sweep(t.Context(), q.storage))
				assert.Equal(t, loads+1, q.loads)
				assert.True(t, q.IsInMemory("a"))
			})
		})
	}
}

func TestGuarantee9AnEvictedTokenInUseIsRenewed(t *testing.T) {
	testQuiet(t, func(t *testing.T, q *quiet) {
		for range 2 {
			_, err := q.read(t, "a")
			require.NoError(t, err)
		}
		q.pass(t, 17*time.Hour)
		require.True(t, q.isEvicted("a"))
		require.Equal(t, 1, q.exchanges)
		q.pass(t, 2*time.Hour)
		assert.Equal(t, 2, q.exchanges, "renewed before a reader waits for it")
		assert.True(t, q.isEvicted("a"))
		token, err := q.read(t, "a")
		require.NoError(t, err)
		assert.Equal(t, "token2", token)
		q.pass(t, 30*time.Hour)
		assert.Equal(t, 3, q.exchanges, "the read counts")
		q.pass(t, 48*time.Hour)
		assert.Equal(t, 3, q.exchanges, "nobody has read the third")
	})
}

func TestGuarantee14ACredentialWithVariantsIsNotEvicted(t *testing.T) {
	testQuiet(t, func(t *testing.T, q *quiet) {
		q.names = []string{"a", VariantName("a", "person")}
		for _, name := range q.names {
			_, err := q.read(t, name)
			require.NoError(t, err)
		}
		q.pass(t, 3*time.Hour)
		assert.False(t, q.isEvicted("a"))
		assert.False(t, q.isEvicted(q.names[1]), "a variant is deleted instead")
		assert.Empty(t, q.IdleVariants(10))
		q.pass(t, 48*time.Hour)
		assert.Equal(t, q.names[1:], q.IdleVariants(10))
	})
}

// What IdleVariants returns is deleted.
func TestACredentialThatCannotBeUsedIsNotAnIdleVariant(t *testing.T) {
	testQuiet(t, func(t *testing.T, q *quiet) {
		_, err := q.read(t, "a")
		require.NoError(t, err)
		q.cached("a").reset(unusable)
		require.NoError(t, q.Sweep(t.Context(), q.storage))
		assert.Empty(t, q.Broker.idle)
		assert.Empty(t, q.IdleVariants(10))
	})
}

func TestGuarantee15ANameThatPanicsIsEvictedOnlyAfterItsPause(t *testing.T) {
	testQuiet(t, func(t *testing.T, q *quiet) {
		_, err := q.read(t, "a")
		require.NoError(t, err)
		r := q.cached("a")
		func() {
			defer q.contain(r, new(error))
			panic("broken")
		}()
		require.NoError(t, q.Sweep(t.Context(), q.storage))
		assert.False(t, q.evictNow())
		_, err = q.read(t, "a")
		require.ErrorIs(t, err, ErrPanicked)
		q.pass(t, 6*time.Minute)
		_, err = q.read(t, "a")
		require.NoError(t, err)
	})
}

func TestGuarantee16LimitsAreNotResetByEviction(t *testing.T) {
	for what, use := range map[string]func(r *record){
		"refreshes": func(r *record) {
			r.refreshLimits[1] = rate.NewLimiter(rate.Every(24*time.Hour), 1)
			r.refreshLimits[1].Allow()
		},
		"a dedicated role": func(r *record) {
			r.setAllowance(Dedication{Role: "mine", MaxExchanges: 1}, provider.Token{IssueTime: time.Now(), ExpireTime: time.Now().Add(24 * time.Hour)}, time.Now())
		},
		"min_ttl": func(r *record) {
			_, _ = r.update(r.get().epoch, func(snap *snapshot) { snap.early = withKey(snap.early, ownScope, time.Now().Add(24*time.Hour)) })
		},
		"failures of a role": func(r *record) {
			_, _ = r.update(r.get().epoch, func(snap *snapshot) {
				snap.roleFailures = withKey(snap.roleFailures, "mine", Failure{Time: time.Now(), Count: 1, NextAttempt: time.Now().Add(longestBackOff)})
			})
		},
		"a refused caller": func(r *record) {
			r.delegationsOf(r.get().epoch).put(delegationKey{}, provider.Token{AccessToken: "x", IssueTime: time.Now(), ExpireTime: time.Now().Add(24 * time.Hour)}, provider.DelegateRequest{})
		},
	} {
		t.Run(what, func(t *testing.T) {
			testQuiet(t, func(t *testing.T, q *quiet) {
				_, err := q.read(t, "a")
				require.NoError(t, err)
				use(q.cached("a"))
				q.pass(t, 70*time.Minute)
				assert.False(t, q.isEvicted("a"))
				q.pass(t, 25*time.Hour)
				assert.True(t, q.isEvicted("a"))
			})
		})
	}
}

func TestTheUsersOfAClientAreKnownAfterEviction(t *testing.T) {
	testQuiet(t, func(t *testing.T, q *quiet) {
		q.client, q.version = "app", ClientVersion{Settings: "s1", Secrets: "k1"}
		q.names = []string{"a", "b"}
		for _, name := range q.names {
			_, err := q.read(t, name)
			require.NoError(t, err)
		}
		q.pass(t, 3*time.Hour)
		require.True(t, q.isEvicted("a") && q.isEvicted("b"))
		assert.Equal(t, []string{"app"}, q.ClientsInUse())
		assert.True(t, q.HasWorked("app", "s1", "k1"))
		assert.False(t, q.HasWorked("app", "s1", "k2"))
		assert.True(t, q.HaveAccepted("app", "k1"))
		assert.False(t, q.HaveAccepted("app", "k2"))
		use, isKnown := q.ClientUse("b")
		assert.True(t, isKnown)
		assert.Equal(t, "k1", use.Accepted)
		q.failure = provider.Errorf(provider.Rejected, "revoked")
		q.failure.Code = "invalid_grant"
		q.pass(t, 22*time.Hour)
		_, err := q.read(t, "a") // its token has expired
		require.Error(t, err)
		q.pass(t, 3*time.Hour)
		require.True(t, q.isEvicted("a"))
		rejected := map[string]bool{}
		for name := range q.RejectedUsers("app") {
			rejected[name] = true
		}
		assert.Equal(t, map[string]bool{"a": true}, rejected)
	})
}

func TestExpiriesOfEvictedNamesAreReported(t *testing.T) {
	testQuiet(t, func(t *testing.T, q *quiet) {
		q.idle = 4 * 24 * time.Hour
		_, err := q.read(t, "a")
		require.NoError(t, err)
		q.failure = provider.Errorf(provider.Unavailable, "down")
		var reported []time.Duration
		isAccepted := false
		for range 60 {
			q.pass(t, time.Hour)
			q.ReportExpiries(func(_ string, x Expiry) bool {
				if left := time.Until(x.Unused); left < UnusedHorizon {
					reported = append(reported, left)
					return isAccepted
				}
				return true
			})
			isAccepted = len(reported) > 0
		}
		require.NotEmpty(t, reported)
		assert.InDelta(t, UnusedHorizon.Hours(), reported[0].Hours(), 2)
		assert.GreaterOrEqual(t, len(reported), 2, "what was not done is reported again")
	})
}

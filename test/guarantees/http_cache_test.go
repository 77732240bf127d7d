package guarantees_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// Given an answer from an HTTP cache, its Age is subtracted from the lifetime that it states.
func TestGuarantee1AgeOfACachedAnswerShortensTheLifetime(t *testing.T) {
	const age = 530 * time.Second
	for name, kind := range engine.Kinds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				engine.Until(0, 30, 0)
				e.AnswerFromCache(fmt.Sprintf(kind.Answer, "of-a-cache-0123456789", int64(20*time.Minute/max(kind.Unit, 1))), age)
				e.Write(kind.Path, kind.Fields())
				expire, err := time.Parse(time.RFC3339, e.Read("status/prod").Data["expire_time"].(string))
				require.NoError(t, err)
				want := time.Now().Add(20*time.Minute - age)
				if kind.Unit == 0 {
					want = time.Now().Add(30 * time.Minute)
				}
				assert.WithinRange(t, expire, want.Add(-2*time.Second), want)
				if skew := e.Read("status/prod").Data["clock_skew"]; skew != nil {
					assert.Zero(t, skew, "a Date as old as its answer shows no clock skew")
				}
			})
		})
	}
}

func TestGuarantee1ExpiredTokenFromAnHTTPCacheIsRefused(t *testing.T) {
	for name, kind := range engine.Kinds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				engine.Until(1, 5, 0)
				e.AnswerFromCache(fmt.Sprintf(kind.Answer, "of-a-cache-0123456789", int64(8*time.Minute/max(kind.Unit, 1))), 530*time.Second)
				_, status, message := e.Request(logical.UpdateOperation, kind.Path, kind.Fields())
				assert.Equal(t, http.StatusBadGateway, status)
				assert.Contains(t, message, "before it was received")
			})
		})
	}
}

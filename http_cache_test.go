package tokenbroker_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestGuarantee1ATokenOutOfACacheExpiresAsTheVendorHasIt(t *testing.T) {
	const age = 530 * time.Second
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(t)
				until(0, 30, 0)
				e.cached(fmt.Sprintf(kind.answer, "of-a-cache-0123456789", int64(20*time.Minute/max(kind.unit, 1))), age)
				e.write(kind.path, kind.fields())
				expire, err := time.Parse(time.RFC3339, e.read("status/prod").Data["expire_time"].(string))
				require.NoError(t, err)
				want := time.Now().Add(20*time.Minute - age)
				if kind.unit == 0 {
					want = time.Now().Add(30 * time.Minute)
				}
				assert.WithinRange(t, expire, want.Add(-2*time.Second), want)
				if skew := e.read("status/prod").Data["clock_skew"]; skew != nil {
					assert.Zero(t, skew, "a Date that is as old as its answer is of a clock that is right")
				}
			})
		})
	}
}

func TestGuarantee1AnExpiredTokenOutOfACacheIsRefused(t *testing.T) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(t)
				until(1, 5, 0)
				e.cached(fmt.Sprintf(kind.answer, "of-a-cache-0123456789", int64(8*time.Minute/max(kind.unit, 1))), 530*time.Second)
				_, status, message := e.request(logical.UpdateOperation, kind.path, kind.fields())
				assert.Equal(t, http.StatusBadGateway, status)
				assert.Contains(t, message, "has expired already")
			})
		})
	}
}

package tokenbroker_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
)

func TestPromise7AnUnreadCredentialStaysAlive(t *testing.T) {
	for name, test := range map[string]struct {
		data  map[string]any
		alive bool
	}{
		"by default":        {map[string]any{}, true},
		"every six days":    {map[string]any{"keepalive_interval": "144h"}, true},
		"stored unchecked":  {map[string]any{"verify": false}, true},
		"with no keepalive": {map[string]any{"keepalive_interval": 0}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(t)
				data := map[string]any{"refresh_token": refreshToken}
				for field, value := range test.data {
					data[field] = value
				}
				e.write("config/kensho/prod", data)
				for range 20 {
					e.pass(23 * time.Hour)
					e.restart()
				}
				e.pass(2 * time.Minute)
				_, status, _ := e.request(logical.ReadOperation, "creds/prod", nil)
				assert.Equal(t, test.alive, status == http.StatusOK)
				if name == "by default" {
					assert.InDelta(t, 20, e.exchanges(), 2, "about one a day")
				}
			})
		})
	}
}

func TestPromise7KeepalivesAreSpreadOverTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		const many = 96
		for i := range many {
			token := fmt.Sprintf("refresh-token-%d", i)
			e.sim.AddRefreshToken("link-streaming", token)
			e.write(fmt.Sprintf("config/kensho/c%d", i), map[string]any{"refresh_token": token})
		}
		e.pass(24 * time.Hour)
		busiest := 0
		for range 24 {
			before := e.exchanges()
			e.pass(time.Hour)
			busiest = max(busiest, e.exchanges()-before)
		}
		assert.InDelta(t, 3*many, e.exchanges(), many/4, "one to verify each, and about one a day")
		assert.Less(t, busiest, many/4, "in any hour")
	})
}

func TestPromise7AKeepaliveLongerThanTheCredentialLivesIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		_, status, message := e.request(logical.UpdateOperation, "config/kensho/prod", map[string]any{"refresh_token": refreshToken, "keepalive_interval": "8d"})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "keepalive_interval: must be under 7 days")
	})
}

package guarantees_test

import (
	"fmt"
	"maps"
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

func TestGuarantee7UnreadCredentialDoesNotExpire(t *testing.T) {
	for name, test := range map[string]struct {
		data   map[string]any
		usable bool
	}{
		"by default":          {map[string]any{}, true},
		"every six days":      {map[string]any{"keepalive_interval": "144h"}, true},
		"not verified":        {map[string]any{"verify": false}, true},
		"without a keepalive": {map[string]any{"keepalive_interval": 0}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				data := map[string]any{"refresh_token": engine.RefreshToken}
				for field, value := range test.data {
					data[field] = value
				}
				e.Write("config/kensho/prod", data)
				for range 20 {
					e.Pass(23 * time.Hour)
					e.Restart()
				}
				e.Pass(2 * time.Minute)
				_, status, _ := e.Request(logical.ReadOperation, "creds/prod", nil)
				assert.Equal(t, test.usable, status == http.StatusOK)
				if name == "by default" {
					assert.InDelta(t, 20, e.Exchanges(), 2, "about one a day")
				}
			})
		})
	}
}

func TestGuarantee7KeepalivesAreSpreadOverTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		const many = 96
		for i := range many {
			token := fmt.Sprintf("refresh-token-%d", i)
			e.Sim.AddRefreshToken("link-streaming", token)
			e.Write(fmt.Sprintf("config/kensho/c%d", i), map[string]any{"refresh_token": token})
		}
		e.Pass(24 * time.Hour)
		busiest := 0
		for range 24 {
			before := e.Exchanges()
			e.Pass(time.Hour)
			busiest = max(busiest, e.Exchanges()-before)
		}
		assert.InDelta(t, 3*many, e.Exchanges(), many/4, "one verification of each, and about one keepalive a day")
		assert.Less(t, busiest, many/4, "in any hour")
	})
}

func TestGuarantee7KeepaliveLongerThanTheIdleExpiryIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		path      string
		idle      any // idle_expiry; nil for the vendor's documented one
		interval  any // keepalive_interval; nil for the default
		effective time.Duration
		says      string
	}{
		"a day more than the idle expiry":      {path: "kensho", interval: "8d", says: "keepalive_interval: must be at most 167h59m, as the credential expires after 7d without use"},
		"the whole idle expiry":                {path: "kensho", interval: "7d", says: "keepalive_interval: must be at most 167h59m"},
		"a minute less than the idle expiry":   {path: "kensho", interval: 7*24*3600 - 60, effective: 7*24*time.Hour - time.Minute},
		"59 seconds less than the idle expiry": {path: "kensho", interval: 7*24*3600 - 59, says: "keepalive_interval: must be at most 167h59m"},
		"the default for a week":               {path: "kensho", effective: 24 * time.Hour},
		"the default for two days":             {path: "oauth2", idle: "48h", effective: 24 * time.Hour},
		"the default for 30 minutes":           {path: "oauth2", idle: "30m", effective: 15 * time.Minute},
		"the default for 2 minutes":            {path: "oauth2", idle: "2m", effective: time.Minute},
		"an idle expiry shorter than a sweep":  {path: "oauth2", idle: "119s", says: "idle_expiry: must be at least 2m,"},
		"the same without a keepalive":         {path: "oauth2", idle: "119s", interval: 0},
		"29 of 30 minutes":                     {path: "oauth2", idle: "30m", interval: "29m", effective: 29 * time.Minute},
		"30 of 30 minutes":                     {path: "oauth2", idle: "30m", interval: "30m", says: "keepalive_interval: must be at most 29m, as the credential expires after 30m without use"},
		"a day of 30 minutes":                  {path: "oauth2", idle: "30m", interval: "24h", says: "keepalive_interval: must be at most 29m"},
		"2 of 2 hours":                         {path: "oauth2", idle: "2h", interval: "2h", says: "keepalive_interval: must be at most 1h59m, as the credential expires after 2h without use"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				path, data := "config/"+test.path+"/prod", map[string]any{"refresh_token": engine.RefreshToken}
				if test.path == "oauth2" {
					maps.Copy(data, map[string]any{"client_id": engine.ClientID, "client_secret": engine.ClientSecret, "token_url": vendorsim.OAuthTokenURL, "idle_expiry": test.idle})
				}
				if test.interval != nil {
					data["keepalive_interval"] = test.interval
				}
				_, status, message := e.Request(logical.UpdateOperation, path, data)
				if test.says != "" {
					assert.Equal(t, http.StatusBadRequest, status)
					assert.Contains(t, message, test.says)
					return
				}
				require.Equal(t, http.StatusOK, status, message)
				assert.Equal(t, int(test.effective.Seconds()), e.Read(path).Data["keepalive_interval"])
				if test.effective == 0 || test.effective > time.Hour {
					return
				}
				before, last := e.Exchanges(), time.Now()
				for range 100 {
					e.Pass(time.Minute)
					if n := e.Exchanges(); n > before {
						before, last = n, time.Now()
					}
					idle, err := time.ParseDuration(test.idle.(string))
					require.NoError(t, err)
					require.LessOrEqual(t, time.Since(last), idle, "the credential is exchanged before it expires")
				}
			})
		})
	}
}

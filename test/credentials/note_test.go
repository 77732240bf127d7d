package credentials_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// credentialsOfEachVendor returns the fields of one credential for each vendor, by path.
func credentialsOfEachVendor() map[string]map[string]any {
	return map[string]map[string]any{
		"config/kensho/a":   engine.KeyPairFields(),
		"config/sitecore/b": {"api_key": engine.APIKey},
		"config/oauth2/c":   engine.SecretClient(true),
	}
}

func TestEveryCredentialHasADescriptionAndAnExpiryDate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		for path, fields := range credentialsOfEachVendor() {
			name := path[strings.LastIndex(path, "/")+1:]
			fields["description"], fields["expires"] = "the nightly import; ask Ops, ext. 4711", "2000-05-01"
			e.Write(path, fields)
			config := e.Read(path).Data
			assert.Equal(t, "the nightly import; ask Ops, ext. 4711", config["description"], path)
			assert.Equal(t, "2000-05-01", config["expires"], path)
			status := e.Read("status/" + name).Data
			assert.Equal(t, "the nightly import; ask Ops, ext. 4711", status["description"], path)
			assert.Equal(t, "2000-05-01T00:00:00Z", status["expires"], path)

			e.Write(path, map[string]any{"expires": "2000-05-01T12:00:00+02:00", "description": ""})
			status = e.Read("status/" + name).Data
			assert.Equal(t, "2000-05-01T10:00:00Z", status["expires"], path)
			assert.NotContains(t, status, "description", path)
			e.Write(path, map[string]any{"expires": ""})
			assert.NotContains(t, e.Read("status/"+name).Data, "expires", path)
		}
	})
}

// eBay documents that a refresh token is valid for 18 months.
func TestADocumentedLifetimeOfARefreshTokenIsItsExpiryDate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		fields := map[string]any{"client_id": "app", "client_secret": "secret", "refresh_token": "token", "verify": false}
		e.Write("config/ebay/prod", fields)
		expires := func() any { return e.Read("status/prod").Data["expires"] }
		assert.Equal(t, "2001-07-01T00:00:00Z", expires())
		time.Sleep(24 * time.Hour)
		e.Write("config/ebay/prod", map[string]any{"description": "of the shop", "verify": false})
		assert.Equal(t, "2001-07-01T00:00:00Z", expires(), "the refresh token is the same")
		e.Write("config/ebay/prod", map[string]any{"refresh_token": "next", "verify": false})
		assert.Equal(t, "2001-07-02T00:00:00Z", expires())
		e.Write("config/ebay/prod", map[string]any{"expires": "2000-05-01", "verify": false})
		assert.Equal(t, "2000-05-01T00:00:00Z", expires(), "the operator knows better")

		e.Write("config/ebay/client", map[string]any{"client_id": "app", "client_secret": "secret", "scope": "orders", "verify": false})
		assert.NotContains(t, e.Read("status/client").Data, "expires", "without a refresh token")
	})
}

func TestAnInvalidDescriptionOrDateIsRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		for _, row := range []struct{ field, value, says string }{
			{"expires", "next year", "expires: must be a date such as 2027-05-01, or an RFC 3339 time"},
			{"expires", "01.05.2027", "expires: must be a date"},
			{"expires", "2027-02-30", "expires: must be a date"},
			{"expires", "2027-05-01 12:00", "expires: must be a date"},
			{"expires", "1809129600", "expires: must be a date"},
			{"description", strings.Repeat("é", 501), "description: must have at most 500 characters"},
			{"description", "a\x1b[2J", "description: must be one line, without control characters"},
			{"description", "a\nb", "description: must be one line"},
		} {
			_, status, message := e.Request(logical.UpdateOperation, "config/kensho/prod", map[string]any{row.field: row.value})
			assert.Equal(t, http.StatusBadRequest, status, row.value)
			assert.Contains(t, message, row.says)
		}
		e.Write("config/kensho/prod", map[string]any{"description": strings.Repeat("é", 500)})
	})
}

func TestASecretThatExpiresSoonSendsOneEventAndIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		fields := engine.KeyPairFields()
		fields["expires"] = "2000-01-31"
		e.Write("config/kensho/prod", fields)
		e.Write("config/kensho/other", engine.KeyPairFields())
		e.Events()
		require.NoError(t, e.Tick())
		const seconds = `tokenbroker_secret_expires_in_seconds{name="prod",vendor="kensho"}`
		e.AssertMetrics(map[string]string{seconds: "2.592e+06", strings.Replace(seconds, "prod", "other", 1): ""})
		for range 15 {
			e.Pass(24*time.Hour - 90*time.Minute)
			time.Sleep(90 * time.Minute)
		}
		assert.Empty(t, e.Events())
		e.Pass(2 * 24 * time.Hour)
		expiring := engine.SentEvent{Kind: "tokenbroker/secret-expiring", Metadata: map[string]any{
			"operation": "secret-expiring", "modified": "false", "path": "status/prod", "data_path": "status/prod",
			"name": "prod", "vendor": "kensho", "expire_time": "2000-01-31T00:00:00Z",
		}}
		require.Equal(t, []engine.SentEvent{expiring}, e.Events())

		e.Write("config/kensho/prod", map[string]any{"expires": "2000-02-28"})
		e.Pass(time.Hour)
		e.Events()
		time.Sleep(28 * 24 * time.Hour)
		e.Pass(time.Hour)
		sent := e.Events()
		require.Len(t, sent, 1, "one event for each date")
		assert.Equal(t, "2000-02-28T00:00:00Z", sent[0].Metadata["expire_time"])
		time.Sleep(30 * 24 * time.Hour)
		require.NoError(t, e.Tick())
		e.AssertMetrics(map[string]string{seconds: "0.0"})
		e.Creds("prod") // only the vendor decides whether it has expired

		e.Request(logical.DeleteOperation, "config/kensho/prod", nil)
		e.Write("config/kensho/prod", fields)
		e.Events()
		require.NoError(t, e.Tick())
		require.Len(t, e.Events(), 1, "a new credential with the same name")
	})
}

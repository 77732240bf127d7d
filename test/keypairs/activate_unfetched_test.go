package keypairs_test

import (
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

// unverifiable are credentials whose exchange with a key pair does not reach the vendor.
var unverifiable = map[string]func(e *engine.Engine) (path string){
	"it signs tokens for readers": func(e *engine.Engine) string {
		e.Write("config/aws-web-identity/prod", map[string]any{"private_key_source": "generated"})
		return "config/aws-web-identity/prod"
	},
	"a person must consent first": func(e *engine.Engine) string {
		e.Write("config/oauth2/prod", map[string]any{
			"authorization_url": "https://auth.example.com/authorize", "token_url": vendorsim.OAuthTokenURL, "redirect_uri": "https://vault.example.com/v1/kensho/callback",
			"client_id": engine.ClientID, "auth_style": "private_key_jwt", "private_key_source": "generated",
		})
		return "config/oauth2/prod"
	},
}

func TestAPublishedPairThatNobodyMayHaveFetchedIsNotActivated(t *testing.T) {
	for name, store := range unverifiable {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.PublishKeypair("prod", map[string]any{"key_type": "ec-p256"})
				path := store(e)
				e.Pass(24*time.Hour + 500*time.Millisecond) // the credential is not new, as its next key is
				next := e.Pending("prod", nil).Data["key_id"]
				before := e.Dump()
				status, message := e.Activate(nil)
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Equal(t, "the pending pair of keypair/prod has been published only since 2000-01-02T00:00:00Z, and no exchange of "+path+
					" shows whether the vendor has fetched it; wait until 2000-01-03T00:00:01Z, or give force=true to activate it now", message)
				assert.Equal(t, before, e.Dump())

				time.Sleep(24*time.Hour - time.Second)
				status, _ = e.Activate(nil)
				assert.Equal(t, http.StatusBadRequest, status)
				time.Sleep(time.Second)
				status, message = e.Activate(nil)
				require.Equal(t, http.StatusOK, status, message)
				assert.Equal(t, next, activeKey(e))
			})
		})
	}
}

func TestAnOperatorCanForceTheActivationOfAPairThatNobodyMayHaveFetched(t *testing.T) {
	for name, store := range unverifiable {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.PublishKeypair("prod", map[string]any{"key_type": "ec-p256"})
				store(e)
				next := e.Pending("prod", nil).Data["key_id"]
				status, message := e.Activate(map[string]any{"force": true})
				require.Equal(t, http.StatusOK, status, message)
				assert.Equal(t, next, activeKey(e))
			})
		})
	}
}

// force is not verify=false.
func TestAForcedActivationStillAsksTheVendorThatCanAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := engine.NewPublished(t, nil)
		first := activeKey(e)
		e.Pending("prod", nil)
		status, message := e.Activate(map[string]any{"force": true})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "the vendor rejected the credential")
		assert.Equal(t, first, activeKey(e))
	})
}

// Consumers may have cached the keys for as long as they could before.
func TestAShorterPublishAheadDoesNotAdmitAPairThatNobodyMayHaveFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.PublishKeypair("prod", map[string]any{"key_type": "ec-p256"})
		e.Write("config/aws-web-identity/prod", map[string]any{"private_key_source": "generated"})
		e.Pending("prod", nil)
		e.Write("keypair/prod", map[string]any{"publish_ahead": "10s"})
		time.Sleep(time.Minute)
		status, message := e.Activate(nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "wait until 2000-01-01T01:00:00Z")
		time.Sleep(time.Hour)
		status, message = e.Activate(nil)
		assert.Equal(t, http.StatusOK, status, message)
	})
}

// An operator registers the keys of a pair that is not published.
func TestAPairThatIsNotPublishedIsActivatedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("vendors/acme", map[string]any{"definition": `{
			"title": "Acme", "fields": {"private_key": {}},
			"grants": [{"grant_type": "self_signed", "token": "{assertion}", "assertion": {"lifetime": "20m", "claims": {"iss": "acme", "aud": "https://acme.example"}}}]
		}`})
		e.Keypair("prod", nil)
		e.Write("config/acme/prod", map[string]any{"private_key_source": "generated"})
		next := e.Pending("prod", nil).Data["key_id"]
		status, message := e.Activate(nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, next, activeKey(e))
	})
}

// The schedule waits by itself, and needs no force.
func TestAScheduleActivatesAPairThatNoVendorIsAskedAbout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.PublishKeypair("prod", map[string]any{"key_type": "ec-p256", "rotation_period": "1h", "publish_ahead": "10m"})
		e.Write("config/aws-web-identity/prod", map[string]any{"private_key_source": "generated"})
		first := activeKey(e)
		e.Pass(time.Hour + time.Minute)
		assert.NotEqual(t, first, activeKey(e))
		_, status, message := e.Request(logical.ReadOperation, "creds/prod", nil)
		assert.Equal(t, http.StatusOK, status, message)
		noFailures(e)
	})
}

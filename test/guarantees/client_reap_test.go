package guarantees_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestACredentialThatIsRejectedForLongIsDeletedIfItsClientSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.Write("clients/crm", map[string]any{"reap_after": "24h"})
		e.Write("roles/narrow", map[string]any{"config": "bob", "scope": "read"})
		e.Creds("alice")
		e.Creds("bob")
		rejectBoth := vendorsim.Conduct{Fault: vendorsim.Always(func(w http.ResponseWriter, _ *http.Request) {
			vendorsim.Answer(http.StatusBadRequest, `{"error":"invalid_grant"}`)(w, nil)
		})}
		e.Sim.Behave(rejectBoth)
		e.Pass(2 * time.Hour)
		for _, name := range []string{"alice", "bob"} {
			status, _ := e.Refused("creds/" + name)
			require.Equal(t, http.StatusBadRequest, status)
		}
		e.Pass(22 * time.Hour)
		e.Read("config/oauth2/alice")
		e.Restart()
		e.Pass(3 * time.Hour)
		_, status, _ := e.Request(logical.ReadOperation, "config/oauth2/alice", nil)
		assert.Equal(t, http.StatusNotFound, status)
		e.Read("config/oauth2/bob") // a role uses it
		var reaped []engine.SentEvent
		for _, event := range e.Events() {
			if strings.HasSuffix(event.Kind, "credential-reaped") {
				reaped = append(reaped, event)
			}
		}
		require.Len(t, reaped, 1)
		assert.Equal(t, "alice", reaped[0].Metadata["name"])
		assert.Equal(t, "crm", reaped[0].Metadata["client"])
	})
}

func TestACredentialThatStaysKeepsNoOtherFromBeingDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const staying = 25 // more than one run of the background work tries
		e := newSharing(t)
		e.Write("clients/crm", map[string]any{"reap_after": "1h"})
		e.Write("clients/zero", map[string]any{
			"vendor": "oauth2", "token_url": vendorsim.OAuthTokenURL, "client_id": engine.ClientID, "client_secret": engine.ClientSecret, "grant_type": "refresh_token", "reap_after": "1h",
		})
		store := func(name, client string) {
			e.Sim.AddOAuthRefreshToken(e.client, "rt-of-"+name, "read")
			e.Write("config/oauth2/"+name, map[string]any{"client": client, "refresh_token": "rt-of-" + name})
		}
		var names []string
		for i := range staying {
			name := fmt.Sprint("staying", i)
			store(name, "crm")
			e.Write("roles/of-"+name, map[string]any{"config": name})
			names = append(names, name)
		}
		store("leaver", "zero")
		e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(func(w http.ResponseWriter, _ *http.Request) {
			vendorsim.Answer(http.StatusBadRequest, `{"error":"invalid_grant"}`)(w, nil)
		})})
		e.Pass(2 * time.Hour)
		for _, name := range append(names, "leaver") {
			status, _ := e.Refused("creds/" + name)
			require.Equal(t, http.StatusBadRequest, status)
		}
		e.Pass(90 * time.Minute)
		_, status, _ := e.Request(logical.ReadOperation, "config/oauth2/leaver", nil)
		assert.Equal(t, http.StatusNotFound, status)
		for _, name := range names {
			e.Read("config/oauth2/" + name)
		}
		assert.Equal(t, staying, strings.Count(e.Outside.Text(), "a rejected credential cannot be deleted"))

		_, status, message := e.Request(logical.DeleteOperation, "roles/of-staying0", nil)
		require.Equal(t, http.StatusOK, status, message)
		e.Pass(5 * time.Minute)
		_, status, _ = e.Request(logical.ReadOperation, "config/oauth2/staying0", nil)
		assert.Equal(t, http.StatusNotFound, status)
	})
}

func TestCredentialsAreNotDeletedForTheFaultOfTheirClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.Write("clients/crm", map[string]any{"reap_after": "1h"})
		e.register(newSecret)
		e.Pass(2 * time.Hour)
		status, _ := e.Refused("creds/alice")
		require.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, map[string]any{"required": false}, e.Read("status/alice").Data["consent"], "another consent would not help")
		for _, event := range e.Events() {
			assert.NotContains(t, event.Kind, "consent-required")
		}
		e.Pass(48 * time.Hour)
		e.Read("config/oauth2/alice")
		e.Write("clients/crm", map[string]any{"client_secret": newSecret})
		e.Creds("alice")
	})
}

func TestACredentialIsNotDeletedWhileItsClientOrTheVendorIsAtFault(t *testing.T) {
	for _, then := range []struct {
		status int
		body   string
	}{{401, `{"error":"invalid_client"}`}, {503, `{}`}} {
		synctest.Test(t, func(t *testing.T) {
			e := newSharing(t)
			e.Write("clients/crm", map[string]any{"reap_after": "24h"})
			e.Creds("alice")
			failWith(e.Engine, 400, `{"error":"invalid_grant"}`)
			e.post("refresh/alice", nil)
			failWith(e.Engine, then.status, then.body)
			e.Pass(26 * time.Hour)
			assert.True(t, e.has("config/oauth2/alice"), "deleted after one rejection and a day of %d", then.status)
		})
	}
}

func TestACredentialIsNotDeletedAfterOneRejection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.Write("clients/crm", map[string]any{"reap_after": "1h"})
		failWith(e.Engine, 400, `{"error":"invalid_grant"}`)
		e.post("refresh/alice", nil)
		e.Sim.Behave(vendorsim.Conduct{})
		e.Pass(2 * time.Hour)
		assert.True(t, e.has("config/oauth2/alice"), "deleted although the vendor accepts it")
	})
}

func (e *sharing) mistakeClientID() {
	e.Sim.AddOAuthClient(vendorsim.OAuthClient{ID: "other", Secret: engine.ClientSecret, Scopes: e.client.Scopes, AuthMethods: e.client.AuthMethods, Grants: e.client.Grants})
	e.Write("clients/crm", map[string]any{"client_id": "other", "reap_after": "24h"})
	e.Refused("creds/alice")
	e.Refused("creds/bob")
}

func TestACredentialIsNotDeletedAfterItsClientWasCorrected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.mistakeClientID()
		e.Pass(24*time.Hour - 30*time.Second)
		e.Write("clients/crm", map[string]any{"client_id": engine.ClientID})
		e.Pass(5 * time.Minute)
		assert.True(t, e.has("config/oauth2/alice"), "deleted after the correction, without another attempt")
	})
}

func TestCredentialsAreNotDeletedForAMistakenClientID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSharing(t)
		e.mistakeClientID()
		e.Pass(25 * time.Hour)
		assert.True(t, e.has("config/oauth2/alice"))
		assert.True(t, e.has("config/oauth2/bob"))
	})
}

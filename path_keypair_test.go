package tokenbroker_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestAKeyPairIsCreatedReadListedAndDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		for op, path := range map[logical.Operation]string{logical.ListOperation: "keypair/", logical.ReadOperation: "keypair/prod"} {
			_, status, _ := e.Request(op, path, nil)
			assert.Equal(t, http.StatusNotFound, status, path)
		}
		engine.Until(0, 10, 0)
		made := e.Keypair("prod", nil)
		assert.Empty(t, made.Warnings)
		assert.Equal(t, "rsa-2048", made.Data["key_type"])
		assert.Equal(t, "2000-01-01T00:10:00Z", made.Data["created_time"])
		other := e.Keypair("other", map[string]any{"key_type": "ec-p256"})

		e.Restart()
		assert.Equal(t, made.Data, e.Read("keypair/prod").Data, "no pair is pending, so there are no pending fields")
		resp, status, _ := e.Request(logical.ListOperation, "keypair/", nil)
		require.Equal(t, http.StatusOK, status)
		assert.Equal(t, []string{"other", "prod"}, resp.Data["keys"])
		e.Keypair("other", nil)
		detailed, _, _ := e.Request(logical.ListOperation, "keypair/", nil)
		assert.Equal(t, map[string]any{"key_type": "ec-p256", "key_id": other.Data["key_id"], "pending": true, "publish": false}, detailed.Data["key_info"].(map[string]any)["other"])
		assert.Equal(t, map[string]any{"key_type": "rsa-2048", "key_id": made.Data["key_id"], "pending": false, "publish": false}, resp.Data["key_info"].(map[string]any)["prod"])
		_, status, _ = e.Request(logical.PatchOperation, "keypair/prod", map[string]any{"key_type": "ec-p256"})
		assert.Equal(t, http.StatusMethodNotAllowed, status, "a key pair cannot be patched")

		for _, name := range []string{"prod", "prod", "other"} {
			_, status, message := e.Request(logical.DeleteOperation, "keypair/"+name, nil)
			require.Equal(t, http.StatusOK, status, message)
		}
		engine.AssertStorageEmpty(t, e)
	})
}

func TestThePublicHalfOfEachKeyType(t *testing.T) {
	encode := base64.RawURLEncoding.EncodeToString
	for keyType, test := range map[string]struct {
		algorithm string
		bits      int
	}{
		"rsa-2048": {"", 2048}, "rsa-3072": {"", 3072}, "rsa-4096": {"", 4096}, // may sign with one of six algorithms
		"ec-p256": {"ES256", 256}, "ec-p384": {"ES384", 384}, "ec-p521": {"ES512", 521}, "ed25519": {"EdDSA", 256},
	} {
		t.Run(keyType, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				data := e.Keypair("prod", map[string]any{"key_type": keyType}).Data
				// RFC 7638 §3: the required members, in lexicographic order.
				var members map[string]string
				var canonical string
				switch key := engine.PublicKey(t, data["public_key"]).(type) {
				case *rsa.PublicKey:
					assert.Equal(t, test.bits, key.N.BitLen())
					members = map[string]string{"kty": "RSA", "e": "AQAB", "n": encode(key.N.Bytes())}
					canonical = `{"e":"AQAB","kty":"RSA","n":"` + members["n"] + `"}`
				case *ecdsa.PublicKey:
					assert.Equal(t, test.bits, key.Params().BitSize)
					point, err := key.Bytes()
					require.NoError(t, err)
					x, y := point[1:1+len(point)/2], point[1+len(point)/2:]
					members = map[string]string{"kty": "EC", "crv": key.Params().Name, "x": encode(x), "y": encode(y)}
					canonical = `{"crv":"` + key.Params().Name + `","kty":"EC","x":"` + members["x"] + `","y":"` + members["y"] + `"}`
				case ed25519.PublicKey: // RFC 8037 §2
					assert.Len(t, key, test.bits/8)
					members = map[string]string{"kty": "OKP", "crv": "Ed25519", "x": encode(key)}
					canonical = `{"crv":"Ed25519","kty":"OKP","x":"` + members["x"] + `"}`
				}
				thumbprint := sha256.Sum256([]byte(canonical))
				assert.Equal(t, encode(thumbprint[:]), data["key_id"])
				want := map[string]any{"kid": data["key_id"], "use": "sig"}
				if test.algorithm != "" {
					want["alg"] = test.algorithm
				}
				for name, value := range members {
					want[name] = value
				}
				assert.Equal(t, want, data["jwk"], "the JWK holds only the public half")
			})
		})
	}
}

func TestKenshoAcceptsOnlyRSAKeys(t *testing.T) {
	for keyType, accepted := range map[string]bool{"rsa-2048": true, "rsa-3072": true, "rsa-4096": true, "ec-p256": false, "ec-p384": false, "ec-p521": false, "ed25519": false} {
		t.Run(keyType, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				key := engine.PublicKey(t, e.Keypair("prod", map[string]any{"key_type": keyType}).Data["public_key"])
				config := map[string]any{"client_id": engine.ClientID, "private_key_source": "generated"}
				if !accepted {
					_, status, message := e.Request(logical.UpdateOperation, "config/kensho/prod", config)
					assert.Equal(t, http.StatusBadRequest, status)
					assert.Equal(t, "keypair: the private key of keypair/prod is not an RSA key; Kensho accepts only RSA keys", message)
					return
				}
				e.Sim.AddClient(engine.ClientID, key.(*rsa.PublicKey), "")
				e.Write("config/kensho/prod", config)
				e.Creds("prod")
			})
		})
	}
}

func TestACredentialUsesTheKeyPairOfItsNameOrAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewGenerated(t)
		e.Creds("prod")
		assert.Equal(t, map[string]any{
			"product": "link", "client_id": engine.ClientID, "private_key_source": "generated",
			"request_timeout": 10, "keepalive_interval": 86400, "max_variants": 1000, "secrets_set": []string{},
			"resolved_scope": []string{engine.LinkScope}, "resolved_urls": []string{"https://kensho.okta.com/oauth2/default/v1/token"},
		}, e.Read("config/kensho/prod").Data)
		e.Write("config/kensho/scribe", map[string]any{"client_id": engine.ClientID, "private_key_source": "generated", "keypair": "prod", "product": "scribe"})
		assert.Equal(t, []string{"kensho:app:scribe"}, e.Creds("scribe").Data["scope"])

		engine.Until(0, 20, 0)
		e.Register("0oa-of-spare", e.Keypair("spare", map[string]any{"allowed_configs": "prod"}).Data["public_key"])
		_, status, message := e.Request(logical.PatchOperation, "config/kensho/prod", map[string]any{"keypair": "spare", "client_id": "0oa-of-spare"})
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, "2000-01-01T00:20:00Z", e.Read("status/prod").Data["credential_updated_time"], "the write changes its secret")
		e.Restart()
		engine.Until(2, 0, 0)
		e.Creds("prod")
		e.Creds("scribe")
	})
}

func TestACredentialSwitchesBetweenItsOwnKeyAndAGeneratedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/kensho/prod", engine.KeyPairFields())
		older := e.Creds("prod").Data["access_token"]
		e.Register("0oa-generated", e.Keypair("prod", nil).Data["public_key"])
		e.Write("config/kensho/prod", map[string]any{"private_key": "", "private_key_source": "generated", "client_id": "0oa-generated"})
		newer := e.Creds("prod").Data["access_token"]
		assert.NotEqual(t, older, newer)
		e.Write("config/kensho/prod", map[string]any{"private_key_source": "", "client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM()})
		assert.NotEqual(t, newer, e.Creds("prod").Data["access_token"])
		assert.Equal(t, []string{"private_key"}, e.Read("config/kensho/prod").Data["secrets_set"])
	})
}

func TestAnInvalidKeyIsRejectedWithTheFieldAndTheFix(t *testing.T) {
	for name, bad := range map[string]struct {
		path string
		data map[string]any
		says string
	}{
		"an unknown type":                       {"keypair/new", map[string]any{"key_type": "rsa-1024"}, `key_type: unknown type "rsa-1024" (allowed: rsa-2048, rsa-3072, rsa-4096, ec-p256, ec-p384, ec-p521, ed25519`},
		"a type that the credential cannot use": {"keypair/prod", map[string]any{"key_type": "ec-p256"}, "key_type: ec-p256 does not work for config/kensho/prod: keypair: the private key of keypair/prod is not an RSA key; Kensho accepts only RSA keys"},
		"an unknown field":                      {"keypair/new", map[string]any{"bits": 2048}, `unknown field "bits" (allowed: allowed_audiences, allowed_clients, allowed_configs, allowed_hosts, allowed_subjects, ca_cert, issuer, key_type, name, publish, publish_ahead, rotation_period, rotation_schedule, rotation_window`},
		"no pair to activate":                   {"keypair/new/activate", nil, `no key pair named "new"; create one at keypair/new`},
		"no pending pair":                       {"keypair/prod/activate", nil, "keypair/prod has no pending pair (active: "},
		"two keys":                              {"config/kensho/prod", map[string]any{"private_key": engine.PrivateKeyPEM()}, `private_key and private_key_source are mutually exclusive; give one, and clear the other with private_key="" or private_key_source=""`},
		"an unknown source":                     {"config/kensho/new", map[string]any{"client_id": engine.ClientID, "private_key_source": "hsm"}, `private_key_source: unknown value "hsm" (allowed: generated); omit it to give a private_key`},
		"no key pair":                           {"config/kensho/new", map[string]any{"client_id": engine.ClientID, "private_key_source": "generated"}, "keypair: keypair/new does not exist; create it first"},
		"an unknown key pair":                   {"config/kensho/new", map[string]any{"client_id": engine.ClientID, "private_key_source": "generated", "keypair": "porduction"}, "keypair: keypair/porduction does not exist"},
		"a key pair without its source":         {"config/kensho/new", map[string]any{"refresh_token": engine.RefreshToken, "keypair": "prod"}, `keypair: requires private_key_source=generated; set that too, or clear this with keypair=""`},
		"no client ID":                          {"config/kensho/new", map[string]any{"private_key_source": "generated", "keypair": "prod"}, "client_id: must be set"},
		"another kind of credential":            {"config/kensho/prod", map[string]any{"access_token": "pasted"}, `keep one, and clear the other with client_id="" private_key_source=""`},
		"a vendor without key pairs":            {"config/sitecore/new", map[string]any{"api_key": engine.APIKey, "private_key_source": "generated"}, `unknown field "private_key_source" (allowed: `},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewGenerated(t)
				before := e.Dump()
				_, status, message := e.Request(logical.UpdateOperation, bad.path, bad.data)
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Contains(t, message, bad.says)
				assert.Equal(t, before, e.Dump(), "nothing is stored")
			})
		})
	}
}

func TestThePrivateKeyOfAKeyPairNeverLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		var log strings.Builder
		e.Logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &log})
		e.Restart()
		var answers strings.Builder
		send := func(op logical.Operation, path string, data map[string]any) {
			resp, status, message := e.Request(op, path, data)
			raw, err := json.Marshal(resp)
			require.NoError(t, err)
			answers.WriteString(path + " " + http.StatusText(status) + " " + message + string(raw) + "\n")
		}
		secrets := map[string]bool{} // the lines of both private keys, in base64
		collect := func() {
			var stored struct {
				Active, Pending *struct {
					PrivateKey string `json:"private_key"`
				}
			}
			require.NoError(t, json.Unmarshal([]byte(e.Dump()["keypair/prod"]), &stored))
			for _, pair := range []*struct {
				PrivateKey string `json:"private_key"`
			}{stored.Active, stored.Pending} {
				if pair == nil {
					continue
				}
				require.True(t, strings.HasPrefix(pair.PrivateKey, "-----BEGIN PRIVATE KEY-----\n"), "the key is stored in PKCS #8 PEM")
				for line := range strings.Lines(pair.PrivateKey) {
					if line = strings.TrimSpace(line); len(line) == 64 {
						secrets[line] = true
					}
				}
			}
		}

		send(logical.UpdateOperation, "keypair/prod", nil)
		collect()
		e.Register(engine.ClientID, e.Read("keypair/prod").Data["public_key"])
		config := map[string]any{"client_id": engine.ClientID, "private_key_source": "generated"}
		send(logical.UpdateOperation, "config/kensho/prod", config)
		send(logical.UpdateOperation, "config/kensho/other", map[string]any{"client_id": "0oa-nobody", "private_key_source": "generated", "keypair": "prod"})
		send(logical.UpdateOperation, "keypair/prod", nil)
		collect()
		send(logical.UpdateOperation, "keypair/prod/activate", nil)
		e.Register(engine.ClientID, e.Read("keypair/prod").Data["pending_public_key"])
		send(logical.UpdateOperation, "keypair/prod/activate", nil)
		for _, path := range []string{"keypair/prod", "config/kensho/prod", "status/prod", "creds/prod", "token/prod"} {
			send(logical.ReadOperation, path, nil)
		}
		send(logical.ListOperation, "keypair/", nil)
		send(logical.DeleteOperation, "keypair/prod", nil)
		send(logical.HelpOperation, "keypair/prod", nil)
		require.Greater(t, len(secrets), 40)
		require.Contains(t, answers.String(), "PUBLIC KEY")
		require.Contains(t, log.String(), "key pair activated")
		for secret := range secrets {
			assert.NotContains(t, answers.String(), secret)
			assert.NotContains(t, log.String(), secret)
			for _, call := range e.Sim.Calls() {
				assert.NotContains(t, call.URL+call.Body, secret)
			}
		}
		assert.Equal(t, []string{"config/kensho/prod", "keypair/prod"}, slices.Sorted(maps.Keys(e.Dump())))
	})
}

func TestAKeyPairInUseByCredentialsCannotBeDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewGenerated(t)
		e.Keypair("scribe", nil)
		e.Write("config/kensho/scribe", map[string]any{"client_id": engine.ClientID, "private_key_source": "generated", "keypair": "prod"})
		_, status, message := e.Request(logical.DeleteOperation, "keypair/prod", nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, "keypair/prod is used by config/kensho/prod, config/kensho/scribe; first delete these credentials or give them another key", message)
		engine.Until(1, 0, 0)
		e.Creds("prod")
		for _, path := range []string{"keypair/scribe", "config/kensho/scribe", "config/kensho/prod", "keypair/prod"} {
			_, status, message := e.Request(logical.DeleteOperation, path, nil)
			require.Equal(t, http.StatusOK, status, message)
		}
		engine.AssertStorageEmpty(t, e)
	})
}

func TestAKeyPairIsNotDeletedWhileACredentialIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Register(engine.ClientID, e.Keypair("prod", nil).Data["public_key"])
		storage := e.BreakStorage()
		storage.Stall.Store(int64(time.Second))
		var operator sync.WaitGroup
		operator.Go(func() {
			e.Write("config/kensho/prod", map[string]any{"client_id": engine.ClientID, "private_key_source": "generated"})
		})
		time.Sleep(500 * time.Millisecond)
		_, status, message := e.Request(logical.DeleteOperation, "keypair/prod", nil)
		operator.Wait()
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "config/kensho/prod")
	})
}

func TestConcurrentWritesOfACredentialBothApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewGenerated(t)
		e.Register("0oa-of-spare", e.Keypair("spare", map[string]any{"allowed_configs": "prod"}).Data["public_key"])
		e.Sim.Behave(vendorsim.Conduct{Latency: 4 * time.Second})
		var operator sync.WaitGroup
		operator.Go(func() { e.Write("config/kensho/prod", map[string]any{"keypair": "spare", "client_id": "0oa-of-spare"}) })
		time.Sleep(time.Second)
		e.Write("config/kensho/prod", map[string]any{"request_timeout": 20, "verify": true})
		operator.Wait()
		assert.Equal(t, "spare", e.Read("config/kensho/prod").Data["keypair"])
		assert.EqualValues(t, 20, e.Read("config/kensho/prod").Data["request_timeout"])
	})
}

func TestADamagedKeyPairCanBeReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewGenerated(t)
		e.Damage("keypair/prod")
		e.Restart()
		status, message := e.Refused("creds/prod")
		assert.Equal(t, http.StatusInternalServerError, status)
		assert.Contains(t, message, "keypair/prod cannot be decoded; give the credentials that use it another key, then delete it and create a new one")
		assert.Equal(t, "generated", e.Read("config/kensho/prod").Data["private_key_source"])

		e.Sim.AddClient(engine.ClientID, &engine.PrivateKey().PublicKey, "")
		e.Write("config/kensho/prod", map[string]any{"private_key_source": "", "private_key": engine.PrivateKeyPEM()})
		_, status, message = e.Request(logical.DeleteOperation, "keypair/prod", nil)
		require.Equal(t, http.StatusOK, status, message)
		e.Keypair("prod", nil)
	})
}

package tokenbroker_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	tokenbroker "vault-plugin-secrets-tokenbroker"
	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestInvalidInputIsRejectedWithTheFieldAndTheFix(t *testing.T) {
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	ecDER, err := x509.MarshalPKCS8PrivateKey(ecKey)
	require.NoError(t, err)
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	public := encode("PUBLIC KEY", x509.MarshalPKCS1PublicKey(&engine.PrivateKey().PublicKey))
	pair := func(key string) map[string]any {
		return map[string]any{"client_id": engine.ClientID, "private_key": key}
	}
	kensho := func(extra map[string]any) map[string]any {
		data := map[string]any{"refresh_token": engine.RefreshToken}
		maps.Copy(data, extra)
		return data
	}
	sitecore := func(extra map[string]any) map[string]any {
		data := map[string]any{"api_key": engine.APIKey}
		maps.Copy(data, extra)
		return data
	}

	for name, bad := range map[string]struct {
		provider string
		data     map[string]any
		says     string
	}{
		"no field for Kensho":               {"kensho", map[string]any{}, "needs refresh_token, or client_id and private_key, or access_token"},
		"only settings":                     {"kensho", map[string]any{"product": "scribe"}, "needs refresh_token"},
		"no field for Sitecore":             {"sitecore", map[string]any{}, "needs api_key, or refresh_token"},
		"empty refresh token":               {"kensho", map[string]any{"refresh_token": "  "}, "needs refresh_token"},
		"two kinds of credential":           {"kensho", kensho(pair(engine.PrivateKeyPEM())), `refresh_token and client_id+private_key are mutually exclusive; keep one, and clear the other with refresh_token=""`},
		"access token and refresh token":    {"kensho", kensho(map[string]any{"access_token": "x"}), "refresh_token and access_token are mutually exclusive"},
		"no private key":                    {"kensho", map[string]any{"client_id": engine.ClientID}, "private_key: must be set"},
		"no client ID":                      {"kensho", map[string]any{"private_key": engine.PrivateKeyPEM()}, "client_id: must be set"},
		"scope with a refresh token":        {"kensho", kensho(map[string]any{"scope": "kensho:app:link"}), "scope: applies only to client_id+private_key"},
		"token URL with a refresh token":    {"kensho", kensho(map[string]any{"token_url": "https://a.example/"}), "token_url: applies only to"},
		"unknown product":                   {"kensho", kensho(map[string]any{"product": "lnk"}), `product: unknown product "lnk" (allowed: link, scribe`},
		"a PEM without a valid key":         {"kensho", pair(encode("RSA PRIVATE KEY", []byte("no key"))), "private_key: cannot parse the key in the PEM"},
		"not a PEM":                         {"kensho", pair("MIIEpAIBAAKCAQEA"), "private_key: not PEM"},
		"a public key":                      {"kensho", pair(public), "private_key: the PEM contains no private key"},
		"an encrypted key":                  {"kensho", pair(encode("ENCRYPTED PRIVATE KEY", []byte("x"))), "private_key: is encrypted"},
		"an EC key":                         {"kensho", pair(encode("PRIVATE KEY", ecDER)), "private_key: is not an RSA key"},
		"a key of 1024 bits":                {"kensho", pair(weakKeyPEM), "private_key: has 1024 bits; give an RSA key of 2048 to 8192 bits"},
		"http to another host":              {"kensho", kensho(map[string]any{"refresh_url": "http://kensho.example/oauth2/refresh"}), "refresh_url: must be an https URL"},
		"http to a look-alike":              {"sitecore", sitecore(map[string]any{"base_url": "http://localhost.example"}), "base_url: must be an https URL"},
		"a URL with a password":             {"sitecore", sitecore(map[string]any{"base_url": "https://user:pass@api.rfksrv.com"}), "base_url: must not contain a user name"},
		"http to a token URL":               {"kensho", map[string]any{"client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM(), "token_url": "http://kensho.example/"}, "token_url: must be an https URL"},
		"http to another IP":                {"kensho", kensho(map[string]any{"refresh_url": "http://10.0.0.1/"}), "refresh_url: must be an https URL"},
		"a URL with a fragment":             {"kensho", kensho(map[string]any{"refresh_url": "https://a.example/#x"}), "refresh_url: must not contain a fragment"},
		"a base URL with a query":           {"sitecore", sitecore(map[string]any{"base_url": "https://api.rfksrv.com?x=1"}), "base_url: must not contain a query"},
		"an invalid scope":                  {"kensho", map[string]any{"client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM(), "scope": `a"b`}, `scope: "a\"b" is not a scope`},
		"a refresh token with a line break": {"kensho", map[string]any{"refresh_token": "first\nsecond"}, "refresh_token: contains a line break"},
		"a token in quotes":                 {"kensho", map[string]any{"refresh_token": `"first"`}, "refresh_token: is quoted; give the value without the quotes"},
		"a token with its scheme":           {"kensho", map[string]any{"access_token": "bearer first"}, `access_token: begins with "Bearer"; give the token without it`},
		"an API key with a space":           {"sitecore", map[string]any{"api_key": "01-first second"}, "api_key: contains white space"},
		"a file name for a key":             {"kensho", pair("key.pem"), "private_key: looks like a file name; to give the contents of the file, put @ before its name (private_key=@key.pem)"},
		"an access token with a line break": {"kensho", map[string]any{"access_token": "first\nsecond"}, "access_token: contains white space"},
		"a token outside ASCII":             {"sitecore", map[string]any{"refresh_token": "tëst"}, "refresh_token: contains white space, a line break or a non-ASCII character"},
		"a key with a passphrase":           {"kensho", pair("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n"), "private_key: is encrypted"},
		"an empty verify":                   {"kensho", kensho(map[string]any{"verify": ""}), "verify: must be true or false"},
		"not a URL":                         {"sitecore", sitecore(map[string]any{"base_url": "api.rfksrv.com"}), "base_url: not a URL with a host"},
		"a URL without a host":              {"sitecore", sitecore(map[string]any{"base_url": "https://:443"}), "base_url: not a URL with a host"},
		"a URL with brackets for a host":    {"kensho", kensho(map[string]any{"refresh_url": "https://[]/refresh"}), "refresh_url: not a URL with a host"},
		"a host of a megabyte":              {"kensho", kensho(map[string]any{"refresh_url": "https://" + strings.Repeat("a", 1<<20) + "/t"}), "refresh_url: the URL is too long: 1048586 bytes (at most 2048)"},
		"a host of 254 bytes":               {"kensho", map[string]any{"client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM(), "token_url": "https://" + strings.Repeat("a", 254) + ":8443/t"}, "token_url: the host name is too long: 254 bytes (at most 253)"},
		"an unknown field":                  {"kensho", kensho(map[string]any{"refreshtoken": "x"}), `unknown field "refreshtoken"; did you mean refresh_token? (allowed: access_token, assertion_audience, ca_cert`},
		"a field of another vendor":         {"sitecore", sitecore(map[string]any{"product": "link"}), `unknown field "product"`},
		"a field of a role":                 {"kensho", kensho(map[string]any{"ttl": "5m"}), `unknown field "ttl"; did you mean default_ttl or max_ttl? (allowed: access_token, `},
		"scope as an object":                {"sitecore", sitecore(map[string]any{"scope": map[string]any{"a": "b"}}), "scope"},
		"scope without an API key":          {"sitecore", map[string]any{"refresh_token": "x", "scope": "event"}, "scope: needs api_key"},
		"refresh expiry without an API key": {"sitecore", map[string]any{"refresh_token": "x", "refresh_expiry": "1h"}, "refresh_expiry: needs api_key"},
		"a negative duration":               {"sitecore", sitecore(map[string]any{"access_expiry": "-1h"}), "access_expiry: must not be negative"},
		"a negative number":                 {"kensho", kensho(map[string]any{"keepalive_interval": -5}), "keepalive_interval: must not be negative"},
		"an overflowing duration":           {"sitecore", sitecore(map[string]any{"access_expiry": "9999999h"}), "access_expiry: must be a duration"},
		"a duration over ten years":         {"sitecore", sitecore(map[string]any{"access_expiry": "100000h"}), "access_expiry: must be at most ten years"},
		"an overflowing number":             {"sitecore", sitecore(map[string]any{"access_expiry": 9223372037}), "access_expiry: "},
		"a number that overflows":           {"sitecore", sitecore(map[string]any{"refresh_expiry": 1e300}), "refresh_expiry: "},
		"digits that overflow":              {"kensho", kensho(map[string]any{"default_ttl": "99999999999999999999"}), "default_ttl: must be a duration"},
		"half a second":                     {"sitecore", sitecore(map[string]any{"access_expiry": "500ms"}), "access_expiry: must be a whole number of seconds"},
		"a fraction":                        {"sitecore", sitecore(map[string]any{"access_expiry": 1.5}), "access_expiry: must be a whole number of seconds"},
		"not a duration":                    {"kensho", kensho(map[string]any{"keepalive_interval": "soon"}), "keepalive_interval: must be a duration"},
		"a request timeout of zero":         {"kensho", kensho(map[string]any{"request_timeout": 0}), "request_timeout: must be from 1s to 1m"},
		"a request timeout of a day":        {"kensho", kensho(map[string]any{"request_timeout": "24h"}), "request_timeout: must be from 1s to 1m"},
		"an invalid CA certificate":         {"kensho", kensho(map[string]any{"ca_cert": "ca"}), "ca_cert: contains no certificate"},
		"a secret with a line break":        {"sitecore", map[string]any{"api_key": "01-first\nsecond"}, "api_key: contains white space, a line break"},
		"a secret that is an object":        {"kensho", map[string]any{"refresh_token": map[string]any{"token": "canary-in-an-object"}}, "refresh_token: must be a string"},
		"a secret that is a list":           {"sitecore", map[string]any{"api_key": []any{"canary-in-a-list"}}, "api_key: must be a string"},
	} {
		t.Run(name, func(t *testing.T) {
			e := engine.New(t)
			_, status, message := e.Request(logical.UpdateOperation, "config/"+bad.provider+"/prod", bad.data)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, bad.says)
			for _, secret := range []string{engine.RefreshToken, engine.APIKey, "canary", "01-first"} {
				assert.NotContains(t, message, secret)
			}
			assert.Zero(t, e.Exchanges(), "input is checked before the vendor is called")
			engine.AssertStorageEmpty(t, e)
		})
	}
}

func TestAnEmptyValueClearsAFieldOfAnyType(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Write("config/sitecore/prod", map[string]any{
			"api_key": engine.APIKey, "scope": "event", "access_expiry": "1h", "default_ttl": "1h", "request_timeout": 20, "keepalive_interval": 0, "base_url": "https://api-staging.rfksrv.com",
		})
		e.Write("config/sitecore/prod", map[string]any{
			"api_key": engine.APIKey, "scope": "", "access_expiry": "", "default_ttl": "", "request_timeout": "", "keepalive_interval": "", "base_url": "",
		})
		assert.Equal(t, map[string]any{
			"request_timeout": 10, "keepalive_interval": 86400, "max_variants": 1000, "secrets_set": []string{"api_key"},
			"resolved_scope": []string{"discover"}, "resolved_urls": []string{"https://api.rfksrv.com/account/1/access-token"},
		}, e.Read("config/sitecore/prod").Data)
	})
}

func TestScopeAcceptsEveryFormOfAList(t *testing.T) {
	for name, scope := range map[string]any{
		"list":                     []any{"discover", "event"},
		"string with a comma":      "discover,event",
		"string with comma, space": "discover, event",
		"with an empty element":    "discover,,event,",
		"with a duplicate":         []any{"discover", "event", "discover"},
		"string with a space":      "discover event",
		"string with both":         "discover event, discover\tevent",
		"string in a list":         []any{" discover  event "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Write("config/sitecore/prod", map[string]any{"api_key": engine.APIKey, "scope": scope})
				assert.JSONEq(t, `{"scope": ["discover", "event"]}`, e.Sim.Calls()[0].Body)
			})
		})
	}
}

// weakKeyPEM is an RSA key of 1024 bits, which Go no longer generates.
const weakKeyPEM = `-----BEGIN RSA PRIVATE KEY-----
MIICXAIBAAKBgQCeovtUMgCJ0At8O55L+eru9DRemgmDkFdbmzMAQn8MYD/+K0u8
5NgJeHZduaSvd9+jt92S59V+Mn7+XUlgxJ6yS7eri8gX8OiVUIYIbDbU6D6orH1+
3MIXz/+LLa+u64JWclhvIhq5gGtqab5NPbLirXLr1godhOg0hprbCiBpeQIDAQAB
AoGAFfWZtN33FRynelsGXp4J12oWlcHc70lbzmJ9fNu3mo74TMbRhSRog2cZe3/n
PCLr4k3hbiSJeR6kVbG0JqERFoVx2OOk00j1CjD+e8wSjIzX9YmSq0u3wkFVs/nX
yYFZNNv2NNYv/S9mDwDCBImdnkZckg6qZHz5eN+ZAbQX0AECQQDQY7bBheWZsjQT
Lay98NeV7nb5GMs61PJwl5rdjGPayG/jm3X37IdgkxxqlyozcyF9cXrYHhO4pHnO
l+ya2/BZAkEAwuFSjAQlT01RRFMH2wS69+LdOij3ZyUwZ07010Fy/a/K3sryfnmA
QELnUGTXw02HSIgzuPFeBTYE9dBTpvweIQJASaICMI1UXKOIHQK1mAPi2VqCdXAa
V3ZpF/mpwgDaQ7MxPfZvj6PnDevNTaiOQ9G5kq6nXnf6NfMAC0zJUMrIOQJBAI7Y
Zo9nQoncXKM+UVXDI+Erk4lcGeyrH8253FIkEUvOnV+tVw5JtS5lW/Rb1qO7olwS
Kgd4NLiRHhWofIi76MECQDKrmYmNzxrG6AaAWVJ/pEKzyBaabuDceMnbhgofN5Ch
txrh2wY6aWhRgVNSIVOm8jt2+HgpUdG/q+NICPcYFXI=
-----END RSA PRIVATE KEY-----
`

func TestRejectedRequestsLeaveNothingInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		name := func(kind string, i int) string { return kind + strconv.Itoa(i) }
		refused := func(i int) {
			for path, data := range map[string]map[string]any{
				"roles/" + name("role", i):              {"config": name("of", i)},
				"roles/" + name("scoped", i):            {"config": "api", "scope": "of-nobody"},
				"config/kensho/" + name("a", i):         {"refresh_token": "of-nobody"},
				"config/oauth2/" + name("b", i):         {"client_id": "x"},
				"config/kensho/" + name("c", i):         {"client_id": "x", "private_key_source": "generated"},
				"keypair/" + name("k", i):               {"key_type": "none"},
				"keypair/" + name("n", i) + "/activate": {},
				"refresh/" + name("r", i):               {},
			} {
				_, status, _ := e.Request(logical.UpdateOperation, path, data)
				require.Equal(t, http.StatusBadRequest, status, path)
			}
			for _, path := range []string{"creds/" + name("d", i), "token/" + name("d", i), "status/" + name("d", i)} {
				_, status, _ := e.Request(logical.ReadOperation, path, nil)
				require.GreaterOrEqual(t, status, 400, path)
			}
		}
		before := tokenbroker.NamesInMemory(e.Backend)
		for i := range 3 {
			refused(i)
		}
		e.Write("config/kensho/short", map[string]any{"refresh_token": engine.RefreshToken})
		e.Creds("short")
		_, status, message := e.Request(logical.DeleteOperation, "config/kensho/short", nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, before, tokenbroker.NamesInMemory(e.Backend))
	})
}

func TestGuarantee2ANameHasOneOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		e.Sim.Behave(vendorsim.Conduct{Latency: 100 * time.Millisecond})
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				data := map[string]any{"refresh_token": engine.RefreshToken}
				if i%3 == 0 {
					data["refresh_token"] = "of-nobody"
				}
				e.Request(logical.UpdateOperation, "config/kensho/prod", data)
				e.Request(logical.ReadOperation, "creds/prod", nil)
				if i%4 == 0 {
					e.Request(logical.DeleteOperation, "config/kensho/prod", nil)
				}
				e.Request(logical.UpdateOperation, "roles/web", map[string]any{"config": "prod"})
				e.Request(logical.DeleteOperation, "roles/web", nil)
			})
		}
		all.Wait()
		assert.Equal(t, 1, e.Sim.MostInFlight())
		_, status, message := e.Request(logical.DeleteOperation, "config/kensho/prod", nil)
		require.Equal(t, http.StatusOK, status, message)
		assert.Zero(t, tokenbroker.NamesInMemory(e.Backend))
		e.Write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken})
		e.Creds("prod")
	})
}

func TestAWriteFailsIfItsEntryWasCreatedOrDeletedSinceTheCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Keypair("stored", nil)
		for path, data := range map[string]map[string]any{
			"roles/mine":        {"config": "api"},
			"config/oauth2/api": {"request_timeout": 20},
			"keypair/stored":    {},
		} {
			before := e.Dump()
			for op, at := range map[logical.Operation]string{logical.CreateOperation: path, logical.UpdateOperation: path + "-gone"} {
				req := &logical.Request{Operation: op, Path: at, MountPoint: engine.MountPoint, Data: maps.Clone(data), Storage: e.Storage}
				if at == "roles/mine-gone" {
					req.Data["config"] = "api"
				}
				if at == "config/oauth2/api-gone" {
					req.Data = engine.SecretClient(true)
				}
				resp, err := e.Backend.HandleRequest(t.Context(), req)
				require.Error(t, err, at)
				status, _ := logical.RespondErrorCommon(req, resp, err)
				logical.AdjustErrorStatusCode(&status, err)
				assert.Equal(t, http.StatusForbidden, status, at)
				assert.Contains(t, err.Error(), at+" was ")
			}
			assert.Equal(t, before, e.Dump(), "nothing is stored")
		}
	})
}

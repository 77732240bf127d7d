package fuzz_test

import (
	"crypto"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// fuzzed are the paths to which FuzzConfig writes.
var fuzzed = []string{"config/kensho/fuzzed", "config/sitecore/fuzzed", "config/oauth2/fuzzed", "roles/fuzzed", "config/fuzzy/fuzzed"}

// FuzzConfig writes arbitrary fields. A write either succeeds, and its entry can be read, written
// back, exchanged and deleted, or it fails with an error about a field and stores nothing. No
// secret is returned. The fuzzer's writes are lines of field=value; a value that is valid JSON is
// decoded.
func FuzzConfig(f *testing.F) {
	for path, writes := range map[int][]string{
		0: {
			"refresh_token=$refresh", "refresh_token=$refresh\nproduct=scribe\nverify=false", "access_token=$refresh\ndefault_ttl=1h",
			"client_id=$id\nprivate_key=$key\nscope=kensho:app:link,kensho:app:nerd", "client_id=$id\nprivate_key=$key\nkey_id=7\nproduct=nerd\nverify=0", "client_id=$id\nprivate_key=$key\nrefresh_token=$refresh",
			"refresh_token=\"$refresh\\n\"\nrefresh_url=https://$refresh", "refresh_token={\"a\":\"$refresh\"}", "refresh_token=[\"$refresh\"]", "refresh_token=null",
			"refresh_token=$refresh\nkeepalive_interval=0\nrequest_timeout=\"1m\"", "refresh_token=$refresh\nrequest_timeout=1.5", "refresh_token=$refresh\nca_cert=$refresh", "refresh_token=of-nobody $refresh",
			"client_id=$id\nprivate_key_source=generated\nkeypair=none", "client_id=$id\nprivate_key_source=generated", "refresh_token=of-nobody\nrefresh_url=https://kensho.example/%zz?a=b&a", "name=other\nrefresh_token=$refresh",
		},
		1: {
			"api_key=$api\nscope=discover,event\naccess_expiry=12h\nrefresh_expiry=259200", "api_key=$api\nrefresh_token=$refresh\nbase_url=https://api-staging.rfksrv.com",
			"refresh_token=$refresh\nverify=false\naccess_expiry=1e300", "api_key=$api\nscope=[\"discover\",7,null,{}]", "api_key=$api\nscope={\"a\":\"b\"}", "api_key=$api$api\nscope=",
			"api_key=$api\naccess_expiry=36028797018963976\nrefresh_expiry=-0.5", "api_key=$api\nrequest_timeout=\"10\"\ndefault_ttl=null\nverify=null", "api_key=$api\nbase_url=http://[::1]:80",
		},
		2: {
			"token_url=$url\nclient_id=$id\nclient_secret=$secret", "token_url=$url\nclient_id=$id\nclient_secret=$secret\nrefresh_token=$refresh\nidle_expiry=7d\nsingle_token=true",
			"issuer=$issuer\nclient_id=$id\nprivate_key=$key\nsigning_algorithm=PS256", "token_url=$url\nclient_id=$id\nprivate_key=$key\ngrant_type=jwt_bearer\nscope_in_assertion=1\nassertion_subject=s\nverify=false\nassertion_audience=a",
			"token_url=$url\nclient_id=$id\nclient_secret=$secret\ntoken_params={\"a\":\"b\",\"c\":7,\"d\":null,\"e\":{}}\nverify=false", "token_url=$url\nclient_id=$id\nclient_secret=$secret\ntoken_params=a=b\nverify=false",
			"token_url=$url\nclient_id=$id\nclient_secret=$secret\nauth_style=none\nsingle_token=maybe", "token_url=https://$secret@a.example/\nclient_secret=$secret", "token_url=$url\nclient_id=$id\nclient_secret=$secret\ntoken_params=[\"a=b\"]\nverify=false",
		},
		3: {
			"config=prod\nscope=event\nttl=1h\nmin_ttl=60", "config=prod\ndedicated=true\nmax_leases=3", "config=fuzzed", "config=none\nttl=1e9", "config=prod\nmax_leases=1e30", "config=prod\nmax_leases=\"0x10\"\nmin_ttl=null",
			"config=api\nscope=read\ndedicated=true\nmax_leases=3", "config=[\"prod\"]\nscope=[]", "config=\nscope=",
		},
		4: {
			"region=eu\nclient_id=$id\nclient_secret=$secret\nscope=read", "region=https://eu.idp.example/x\nclient_id=$id\nclient_secret=$secret\nverify=false", "region=$secret\nclient_id=$id\nclient_secret=$secret",
			"region=eu\nclient_id=$id\nprivate_key=$key\ngrant_type=key_pair\nverify=false", "region=eu\nclient_id=$id\nprivate_key_source=generated\nverify=false", "region=eu.evil.example/\nclient_id=$id\nclient_secret=$secret",
			"client_id=$id\nclient_secret=$secret\ngrant_type=$secret", "region=[\"eu\"]\nclient_id=7\nclient_secret={}",
		},
	} {
		for _, write := range writes {
			f.Add(uint8(path), write, "")
			f.Add(uint8(path), write, "default_ttl=7\nscope=\nverify=false\nttl=0")
			f.Add(uint8(path), write, "client_id=null\nprivate_key=\nrefresh_token=$refresh\ntoken_params={\"a\":null}")
		}
	}
	f.Fuzz(func(t *testing.T, path uint8, first, second string) {
		synctest.Test(t, func(t *testing.T) {
			e := newFuzzEngine(t)
			before := e.Dump()
			w := fuzzing{Engine: e, path: fuzzed[int(path)%len(fuzzed)], safe: maps.Clone(fuzzSecrets())}
			if !w.write(logical.UpdateOperation, fuzzedData(first)) {
				w.write(logical.PatchOperation, fuzzedData(second)) // nothing exists to patch
				require.Equal(t, before, e.Dump())
				return
			}
			w.writeAgain()
			w.use()
			if w.write(logical.PatchOperation, fuzzedData(second)) {
				w.writeAgain()
			}
			_, status, message := e.Request(logical.DeleteOperation, w.path, nil)
			require.Equal(t, http.StatusOK, status, message)
			require.Equal(t, before, e.Dump(), "a delete leaves nothing")
			_, status, _ = e.Request(logical.ReadOperation, w.path, nil)
			require.Equal(t, http.StatusNotFound, status)
		})
	})
}

// newFuzzEngine mounts an engine with the credentials prod and api, for roles, and vendors that
// accept the values of FuzzConfig's placeholders.
func newFuzzEngine(t *testing.T) *engine.Engine {
	e := engine.NewUnchecked(t)
	client := vendorsim.OAuthClient{
		ID: engine.ClientID, Secret: engine.ClientSecret, Keys: map[string]crypto.PublicKey{"": &engine.PrivateKey().PublicKey}, Scopes: []string{"read", "write"},
		AuthMethods: []string{vendorsim.SecretBasic, vendorsim.SecretPost, vendorsim.PrivateKeyJWT},
		Grants:      []string{vendorsim.ClientCredentialsGrant, vendorsim.RefreshTokenGrant, vendorsim.JWTBearerGrant},
	}
	engine.Until(0, 10, 0)
	e.Sim.AddOAuthClient(client)
	e.Sim.AddOAuthRefreshToken(client, engine.RefreshToken, "read", "write")
	e.Write("config/sitecore/prod", map[string]any{"api_key": engine.APIKey, "scope": "discover,event"})
	e.Write("config/oauth2/api", engine.SecretClient(true))
	e.Write("vendors/fuzzy", map[string]any{"definition": fuzzyVendor})
	return e
}

// fuzzyVendor is a vendor with fields in a host, in a path and in headers, whose answers no vendor gives.
const fuzzyVendor = `{
	"title": "Fuzzy", "docs": ["https://fuzzy.example"],
	"fields": {"region": {"description": "the region", "pattern": "[a-z]{2}", "default": "eu"}, "client_id": {}, "client_secret": {}, "private_key": {}, "scope": {}},
	"token_url": "https://{region}.fuzzy.example/{client_id}/token",
	"grants": [
		{"grant_type": "key_pair", "needs": ["client_id", "private_key"], "auth": "private_key_jwt", "request": {"json": {"scope": ["{scope|joined}"]}}},
		{"grant_type": "secret", "needs": ["client_id", "client_secret"], "request": {"method": "GET", "headers": {"X-Key": "{client_secret}"}, "query": {"scope": "{scope}"}}}
	]
}`

// fuzzSecrets returns the secrets that must not be returned, by placeholder.
func fuzzSecrets() map[string]string {
	return map[string]string{"$refresh": engine.RefreshToken, "$api": engine.APIKey, "$secret": engine.ClientSecret, "$key": engine.PrivateKeyPEM()}
}

// fuzzedData returns the fields of a write.
func fuzzedData(lines string) map[string]any {
	data := map[string]any{}
	for line := range strings.Lines(lines) {
		name, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		var value any
		if json.Unmarshal([]byte(text), &value) != nil {
			value = text
		}
		data[fill(name).(string)] = fill(value)
	}
	return data
}

// fill replaces the placeholders in a value.
func fill(value any) any {
	switch value := value.(type) {
	case string:
		for placeholder, secret := range fuzzSecrets() {
			value = strings.ReplaceAll(value, placeholder, secret)
		}
		return strings.NewReplacer("$id", engine.ClientID, "$url", vendorsim.OAuthTokenURL, "$issuer", vendorsim.OAuthIssuer).Replace(value)
	case []any:
		for i := range value {
			value[i] = fill(value[i])
		}
	case map[string]any:
		filled := map[string]any{}
		for name := range value {
			filled[fill(name).(string)] = fill(value[name])
		}
		return filled
	}
	return value
}

// fuzzing is a sequence of writes to one path.
type fuzzing struct {
	*engine.Engine
	path string
	safe map[string]string // the secrets that were written only to secret fields
}

// write writes data, and reports whether that succeeded. If not, it checks that nothing changed in
// storage and that the error names a field.
func (w fuzzing) write(op logical.Operation, data map[string]any) bool {
	fields := w.Fields(w.path)
	open := map[string]any{}
	for name, value := range data {
		if schema := fields[name]; schema == nil || !isSensitive(schema) {
			open[name] = value
		}
	}
	maps.DeleteFunc(w.safe, func(_, secret string) bool { return strings.Contains(asJSON(w.T, open), inJSON(w.T, secret)) })

	before := w.Dump()
	_, status, message := w.Request(op, w.path, data)
	w.isSafe(message)
	if status == http.StatusOK {
		w.isSafe(asJSON(w.T, w.Read(w.path).Data))
		return true
	}
	require.Contains(w.T, []int{http.StatusBadRequest, http.StatusNotFound, http.StatusBadGateway}, status, message)
	require.Equal(w.T, before, w.Dump(), "a refused write stores nothing")
	isVendors := slices.ContainsFunc([]string{"the vendor rejected the credential", "the credential has expired", "cannot verify the credential: invalid response from the vendor"}, func(beginning string) bool {
		return strings.HasPrefix(message, beginning)
	})
	require.True(w.T, status == http.StatusNotFound || isVendors || slices.ContainsFunc(slices.Collect(maps.Keys(fields)), func(name string) bool {
		return strings.Contains(message, name)
	}) || strings.Contains(message, "field"), "the error names no field: %s", message)
	return false
}

// writeAgain checks that the fields of a read can be written back and change nothing.
func (w fuzzing) writeAgain() {
	data := w.Read(w.path).Data
	var again map[string]any
	require.NoError(w.T, json.Unmarshal([]byte(asJSON(w.T, data)), &again))
	maps.DeleteFunc(again, func(field string, _ any) bool { return field == "secrets_set" || strings.HasPrefix(field, "resolved_") })
	if strings.HasPrefix(w.path, "config/") {
		again["verify"] = false
	}
	_, status, message := w.Request(logical.UpdateOperation, w.path, again)
	require.Equal(w.T, http.StatusOK, status, message)
	require.Equal(w.T, data, w.Read(w.path).Data)
}

// use refreshes the name and reads its status.
func (w fuzzing) use() {
	_, name, _ := strings.Cut(strings.TrimPrefix(w.path, "config/"), "/")
	for _, ask := range []struct {
		op   logical.Operation
		path string
	}{{logical.UpdateOperation, "refresh/"}, {logical.ReadOperation, "status/"}} {
		resp, status, message := w.Request(ask.op, ask.path+name, nil)
		require.Contains(w.T, []int{http.StatusOK, http.StatusBadRequest, http.StatusBadGateway}, status, message)
		w.isSafe(message)
		if resp != nil {
			w.isSafe(asJSON(w.T, resp.Data))
		}
	}
}

// isSafe checks that a text has no line of a secret, in upper or lower case.
func (w fuzzing) isSafe(text string) {
	for _, secret := range w.safe {
		for line := range strings.Lines(secret) {
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-----") {
				require.NotContains(w.T, strings.ToLower(text), strings.ToLower(line), "guarantee 6")
			}
		}
	}
}

func isSensitive(schema *framework.FieldSchema) bool {
	return schema.DisplayAttrs != nil && schema.DisplayAttrs.Sensitive
}

func asJSON(t *testing.T, v any) string {
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return string(text)
}

func inJSON(t *testing.T, s string) string { return strings.Trim(asJSON(t, s), `"`) }

// FuzzName checks that a name is valid for all paths or for none. A valid name is stored and listed
// as it is, and names only one credential or role.
func FuzzName(f *testing.F) {
	for _, name := range []string{
		"prod", "a", "1", "_", "a.b", "a-b", "a..b", "A", "prod/", "prod//", "/prod", "a/b", "../prod", ".", "..", "-a", "a-", "a b", "a\n", "a%2fb",
		"é", "", "a\x00", "kensho", "?list=true", strings.Repeat("a", 300), "role", "config/kensho/prod", "K",
	} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		synctest.Test(t, func(t *testing.T) {
			e := engine.NewUnchecked(t)
			engine.Until(0, 10, 0)
			route := e.Route("config/kensho/" + name)
			isName := route != nil && route.Fields["name"] != nil
			for _, path := range []string{"roles/", "creds/", "token/", "refresh/", "status/"} {
				other := e.Route(path + name)
				require.Equal(t, isName, other != nil && other.Fields["name"] != nil, path)
			}
			if !isName {
				return
			}
			write := map[string]any{"access_token": "a-token-that-somebody-copied"}
			if len(name) > 128 || strings.Contains(name, "..") {
				_, status, message := e.Request(logical.UpdateOperation, "config/kensho/"+name, write)
				require.Equal(t, http.StatusBadRequest, status)
				require.Contains(t, message, "name: ")
				return
			}
			e.Write("config/kensho/"+name, write)
			require.Len(t, e.Dump(), 1)
			require.Contains(t, e.Dump(), "config/kensho/"+name)
			resp, status, message := e.Request(logical.ListOperation, "config/", nil)
			require.Equal(t, http.StatusOK, status, message)
			require.Equal(t, []string{name}, resp.Data["keys"])
			for _, path := range []string{"config/kensho/", "status/", "token/"} {
				e.Read(path + name)
			}

			_, status, message = e.Request(logical.UpdateOperation, "config/sitecore/"+name, map[string]any{"api_key": engine.APIKey})
			require.Equal(t, http.StatusBadRequest, status, message)
			_, status, message = e.Request(logical.UpdateOperation, "roles/"+name, map[string]any{"config": name})
			require.Equal(t, http.StatusBadRequest, status, message)
			require.Contains(t, message, "name: ")
			const role = "of-a-name"
			e.Write("roles/"+role, map[string]any{"config": name})
			e.Read("token/" + role)
			_, status, _ = e.Request(logical.DeleteOperation, "config/kensho/"+name, nil)
			require.Equal(t, http.StatusBadRequest, status, "a role uses it")
			for _, path := range []string{"roles/" + role, "config/kensho/" + name} {
				_, status, message = e.Request(logical.DeleteOperation, path, nil)
				require.Equal(t, http.StatusOK, status, message)
			}
			require.Empty(t, e.Dump(), "deletes leave nothing")
		})
	})
}

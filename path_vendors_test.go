package tokenbroker_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider/definition"
)

// acmeDefinition is a vendor of an operator's own.
const acmeDefinition = `{
  "title": "Acme", "docs": ["https://docs.acme.example/"], "notes": "Create a client.",
  "fields": {
    "region": {"description": "the region (eu)", "pattern": "[a-z]{2}", "required": true},
    "client_id": {"required": true}, "client_secret": {"required": true}, "audience": {"description": "the API (orders)"}
  },
  "token_url": "https://{region}.acme.example/token",
  "grants": [{"grant_type": "client_credentials", "auth": "client_secret_post", "request": {"form": {"grant_type": "client_credentials", "audience": "{audience}"}}}],
  "answer": {"extra": {"instance_url": "/instance"}},
  "api": {"header": "X-Acme-Token", "headers": {"X-Acme-Client": "{client_id}"}}
}`

const acmeSecret = "s3cr3t-of-acme"

var acmeFields = map[string]any{"region": "eu", "client_id": "billing", "client_secret": acmeSecret}

// acmeVendor answers token requests at any host, and counts them by host.
type acmeVendor struct {
	requests atomic.Int64
	hosts    chan string // the host of each request
	wait     chan struct{}
}

func (v *acmeVendor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := v.requests.Add(1)
	_, _ = io.Copy(io.Discard, r.Body)
	v.hosts <- r.Host
	if v.wait != nil {
		<-v.wait
	}
	_, _ = fmt.Fprintf(w, `{"access_token":"acme-token-%d","expires_in":3600,"instance":"https://one.acme.example"}`, n)
}

// newAcme mounts an engine with the vendor acme.
func newAcme(t *testing.T) (*engine.Engine, *acmeVendor) {
	t.Helper()
	e := engine.New(t)
	v := &acmeVendor{hosts: make(chan string, 1000)}
	e.Transport = vendorsim.Transport(v)
	e.Restart()
	e.Write("vendors/acme", map[string]any{"definition": acmeDefinition})
	return e, v
}

// redefine returns acme's definition with replacements.
func redefine(oldnew ...string) map[string]any {
	return map[string]any{"definition": strings.NewReplacer(oldnew...).Replace(acmeDefinition)}
}

func refusedWrite(e *engine.Engine, path string, data map[string]any) string {
	e.T.Helper()
	_, status, message := e.Request(logical.UpdateOperation, path, data)
	require.Equal(e.T, http.StatusBadRequest, status, message)
	return message
}

func TestAVendorOfOnesOwnIsListedReadChangedAndDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newAcme(t)
		list := func() *logical.Response {
			resp, status, message := e.Request(logical.ListOperation, "vendors/", nil)
			require.Equal(t, 200, status, message)
			return resp
		}
		info := list().Data["key_info"].(map[string]any)
		assert.Equal(t, map[string]any{"title": "Acme", "built_in": false}, info["acme"])
		assert.Equal(t, map[string]any{"title": "Auth0", "built_in": true}, info["auth0"])
		assert.Contains(t, info, "oauth2")
		assert.True(t, slices.IsSorted(list().Data["keys"].([]string)))

		read := e.Read("vendors/acme").Data
		assert.Equal(t, false, read["built_in"])
		assert.Equal(t, "X-Acme-Token: <access_token>", read["http_header"])
		assert.Zero(t, strings.Compare(acmeDefinition, read["definition"].(string)), "byte for byte, as it was written")
		assert.Equal(t, []string{"client_credentials"}, read["grant_types"])
		assert.Equal(t, map[string]any{"description": "The client secret.", "secret": true, "required": true}, read["fields"].(map[string]any)["client_secret"])
		assert.Equal(t, "vault write kensho/config/acme/<name> client_id=... client_secret=... region=...", read["write"])
		google := e.Read("vendors/google").Data["fields"].(map[string]any)["client_email"].(map[string]any)
		assert.True(t, strings.HasPrefix(google["description"].(string), "client_email of the JSON key"), "a name of the vendor's is not changed")
		for _, name := range []string{"kensho", "oauth2", "snowflake"} {
			assert.Equal(t, true, e.Read("vendors/" + name).Data["built_in"])
			assert.Equal(t, "Authorization: Bearer <access_token>", e.Read("vendors/" + name).Data["http_header"])
		}

		e.Write("vendors/acme", redefine(`"Acme"`, `"Acme Inc."`))
		assert.Equal(t, "Acme Inc.", e.Read("vendors/acme").Data["title"])
		e.Restart()
		assert.Equal(t, "Acme Inc.", e.Read("vendors/acme").Data["title"])

		_, status, message := e.Request(logical.DeleteOperation, "vendors/acme", nil)
		require.Equal(t, 200, status, message)
		_, status, _ = e.Request(logical.ReadOperation, "vendors/acme", nil)
		assert.Equal(t, http.StatusNotFound, status)
		assert.NotContains(t, list().Data["key_info"], "acme")
		assert.Contains(t, refusedWrite(e, "config/acme/prod", acmeFields), `unknown vendor "acme"`)
		_, status, _ = e.Request(logical.DeleteOperation, "vendors/acme", nil)
		assert.Equal(t, 200, status, "a repeated delete succeeds")
	})
}

func TestEachBuiltInVendorIsDocumented(t *testing.T) {
	e := engine.New(t)
	resp, status, message := e.Request(logical.ListOperation, "vendors/", nil)
	require.Equal(t, http.StatusOK, status, message)
	for _, name := range resp.Data["keys"].([]string) {
		read := e.Read("vendors/" + name).Data
		assert.NotEmpty(t, read["notes"], name)
		assert.NotEmpty(t, read["evidence"], name)
		assert.NotEmpty(t, read["docs"], name)
		choice, _ := read["fields"].(map[string]any)["grant_type"].(map[string]any)
		if choice != nil {
			assert.ElementsMatch(t, choice["allowed"], read["grant_types"], name)
		}
	}
	ofGrant := e.Read("vendors/arcgis-enterprise").Data["by_grant_type"]
	assert.Equal(t, map[string]any{"generate_token": map[string]any{
		"http_header": "X-Esri-Authorization: Bearer <access_token>", "other_http_headers": map[string]string{"Referer": "{referer}"},
	}}, ofGrant)
}

func TestADefinitionThatCannotBeUsedIsRefused(t *testing.T) {
	e, _ := newAcme(t)
	for name, test := range map[string]struct {
		path string
		data map[string]any
		want string
	}{
		"built in":      {"vendors/snowflake", redefine(), `vendor: the engine has a vendor named "snowflake"; choose another name`},
		"written":       {"vendors/kensho", redefine(), `vendor: the engine has a vendor named "kensho"`},
		"no definition": {"vendors/acme", nil, "definition: must be set; give a file with definition=@acme.json"},
		"not JSON":      {"vendors/acme", map[string]any{"definition": "@acme.json"}, "definition: is the name of a file; give its content with definition=@acme.json"},
		"syntax":        {"vendors/acme", map[string]any{"definition": "{\n  \"title\" \"Acme\"}"}, "definition: not JSON: line 2, column 11: invalid character"},
		"a fault":       {"vendors/acme", redefine(`"[a-z]{2}"`, `"[^/]+"`), "definition: /token_url: {region} is part of a host"},
		"unknown field": {"vendors/acme", map[string]any{"definitions": "x"}, `unknown field "definitions"; did you mean definition?`},
		"a name":        {"vendors/acme_eu", redefine(), `vendor: "acme_eu" is not the name of a vendor`},
	} {
		assert.Contains(t, refusedWrite(e, test.path, test.data), test.want, name)
	}
	_, status, message := e.Request(logical.DeleteOperation, "vendors/snowflake", nil)
	assert.Equal(t, http.StatusBadRequest, status)
	assert.Contains(t, message, "is built in and cannot be deleted")
	resp, _, _ := e.Request(logical.UpdateOperation, "vendors/auth-0", redefine(`"docs": ["https://docs.acme.example/"], `, ""))
	assert.Equal(t, []string{"docs: name the vendor's page from which the definition was written, for those who change it next", "the engine has Auth0 as auth0"}, resp.Warnings)
}

// A definition's fields stand beside those that every credential has, and its extra beside the fields
// of creds/ and token/.
func TestADefinitionTakesNoNameOfTheEngine(t *testing.T) {
	fields := []string{"vendor", "name", "verify", "secrets_set", "resolved_urls", "resolved_scope", "definition", "answer", "status"}
	for name := range credential.CommonSchemas() {
		fields = append(fields, name)
	}
	for _, name := range fields {
		_, err := definition.Parse("acme", []byte(strings.NewReplacer(`"audience": {`, fmt.Sprintf(`%q: {`, name), "{audience}", "{"+name+"}").Replace(acmeDefinition)))
		require.ErrorContains(t, err, "/fields/"+name+": the engine has the name already", name)
	}
	e := engine.New(t)
	for _, path := range []string{"creds/x", "token/x"} {
		for name := range e.Route(path).Operations[logical.ReadOperation].Properties().Responses[200][0].Fields {
			_, err := definition.Parse("acme", []byte(strings.Replace(acmeDefinition, `"instance_url"`, fmt.Sprintf("%q", name), 1)))
			assert.ErrorContains(t, err, "/answer/extra/"+name, path)
		}
	}
}

func TestReadersGetTheTokenAsTheVendorsAPITakesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newAcme(t)
		e.Write("config/acme/prod", acmeFields)
		read := func(path string) map[string]any { // the extra fields are those of the definition
			resp, status, message := e.Request(logical.ReadOperation, path, nil)
			require.Equal(t, 200, status, message)
			return resp.Data
		}
		for _, path := range []string{"creds/prod", "token/prod"} {
			data := read(path)
			token := data["access_token"].(string)
			assert.Equal(t, "X-Acme-Token: "+token, data["http_header"], path)
			assert.Empty(t, data["token_type"], path)
			assert.Equal(t, map[string]string{"X-Acme-Client": "billing"}, data["other_http_headers"], path)
			assert.Equal(t, "https://one.acme.example", data["instance_url"], path)
			assert.NotContains(t, data, "query_parameter", path)
			assert.Equal(t, "acme", data["vendor"], path)
		}
		e.Restart()
		assert.Equal(t, "https://one.acme.example", read("creds/prod")["instance_url"], "it is stored with the token")

		e.Write("vendors/acme", redefine(`"header": "X-Acme-Token"`, `"query": "key"`, `, "headers": {"X-Acme-Client": "{client_id}"}`, ""))
		data := read("creds/prod")
		assert.Equal(t, "key="+data["access_token"].(string), data["query_parameter"], "a change of the definition counts at once")
		assert.NotContains(t, data, "http_header")
		assert.NotContains(t, data, "other_http_headers")
	})
}

func TestTheHelpOfACredentialIsInTheVendorsWords(t *testing.T) {
	e, _ := newAcme(t)
	for path, want := range map[string]string{
		"config/acme/prod":      "Store a credential of Acme.",
		"config/snowflake/prod": "Store a credential of Snowflake.",
		"config/nobody/prod":    "Store a credential of a vendor.",
	} {
		resp, err := e.Backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.HelpOperation, Path: path, Storage: e.Storage})
		require.NoError(t, err)
		assert.Contains(t, resp.Data["help"], want)
		if path == "config/acme/prod" {
			assert.Contains(t, resp.Data["help"], "The region (eu). Required.")
		}
	}
}

func TestAPreviewSendsAndStoresNothing(t *testing.T) {
	e, v := newAcme(t)
	before := e.Dump()
	preview := func(path string, more map[string]any) map[string]any {
		t.Helper()
		data := map[string]any{}
		for _, fields := range []map[string]any{acmeFields, more} {
			for name, value := range fields {
				data[name] = value
			}
		}
		resp, status, message := e.Request(logical.UpdateOperation, path, data)
		require.Equal(t, 200, status, message)
		assert.NotContains(t, fmt.Sprint(resp.Data), acmeSecret, "guarantee 6")
		return resp.Data
	}
	data := preview("vendors/acme/preview", nil)
	assert.Equal(t, []string{"https://eu.acme.example/token"}, data["destination"])
	assert.Equal(t, "client_credentials", data["grant_type"])
	assert.Contains(t, data["requests"].([]string)[0], "client_secret={client_secret}")
	assert.NotContains(t, data, "token")

	data = preview("vendors/acme/preview", map[string]any{"answer": `{"access_token":"t0ken","expires_in":60,"instance":"i"}`})
	assert.Equal(t, "1m0s", data["token"].(map[string]any)["lifetime"])
	assert.Equal(t, "i", data["token"].(map[string]any)["instance_url"])
	assert.NotContains(t, fmt.Sprint(data["token"]), "t0ken")
	data = preview("vendors/acme/preview", map[string]any{"answer": `{"error":"invalid_client"}`, "status": 401})
	assert.Equal(t, "rejected", data["error_kind"])

	data = preview("vendors/draft/preview", redefine("eu.acme", "x", "acme.example", "draft.example"))
	assert.Equal(t, []string{"https://eu.draft.example/token"}, data["destination"], "a definition that is not written")
	data = preview("vendors/acme/preview", redefine("acme.example", "next.example"))
	assert.Equal(t, []string{"https://eu.next.example/token"}, data["destination"], "another definition of one that is")

	assert.Equal(t, before, e.Dump(), "nothing is stored")
	assert.Zero(t, v.requests.Load(), "nothing is sent")

	for want, test := range map[string]struct {
		path string
		data map[string]any
	}{
		"region: must be set":                       {"vendors/acme/preview", map[string]any{"client_id": "c", "client_secret": "s"}},
		`unknown field "regoin"`:                    {"vendors/acme/preview", map[string]any{"regoin": "eu"}},
		"status: ":                                  {"vendors/acme/preview", map[string]any{"status": "bad"}},
		`unknown vendor "nobody"`:                   {"vendors/nobody/preview", acmeFields},
		"the exchange of kensho is code":            {"vendors/kensho/preview", map[string]any{"refresh_token": "r"}},
		"definition: /token_url: {region} is not a": {"vendors/draft/preview", redefine(`"region": {"description": "the region (eu)", "pattern": "[a-z]{2}", "required": true},`, "")},
	} {
		assert.Contains(t, refusedWrite(e, test.path, test.data), want)
	}
}

func TestAVendorSaysWhichSecretsTheEngineCanReplace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.New(t)
		assert.Equal(t, []string{"client_secret", "private_key"}, e.Read("vendors/entra").Data["rotates"])
		assert.NotContains(t, e.Read("vendors/kensho").Data, "rotates")
	})
}

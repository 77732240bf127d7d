package definition_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/definition"
)

// rotating is a definition whose client secrets rotate.
const rotating = `{
  "title": "Acme", "notes": "n", "docs": ["https://acme.example/docs"], "evidence": "documentation",
  "fields": {
    "client_id": {}, "client_secret": {}, "private_key": {}, "scope": {},
    "secret_id": {"description": "the ID of the secret"}, "note": {"description": "a note", "default": "none"},
    "slot": {"description": "the slot", "allowed": ["one", "two"]},
    "admin": {"description": "the host of the API", "pattern": "[a-z]+", "default": "admin"}
  },
  "token_url": "https://acme.example/token",
  "grants": [
    {"grant_type": "client_credentials", "needs": ["client_id", "client_secret"], "auth": "client_secret_post", "request": {"form": {"grant_type": "client_credentials", "scope": "{scope}"}}},
    {"grant_type": "key", "needs": ["client_id", "private_key"], "auth": "private_key_jwt", "request": {"form": {"grant_type": "client_credentials", "note": "{note}", "scope": "{scope}"}}}
  ],
  "rotations": [ROTATION]
}`

// rotation is a rotation of the definition.
const rotation = `{
  "replaces": ["client_secret", "secret_id", "slot"], "needs": ["secret_id", "slot"], "authorize": {"scope": ["{client_id}/admin"]}, "alternates": "slot",
  "create": [{"request": {"url": "https://{admin}.acme.example/secrets", "json": {"slot": "{new_slot}", "name": "{new_name}", "until": "{new_expires}", "token": "{rotation_token}"}}, "keep": {"issued": "/secret", "issued_id": "/id"}}],
  "set": {"client_secret": "{issued}", "secret_id": "{issued_id}", "slot": "{new_slot}"},
  "find": [{"request": {"method": "GET", "url": "https://{admin}.acme.example/secrets"}, "list": "/all", "where": {"/name": "{new_name}"}, "fields": {"secret_id": "/id"}}],
  "remove": [{"request": {"method": "DELETE", "url": "https://{admin}.acme.example/secrets/{secret_id}", "headers": {"Authorization": "Bearer {rotation_token}", "Present": "{current_secret_id}"}}}],
  "max_lifetime": "365d"
}`

func parseRotation(text string) (*definition.Definition, error) {
	return definition.Parse("acme", []byte(strings.Replace(rotating, "ROTATION", text, 1)))
}

func TestARotationIsRefusedAtItsPlace(t *testing.T) {
	_, err := parseRotation(rotation)
	require.NoError(t, err)
	for says, change := range map[string][2]string{
		"/rotations/0/replaces/1: no field named secret":                            {`"client_secret", "secret_id", "slot"]`, `"client_secret", "secret", "slot"]`},
		"/rotations/0/replaces: has no secret":                                      {`"replaces": ["client_secret", "secret_id", "slot"]`, `"replaces": ["secret_id", "slot"]`},
		"/rotations/0/replaces/1: set has no value for secret_id":                   {`, "secret_id": "{issued_id}", "slot"`, `, "slot"`},
		"/rotations/0/needs/0: no field named tenant":                               {`"needs": ["secret_id", "slot"]`, `"needs": ["tenant"]`},
		"/rotations/0/authorize/audience: no field of that name":                    {`{"scope": ["{client_id}/admin"]}`, `{"audience": "x"}`},
		"/rotations/0/authorize: {tenant} is not a field":                           {`{client_id}/admin`, `{tenant}/admin`},
		"/rotations/0/alternates: must be a field with two allowed values":          {`"alternates": "slot"`, `"alternates": "admin"`},
		"/rotations/0/alternates: must be among replaces":                           {`"secret_id", "slot"], "needs"`, `"secret_id"], "needs"`},
		"/rotations/0/alternates: must be among needs":                              {`"needs": ["secret_id", "slot"]`, `"needs": ["secret_id"]`},
		"/rotations/0/replaces/2: admin is part of a URL's host":                    {`"secret_id", "slot"], "needs"`, `"secret_id", "admin"], "needs"`},
		"/rotations/0/replaces/2: note has a default":                               {`"secret_id", "slot"], "needs"`, `"secret_id", "note"], "needs"`},
		"/rotations/0/create/0/request/json: {other} is not a field":                {`"until": "{new_expires}"`, `"until": "{other}"`},
		"/rotations/0/create/0/keep/scope: is another value's name":                 {`"issued": "/secret"`, `"scope": "/secret"`},
		"/rotations/0/create/0/request/json: {new_private_key} is not a field":      {`"until": "{new_expires}"`, `"until": "{new_private_key}"`},
		"/rotations/0/create/0/request: {assertion} needs the assertion of the rot": {`"until": "{new_expires}"`, `"until": "{assertion}"`},
		"/rotations/0/set/scope: is not among replaces":                             {`"set": {`, `"set": {"scope": "x", `},
		"/rotations/0/set/secret_id: {issue} is not a field":                        {`"secret_id": "{issued_id}"`, `"secret_id": "{issue}"`},
		"/rotations/0/find/0/list: ":                                                {`"list": "/all"`, `"list": "all"`},
		"/rotations/0/find/0/list/1: ":                                              {`"list": "/all"`, `"list": ["/all", "all"]`},
		"/rotations/0/find/0/where/~1name: {issued} is not a field":                 {`"/name": "{new_name}"`, `"/name": "{issued}"`},
		"/rotations/0/find/0/fields/id: no field of that name":                      {`"fields": {"secret_id"`, `"fields": {"id"`},
		"/rotations/0/remove/0/request/url: {issued_id} is not a field":             {`/{secret_id}"`, `/{issued_id}"`},
		"/rotations/0/remove/0/request/headers/Present: {current_scope} is not":     {`{current_secret_id}`, `{current_scope}`},
		"/rotations/0/set/secret_id: {client_secret} is secret, and a read":         {`"secret_id": "{issued_id}"`, `"secret_id": "{client_secret}"`},
		"/rotations/0/set/secret_id: {client_secret|sha256} is secret":              {`"secret_id": "{issued_id}"`, `"secret_id": "{client_secret|sha256}"`},
		"/rotations/0/set/secret_id: {issued} is secret":                            {`"secret_id": "{issued_id}"`, `"secret_id": "{new_name}-{issued}"`},
		"/rotations/0/set/secret_id: {new_secret} is secret":                        {`"secret_id": "{issued_id}"`, `"secret_id": "{new_secret}"`},
		"/rotations/0/set/secret_id: {new_private_key} is secret":                   {`"secret_id": "{issued_id}"`, `"secret_id": "{new_private_key}"`},
		"/rotations/0/set/slot: {rotation_token} is secret":                         {`"slot": "{new_slot}"}`, `"slot": "{rotation_token}"}`},
		"/rotations/0/set/slot: {assertion} is not a field":                         {`"slot": "{new_slot}"}`, `"slot": "{assertion}"}`},
		"/rotations/0/set/expires: {issued} is secret":                              {`"set": {`, `"set": {"expires": "{issued}", `},
		"/rotations/0/set/client_secret: {issued} is optional, and the field needs": {`"keep": {"issued": "/secret", `, `"keep_optional": {"issued": "/secret"}, "keep": {`},
		"/rotations/0/create/0/keep_optional/scope: is another value's name":        {`"keep": {`, `"keep_optional": {"scope": "/scope"}, "keep": {`},
		"/rotations/0/create/0/keep_optional/issued: keep has a value of that name": {`"keep": {`, `"keep_optional": {"issued": "/other"}, "keep": {`},
		"/rotations/0/max_lifetime: must be set, as a certificate expires":          {`"max_lifetime": "365d"`, `"generate": "certificate"`},
		"/rotations/0: unknown member renew":                                        {`"max_lifetime"`, `"renew": [], "max_lifetime"`},
		"/rotations/0/create/0/request/url: {client_secret} is a secret":            {`https://{admin}.acme.example/secrets", "json"`, `https://{admin}.acme.example/{client_secret}", "json"`},
	} {
		changed := strings.Replace(rotation, change[0], change[1], 1)
		require.NotEqual(t, rotation, changed, says)
		_, err := parseRotation(changed)
		require.ErrorContains(t, err, "definition: "+says)
	}
}

func openRotating(t *testing.T, fields map[string]any) provider.Credential {
	t.Helper()
	d, err := parseRotation(rotation)
	require.NoError(t, err)
	raw, err := json.Marshal(fields)
	require.NoError(t, err)
	client, err := provider.NewClient(provider.ClientOptions{Timeout: time.Minute})
	require.NoError(t, err)
	c, err := definition.NewProvider(d).Open(provider.Settings{Fields: raw, Client: client})
	require.NoError(t, err)
	return c
}

func TestARotationIsForCredentialsWithTheSecretsThatItReplaces(t *testing.T) {
	with := openRotating(t, map[string]any{"client_id": "id", "client_secret": "secret", "secret_id": "1", "slot": "one"})
	_, err := provider.RotationOf(with)
	require.NoError(t, err)
	_, err = provider.RotationOf(openRotating(t, map[string]any{"client_id": "id", "client_secret": "secret", "slot": "one"}))
	require.EqualError(t, err, "secret_id: must be set for a rotation: the ID of the secret")
	narrowed, err := with.Narrow([]string{"read"})
	require.NoError(t, err)
	_, err = provider.RotationOf(narrowed)
	require.Error(t, err, "a role's view of the credential does not rotate it")
}

// The requests of a rotation go to hosts that the writer of the secret must have chosen. (Guarantee 13.)
func TestTheHostsOfARotationAreDestinationsOfTheSecret(t *testing.T) {
	c := openRotating(t, map[string]any{"client_id": "id", "client_secret": "secret", "secret_id": "1", "slot": "one", "admin": "other"})
	assert.Equal(t, []string{"https://acme.example/token", "https://other.acme.example/secrets", "https://other.acme.example/secrets/secret_id"}, c.Destinations().URLs)
	c = openRotating(t, map[string]any{"client_id": "id", "client_secret": "secret"})
	assert.Equal(t, []string{"https://acme.example/token"}, c.Destinations().URLs, "without a rotation")
}

func TestWhatIsChosenOfANewSecret(t *testing.T) {
	c := openRotating(t, map[string]any{"client_id": "id", "client_secret": "secret", "secret_id": "1", "slot": "one"})
	r, err := provider.RotationOf(c)
	require.NoError(t, err)
	n := provider.NewSecret{Name: "vault-1", ExpireTime: time.Now().Add(time.Hour)}
	require.NoError(t, r.Prepare(t.Context(), &n))
	assert.Equal(t, map[string]string{"new_slot": "two"}, n.Chosen)
	assert.Equal(t, provider.RotationRules{Replaces: []string{"client_secret", "secret_id", "slot"}, Account: []string{"admin"}, CanProve: true, ListsByName: true, MaxLifetime: 365 * 24 * time.Hour}, r.Rules())
	assert.NotContains(t, fmt.Sprint(n), "secret")
}

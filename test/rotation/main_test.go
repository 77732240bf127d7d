package rotation_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/leaktest"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// day is the unit of rotations.
const day = 24 * time.Hour

// An account is a credential whose secret its simulated vendor lets replace.
type account struct {
	*engine.Engine
	kind, name, vendor string
}

// newAccount stores a credential of a kind, with further fields.
func newAccount(e *engine.Engine, kind string, more map[string]any) account {
	e.T.Helper()
	a := account{Engine: e, kind: kind, name: strings.ReplaceAll(kind, "/", "-")}
	vendor, fields := e.Sim.AddRotating(kind, a.name)
	a.vendor = vendor
	maps.Copy(fields, more)
	e.Write(a.path(), fields)
	return a
}

func (a account) path() string { return "config/" + a.vendor + "/" + a.name }

// fields returns the stored fields.
func (a account) fields() map[string]any {
	a.T.Helper()
	var entry struct{ Fields map[string]any }
	require.NoError(a.T, json.Unmarshal([]byte(a.Dump()[a.path()]), &entry))
	return entry.Fields
}

// rotate rotates the secret, and fails the test unless that succeeds.
func (a account) rotate(data map[string]any) *logical.Response {
	a.T.Helper()
	resp, status, message := a.tryRotate(data)
	require.Equal(a.T, http.StatusOK, status, message)
	return resp
}

func (a account) tryRotate(data map[string]any) (resp *logical.Response, status int, message string) {
	a.T.Helper()
	return a.Request(logical.UpdateOperation, a.path()+"/rotate", data)
}

// status returns the rotation in the status of the credential.
func (a account) status() map[string]any {
	a.T.Helper()
	rotation, _ := a.Read("status/" + a.name).Data["rotation"].(map[string]any)
	return rotation
}

// live returns how many secrets the vendor stores, whether it accepts them or not.
func (a account) live() int { return len(a.Sim.StoredSecrets(a.kind, a.name)) }

// each is how many secrets the vendor counts for one credential.
func (a account) each() int {
	if a.kind == "datadog" { // a key of each kind
		return 2
	}
	return 1
}

// accepts reports whether the vendor accepts the secret in fields.
func (a account) accepts(fields map[string]any) bool {
	return a.Sim.AcceptsSecret(a.kind, a.name, fields)
}

// quick are the kinds that the long tests have with -short: one for each way in which a vendor replaces a secret.
var quick = map[string]bool{entra: true, "auth0/client_secret": true, "gitlab-token": true, "databricks/workspace": true, "datadog": true}

// eachQuickKind is eachKind, with -short for the quick kinds only.
func eachQuickKind(t *testing.T, f func(t *testing.T, kind string)) {
	t.Helper()
	eachKind(t, func(t *testing.T, kind string) {
		if !testing.Short() || quick[kind] {
			f(t, kind)
		}
	})
}

// endsFormer are the kinds whose vendor ends the former secret at once.
var endsFormer = map[string]bool{"auth0/client_secret": true, "gitlab-token": true}

// assertSettled checks that the vendor has the stored secret only, and that readers get a token.
func (a account) assertSettled() {
	a.T.Helper()
	assert.True(a.T, a.accepts(a.fields()), "%s: the stored secret", a.kind)
	assert.Equal(a.T, a.each(), a.live(), "%s: secrets at the vendor", a.kind)
	_, status, message := a.Request(logical.ReadOperation, "creds/"+a.name, nil)
	assert.Equal(a.T, http.StatusOK, status, "%s: %s", a.kind, message)
}

// isCreation reports whether a request creates a secret.
func isCreation(r *http.Request) bool {
	isToken := strings.HasSuffix(r.URL.Path, "/token")
	return (r.Method == http.MethodPost || r.Method == http.MethodPatch) && !isToken
}

// eachKind calls f with each kind of credentials, in a subtest with simulated time.
func eachKind(t *testing.T, f func(t *testing.T, kind string)) {
	t.Helper()
	for _, kind := range vendorsim.RotatingKinds() {
		t.Run(kind, func(t *testing.T) { f(t, kind) })
	}
}

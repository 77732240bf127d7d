//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestThePluginIsListedWithItsVersion(t *testing.T) {
	output, err := w.server.Command(t.Context(), w.server.Token, "plugin", "list", "-detailed", "secret").CombinedOutput()
	require.NoError(t, err, string(output))
	var listed string
	for line := range strings.Lines(string(output)) {
		if strings.HasPrefix(line, pluginName+" ") {
			listed = line
		}
	}
	assert.Contains(t, listed, w.version)
	output, err = exec.CommandContext(t.Context(), os.Getenv("PLUGIN"), "-version").Output()
	require.NoError(t, err)
	assert.Equal(t, "vault-plugin-secrets-tokenbroker "+w.version+"\n", string(output))

	enable(t, "versioned")
	mounts, err := w.root.Sys().ListMountsWithContext(t.Context())
	require.NoError(t, err)
	assert.Equal(t, w.version, mounts["versioned/"].RunningVersion, "the version that the plugin reports")
}

func TestEachCredentialYieldsALeasedToken(t *testing.T) {
	m := enable(t, "vendors")
	m.write("config/kensho/prod", m.kensho())
	m.write("config/kensho/batch", m.keyPair())
	m.write("config/sitecore/search", m.sitecore())
	m.sim.AddPair("a-refresh-token", 24*time.Hour, 24*time.Hour)
	m.write("config/sitecore/refresh", map[string]any{"refresh_token": "a-refresh-token", "base_url": vendorsim.URL(m.base, "https://api.rfksrv.com")})
	calls := len(m.sim.Calls())
	require.GreaterOrEqual(t, calls, 4, "each credential was verified")

	for name, longest := range map[string]time.Duration{"prod": 50 * time.Minute, "batch": time.Hour, "search": 24 * time.Hour, "refresh": 24 * time.Hour} {
		secret := m.creds(name)
		assert.False(t, secret.Renewable)
		lease := time.Duration(secret.LeaseDuration) * time.Second
		assert.LessOrEqual(t, lease, longest-30*time.Second, name)
		assert.Greater(t, lease, longest-5*time.Minute, name)
		assert.Equal(t, "Bearer", secret.Data["token_type"])
		expire, err := time.Parse(time.RFC3339, secret.Data["expire_time"].(string))
		require.NoError(t, err)
		expiry := m.sim.Expiry(secret.Data["access_token"].(string))
		assert.False(t, expire.After(expiry), "guarantee 1: %s expires at %s, but its expire_time is %s", name, expiry, expire)
		assert.Equal(t, secret.Data["access_token"], m.creds(name).Data["access_token"])
	}
	assert.Len(t, m.sim.Calls(), calls, "all reads were of cached tokens")
}

func TestPastedAccessTokenIsServed(t *testing.T) {
	m := enable(t, "pasted")
	// It expires on the full hour of this machine's clock, which may be near.
	if hour := time.Now().Round(time.Hour); time.Until(hour).Abs() < time.Minute {
		time.Sleep(time.Until(hour.Add(time.Minute)))
	}
	m.write("config/kensho/prod", map[string]any{"access_token": "a-pasted-access-token"})
	secret, err := w.root.Logical().ReadWithContext(t.Context(), "pasted/creds/prod")
	require.NoError(t, err)
	assert.Equal(t, "a-pasted-access-token", secret.Data["access_token"])
	assert.Empty(t, m.sim.Calls())
}

func TestLeaseCanBeLookedUpAndRevoked(t *testing.T) {
	m := enable(t, "leases")
	m.write("config/kensho/prod", m.kensho())
	secret := m.creds("prod")
	lookup := func() error {
		found, err := w.root.Sys().LookupWithContext(t.Context(), secret.LeaseID)
		if err == nil {
			assert.Equal(t, secret.LeaseID, found.Data["id"])
			assert.Equal(t, false, found.Data["renewable"])
		}
		return err
	}
	require.NoError(t, lookup())
	require.NoError(t, w.root.Sys().RevokeWithContext(t.Context(), secret.LeaseID))
	require.Error(t, lookup(), "the lease has ended")

	again := m.creds("prod")
	assert.Equal(t, secret.Data["access_token"], again.Data["access_token"], "the token is still served")
	_, err := w.root.Logical().DeleteWithContext(t.Context(), "leases/config/kensho/prod")
	require.NoError(t, err)
	require.NoError(t, w.root.Sys().RevokePrefixWithContext(t.Context(), "leases/creds"), "a lease can be revoked after its credential was deleted")
}

func TestLeaseIsLimitedToTheMountsMaximum(t *testing.T) {
	m := enable(t, "maximum")
	maximum := "7m"
	require.NoError(t, w.root.Sys().TuneMountAllowNilWithContext(t.Context(), "maximum", api.TuneMountConfigInput{MaxLeaseTTL: &maximum}))
	m.write("config/kensho/prod", m.kensho())
	secret := m.creds("prod")
	assert.Equal(t, 420, secret.LeaseDuration)
	assert.Empty(t, secret.Warnings)
}

func TestPolicyLimitsATokenToOneName(t *testing.T) {
	m := enable(t, "policed")
	m.write("config/kensho/prod", m.kensho())
	m.write("config/kensho/batch", m.keyPair())
	require.NoError(t, w.root.Sys().PutPolicyWithContext(t.Context(), "app", `path "policed/creds/prod" { capabilities = ["read"] }`))
	token, err := w.root.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{Policies: []string{"app"}})
	require.NoError(t, err)
	app, err := w.root.Clone()
	require.NoError(t, err)
	app.SetToken(token.Auth.ClientToken)

	secret, err := app.Logical().ReadWithContext(t.Context(), "policed/creds/prod")
	require.NoError(t, err)
	assert.True(t, m.sim.Accepts(secret.Data["access_token"].(string)))

	_, err = app.Logical().ReadWithContext(t.Context(), "policed/creds/batch")
	assertStatus(t, http.StatusForbidden, "", err)
	_, err = app.Logical().ReadWithContext(t.Context(), "policed/config/kensho/prod")
	assertStatus(t, http.StatusForbidden, "", err)
	_, err = app.Logical().ListWithContext(t.Context(), "policed/config")
	assertStatus(t, http.StatusForbidden, "", err)
	_, err = app.Logical().WriteWithContext(t.Context(), "policed/config/kensho/prod", m.kensho())
	assertStatus(t, http.StatusForbidden, "", err)
}

func TestConfigsAreListedReadPatchedAndDeleted(t *testing.T) {
	m := enable(t, "configs")
	m.write("config/kensho/prod", m.kensho())
	m.write("config/sitecore/search", m.sitecore())
	list, err := w.root.Logical().ListWithContext(t.Context(), "configs/config")
	require.NoError(t, err)
	assert.Equal(t, []any{"prod", "search"}, list.Data["keys"])
	assert.Equal(t, map[string]any{"vendor": "sitecore"}, list.Data["key_info"].(map[string]any)["search"])

	_, err = w.root.Logical().JSONMergePatch(t.Context(), "configs/config/kensho/prod", map[string]any{"request_timeout": 20})
	require.NoError(t, err)
	read, err := w.root.Logical().ReadWithContext(t.Context(), "configs/config/kensho/prod")
	require.NoError(t, err)
	assert.Equal(t, json.Number("20"), read.Data["request_timeout"])
	assert.Equal(t, []any{"refresh_token"}, read.Data["secrets_set"])
	assert.NotContains(t, read.Data, "refresh_token")
	m.creds("prod")

	_, err = w.root.Logical().JSONMergePatch(t.Context(), "configs/config/kensho/nobody", map[string]any{"request_timeout": 20})
	assertStatus(t, http.StatusNotFound, "no credential found at", err)
	_, err = w.root.Logical().DeleteWithContext(t.Context(), "configs/config/kensho/prod")
	require.NoError(t, err)
	_, err = w.root.Logical().ReadWithContext(t.Context(), "configs/creds/prod")
	assertStatus(t, http.StatusBadRequest, `no role or credential named "prod"`, err)
}

func TestErrorsHaveTheDocumentedStatus(t *testing.T) {
	m := enable(t, "errors")
	write := func(path string, data, change map[string]any) error {
		for field, value := range change {
			data[field] = value
		}
		_, err := w.root.Logical().WriteWithContext(t.Context(), "errors/config/"+path, data)
		return err
	}
	assertStatus(t, 400, "needs refresh_token", write("kensho/a", map[string]any{}, nil))
	assertStatus(t, 400, "are mutually exclusive", write("kensho/a", m.kensho(), m.keyPair()))
	assertStatus(t, 400, "private_key: not PEM", write("kensho/a", m.keyPair(), map[string]any{"private_key": "none"}))
	assertStatus(t, 400, "must be an https URL", write("kensho/a", m.kensho(), map[string]any{"refresh_url": "http://kensho.example/"}))
	assertStatus(t, 400, `unknown field "refreshtoken"`, write("kensho/a", m.kensho(), map[string]any{"refreshtoken": "x"}))
	assertStatus(t, 400, "is not a scope", write("sitecore/a", m.sitecore(), map[string]any{"scope": `dis"cover`}))
	assertStatus(t, 400, "access_expiry: must not be negative", write("sitecore/a", m.sitecore(), map[string]any{"access_expiry": "-1h"}))
	assertStatus(t, 400, "access_expiry: ", write("sitecore/a", m.sitecore(), map[string]any{"access_expiry": 1e300}))
	assertStatus(t, 400, "access_expiry: ", write("sitecore/a", m.sitecore(), map[string]any{"access_expiry": "99999999999999999999"}))
	assertStatus(t, 400, "refresh_token: must be a string", write("kensho/a", m.kensho(), map[string]any{"refresh_token": []string{"canary"}}))
	assertStatus(t, 400, "rejected the credential", write("kensho/a", m.kensho(), map[string]any{"refresh_token": "of-nobody"}))
	require.NoError(t, write("kensho/a", m.kensho(), map[string]any{"verify": false}))
	assertStatus(t, 400, "is taken by config/kensho/a", write("sitecore/a", m.sitecore(), nil))

	read := func() error {
		_, err := w.root.Logical().ReadWithContext(t.Context(), "errors/creds/a")
		return err
	}
	refresh := func() error {
		_, err := w.root.Logical().WriteWithContext(t.Context(), "errors/refresh/a", nil)
		return err
	}
	for _, fault := range []struct {
		handler http.HandlerFunc
		status  int
		says    string
	}{
		{vendorsim.Answer(503, ""), 503, "next attempt at"},
		{vendorsim.Answer(200, "<html>"), 502, "JSON"},
		{vendorsim.Redirect, 502, "redirect"},
		{vendorsim.Echo, 400, "config/kensho/a"},
	} {
		m.behave(vendorsim.Conduct{Fault: vendorsim.Always(fault.handler)})
		assertStatus(t, fault.status, fault.says, refresh())
		assertStatus(t, fault.status, fault.says, read())
	}
	m.behave(vendorsim.Conduct{})
	require.NoError(t, refresh())
	require.NoError(t, read())
}

func TestOpenAPINamesEveryPath(t *testing.T) {
	enable(t, "specified")
	spec, err := w.root.Logical().ReadWithContext(t.Context(), "sys/internal/specs/openapi")
	require.NoError(t, err)
	raw, err := json.Marshal(spec.Data["paths"])
	require.NoError(t, err)
	var paths map[string]map[string]any
	require.NoError(t, json.Unmarshal(raw, &paths))
	for path, methods := range map[string][]string{
		"/specified/config/":                  {"get"},
		"/specified/config/{vendor}/":         {"get"},
		"/specified/config/{vendor}/{name}":   {"get", "post", "patch", "delete"},
		"/specified/creds/{name}":             {"get"},
		"/specified/refresh/{name}":           {"post"},
		"/specified/status/":                  {"get"},
		"/specified/status/{name}":            {"get"},
		"/specified/vendors/":                 {"get"},
		"/specified/vendors/{vendor}":         {"get", "post", "delete"},
		"/specified/vendors/{vendor}/preview": {"post"},
	} {
		for _, method := range methods {
			assert.Contains(t, paths[path], method, path)
		}
	}
}

func TestReadersOfTheRealServerShareOneExchange(t *testing.T) {
	m := enable(t, "shared")
	data := m.kensho()
	data["verify"] = false
	m.write("config/kensho/prod", data)
	m.behave(vendorsim.Conduct{Latency: 500 * time.Millisecond})
	var readers sync.WaitGroup
	for range 50 {
		readers.Go(func() { m.creds("prod") })
	}
	readers.Wait()
	assert.Len(t, m.sim.Calls(), 1)
}

func assertStatus(t *testing.T, status int, says string, err error) {
	t.Helper()
	var response *api.ResponseError
	require.ErrorAs(t, err, &response)
	assert.Equal(t, status, response.StatusCode, err.Error())
	assert.Contains(t, err.Error(), says)
}

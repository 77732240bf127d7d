//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"vault-plugin-secrets-tokenbroker/internal/testing/process"
	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const (
	prometheusExamples = "../../examples/prometheus"
	dashboardFile      = "../../examples/grafana/tokenbroker.json"
)

// prometheus is a Prometheus server.
type prometheus struct {
	t       *testing.T
	address string
}

// ask queries the API, and decodes the data of the answer.
func (p *prometheus) ask(path string, data any) error {
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, "http://"+p.address+"/api/v1/"+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(&struct{ Data any }{data})
}

// value returns the value of a query for one series, or "" if there is none.
func (p *prometheus) value(query string) string {
	var data struct {
		Result []struct{ Value [2]any }
	}
	if err := p.ask("query?query="+url.QueryEscape(query), &data); err != nil || len(data.Result) != 1 {
		return ""
	}
	return data.Result[0].Value[1].(string)
}

// firing returns the names of the firing alerts.
func (p *prometheus) firing() ([]string, error) {
	var data struct {
		Alerts []struct {
			State  string
			Labels map[string]string
		}
	}
	if err := p.ask("alerts", &data); err != nil {
		return nil, err
	}
	var names []string
	for _, alert := range data.Alerts {
		if alert.State == "firing" {
			names = append(names, alert.Labels["alertname"])
		}
	}
	return names, nil
}

// startPrometheus starts a server with the example's configuration, except for Vault's address and
// the intervals.
func (m *mount) startPrometheus(token string) *prometheus {
	m.t.Helper()
	dir := prometheusFiles(m.t, token, strings.NewReplacer(
		"scheme: https", "scheme: http",
		"vault.example.com:8200", strings.TrimPrefix(m.server.Address, "http://"),
		"scrape_interval: 30s", "scrape_interval: 1s",
		"evaluation_interval: 30s", "evaluation_interval: 1s",
	))
	var log logBuffer
	// Without a context, which would kill it; the cleanup ends it in an orderly way.
	cmd := exec.CommandContext(context.Background(), "prometheus", "--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0")
	cmd.Stdout, cmd.Stderr = &log, &log
	server, err := process.Start(cmd)
	require.NoError(m.t, err)
	m.t.Cleanup(func() {
		assert.NoError(m.t, server.Stop())
		if m.t.Failed() {
			m.t.Log(log.String())
		}
	})
	p := &prometheus{t: m.t}
	require.Eventually(m.t, func() bool {
		match := listeningOn.FindStringSubmatch(log.String())
		if match != nil {
			p.address = match[1]
		}
		return match != nil
	}, patience, 50*time.Millisecond)
	return p
}

// listeningOn matches the log line with the address that Prometheus listens on.
var listeningOn = regexp.MustCompile(`msg="Listening on" address=(\S+)`)

// prometheusFiles copies the example's files to a new directory, with changes and a token file.
func prometheusFiles(t *testing.T, token string, changes *strings.Replacer) (dir string) {
	t.Helper()
	dir = t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(prometheusExamples)))
	config, err := os.ReadFile(filepath.Join(dir, "prometheus.yml"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(changes.Replace(string(config))), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "vault-token"), []byte(token), 0o600))
	return dir
}

func TestPrometheusScrapesTheMetricsWithAMinimalPolicy(t *testing.T) {
	m := enable(t, "kensho")
	m.write("config/kensho/prod", m.kensho())
	for range 3 {
		m.creds("prod")
	}
	policy, err := os.ReadFile("../../examples/policies/metrics.hcl")
	require.NoError(t, err)
	require.NoError(t, m.root.Sys().PutPolicyWithContext(t.Context(), "metrics", string(policy)))
	p := m.startPrometheus(m.client("metrics").Token())

	var targets struct {
		ActiveTargets []struct{ Health, LastError string }
	}
	require.Eventually(t, func() bool {
		return p.ask("targets", &targets) == nil && len(targets.ActiveTargets) == 1 && targets.ActiveTargets[0].Health == "up"
	}, patience, 100*time.Millisecond, "%+v", &targets)
	is := func(query, value string) {
		t.Helper()
		assert.Eventually(t, func() bool { return p.value(query) == value }, patience, 100*time.Millisecond, "%s is %s", query, p.value(query))
	}
	is(`tokenbroker_reads_total{mount="kensho",result="cached"}`, "3")
	is(`tokenbroker_exchanges_total{result="success",vendor="kensho"}`, "1")
	is(`tokenbroker_exchange_duration_seconds_count{vendor="kensho"}`, "1")
	is(`tokenbroker_credentials{state="ok",vendor="kensho"}`, "1") // prod needs no attention, so it has no series of its own
	firing, err := p.firing()
	require.NoError(t, err)
	assert.Empty(t, firing)
	p.assertPanelsHaveData(m.path)

	m.sim.RevokeCredential(refreshToken)
	_, err = m.root.Logical().WriteWithContext(t.Context(), "kensho/refresh/prod", nil)
	assertStatus(t, http.StatusBadRequest, "rejected", err)
	assert.Eventually(t, func() bool {
		firing, err = p.firing()
		// Shortly before the hour, TokenBrokerTokenExpiring also fires.
		return err == nil && slices.Contains(firing, "TokenBrokerCredentialRejected")
	}, patience, 100*time.Millisecond)
}

func TestServerDeliversTheEnginesEventsAndLogLines(t *testing.T) {
	m := enable(t, "told")
	m.write("config/kensho/prod", m.kensho())
	// logged returns the first line of the mount with a text; "" if there is none.
	logged := func(text string) string {
		for line := range strings.Lines(w.log.String()) {
			if strings.Contains(line, text) && strings.Contains(line, " mount=told/ ") {
				return line
			}
		}
		return ""
	}
	require.Eventually(t, func() bool { return logged("exchange succeeded: ") != "" }, patience, 50*time.Millisecond)
	assert.Contains(t, logged("exchange succeeded: "), "[INFO]")
	notTaken := func() bool { return logged("cannot send an event") != "" }
	if w.server.IsOpenBao { // OpenBao has no events; the engine logs that only at debug level
		require.Eventually(t, notTaken, patience, 50*time.Millisecond)
		assert.Contains(t, logged("cannot send an event"), "[DEBUG]")
		return
	}
	assert.Never(t, notTaken, 2*time.Second, 50*time.Millisecond)
}

// promtool runs promtool, and fails the test if it reports an error.
func promtool(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "promtool", args...)
	cmd.Dir = dir
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, string(output))
}

func TestPrometheusExamplesAreValid(t *testing.T) {
	dir := prometheusFiles(t, "token", strings.NewReplacer())
	promtool(t, dir, "check", "config", "prometheus.yml") // includes the rule files
	promtool(t, dir, "test", "rules", "alerts_test.yml")

	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	content, err := os.ReadFile(filepath.Join(dir, "alerts.yml"))
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(content, &rules))
	var queries []string
	for _, rule := range rules.Groups[0].Rules {
		if !strings.HasPrefix(rule.Expr, "up{") { // a metric of Prometheus itself
			queries = append(queries, rule.Expr)
		}
	}
	requireExported(t, queries)
}

// panel is a panel of the dashboard.
type panel struct {
	Title   string
	Targets []struct{ Expr string }
}

// panels returns the panels of the dashboard, with a mount's name in their queries.
func panels(t *testing.T, mount string) []panel {
	t.Helper()
	var dashboard struct{ Panels []panel }
	content, err := os.ReadFile(dashboardFile)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(content, &dashboard))
	require.NotEmpty(t, dashboard.Panels)
	for _, panel := range dashboard.Panels {
		require.NotEmpty(t, panel.Targets, panel.Title)
		for i, target := range panel.Targets {
			panel.Targets[i].Expr = strings.NewReplacer("$__rate_interval", "5m", "$mount", mount).Replace(target.Expr)
		}
	}
	return dashboard.Panels
}

// assertPanelsHaveData asserts that the queries of each panel have an answer with a series, except
// for panels that show only failures.
func (p *prometheus) assertPanelsHaveData(mount string) {
	p.t.Helper()
	for _, panel := range panels(p.t, mount) {
		for _, target := range panel.Targets {
			assert.EventuallyWithT(p.t, func(t *assert.CollectT) {
				var data struct{ Result []any }
				require.NoError(t, p.ask("query?query="+url.QueryEscape(target.Expr), &data))
				if !strings.HasSuffix(target.Expr, "> 0") {
					assert.NotEmpty(t, data.Result)
				}
			}, patience, 100*time.Millisecond, "%s: %s", panel.Title, target.Expr)
		}
	}
}

func TestDashboardUsesExistingMetrics(t *testing.T) {
	type rule struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	var rules []rule
	var queries []string
	for _, panel := range panels(t, "kensho") {
		for _, target := range panel.Targets {
			rules, queries = append(rules, rule{"panel", target.Expr}), append(queries, target.Expr)
		}
	}
	file, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "panels", "rules": rules}}})
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "panels.yml"), file, 0o600))
	promtool(t, dir, "check", "rules", "--lint=none", "panels.yml")

	requireExported(t, queries)
}

var metricName = regexp.MustCompile(`\btokenbroker_\w+`)

// requireExported asserts that queries name metrics, and only metrics that the engine exports.
func requireExported(t *testing.T, queries []string) {
	t.Helper()
	engines := exported(t)
	for _, query := range queries {
		names := metricName.FindAllString(query, -1)
		require.NotEmpty(t, names, query)
		for _, name := range names {
			require.True(t, engines[strings.TrimSuffix(name, "_bucket")], "%s: the engine exports no %s", query, name)
		}
	}
}

// exported returns the names of the engine's metrics; those of counters end in _total.
func exported(t *testing.T) map[string]bool {
	t.Helper()
	m := enable(t, fmt.Sprintf("exported-%d", time.Now().UnixNano()))
	prod := m.kensho()
	prod["expires"] = "2999-12-31"
	m.write("hosts/"+m.base[strings.LastIndex(m.base, "/")+1:], map[string]any{"requests_per_second": 100}) // only such hosts have series
	m.write("config/kensho/prod", prod)
	m.creds("prod")
	search := m.sitecore()
	search["scope"] = "discover,event"
	m.write("config/sitecore/search", search)
	m.write("roles/events", map[string]any{"config": "search", "scope": "event"})
	m.creds("events")
	m.write("config/oauth2/person", map[string]any{
		"token_url": vendorsim.URL(m.base, vendorsim.OAuthTokenURL), "authorization_url": vendorsim.URL(m.base, vendorsim.OAuthAuthorizationURL), "client_id": clientID, "redirect_uri": "https://vault.example.com/v1/callback",
	})
	_, err := m.root.Logical().ReadWithContext(t.Context(), m.path+"/creds/person")
	require.ErrorContains(t, err, "no person has consented yet")
	names := exportedBy(t, m.root, m.path)
	maps.Copy(names, exportedByRotation(t))
	return names
}

// exportedByRotation returns the names of the metrics after a rotation, at a vendor that can be reached only by a
// proxy.
func exportedByRotation(t *testing.T) map[string]bool {
	t.Helper()
	sim := vendorsim.New()
	own := rotationWorld(t, vaultserver.StartDev, sim)
	vendor, fields := sim.AddRotating("entra/client_secret", "prod")
	fields["rotation_period"] = "90d"
	path := rotationMount + "/config/" + vendor + "/prod"
	_, err := own.root.Logical().WriteWithContext(t.Context(), path, fields)
	require.NoError(t, err)
	_, err = own.root.Logical().WriteWithContext(t.Context(), path+"/rotate", nil)
	require.NoError(t, err)
	_, err = own.root.Logical().ReadWithContext(t.Context(), rotationMount+"/creds/prod") // loads the credential
	require.NoError(t, err)
	return exportedBy(t, own.root, rotationMount)
}

// exportedBy returns the names of the metrics of a mount.
func exportedBy(t *testing.T, client *api.Client, mount string) map[string]bool {
	t.Helper()
	resp, err := client.Logical().ReadRawWithDataWithContext(t.Context(), mount+"/metrics", map[string][]string{"names": {"all"}})
	require.NoError(t, err)
	defer resp.Body.Close()
	assert.Equal(t, "application/openmetrics-text; version=1.0.0; charset=utf-8", resp.Header.Get("Content-Type"))
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	names := map[string]bool{}
	for _, family := range regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`).FindAllStringSubmatch(string(text), -1) {
		name := family[1]
		if family[2] == "counter" {
			name += "_total"
		}
		names[name] = true
	}
	require.NotEmpty(t, names)
	return names
}

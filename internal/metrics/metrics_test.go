package metrics

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/pacing"
)

// these are the statuses of some credentials.
func these(statuses map[string]*broker.Status) func() iter.Seq2[string, *broker.Status] {
	return func() iter.Seq2[string, *broker.Status] { return maps.All(statuses) }
}

func noHosts() []pacing.Status { return nil }

func TestGuarantee12CountingAReadAllocatesNothing(t *testing.T) {
	m := New([]string{"kensho"}, these(nil), noHosts)
	for _, outcome := range []broker.Outcome{broker.Cached, broker.Exchanged, broker.Stale} {
		assert.Zero(t, testing.AllocsPerRun(100, func() { m.Read(outcome) }))
	}
}

func TestAScopeMayHoldAnything(t *testing.T) {
	m := New(nil, these(map[string]*broker.Status{"prod": {Vendor: "oauth2", Scopes: map[string]broker.ScopeStatus{
		"https://v.example/a \"b\"\n\\c": {ExpireTime: time.Now().Add(-time.Hour)},
	}}}), noHosts)
	text, err := m.Text(true)
	require.NoError(t, err)
	assert.Contains(t, string(text), `{name="prod",scope="https://v.example/a \"b\"\n\\c",vendor="oauth2"} 0.0`)
}

func TestEveryMetricIsExplained(t *testing.T) {
	m := New([]string{"kensho"}, these(map[string]*broker.Status{"prod": {
		Vendor: "kensho", ExpireTime: time.Now(), CredentialExpireTime: time.Now(), SecretExpireTime: time.Now(), CanConsent: true, Scopes: map[string]broker.ScopeStatus{"narrow": {}},
	}}), func() []pacing.Status { return []pacing.Status{{Host: "kensho.com", RequestsPerSecond: 100}} })
	families, err := m.gatherer(true).Gather()
	require.NoError(t, err)
	require.Len(t, families, 23)
	for _, family := range families {
		assert.True(t, strings.HasPrefix(family.GetName(), "tokenbroker_"), family.GetName())
		assert.True(t, strings.HasSuffix(family.GetHelp(), "."), family.GetName())
	}
}

// Prometheus does not see an increase of a series that begins with it.
func TestTheRotationsOfACredentialThatRotatesStartAtZero(t *testing.T) {
	m := New([]string{"kensho"}, these(map[string]*broker.Status{
		"prod":  {Vendor: "entra", Rotation: &broker.RotationStatus{}},
		"batch": {Vendor: "oauth2", Rotation: &broker.RotationStatus{IsOfKeypair: true}},
		"other": {Vendor: "sitecore"},
	}), noHosts)
	var text []byte
	for range 2 { // the series are in the next scrape
		var err error
		text, err = m.Text(true)
		require.NoError(t, err)
	}
	series := []string{}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "tokenbroker_rotations_total{") {
			series = append(series, strings.TrimSpace(line))
		}
	}
	assert.ElementsMatch(t, []string{
		`tokenbroker_rotations_total{result="failed",vendor=""} 0.0`, `tokenbroker_rotations_total{result="success",vendor=""} 0.0`,
		`tokenbroker_rotations_total{result="failed",vendor="entra"} 0.0`, `tokenbroker_rotations_total{result="success",vendor="entra"} 0.0`,
	}, series)
}

func TestOnlyCredentialsThatNeedAttentionHaveSeries(t *testing.T) {
	soon, far, now := time.Now().Add(24*time.Hour), time.Now().Add(60*24*time.Hour), time.Now()
	failed := broker.Failure{Count: 1, Time: now}
	need := map[string]*broker.Status{
		"unusable": {IsUnusable: true}, "rejected": {Vendor: "okta", IsRejected: true}, "consent": {Vendor: "okta", NeedsConsent: true, CanConsent: true},
		"unsaved": {Vendor: "okta", StorageError: errors.New("disk full")}, "failing": {Vendor: "okta", OwnFailure: failed},
		"secret": {Vendor: "okta", SecretExpireTime: soon}, "unused": {Vendor: "okta", CredentialExpireTime: soon},
		"scope":   {Vendor: "okta", Scopes: map[string]broker.ScopeStatus{"write": {IsRejected: true}}},
		"rotates": {Vendor: "okta", Rotation: &broker.RotationStatus{Failures: 1}}, "overdue": {Vendor: "okta", Rotation: &broker.RotationStatus{OverdueSince: now.Add(-time.Minute)}},
	}
	statuses := map[string]*broker.Status{
		"fine":  {Vendor: "kensho", State: "ok", ExpireTime: soon, SecretExpireTime: far, CredentialExpireTime: far, CanConsent: true, Rotation: &broker.RotationStatus{OverdueSince: far}},
		"quiet": {Vendor: "kensho", State: "unused", Scopes: map[string]broker.ScopeStatus{"read": {ExpireTime: soon}}},
		"new":   {IsUnread: true},
	}
	maps.Copy(statuses, need)
	m := New([]string{"kensho"}, these(statuses), noHosts)
	text, err := m.Text(false)
	require.NoError(t, err)
	for name := range need {
		assert.Contains(t, string(text), fmt.Sprintf("name=%q", name))
	}
	for _, name := range []string{"fine", "quiet", "new"} {
		assert.NotContains(t, string(text), fmt.Sprintf("name=%q", name))
	}
	for _, total := range []string{`{state="ok",vendor="kensho"} 1.0`, `{state="unused",vendor="kensho"} 1.0`, `{state="unusable",vendor=""} 1.0`, `{state="unread",vendor=""} 1.0`} {
		assert.Contains(t, string(text), "tokenbroker_credentials"+total)
	}
	assert.Contains(t, string(text), `tokenbroker_first_secret_expires_in_seconds{vendor="kensho"} 5`)
	all, err := m.Text(true)
	require.NoError(t, err)
	assert.Contains(t, string(all), `name="fine"`)
}

func TestOnlyHostsThatNeedAttentionHaveSeries(t *testing.T) {
	m := New(nil, these(nil), func() []pacing.Status {
		return []pacing.Status{
			{Host: "a.example", DownSince: time.Now(), Unsent: 3},
			{Host: "b.example:8443", RequestsPerSecond: 97.5, Waiting: 12, Throttled: 7},
		}
	})
	text, err := m.Text(false)
	require.NoError(t, err)
	series := []string{}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "tokenbroker_host_") {
			series = append(series, strings.TrimSpace(line))
		}
	}
	assert.ElementsMatch(t, []string{
		`tokenbroker_host_down{host="a.example"} 1.0`, `tokenbroker_host_down{host="b.example:8443"} 0.0`,
		`tokenbroker_host_requests_per_second{host="b.example:8443"} 97.5`,
		`tokenbroker_host_waiting_requests{host="a.example"} 0.0`, `tokenbroker_host_waiting_requests{host="b.example:8443"} 12.0`,
		`tokenbroker_host_throttled_requests_total{host="a.example"} 0.0`, `tokenbroker_host_throttled_requests_total{host="b.example:8443"} 7.0`,
		`tokenbroker_host_unsent_requests_total{host="a.example"} 3.0`, `tokenbroker_host_unsent_requests_total{host="b.example:8443"} 0.0`,
	}, series)
}

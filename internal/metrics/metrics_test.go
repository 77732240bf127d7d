package metrics

import (
	"iter"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/broker"
)

// these are the statuses of some credentials.
func these(statuses map[string]*broker.Status) func() iter.Seq2[string, *broker.Status] {
	return func() iter.Seq2[string, *broker.Status] { return maps.All(statuses) }
}

func TestGuarantee12CountingAReadAllocatesNothing(t *testing.T) {
	m := New([]string{"kensho"}, these(nil))
	for _, outcome := range []broker.Outcome{broker.Cached, broker.Exchanged, broker.Stale} {
		assert.Zero(t, testing.AllocsPerRun(100, func() { m.Read(outcome) }))
	}
}

func TestAScopeMayHoldAnything(t *testing.T) {
	m := New(nil, these(map[string]*broker.Status{"prod": {Vendor: "oauth2", Scopes: map[string]broker.ScopeStatus{
		"https://v.example/a \"b\"\n\\c": {ExpireTime: time.Now().Add(-time.Hour)},
	}}}))
	text, err := m.Text()
	require.NoError(t, err)
	assert.Contains(t, string(text), `{name="prod",scope="https://v.example/a \"b\"\n\\c",vendor="oauth2"} 0.0`)
}

func TestEveryMetricIsExplained(t *testing.T) {
	m := New([]string{"kensho"}, these(map[string]*broker.Status{"prod": {
		Vendor: "kensho", ExpireTime: time.Now(), CredentialExpireTime: time.Now(), SecretExpireTime: time.Now(), CanConsent: true, Scopes: map[string]broker.ScopeStatus{"narrow": {}},
	}}))
	families, err := m.registry.Gather()
	require.NoError(t, err)
	require.Len(t, families, 15)
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
	}))
	var text []byte
	for range 2 { // the series are in the next scrape
		var err error
		text, err = m.Text()
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

package metrics

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/broker"
)

func none() map[string]*broker.Status { return nil }

func TestPromise12CountingAReadAllocatesNothing(t *testing.T) {
	m := New([]string{"kensho"}, none)
	for _, outcome := range []broker.Outcome{broker.Cached, broker.Exchanged, broker.Stale} {
		assert.Zero(t, testing.AllocsPerRun(100, func() { m.Read(outcome) }))
	}
}

func TestAScopeMayHoldAnything(t *testing.T) {
	m := New(nil, func() map[string]*broker.Status {
		return map[string]*broker.Status{"prod": {Provider: "oauth2", Scopes: map[string]broker.ScopeStatus{
			"https://v.example/a \"b\"\n\\c": {ExpireTime: time.Now().Add(-time.Hour)},
		}}}
	})
	text, err := m.Text()
	require.NoError(t, err)
	assert.Contains(t, string(text), `{name="prod",provider="oauth2",scope="https://v.example/a \"b\"\n\\c"} 0.0`)
}

func TestEveryMetricIsExplained(t *testing.T) {
	m := New([]string{"kensho"}, func() map[string]*broker.Status {
		return map[string]*broker.Status{"prod": {Provider: "kensho", ExpireTime: time.Now(), CredentialExpireTime: time.Now()}}
	})
	families, err := m.registry.Gather()
	require.NoError(t, err)
	require.Len(t, families, 9)
	for _, family := range families {
		assert.True(t, strings.HasPrefix(family.GetName(), "tokenbroker_"), family.GetName())
		assert.True(t, strings.HasSuffix(family.GetHelp(), "."), family.GetName())
	}
}

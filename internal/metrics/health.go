package metrics

import (
	"iter"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"vault-plugin-secrets-tokenbroker/internal/broker"
)

var (
	tokenExpiry = prometheus.NewDesc("tokenbroker_token_expires_in_seconds",
		"How long the cached token is good for yet, by the scope of the roles that it is for (empty: the credential's own); 0 once it is dead.",
		[]string{"name", "provider", "scope"}, nil)
	credentialExpiry = prometheus.NewDesc("tokenbroker_credential_expires_in_seconds",
		"How long until the credential dies if it stays unused, where that is known; 0 once it is dead.", byName, nil)
	secretExpiry = prometheus.NewDesc("tokenbroker_secret_expires_in_seconds",
		"Seconds until the secret expires at the vendor, by the date that the operator gave (the field expires); 0 once that has passed.", byName, nil)
	rejected = prometheus.NewDesc("tokenbroker_credential_rejected",
		"Whether nothing but a new credential will help (1): the vendor has rejected it, or it has expired, and no exchange has succeeded since.", byName, nil)
	scopeRejected = prometheus.NewDesc("tokenbroker_scope_rejected",
		"Whether nothing but another scope, or a new credential, will help (1): the vendor has rejected the scope of roles.",
		[]string{"name", "provider", "scope"}, nil)
	unusable = prometheus.NewDesc("tokenbroker_credential_unusable",
		"Whether the credential is damaged, of a newer version of the engine, or without its key pair (1).", []string{"name"}, nil)
	unsaved = prometheus.NewDesc("tokenbroker_unsaved",
		"Whether what the vendor last answered is in memory alone (1), as storage does not take it.", byName, nil)
	backoff = prometheus.NewDesc("tokenbroker_backoff_seconds",
		"How long the vendor is left alone yet, after a failure.", byName, nil)
	failures = prometheus.NewDesc("tokenbroker_consecutive_failures",
		"Exchanges of the credential's own scope that have failed since the last that succeeded.", byName, nil)

	byName = []string{"name", "provider"}
)

// health is how each credential is doing at the time of a scrape. What has been deleted
// is gone at the next one.
type health func() iter.Seq2[string, *broker.Status]

// Describe is part of prometheus.Collector.
func (h health) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{tokenExpiry, credentialExpiry, secretExpiry, rejected, scopeRejected, unusable, unsaved, backoff, failures} {
		descs <- desc
	}
}

// Collect is part of prometheus.Collector.
func (h health) Collect(metrics chan<- prometheus.Metric) {
	now := time.Now()
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	until := func(desc *prometheus.Desc, t time.Time, labels ...string) {
		if !t.IsZero() {
			gauge(desc, max(0, t.Sub(now).Seconds()), labels...)
		}
	}
	for name, s := range h() {
		gauge(unusable, one(s.IsUnusable), name)
		if s.IsUnusable {
			continue
		}
		until(tokenExpiry, s.ExpireTime, name, s.Provider, "")
		for scope, of := range s.Scopes {
			until(tokenExpiry, of.ExpireTime, name, s.Provider, scope)
			gauge(scopeRejected, one(of.IsRejected), name, s.Provider, scope)
		}
		until(credentialExpiry, s.CredentialExpireTime, name, s.Provider)
		until(secretExpiry, s.SecretExpireTime, name, s.Provider)
		gauge(rejected, one(s.IsRejected), name, s.Provider)
		gauge(unsaved, one(s.StorageError != nil), name, s.Provider)
		gauge(backoff, max(0, s.OwnFailure.NextAttempt.Sub(now).Seconds()), name, s.Provider)
		gauge(failures, float64(s.OwnFailure.Count), name, s.Provider)
	}
}

func one(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

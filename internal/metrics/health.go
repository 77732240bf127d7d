package metrics

import (
	"iter"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"vault-plugin-secrets-tokenbroker/internal/broker"
)

var (
	tokenExpiry = prometheus.NewDesc("tokenbroker_token_expires_in_seconds",
		"Seconds until the cached token expires, by scope of the roles that use it (empty: the credential's own scope); 0 after expiry.",
		[]string{"name", "vendor", "scope"}, nil)
	credentialExpiry = prometheus.NewDesc("tokenbroker_credential_expires_in_seconds",
		"Seconds until the credential expires if it stays unused, where that is known; 0 after expiry.", byName, nil)
	secretExpiry = prometheus.NewDesc("tokenbroker_secret_expires_in_seconds",
		"Seconds until the secret expires at the vendor, as set in the field expires; 0 after expiry.", byName, nil)
	rejected = prometheus.NewDesc("tokenbroker_credential_rejected",
		"Whether the credential must be replaced (1): the vendor has rejected it or it has expired, and no exchange has succeeded since.", byName, nil)
	scopeRejected = prometheus.NewDesc("tokenbroker_scope_rejected",
		"Whether the vendor has rejected the scope of roles (1): change the scope or replace the credential.",
		[]string{"name", "vendor", "scope"}, nil)
	unusable = prometheus.NewDesc("tokenbroker_credential_unusable",
		"Whether the credential cannot be used (1): its entry is damaged or from a newer version of the engine, or its key pair is missing.", []string{"name"}, nil)
	consentRequired = prometheus.NewDesc("tokenbroker_consent_required",
		"Whether a person must consent (1): nobody has yet, the vendor has rejected the refresh token, or it expires within 14 days. Only where a consent is possible.", byName, nil)
	unsaved = prometheus.NewDesc("tokenbroker_unsaved",
		"Whether the result of the last exchange is only in memory (1), because storage does not accept it.", byName, nil)
	backoff = prometheus.NewDesc("tokenbroker_backoff_seconds",
		"Seconds until the engine may call the vendor again after a failed exchange; 0 if it is not backing off.", byName, nil)
	failures = prometheus.NewDesc("tokenbroker_consecutive_failures",
		"Failed exchanges since the last successful one, without those that concern only the scope of a role or a dedicated role.", byName, nil)

	rotationFailures = prometheus.NewDesc("tokenbroker_rotation_failures",
		"Failed attempts to rotate the secret of the credential since the last successful one. Only where there is a rotation.", byName, nil)
	rotationOverdue = prometheus.NewDesc("tokenbroker_rotation_overdue_seconds",
		"Seconds since the first time of the schedule after the last rotation, also outside of rotation_window; 0 before. Only where there is a schedule.", byName, nil)

	byName = []string{"name", "vendor"}
)

// health collects gauges from the status of each credential at the time of a scrape. A deleted
// credential has no series in the next scrape.
type health struct {
	statuses       func() iter.Seq2[string, *broker.Status]
	startSeries    func(vendor string)
	startRotations func(vendor string)
}

// Describe implements prometheus.Collector.
func (h *health) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{tokenExpiry, credentialExpiry, secretExpiry, rejected, scopeRejected, unusable, consentRequired, unsaved, backoff, failures, rotationFailures, rotationOverdue} {
		descs <- desc
	}
}

// Collect implements prometheus.Collector.
func (h *health) Collect(metrics chan<- prometheus.Metric) {
	now := time.Now()
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	until := func(desc *prometheus.Desc, t time.Time, labels ...string) {
		if !t.IsZero() {
			gauge(desc, max(0, t.Sub(now).Seconds()), labels...)
		}
	}
	started := map[string]bool{}
	for name, s := range h.statuses() {
		gauge(unusable, one(s.IsUnusable), name)
		if s.IsUnusable {
			continue
		}
		if !started[s.Vendor] {
			started[s.Vendor] = true
			h.startSeries(s.Vendor)
		}
		until(tokenExpiry, s.ExpireTime, name, s.Vendor, "")
		for scope, of := range s.Scopes {
			until(tokenExpiry, of.ExpireTime, name, s.Vendor, scope)
			gauge(scopeRejected, one(of.IsRejected), name, s.Vendor, scope)
		}
		until(credentialExpiry, s.CredentialExpireTime, name, s.Vendor)
		until(secretExpiry, s.SecretExpireTime, name, s.Vendor)
		gauge(rejected, one(s.IsRejected), name, s.Vendor)
		if s.CanConsent {
			gauge(consentRequired, one(s.NeedsConsent), name, s.Vendor)
		}
		gauge(unsaved, one(s.StorageError != nil), name, s.Vendor)
		gauge(backoff, max(0, s.OwnFailure.NextAttempt.Sub(now).Seconds()), name, s.Vendor)
		if r := s.Rotation; r != nil {
			if r.IsOfKeypair {
				h.startRotations("")
			} else {
				h.startRotations(s.Vendor)
			}
			gauge(rotationFailures, float64(r.Failures), name, s.Vendor)
			if !r.OverdueSince.IsZero() {
				gauge(rotationOverdue, max(0, now.Sub(r.OverdueSince).Seconds()), name, s.Vendor)
			}
		}
		gauge(failures, float64(s.OwnFailure.Count), name, s.Vendor)
	}
}

func one(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

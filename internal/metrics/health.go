package metrics

import (
	"iter"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"vault-plugin-secrets-tokenbroker/internal/broker"
)

var (
	credentials = prometheus.NewDesc("tokenbroker_credentials",
		"Number of credentials by vendor and state, as status/<name> has it; unusable and unread (neither has a vendor) if it has none.", []string{"vendor", "state"}, nil)
	firstCredentialExpiry = prometheus.NewDesc("tokenbroker_first_credential_expires_in_seconds",
		"Seconds until the first of a vendor's credentials expires if it stays unused, where that is known; 0 after expiry.", byVendor, nil)
	firstSecretExpiry = prometheus.NewDesc("tokenbroker_first_secret_expires_in_seconds",
		"Seconds until the first of the secrets of a vendor's credentials expires, where that is known; 0 after expiry.", byVendor, nil)

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

	byName   = []string{"name", "vendor"}
	byVendor = []string{"vendor"}
)

// health collects gauges from the status of each credential at the time of a scrape. A deleted
// credential has no series in the next scrape.
type health struct {
	statuses       func() iter.Seq2[string, *broker.Status]
	startSeries    func(vendor string)
	startRotations func(vendor string)

	// all is whether each credential has its own series, also one that needs no attention.
	all bool
}

// Describe implements prometheus.Collector.
func (h *health) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		credentials, firstCredentialExpiry, firstSecretExpiry,
		tokenExpiry, credentialExpiry, secretExpiry, rejected, scopeRejected, unusable, consentRequired, unsaved, backoff, failures, rotationFailures, rotationOverdue,
	} {
		descs <- desc
	}
}

// Collect implements prometheus.Collector.
func (h *health) Collect(metrics chan<- prometheus.Metric) {
	g := gauges{metrics, time.Now()}
	sums := newTotals()
	started, rotates := map[string]bool{}, map[string]bool{}
	for name, s := range h.statuses() {
		sums.add(s)
		if s.IsUnread {
			continue
		}
		if !s.IsUnusable && !started[s.Vendor] {
			started[s.Vendor] = true
			h.startSeries(s.Vendor)
		}
		if s.Rotation != nil {
			vendor := s.Vendor
			if s.Rotation.IsOfKeypair {
				vendor = ""
			}
			if !rotates[vendor] {
				rotates[vendor] = true
				h.startRotations(vendor)
			}
		}
		if h.all || needsAttention(s, g.now) {
			g.credential(name, s)
		}
	}
	g.totals(sums)
}

// needsAttention reports whether somebody must act for a credential, or soon will have to.
func needsAttention(s *broker.Status, now time.Time) bool {
	isSoon := func(t time.Time, horizon time.Duration) bool { return !t.IsZero() && t.Before(now.Add(horizon)) }
	switch {
	case s.IsUnusable, s.IsRejected, s.NeedsConsent, s.StorageError != nil, s.OwnFailure.Count > 0,
		isSoon(s.SecretExpireTime, broker.SecretHorizon), isSoon(s.CredentialExpireTime, broker.UnusedHorizon):
		return true
	}
	if r := s.Rotation; r != nil && (r.Failures > 0 || isSoon(r.OverdueSince, 0)) {
		return true
	}
	for _, of := range s.Scopes {
		if of.IsRejected || of.StorageError != nil {
			return true
		}
	}
	return false
}

// totals are the figures of all credentials.
type totals struct {
	counts      map[[2]string]int // by vendor and state
	unusedFirst map[string]time.Time
	secretFirst map[string]time.Time
}

func newTotals() totals {
	return totals{map[[2]string]int{}, map[string]time.Time{}, map[string]time.Time{}}
}

func (t totals) add(s *broker.Status) {
	state := s.State
	switch {
	case s.IsUnusable:
		state = "unusable"
	case s.IsUnread:
		state = "unread"
	case state == "": // of a consent that is only in memory
		state = "failed"
	}
	t.counts[[2]string{s.Vendor, state}]++
	noteFirst(t.unusedFirst, s.Vendor, s.CredentialExpireTime)
	noteFirst(t.secretFirst, s.Vendor, s.SecretExpireTime)
}

func noteFirst(first map[string]time.Time, vendor string, t time.Time) {
	if last, has := first[vendor]; !t.IsZero() && (!has || t.Before(last)) {
		first[vendor] = t
	}
}

// gauges sends gauges as of now.
type gauges struct {
	metrics chan<- prometheus.Metric
	now     time.Time
}

func (g gauges) set(desc *prometheus.Desc, value float64, labels ...string) {
	g.metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
}

func (g gauges) until(desc *prometheus.Desc, t time.Time, labels ...string) {
	if !t.IsZero() {
		g.set(desc, max(0, t.Sub(g.now).Seconds()), labels...)
	}
}

func (g gauges) totals(t totals) {
	for of, n := range t.counts {
		g.set(credentials, float64(n), of[0], of[1])
	}
	for vendor, first := range t.unusedFirst {
		g.until(firstCredentialExpiry, first, vendor)
	}
	for vendor, first := range t.secretFirst {
		g.until(firstSecretExpiry, first, vendor)
	}
}

func (g gauges) credential(name string, s *broker.Status) {
	g.set(unusable, one(s.IsUnusable), name)
	if s.IsUnusable {
		return
	}
	g.until(tokenExpiry, s.ExpireTime, name, s.Vendor, "")
	for scope, of := range s.Scopes {
		g.until(tokenExpiry, of.ExpireTime, name, s.Vendor, scope)
		g.set(scopeRejected, one(of.IsRejected), name, s.Vendor, scope)
	}
	g.until(credentialExpiry, s.CredentialExpireTime, name, s.Vendor)
	g.until(secretExpiry, s.SecretExpireTime, name, s.Vendor)
	g.set(rejected, one(s.IsRejected), name, s.Vendor)
	if s.CanConsent {
		g.set(consentRequired, one(s.NeedsConsent), name, s.Vendor)
	}
	g.set(unsaved, one(s.StorageError != nil), name, s.Vendor)
	g.set(backoff, max(0, s.OwnFailure.NextAttempt.Sub(g.now).Seconds()), name, s.Vendor)
	if r := s.Rotation; r != nil {
		g.set(rotationFailures, float64(r.Failures), name, s.Vendor)
		if !r.OverdueSince.IsZero() {
			g.set(rotationOverdue, max(0, g.now.Sub(r.OverdueSince).Seconds()), name, s.Vendor)
		}
	}
	g.set(failures, float64(s.OwnFailure.Count), name, s.Vendor)
}

func one(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// Package metrics provides the Prometheus metrics of one mount. Label values are names and scopes
// that an operator chose, or constants.
package metrics

import (
	"bytes"
	"iter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/pacing"
	"vault-plugin-secrets-tokenbroker/provider"
)

// ContentType returns the media type of Text: OpenMetrics 1.0.
func ContentType() string { return string(openMetrics) }

var openMetrics = expfmt.NewFormat(expfmt.TypeOpenMetrics)

// Metrics holds the metrics of one mount. They have their own registry, as several mounts share a
// process. Metrics is safe for concurrent use.
type Metrics struct {
	registry  *prometheus.Registry
	health    health
	exchanges *prometheus.CounterVec
	durations *prometheus.HistogramVec
	sweeps    prometheus.Histogram
	consents  *prometheus.CounterVec
	rotations *prometheus.CounterVec

	// The counters of reads are looked up once, so that counting a read costs next to nothing.
	// reads is indexed by broker.Outcome.
	reads       [broker.Stale + 1]prometheus.Counter
	readsFailed prometheus.Counter
}

// New returns the metrics of an engine with the given vendors, and any others that a status
// names. statuses yields the status of each credential by name, and limited returns the hosts that need
// attention; each call of Text calls them. It may change a status that it has yielded.
func New(vendors []string, statuses func() iter.Seq2[string, *broker.Status], limited func() []pacing.Status) *Metrics {
	reads := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tokenbroker_reads_total",
		Help: "Token reads by result: cached, exchanged (waited for the vendor), stale (a valid token whose renewal failed or is slow), failed (not counting invalid requests).",
	}, []string{"result"})
	m := &Metrics{
		registry: prometheus.NewPedanticRegistry(),
		exchanges: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tokenbroker_exchanges_total",
			Help: "Exchanges of credentials for tokens by result: success, rejected, expired, unavailable (temporary), invalid_response, refused (a caller's token at exchange/).",
		}, []string{"vendor", "result"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tokenbroker_exchange_duration_seconds",
			Help:    "Duration of exchanges in seconds, with any result.",
			Buckets: []float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"vendor"}),
		sweeps: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "tokenbroker_sweep_duration_seconds",
			Help:    "Duration of sweeps in seconds. A sweep renews tokens in the background, once a minute for at most 30 seconds.",
			Buckets: []float64{0.01, 0.1, 0.5, 1, 5, 10, 20, 30, 35}, // a sweep may overrun its deadline a little
		}),
		consents: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tokenbroker_consents_total",
			Help: "Returns of browsers from a person's consent by result: connected, refused (by the person or the vendor), failed (the vendor did not exchange the code), no_token (the refresh token is stored, but the vendor issues no usable token), unavailable (the vendor; the browser can return again), unsaved, busy, changed, expired, used (twice), unknown (a guess, or a link of long ago), storage.",
		}, []string{"result"}),
		rotations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tokenbroker_rotations_total",
			Help: "Rotations of secrets at their vendors, and of key pairs (vendor is empty), by result: success, failed.",
		}, []string{"vendor", "result"}),
		reads: [...]prometheus.Counter{
			broker.Cached:    reads.WithLabelValues("cached"),
			broker.Exchanged: reads.WithLabelValues("exchanged"),
			broker.Stale:     reads.WithLabelValues("stale"),
		},
		readsFailed: reads.WithLabelValues("failed"),
	}
	for _, vendor := range vendors {
		m.startSeries(vendor)
	}
	for _, result := range []string{"connected", "refused", "failed", "no_token", "unavailable", "unsaved", "busy", "changed", "expired", "used", "unknown", "storage"} {
		m.consents.WithLabelValues(result)
	}
	m.health = health{statuses: statuses, startSeries: m.startSeries, startRotations: m.startRotations}
	m.registry.MustRegister(m.exchanges, m.durations, m.sweeps, m.consents, m.rotations, reads, hosts{limited})
	return m
}

// ConsentEnded counts the return of a browser from a person's consent.
func (m *Metrics) ConsentEnded(result string) { m.consents.WithLabelValues(result).Inc() }

// Rotated counts a rotation of a secret of a vendor, or of a key pair if vendor is "".
func (m *Metrics) Rotated(vendor string, isSuccess bool) {
	m.startRotations(vendor)
	result := rotationFailed
	if isSuccess {
		result = broker.Success
	}
	m.rotations.WithLabelValues(vendor, result).Inc()
}

const rotationFailed = "failed"

// startRotations is startSeries for the rotations of a vendor's secrets, or of key pairs if vendor is "".
func (m *Metrics) startRotations(vendor string) {
	m.rotations.WithLabelValues(vendor, broker.Success)
	m.rotations.WithLabelValues(vendor, rotationFailed)
}

// startSeries starts the series of a vendor's exchanges at zero, so that Prometheus sees the first
// increase.
func (m *Metrics) startSeries(vendor string) {
	m.exchanges.WithLabelValues(vendor, broker.Success)
	m.exchanges.WithLabelValues(vendor, broker.Refused)
	for _, kind := range []provider.Kind{provider.Rejected, provider.Expired, provider.Unavailable, provider.InvalidResponse} {
		m.exchanges.WithLabelValues(vendor, kind.String())
	}
	m.durations.WithLabelValues(vendor)
}

// Exchanged counts an exchange.
func (m *Metrics) Exchanged(x broker.Exchange) {
	m.startSeries(x.Vendor)
	m.exchanges.WithLabelValues(x.Vendor, x.Result()).Inc()
	m.durations.WithLabelValues(x.Vendor).Observe(x.Duration.Seconds())
}

// Read counts a read that returned a token.
func (m *Metrics) Read(o broker.Outcome) { m.reads[o].Inc() }

// ReadFailed counts a read that returned no token.
func (m *Metrics) ReadFailed() { m.readsFailed.Inc() }

// Swept counts a sweep and its duration.
func (m *Metrics) Swept(took time.Duration) { m.sweeps.Observe(took.Seconds()) }

// Text returns the current metrics in the format of ContentType. Credentials that need no attention
// have their own series only with all.
func (m *Metrics) Text(all bool) ([]byte, error) {
	families, err := m.gatherer(all).Gather()
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	encoder := expfmt.NewEncoder(&text, openMetrics)
	for _, family := range families {
		if err := encoder.Encode(family); err != nil {
			return nil, err
		}
	}
	if closer, ok := encoder.(expfmt.Closer); ok {
		err = closer.Close() // writes the EOF marker
	}
	return text.Bytes(), err
}

func (m *Metrics) gatherer(all bool) prometheus.Gatherer {
	of := m.health
	of.all = all
	gauges := prometheus.NewPedanticRegistry()
	gauges.MustRegister(&of)
	return prometheus.Gatherers{gauges, m.registry}
}

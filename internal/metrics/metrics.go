// Package metrics is what an engine tells Prometheus of itself. No label holds anything
// but names that an operator chose, and a few words of ours.
package metrics

import (
	"bytes"
	"iter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

// ContentType is that of Text: OpenMetrics 1.0.
func ContentType() string { return string(openMetrics) }

var openMetrics = expfmt.NewFormat(expfmt.TypeOpenMetrics)

// Metrics are those of one mount, in a registry of their own: many mounts share a process.
type Metrics struct {
	registry  *prometheus.Registry
	exchanges *prometheus.CounterVec
	durations *prometheus.HistogramVec
	sweeps    prometheus.Histogram

	// Counting a read is to cost nothing that can be measured, so that its counters are
	// looked up once: by outcome, and of those that failed.
	reads       [broker.Stale + 1]prometheus.Counter
	readsFailed prometheus.Counter
}

// New makes the metrics of an engine with some providers, of which statuses tells how the
// credentials are doing.
func New(providers []string, statuses func() iter.Seq2[string, *broker.Status]) *Metrics {
	reads := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tokenbroker_reads_total",
		Help: "Reads of tokens, by result: cached, exchanged (it waited for the vendor), stale (a good token, when there ought to be a fresher one), failed (for another reason than the reader's).",
	}, []string{"result"})
	m := &Metrics{
		registry: prometheus.NewPedanticRegistry(),
		exchanges: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tokenbroker_exchanges_total",
			Help: "Exchanges of credentials for tokens, by result: success, rejected, expired, unavailable (it passes by itself), invalid_response.",
		}, []string{"provider", "result"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tokenbroker_exchange_duration_seconds",
			Help:    "How long exchanges took, whatever their result.",
			Buckets: []float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"provider"}),
		sweeps: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "tokenbroker_sweep_duration_seconds",
			Help:    "How long sweeps took, which renew in the background what is due; there is one a minute, of 30 seconds at the most.",
			Buckets: []float64{0.01, 0.1, 0.5, 1, 5, 10, 20, 30, 35}, // it may end a little late
		}),
		reads: [...]prometheus.Counter{
			broker.Cached:    reads.WithLabelValues("cached"),
			broker.Exchanged: reads.WithLabelValues("exchanged"),
			broker.Stale:     reads.WithLabelValues("stale"),
		},
		readsFailed: reads.WithLabelValues("failed"),
	}
	// From zero on, so that Prometheus sees the first one, too.
	for _, name := range providers {
		m.exchanges.WithLabelValues(name, broker.Success)
		for _, kind := range []provider.Kind{provider.Rejected, provider.Expired, provider.Unavailable, provider.InvalidResponse} {
			m.exchanges.WithLabelValues(name, kind.String())
		}
		m.durations.WithLabelValues(name)
	}
	m.registry.MustRegister(m.exchanges, m.durations, m.sweeps, reads, health(statuses))
	return m
}

// Exchanged counts an exchange.
func (m *Metrics) Exchanged(x broker.Exchange) {
	m.exchanges.WithLabelValues(x.Provider, x.Result()).Inc()
	m.durations.WithLabelValues(x.Provider).Observe(x.Duration.Seconds())
}

// Read counts a read that yielded a token.
func (m *Metrics) Read(o broker.Outcome) { m.reads[o].Inc() }

// ReadFailed counts one that did not.
func (m *Metrics) ReadFailed() { m.readsFailed.Inc() }

// Swept counts a sweep.
func (m *Metrics) Swept(took time.Duration) { m.sweeps.Observe(took.Seconds()) }

// Text is all of them, as they are now.
func (m *Metrics) Text() ([]byte, error) {
	families, err := m.registry.Gather()
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
		err = closer.Close() // which says that nothing is missing
	}
	return text.Bytes(), err
}

package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"vault-plugin-secrets-tokenbroker/internal/pacing"
)

var (
	hostDown = prometheus.NewDesc("tokenbroker_host_down",
		"Whether the host of a vendor does not answer (1). It then gets one request at a time.", byHost, nil)
	hostLimit = prometheus.NewDesc("tokenbroker_host_requests_per_second",
		"The limit of the requests to the host, as it is stated or learned. Only where one is known.", byHost, nil)
	hostWaiting = prometheus.NewDesc("tokenbroker_host_waiting_requests",
		"Requests to the host that wait for their turn.", byHost, nil)
	hostThrottled = prometheus.NewDesc("tokenbroker_host_throttled_requests_total",
		"Requests that the host has turned away with status 429.", byHost, nil)
	hostUnsent = prometheus.NewDesc("tokenbroker_host_unsent_requests_total",
		"Requests that were not sent, because their turn would have come too late or the host was down.", byHost, nil)

	byHost = []string{"host"}
)

// hosts collects the state of the hosts that have a limit, have turned requests away or are down. All
// others have no series, as a mount may have a host for each credential.
type hosts struct{ limited func() []pacing.Status }

// Describe implements prometheus.Collector.
func (h hosts) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{hostDown, hostLimit, hostWaiting, hostThrottled, hostUnsent} {
		descs <- desc
	}
}

// Collect implements prometheus.Collector.
func (h hosts) Collect(metrics chan<- prometheus.Metric) {
	for _, s := range h.limited() {
		send := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64) {
			metrics <- prometheus.MustNewConstMetric(desc, kind, value, s.Host)
		}
		send(hostDown, prometheus.GaugeValue, one(s.IsDown()))
		if s.RequestsPerSecond > 0 {
			send(hostLimit, prometheus.GaugeValue, s.RequestsPerSecond)
		}
		send(hostWaiting, prometheus.GaugeValue, float64(s.Waiting))
		send(hostThrottled, prometheus.CounterValue, float64(s.Throttled))
		send(hostUnsent, prometheus.CounterValue, float64(s.Unsent))
	}
}

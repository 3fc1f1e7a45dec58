package apiserver

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count requests, under upstream's names.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inflight *prometheus.GaugeVec
	watches  *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_total", Help: "Requests by verb, resource and HTTP response code.",
		}, []string{"verb", "group", "version", "resource", "subresource", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_request_duration_seconds", Help: "Response latency by verb and resource.",
			Buckets: []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"verb", "group", "version", "resource", "subresource"}),
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_current_inflight_requests", Help: "Requests being served, by kind: readOnly or mutating.",
		}, []string{"request_kind"}),
		watches: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_longrunning_requests", Help: "Open watches and connections by verb and resource.",
		}, []string{"verb", "group", "version", "resource", "subresource"}),
	}
	if r != nil {
		r.MustRegister(m.requests, m.duration, m.inflight, m.watches)
	}
	return m
}

// begin counts a request as under way; the function that it returns counts it as done.
func (m *metrics) begin(rq *request) func(took time.Duration) {
	if rq.streams() {
		g := m.watches.WithLabelValues(rq.labels()...)
		g.Inc()
		return func(time.Duration) {
			g.Dec()
			m.count(rq)
		}
	}
	kind := "readOnly"
	if rq.r.Method != "GET" && rq.r.Method != "HEAD" {
		kind = "mutating"
	}
	g := m.inflight.WithLabelValues(kind)
	g.Inc()
	return func(took time.Duration) {
		g.Dec()
		m.count(rq)
		m.duration.WithLabelValues(rq.labels()...).Observe(took.Seconds())
	}
}

func (m *metrics) count(rq *request) {
	l := rq.labels()
	m.requests.WithLabelValues(append(l, strconv.Itoa(rq.code))...).Inc()
}

// labels name what is counted. Only what the table serves is named, so that no client can make up labels without end.
func (rq *request) labels() []string {
	if !rq.resourceRequest || rq.kind == nil || rq.served == nil {
		return []string{rq.method(), "", "", "", ""}
	}
	sub := ""
	if rq.sub != nil {
		sub = rq.sub.Name
	}
	return []string{rq.verb, rq.group, rq.version, rq.resource, sub}
}

// method is the request's method, if it is one of HTTP's.
func (rq *request) method() string {
	switch rq.r.Method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS":
		return rq.verb
	}
	return "other"
}

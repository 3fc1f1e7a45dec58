package ingress

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts requests.
type metrics struct {
	requests *prometheus.CounterVec
	duration prometheus.Histogram
}

// newMetrics makes the metrics and registers them, when there is somebody to register them with.
func newMetrics(r prometheus.Registerer, t *transports) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keb_ingress_requests_total", Help: "Requests that the ingress answered, by status code.",
		}, []string{"code"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "keb_ingress_request_duration_seconds", Help: "Time from a request's head to the end of its answer.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}),
	}
	if r == nil {
		return m, nil
	}
	retries := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "keb_ingress_retries_total", Help: "Requests that went to another endpoint as one could not be connected to.",
	}, func() float64 { return float64(t.retries.Load()) })
	if err := errors.Join(r.Register(m.requests), r.Register(m.duration), r.Register(retries)); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return m, nil
}

func (m *metrics) observe(code int, took time.Duration) {
	m.requests.WithLabelValues(strconv.Itoa(code)).Inc()
	m.duration.Observe(took.Seconds())
}

package usage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// resourcePath is where a kubelet tells what is used, in Prometheus' text format
// (https://kubernetes.io/docs/reference/instrumentation/metrics/). Unlike /stats/summary it stamps its values to the millisecond.
const resourcePath = "/metrics/resource"

// maxAnswer bounds what is read of a node's answer: some hundred bytes for each container.
const maxAnswer = 4 << 20

// sample is what a node told at one time.
type sample struct {
	at   time.Time // by this machine's clock; all others are by the node's
	node *counters // nil when the node does not tell
	pods map[podName]map[string]*counters
}

type podName struct{ namespace, name string }

// counters are what something has used since it began.
type counters struct {
	at      time.Time
	started time.Time // zero when not told
	cpu     float64   // seconds
	memory  float64   // bytes of the working set
}

// sample asks a node. A proxy to a node that breaks off its answer aborts by a panic, which ends here.
func (m *Meter) sample(ctx context.Context, node string) (s *sample, err error) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			s, err = nil, fmt.Errorf("%s: the node broke off its answer", resourcePath)
		default:
			panic(p)
		}
	}()
	handler, err := m.Nodes.Node(node)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, resourcePath, nil)
	if err != nil {
		return nil, err
	}
	w := &answer{header: http.Header{}, code: http.StatusOK}
	handler.ServeHTTP(w, r)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case w.err != nil:
		return nil, w.err
	case w.code != http.StatusOK:
		return nil, fmt.Errorf("%s: status %d: %.200s", resourcePath, w.code, w.body.Bytes())
	}
	if s, err = parse(&w.body); err != nil {
		return nil, fmt.Errorf("read %s: %w", resourcePath, err)
	}
	s.at = time.Now()
	return s, nil
}

// answer gathers what a handler answers.
type answer struct {
	header http.Header
	code   int
	body   bytes.Buffer
	err    error
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(code int) { a.code = code }

func (a *answer) Write(p []byte) (int, error) {
	if a.body.Len()+len(p) > maxAnswer {
		a.err = errors.New("the answer is too long")
		return 0, a.err
	}
	return a.body.Write(p)
}

// parse reads a node's answer. Values without a time, or with the container's label missing, are of no use and left out.
func parse(in *bytes.Buffer) (*sample, error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(in)
	if err != nil {
		return nil, err
	}
	s := &sample{pods: map[podName]map[string]*counters{}}
	for _, v := range families["container_cpu_usage_seconds_total"].GetMetric() {
		if c := s.container(v, true); c != nil {
			c.cpu, c.at = v.GetCounter().GetValue(), time.UnixMilli(v.GetTimestampMs())
		}
	}
	for _, v := range families["container_memory_working_set_bytes"].GetMetric() {
		if c := s.container(v, false); c != nil {
			c.memory = v.GetGauge().GetValue()
		}
	}
	for _, v := range families["container_start_time_seconds"].GetMetric() {
		if c := s.container(v, false); c != nil {
			c.started = time.UnixMicro(int64(v.GetGauge().GetValue() * 1e6))
		}
	}
	cpu, memory := families["node_cpu_usage_seconds_total"].GetMetric(), families["node_memory_working_set_bytes"].GetMetric()
	if len(cpu) > 0 && len(memory) > 0 && cpu[0].TimestampMs != nil {
		s.node = &counters{at: time.UnixMilli(cpu[0].GetTimestampMs()), cpu: cpu[0].GetCounter().GetValue(), memory: memory[0].GetGauge().GetValue()}
	}
	return s, nil
}

// container returns the counters of the container that a value is about, nil when there are none. With add there are.
func (s *sample) container(v *dto.Metric, add bool) *counters {
	var pod podName
	var container string
	for _, l := range v.GetLabel() {
		switch l.GetName() {
		case "namespace":
			pod.namespace = l.GetValue()
		case "pod":
			pod.name = l.GetValue()
		case "container":
			container = l.GetValue()
		}
	}
	if !add {
		return s.pods[pod][container]
	}
	if container == "" || pod.name == "" || v.TimestampMs == nil {
		return nil
	}
	if s.pods[pod] == nil {
		s.pods[pod] = map[string]*counters{}
	}
	c := &counters{}
	s.pods[pod][container] = c
	return c
}

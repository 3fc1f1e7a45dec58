package nodeapi

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// summary answers with what the runtime measured of every pod, in the kubelet's format (k8s.io/kubelet stats/v1alpha1).
func (a *API) summary(w http.ResponseWriter, r *http.Request) {
	pods, err := a.podStats(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	node := stats.NodeStats{NodeName: a.NodeName}
	if cpu, memory, ok := a.machine(); ok {
		now, nanoseconds, bytes := metav1.Now(), uint64(cpu), uint64(memory)
		node.CPU = &stats.CPUStats{Time: now, UsageCoreNanoSeconds: &nanoseconds}
		node.Memory = &stats.MemoryStats{Time: now, WorkingSetBytes: &bytes}
	}
	answer(w, stats.Summary{Node: node, Pods: pods})
}

// machine is what the machine has used. When that cannot be told, what the pods use still can.
func (a *API) machine() (cpu time.Duration, memory int64, ok bool) {
	if a.Machine == nil {
		return 0, 0, false
	}
	cpu, memory, err := a.Machine()
	if err != nil {
		a.Logger.Debug("measure the machine", "err", err)
	}
	return cpu, memory, err == nil
}

func (a *API) podStats(ctx context.Context) ([]stats.PodStats, error) {
	sandboxes, err := a.Runtime.ListPodSandboxStats(ctx, nil)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("measure pods: %w", err))
	}
	containers, err := a.Runtime.ListContainers(ctx, nil)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("measure pods: %w", err))
	}
	created := make(map[string]int64, len(containers))
	for _, c := range containers {
		created[c.Id] = c.CreatedAt
	}
	out := make([]stats.PodStats, 0, len(sandboxes))
	for _, s := range sandboxes {
		meta := s.Attributes.GetMetadata()
		pod := stats.PodStats{PodRef: stats.PodReference{Name: meta.GetName(), Namespace: meta.GetNamespace(), UID: meta.GetUid()}}
		if l := s.Linux; l != nil {
			pod.CPU, pod.Memory, pod.Network = cpuStats(l.Cpu), memoryStats(l.Memory), networkStats(l.Network)
			for _, c := range l.Containers {
				one := stats.ContainerStats{Name: c.Attributes.GetMetadata().GetName(), CPU: cpuStats(c.Cpu), Memory: memoryStats(c.Memory)}
				if began := created[c.Attributes.GetId()]; began > 0 {
					one.StartTime = at(began)
				}
				pod.Containers = append(pod.Containers, one)
			}
		}
		out = append(out, pod)
	}
	return out, nil
}

func cpuStats(c *rt.CpuUsage) *stats.CPUStats {
	if c == nil {
		return nil
	}
	return &stats.CPUStats{Time: at(c.Timestamp), UsageNanoCores: number(c.UsageNanoCores), UsageCoreNanoSeconds: number(c.UsageCoreNanoSeconds)}
}

func memoryStats(m *rt.MemoryUsage) *stats.MemoryStats {
	if m == nil {
		return nil
	}
	return &stats.MemoryStats{
		Time: at(m.Timestamp), AvailableBytes: number(m.AvailableBytes), UsageBytes: number(m.UsageBytes),
		WorkingSetBytes: number(m.WorkingSetBytes), RSSBytes: number(m.RssBytes),
		PageFaults: number(m.PageFaults), MajorPageFaults: number(m.MajorPageFaults),
	}
}

func networkStats(n *rt.NetworkUsage) *stats.NetworkStats {
	if n == nil || n.DefaultInterface == nil {
		return nil
	}
	i := n.DefaultInterface
	return &stats.NetworkStats{Time: at(n.Timestamp), InterfaceStats: stats.InterfaceStats{
		Name: i.Name, RxBytes: number(i.RxBytes), RxErrors: number(i.RxErrors), TxBytes: number(i.TxBytes), TxErrors: number(i.TxErrors),
	}}
}

func at(nanos int64) metav1.Time { return metav1.NewTime(time.Unix(0, nanos)) }

func number(v *rt.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	return &v.Value
}

// resourceMetrics answers in Prometheus' text format with the kubelet's stable resource metrics
// (https://kubernetes.io/docs/reference/instrumentation/metrics/: container_cpu_usage_seconds_total and its siblings). Each value
// has the time in milliseconds at which it was measured, so that rates of them are exact.
func (a *API) resourceMetrics(w http.ResponseWriter, r *http.Request) {
	pods, err := a.podStats(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	var out exposition
	if cpu, memory, ok := a.machine(); ok {
		now := time.Now()
		out.begin("node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds")
		out.add("", cpu.Seconds(), now)
		out.begin("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes")
		out.add("", float64(memory), now)
	}
	containers := func(value func(labels string, c *stats.ContainerStats)) {
		for i := range pods {
			for j := range pods[i].Containers {
				c := &pods[i].Containers[j]
				value(fmt.Sprintf("{container=%q,namespace=%q,pod=%q}", c.Name, pods[i].PodRef.Namespace, pods[i].PodRef.Name), c)
			}
		}
	}
	out.begin("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the container in core-seconds")
	containers(func(labels string, c *stats.ContainerStats) { out.cpu(labels, c.CPU) })
	out.begin("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes")
	containers(func(labels string, c *stats.ContainerStats) { out.memory(labels, c.Memory) })
	out.begin("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds")
	containers(func(labels string, c *stats.ContainerStats) {
		if !c.StartTime.IsZero() {
			out.add(labels, float64(c.StartTime.UnixNano())/1e9, time.Time{})
		}
	})
	out.begin("pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds")
	for _, p := range pods {
		out.cpu(fmt.Sprintf("{namespace=%q,pod=%q}", p.PodRef.Namespace, p.PodRef.Name), p.CPU)
	}
	out.begin("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes")
	for _, p := range pods {
		out.memory(fmt.Sprintf("{namespace=%q,pod=%q}", p.PodRef.Namespace, p.PodRef.Name), p.Memory)
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(out.text) // the client that left is nobody's error
}

// exposition is a text in Prometheus' format.
type exposition struct {
	text []byte
	name string // of the values that follow
}

// begin starts the values of a name.
func (e *exposition) begin(name, kind, help string) {
	e.name = name
	e.text = fmt.Appendf(e.text, "# HELP %s [STABLE] %s\n# TYPE %s %s\n", name, help, name, kind)
}

// add appends a value; a zero time is left out.
func (e *exposition) add(labels string, value float64, at time.Time) {
	e.text = append(append(append(e.text, e.name...), labels...), ' ')
	e.text = strconv.AppendFloat(e.text, value, 'g', -1, 64)
	if !at.IsZero() {
		e.text = strconv.AppendInt(append(e.text, ' '), at.UnixMilli(), 10)
	}
	e.text = append(e.text, '\n')
}

func (e *exposition) cpu(labels string, c *stats.CPUStats) {
	if c != nil && c.UsageCoreNanoSeconds != nil {
		e.add(labels, float64(*c.UsageCoreNanoSeconds)/1e9, c.Time.Time)
	}
}

func (e *exposition) memory(labels string, m *stats.MemoryStats) {
	if m != nil && m.WorkingSetBytes != nil {
		e.add(labels, float64(*m.WorkingSetBytes), m.Time.Time)
	}
}

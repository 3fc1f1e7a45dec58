package nodeapi

import (
	"context"
	"fmt"
	"net/http"
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
	answer(w, stats.Summary{Node: stats.NodeStats{NodeName: a.NodeName}, Pods: pods})
}

func (a *API) podStats(ctx context.Context) ([]stats.PodStats, error) {
	sandboxes, err := a.Runtime.ListPodSandboxStats(ctx, nil)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("measure pods: %w", err))
	}
	out := make([]stats.PodStats, 0, len(sandboxes))
	for _, s := range sandboxes {
		meta := s.Attributes.GetMetadata()
		pod := stats.PodStats{PodRef: stats.PodReference{Name: meta.GetName(), Namespace: meta.GetNamespace(), UID: meta.GetUid()}}
		if l := s.Linux; l != nil {
			pod.CPU, pod.Memory, pod.Network = cpuStats(l.Cpu), memoryStats(l.Memory), networkStats(l.Network)
			for _, c := range l.Containers {
				pod.Containers = append(pod.Containers, stats.ContainerStats{
					Name: c.Attributes.GetMetadata().GetName(), CPU: cpuStats(c.Cpu), Memory: memoryStats(c.Memory),
				})
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
// (https://kubernetes.io/docs/reference/instrumentation/metrics/: container_cpu_usage_seconds_total and its siblings).
func (a *API) resourceMetrics(w http.ResponseWriter, r *http.Request) {
	pods, err := a.podStats(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	for _, m := range []struct {
		name, help, kind string
		value            func(*stats.CPUStats, *stats.MemoryStats) (float64, bool)
	}{
		{"cpu_usage_seconds_total", "Cumulative cpu time consumed in core-seconds", "counter", cpuSeconds},
		{"memory_working_set_bytes", "Current working set in bytes", "gauge", workingSet},
	} {
		fmt.Fprintf(w, "# HELP container_%s %s by the container\n# TYPE container_%s %s\n", m.name, m.help, m.name, m.kind)
		for _, p := range pods {
			for _, c := range p.Containers {
				if v, ok := m.value(c.CPU, c.Memory); ok {
					fmt.Fprintf(w, "container_%s{container=%q,namespace=%q,pod=%q} %g\n", m.name, c.Name, p.PodRef.Namespace, p.PodRef.Name, v)
				}
			}
		}
		fmt.Fprintf(w, "# HELP pod_%s %s by the pod\n# TYPE pod_%s %s\n", m.name, m.help, m.name, m.kind)
		for _, p := range pods {
			if v, ok := m.value(p.CPU, p.Memory); ok {
				fmt.Fprintf(w, "pod_%s{namespace=%q,pod=%q} %g\n", m.name, p.PodRef.Namespace, p.PodRef.Name, v)
			}
		}
	}
}

func cpuSeconds(c *stats.CPUStats, _ *stats.MemoryStats) (float64, bool) {
	if c == nil || c.UsageCoreNanoSeconds == nil {
		return 0, false
	}
	return float64(*c.UsageCoreNanoSeconds) / 1e9, true
}

func workingSet(_ *stats.CPUStats, m *stats.MemoryStats) (float64, bool) {
	if m == nil || m.WorkingSetBytes == nil {
		return 0, false
	}
	return float64(*m.WorkingSetBytes), true
}

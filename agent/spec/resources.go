package spec

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/agent/lifecycle"
)

// How CPU amounts become cgroup values: shares of 1024 per CPU, quotas of 100 ms periods, within the kernel's bounds.
const (
	sharesPerCPU = 1024
	minShares    = 2
	maxShares    = 262144
	quotaPeriod  = 100000 // µs
	minQuota     = 1000   // µs
)

// Shares converts a CPU request; no request gives the least share.
func Shares(cpu *resource.Quantity) int64 {
	return min(max(cpu.MilliValue()*sharesPerCPU/1000, minShares), maxShares)
}

// Quota converts a CPU limit to microseconds per period; 0 is no limit.
func Quota(cpu *resource.Quantity) int64 {
	if cpu.IsZero() {
		return 0
	}
	return max(cpu.MilliValue()*quotaPeriod/1000, minQuota)
}

// nodeCritical is the value of the priority class system-node-critical.
const nodeCritical = 2000001000

// OOM says how the kernel's killer shall rate processes.
type OOM struct {
	// Capacity is the node's memory in bytes.
	Capacity int64
	// Least is the lowest value that this node may set (without CAP_SYS_RESOURCE: its own); math.MinInt64: any.
	Least int64
}

// Score is the oom_score_adj of a container, upstream's rule: the more of its request a burstable pod exceeds, the sooner it goes.
func (o OOM) Score(pod *corev1.Pod, c *corev1.Container) int64 {
	return max(o.score(pod, c), o.Least)
}

func (o OOM) score(pod *corev1.Pod, c *corev1.Container) int64 {
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= nodeCritical {
		return -997
	}
	switch lifecycle.QOS(pod) {
	case corev1.PodQOSGuaranteed:
		return -997
	case corev1.PodQOSBestEffort:
		return 1000
	}
	request := c.Resources.Requests[corev1.ResourceMemory]
	if o.Capacity <= 0 {
		return 999
	}
	return min(max(1000-1000*request.Value()/o.Capacity, 3), 999)
}

// Resources converts a container's resources.
func Resources(pod *corev1.Pod, c *corev1.Container, r corev1.ResourceRequirements, oom OOM, v2 bool) *rt.LinuxContainerResources {
	request, limit := r.Requests[corev1.ResourceCPU], r.Limits[corev1.ResourceCPU]
	if _, ok := r.Requests[corev1.ResourceCPU]; !ok {
		request = limit
	}
	memory := r.Limits[corev1.ResourceMemory]
	out := &rt.LinuxContainerResources{
		CpuShares:          Shares(&request),
		CpuQuota:           Quota(&limit),
		CpuPeriod:          quotaPeriod,
		MemoryLimitInBytes: memory.Value(),
		OomScoreAdj:        oom.Score(pod, c),
	}
	for name, q := range r.Limits {
		if size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix); ok {
			out.HugepageLimits = append(out.HugepageLimits, &rt.HugepageLimit{PageSize: pageSize(size), Limit: uint64(q.Value())})
		}
	}
	if v2 {
		// No swap, and a container dies as a whole.
		out.Unified = map[string]string{"memory.oom.group": "1"}
		if !memory.IsZero() {
			out.Unified["memory.swap.max"] = "0"
		}
	}
	return out
}

// pageSize spells a huge page size as cgroups do: "2Mi" is "2MB".
func pageSize(quantity string) string {
	q, err := resource.ParseQuantity(quantity)
	if err != nil {
		return quantity
	}
	switch n := q.Value(); {
	case n >= 1<<30:
		return strconv.FormatInt(n>>30, 10) + "GB"
	case n >= 1<<20:
		return strconv.FormatInt(n>>20, 10) + "MB"
	default:
		return strconv.FormatInt(n>>10, 10) + "KB"
	}
}

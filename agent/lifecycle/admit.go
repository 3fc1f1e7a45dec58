package lifecycle

import (
	"fmt"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Admit returns nil when the node takes the pod beside those that it has, else why not, in upstream's words.
func Admit(pod *corev1.Pod, node *corev1.Node, others []*corev1.Pod) *Verdict {
	reject := func(reason, format string, args ...any) *Verdict {
		return &Verdict{Reason: reason, Message: "Pod was rejected: " + fmt.Sprintf(format, args...)}
	}
	if os := pod.Spec.OS; os != nil && os.Name != corev1.Linux {
		return reject("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")
	}
	if want, ok := pod.Spec.NodeSelector[corev1.LabelOSStable]; ok && want != string(corev1.Linux) {
		return reject("PodOSSelectorNodeLabelDoesNotMatch", "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label")
	}
	if name := forbiddenSysctl(pod); name != "" {
		return reject("SysctlForbidden", "forbidden sysctl: %q not allowlisted", name)
	}
	if name, requested, used, capacity := shortage(pod, node, others); name != "" {
		return reject("OutOf"+name, "Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, requested, used, capacity)
	}
	if match, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !match {
		return reject("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector")
	}
	if portsTaken(pod, others) {
		return reject("NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports")
	}
	for i := range node.Spec.Taints {
		t := &node.Spec.Taints[i]
		if t.Effect == corev1.TaintEffectNoExecute && !tolerated(pod, t) {
			return reject("TaintToleration", "Predicate TaintToleration failed: node(s) had untolerated taint(s)")
		}
	}
	return nil
}

// safeSysctl says whether a pod may set a kernel parameter without harm to others: those that the kernel keeps per namespace and
// upstream calls safe (https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/).
func safeSysctl(name string) bool {
	switch name {
	case "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
		"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout",
		"net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem":
		return true
	}
	return false
}

// forbiddenSysctl names the first parameter that the pod may not set: an unsafe one, or one of a namespace that it shares with the node.
func forbiddenSysctl(pod *corev1.Pod) string {
	if pod.Spec.SecurityContext == nil {
		return ""
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		name := strings.ReplaceAll(s.Name, "/", ".")
		shared := pod.Spec.HostNetwork && strings.HasPrefix(name, "net.") || pod.Spec.HostIPC && strings.HasPrefix(name, "kernel.shm")
		if shared || !safeSysctl(name) {
			return s.Name
		}
	}
	return ""
}

func tolerated(pod *corev1.Pod, t *corev1.Taint) bool {
	for i := range pod.Spec.Tolerations {
		o := &pod.Spec.Tolerations[i]
		if o.Effect != "" && o.Effect != t.Effect || o.Key != "" && o.Key != t.Key {
			continue
		}
		if o.Operator == corev1.TolerationOpExists || o.Value == t.Value {
			return true
		}
	}
	return false
}

// Requests is what a pod asks of its node.
func Requests(pod *corev1.Pod) corev1.ResourceList {
	return helpers.PodRequests(pod, helpers.PodResourcesOptions{})
}

// Limits is what a pod may use at most, with a resource missing when a container has no limit for it.
func Limits(pod *corev1.Pod) corev1.ResourceList {
	return helpers.PodLimits(pod, helpers.PodResourcesOptions{})
}

// shortage names the first resource that does not suffice; CPU is counted in thousandths.
func shortage(pod *corev1.Pod, node *corev1.Node, others []*corev1.Pod) (name string, requested, used, capacity int64) {
	if most := node.Status.Allocatable[corev1.ResourcePods]; int64(len(others)+1) > most.Value() {
		return "pods", 1, int64(len(others)), most.Value()
	}
	wants := Requests(pod)
	names := make([]string, 0, len(wants))
	for n := range wants {
		names = append(names, string(n))
	}
	sort.Strings(names)
	for _, n := range names {
		key := corev1.ResourceName(n)
		want := amount(key, wants[key])
		if want == 0 {
			continue
		}
		have, known := node.Status.Allocatable[key]
		if !known && key != corev1.ResourceCPU && key != corev1.ResourceMemory {
			// A resource that the node does not know is its device plugin's or its operator's business.
			continue
		}
		var sum int64
		for _, o := range others {
			sum += amount(key, Requests(o)[key])
		}
		if most := amount(key, have); sum+want > most {
			return n, want, sum, most
		}
	}
	return "", 0, 0, 0
}

func amount(name corev1.ResourceName, q resource.Quantity) int64 {
	if name == corev1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

// portsTaken says whether one of the pod's host ports is used: the same protocol and port on an overlapping address.
func portsTaken(pod *corev1.Pod, others []*corev1.Pod) bool {
	for _, p := range hostPorts(pod) {
		for _, o := range others {
			for _, q := range hostPorts(o) {
				if p.port == q.port && p.protocol == q.protocol && (p.ip == q.ip || p.ip == "0.0.0.0" || q.ip == "0.0.0.0") {
					return true
				}
			}
		}
	}
	return false
}

type hostPort struct {
	ip       string
	protocol corev1.Protocol
	port     int32
}

func hostPorts(pod *corev1.Pod) (out []hostPort) {
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort == 0 {
				continue
			}
			h := hostPort{p.HostIP, p.Protocol, p.HostPort}
			if h.ip == "" || h.ip == "::" {
				h.ip = "0.0.0.0"
			}
			if h.protocol == "" {
				h.protocol = corev1.ProtocolTCP
			}
			out = append(out, h)
		}
	}
	for i := range pod.Spec.InitContainers {
		if Sidecar(&pod.Spec.InitContainers[i]) {
			add(&pod.Spec.InitContainers[i])
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return out
}

// AdmitResize says whether the node can give a pod new resources beside the other pods: nil, or the condition that says why not.
func AdmitResize(pod *corev1.Pod, node *corev1.Node, others []*corev1.Pod) *corev1.PodCondition {
	refuse := func(reason, message string) *corev1.PodCondition {
		return &corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: reason, Message: message}
	}
	if name, requested, _, capacity := shortage(pod, node, nil); name != "" {
		return refuse(corev1.PodReasonInfeasible, fmt.Sprintf("Node didn't have enough capacity: %s, requested: %d, capacity: %d", name, requested, capacity))
	}
	if name, requested, used, capacity := shortage(pod, node, others); name != "" {
		return refuse(corev1.PodReasonDeferred, fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, requested, used, capacity))
	}
	return nil
}

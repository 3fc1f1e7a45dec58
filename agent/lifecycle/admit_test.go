package lifecycle

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestAdmit(t *testing.T) {
	node := &corev1.Node{Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourcePods: resource.MustParse("3"), "example.com/gpu": resource.MustParse("1"),
	}}}
	node.Labels = map[string]string{corev1.LabelOSStable: "linux", "zone": "a"}
	node.Spec.Taints = []corev1.Taint{{Key: "sick", Effect: corev1.TaintEffectNoExecute}, {Key: "meh", Effect: corev1.TaintEffectNoSchedule}}
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := parsePod("main=a")
		p.Spec.Tolerations = []corev1.Toleration{{Key: "sick", Operator: corev1.TolerationOpExists}}
		change(p)
		return p
	}
	asks := func(list corev1.ResourceList) *corev1.Pod {
		return pod(func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = list })
	}
	port := func(ip string, n int32, protocol corev1.Protocol) *corev1.Pod {
		return pod(func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostIP: ip, HostPort: n, Protocol: protocol}}
		})
	}
	sysctl := func(name string, host bool) *corev1.Pod {
		return pod(func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: name}}}
			p.Spec.HostNetwork = host
		})
	}
	any := asks(nil)
	for _, test := range []struct {
		name   string
		pod    *corev1.Pod
		others []*corev1.Pod
		want   string
	}{
		{"room", asks(corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}), []*corev1.Pod{asks(corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")})}, ""},
		{"CPU", asks(corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m")}), []*corev1.Pod{asks(corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")})},
			"OutOfcpu Pod was rejected: Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000"},
		{"memory", asks(corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("2Gi")}), nil,
			"OutOfmemory Pod was rejected: Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824"},
		{"extended", asks(corev1.ResourceList{"example.com/gpu": resource.MustParse("2")}), nil,
			"OutOfexample.com/gpu Pod was rejected: Node didn't have enough resource: example.com/gpu, requested: 2, used: 0, capacity: 1"},
		{"pods", any, []*corev1.Pod{any, any, any}, "OutOfpods Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3"},
		{"port", port("", 80, ""), []*corev1.Pod{port("192.0.2.1", 80, "TCP")}, "NodePorts Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"},
		{"port of another address", port("127.0.0.1", 80, "TCP"), []*corev1.Pod{port("192.0.2.1", 80, "TCP")}, ""},
		{"port of another protocol", port("", 80, "UDP"), []*corev1.Pod{port("", 80, "TCP")}, ""},
		{"selector", pod(func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"zone": "b"} }), nil,
			"NodeAffinity Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
		{"taint", parsePod("main=a"), nil, "TaintToleration Pod was rejected: Predicate TaintToleration failed: node(s) had untolerated taint(s)"},
		{"safe sysctl", sysctl("kernel/shm_rmid_forced", false), nil, ""},
		{"unsafe sysctl", sysctl("kernel.msgmax", false), nil, `SysctlForbidden Pod was rejected: forbidden sysctl: "kernel.msgmax" not allowlisted`},
		{"the node's own sysctl", sysctl("net.ipv4.tcp_syncookies", true), nil, `SysctlForbidden Pod was rejected: forbidden sysctl: "net.ipv4.tcp_syncookies" not allowlisted`},
	} {
		got := ""
		if v := Admit(test.pod, node, test.others); v != nil {
			got = v.Reason + " " + v.Message
		}
		if got != test.want {
			t.Errorf("%s: %s\nwant %s", test.name, got, test.want)
		}
	}
}

package core

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func texts(errs field.ErrorList) string {
	var out []string
	for _, e := range errs {
		out = append(out, e.Error())
	}
	return strings.Join(out, "\n")
}

func TestNodeValidate(t *testing.T) {
	for _, c := range []struct{ name, node, want string }{
		{"good", `{spec: {podCIDRs: [192.0.2.0/24, "2001:db8::/64"], taints: [{key: a, effect: NoExecute}, {key: a, effect: NoSchedule}]}}`, ""},
		{"bad range", `{spec: {podCIDR: 192.0.2.0/99}}`, `spec.podCIDRs[0]: Invalid value: "192.0.2.0/99": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)`},
		{"one family twice", `{spec: {podCIDRs: [192.0.2.0/25, 198.51.100.0/25]}}`,
			`spec.podCIDRs: Invalid value: ["192.0.2.0/25","198.51.100.0/25"]: may specify no more than one CIDR for each IP family`},
		{"unknown effect", `{spec: {taints: [{key: a, effect: Bad}]}}`,
			`metadata.taints[0].effect: Unsupported value: "Bad": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`},
		{"one taint twice", `{spec: {taints: [{key: a, effect: NoExecute}, {key: a, effect: NoExecute}]}}`,
			`metadata.taints[1]: Duplicate value: {"Key":"a","Value":"","Effect":"NoExecute","TimeAdded":null}: taints must be unique by key and effect pair`},
		{"negative capacity", `{status: {capacity: {cpu: -1}, allocatable: {cpu: 1}}}`, `status.capacity[cpu]: Invalid value: "-1": must be greater than or equal to 0`},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := object[corev1.Node](t, c.node)
			defaultNode(n)
			if got := texts(validateNode(n)); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestNodeUpdate(t *testing.T) {
	for _, c := range []struct{ name, old, node, want string }{
		{"what may change", `{}`, `{metadata: {labels: {a: b}}, spec: {unschedulable: true, podCIDR: 192.0.2.0/24, providerID: x, taints: [{key: a, effect: NoExecute}]}}`, ""},
		{"the range is set once", `{spec: {podCIDR: 192.0.2.0/24}}`, `{spec: {podCIDR: 198.51.100.0/24}}`,
			`spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid`},
		{"the provider's id is set once", `{spec: {providerID: x}}`, `{spec: {providerID: z}}`,
			`spec.providerID: Forbidden: node updates may not change providerID except from "" to valid`},
		{"one address twice", `{}`, `{status: {addresses: [{type: Hostname, address: a}, {type: Hostname, address: a}]}}`,
			`status.addresses[1]: Duplicate value: {"Type":"Hostname","Address":"a"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, old := object[corev1.Node](t, c.node), object[corev1.Node](t, c.old)
			defaultNode(n)
			defaultNode(old)
			if got := texts(validateNodeUpdate(n, old)); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestNodeCells(t *testing.T) {
	for _, c := range []struct{ name, node, want string }{
		{"ready", `{metadata: {name: n1, labels: {node-role.kubernetes.io/b: "", node-role.kubernetes.io/a: "", kubernetes.io/role: a}},
			status: {conditions: [{type: Ready, status: "True"}], addresses: [{type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: 192.0.2.2}],
			nodeInfo: {kubeletVersion: v1, osImage: os, kernelVersion: k, architecture: amd64, containerRuntimeVersion: rt}}}`,
			"[n1 Ready a,b <unknown> v1 192.0.2.1 <none> os k (amd64) rt]"},
		{"cordoned and unheard of", `{metadata: {name: n1}, spec: {unschedulable: true}}`,
			"[n1 Unknown,SchedulingDisabled <none> <unknown>  <none> <none> <unknown> <unknown> <unknown>]"},
		{"not ready", `{metadata: {name: n1}, status: {conditions: [{type: Ready, status: Unknown}]}}`,
			"[n1 NotReady <none> <unknown>  <none> <none> <unknown> <unknown> <unknown>]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := fmt.Sprint(nodeCells(object[corev1.Node](t, c.node), metav1.Now())); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestNodePrepare(t *testing.T) {
	k := Node()
	const old, update = `{spec: {providerID: x}, status: {phase: Running}}`, `{metadata: {labels: {a: b}}, spec: {providerID: "y1"}, status: {phase: Pending}}`
	if got := change[corev1.Node](t, k.PrepareUpdate, update, old); !strings.Contains(got, "providerID: y1") || !strings.Contains(got, "phase: Running") {
		t.Errorf("the main resource:\n%s", got)
	}
	if got := change[corev1.Node](t, k.Subresource("status").PrepareUpdate, update, old); !strings.Contains(got, "providerID: x") || !strings.Contains(got, "phase: Pending") || !strings.Contains(got, "a: b") {
		t.Errorf("status:\n%s", got)
	}
}

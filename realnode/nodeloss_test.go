package realnode

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

const movable = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: movable}
spec:
  replicas: 2
  selector: {matchLabels: {app: movable}}
  template:
    metadata: {labels: {app: movable}}
    spec:
      terminationGracePeriodSeconds: 5
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: movable}}}
      containers:
      - name: main
        image: $IMAGE
        command: [hello]
        env: [{name: GREETING, value: Hello}, {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: movable}
spec: {type: NodePort, selector: {app: movable}, ports: [{port: 80, targetPort: 8080, nodePort: 30091}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: single}
spec:
  serviceName: single
  replicas: 2
  selector: {matchLabels: {app: single}}
  template:
    metadata: {labels: {app: single}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: single}}}
      containers: [{name: main, image: $IMAGE}]
`

// on returns the pods that run on a node and are not ending.
func on(pods map[string]*corev1.Pod, node string) []*corev1.Pod {
	var out []*corev1.Pod
	for _, p := range pods {
		if p.Spec.NodeName == node && p.DeletionTimestamp == nil && strings.HasPrefix(summary(p), "Running ready ") {
			out = append(out, p)
		}
	}
	return out
}

// testDrain: kubectl empties a node, which gets pods again when it may.
func testDrain(t *testing.T, n *node) {
	n.apply(t, movable)
	both := func(n1, n2 int) func(map[string]*corev1.Pod) bool {
		return func(pods map[string]*corev1.Pod) bool { return len(on(pods, "n1")) == n1 && len(on(pods, "n2")) == n2 }
	}
	n.pods(t, "labelSelector=app=movable", both(1, 1))
	if out := n.kubectl(t, "cordon", "n2"); out != "node/n2 cordoned\n" {
		t.Errorf("cordon: %q", out)
	}
	if out := n.kubectl(t, "get", "node", "n2", "--no-headers"); !strings.Contains(out, "Ready,SchedulingDisabled") {
		t.Errorf("a cordoned node: %q", out)
	}
	n.kubectl(t, "scale", "deployment/movable", "--replicas=4")
	n.pods(t, "labelSelector=app=movable", both(3, 1))
	if out := n.kubectl(t, "drain", "n2", "--ignore-daemonsets", "--timeout=30s"); !strings.HasSuffix(out, "node/n2 drained\n") || !strings.Contains(out, "pod/single-") {
		t.Errorf("drain: %q", out)
	}
	n.pods(t, "labelSelector=app=movable", both(4, 0))
	n.pods(t, "labelSelector=app=single", both(2, 0))
	n.kubectl(t, "uncordon", "n2")
	n.kubectl(t, "scale", "deployment/movable", "--replicas=0")
	n.pods(t, "labelSelector=app=movable", func(pods map[string]*corev1.Pod) bool { return len(pods) == 0 })
	n.kubectl(t, "scale", "deployment/movable", "--replicas=2")
	n.pods(t, "labelSelector=app=movable", both(1, 1))
	n.kubectl(t, "delete", "pod", "single-1")
	n.pods(t, "labelSelector=app=single", both(1, 1))
}

// link sets a machine's only link up or down.
func (n *node) link(t *testing.T, up bool) {
	t.Helper()
	must(t, n.inside.Do(func() error {
		l, err := netlink.LinkByName("up0")
		if err != nil {
			return err
		}
		if up {
			return netlink.LinkSetUp(l)
		}
		return netlink.LinkSetDown(l)
	}))
}

// testNodeLoss: what a node that cannot be reached ran is replaced, once that is safe; what it still runs ends when it is back.
func testNodeLoss(t *testing.T, n, lost *node) {
	movables := n.pods(t, "labelSelector=app=movable", func(pods map[string]*corev1.Pod) bool { return len(on(pods, "n2")) == 1 })
	singles := n.pods(t, "labelSelector=app=single", func(pods map[string]*corev1.Pod) bool { return len(on(pods, "n2")) == 1 })
	away, single := on(movables, "n2")[0], on(singles, "n2")[0]
	processes := append(pids(t, away.Status.ContainerStatuses[0]), pids(t, single.Status.ContainerStatuses[0])...)
	lost.link(t, false)
	began := time.Now()

	// A dead node does not keep the others' pods from ending.
	here := on(movables, "n1")[0]
	n.kubectl(t, "delete", "pod", here.Name)
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("a pod of the other node took %s to end", took)
	}

	down := n.ready(t, "n2", false)
	t.Logf("not ready after %s", time.Since(began))
	n.await(t, "the taints of a node that is gone", func() bool {
		n.get(t, "/api/v1/nodes/n2", down)
		effects := ""
		for _, taint := range down.Spec.Taints {
			if taint.Key == corev1.TaintNodeUnreachable {
				effects += string(taint.Effect) + " "
			}
		}
		return strings.Contains(effects, "NoSchedule ") && strings.Contains(effects, "NoExecute ")
	})
	n.await(t, "its endpoints to go", func() bool {
		var slices discoveryv1.EndpointSliceList
		n.get(t, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name%3Dmovable", &slices)
		for _, s := range slices.Items {
			for _, e := range s.Endpoints {
				if *e.Conditions.Ready && *e.NodeName == "n2" {
					return false
				}
			}
		}
		return true
	})
	n.pods(t, "labelSelector=app=movable", func(pods map[string]*corev1.Pod) bool { return len(on(pods, "n1")) == 2 })
	t.Logf("replaced after %s", time.Since(began))
	for range 8 {
		if answer, err := httpGet(n.outside, "http://"+nodeIP+":30091"); err != nil || !strings.HasPrefix(answer, "Hello from movable-") {
			t.Errorf("with a node gone: %q %v", answer, err)
		}
	}
	// Nobody knows whether it still runs, so there must not be a second of its name.
	stuck := n.pod(t, single.Name, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	if stuck.UID != single.UID {
		t.Errorf("%s was replaced while its node is away", single.Name)
	}

	lost.link(t, true)
	began = time.Now()
	n.ready(t, "n2", true)
	t.Logf("ready again after %s", time.Since(began))
	n.pod(t, single.Name, func(p *corev1.Pod) bool {
		return p.UID != single.UID && strings.HasPrefix(summary(p), "Running ready ")
	})
	n.await(t, "what was deleted meanwhile to end", func() bool {
		for _, pid := range processes {
			if _, err := os.Stat("/proc/" + pid); err == nil {
				return false
			}
		}
		return true
	})
	n.pods(t, "labelSelector=app=movable", func(pods map[string]*corev1.Pod) bool {
		uids := map[types.UID]bool{}
		for _, p := range pods {
			uids[p.UID] = true
		}
		return len(pods) == 2 && !uids[away.UID]
	})
	n.kubectl(t, "rollout", "restart", "deployment/movable")
	n.kubectl(t, "rollout", "status", "deployment/movable", "--timeout=30s")
	n.pods(t, "labelSelector=app=movable", func(pods map[string]*corev1.Pod) bool { return len(on(pods, "n2")) > 0 })
	for i := range 8 {
		url := fmt.Sprintf("http://192.0.2.%d:30091", 1+i%2)
		if answer, err := httpGet(n.outside, url); err != nil || !strings.HasPrefix(answer, "Hello from movable-") {
			t.Errorf("%s with the node back: %q %v", url, answer, err)
		}
	}
}

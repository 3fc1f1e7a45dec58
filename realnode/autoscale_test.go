package realnode

import (
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// testAutoscale: a pod of a joined node keeps a tenth of a processor busy, which is twice what it requests. kubectl top shows it, and
// an autoscaler adds a pod; it takes it away again when the load ends.
func testAutoscale(t *testing.T, n *node) {
	t.Parallel()
	n.apply(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: burner}
spec:
  selector: {matchLabels: {app: burner}}
  template:
    metadata: {labels: {app: burner}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: $IMAGE
        command: [sh, -c, "while :; do while [ -e /tmp/load ]; do :; done; sleep 1; done"]
        resources: {requests: {cpu: 50m, memory: 8Mi}, limits: {cpu: 100m, memory: 32Mi}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: burner}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: burner}
  maxReplicas: 2
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]
  behavior: {scaleDown: {stabilizationWindowSeconds: 0}}
`)
	var burner string
	n.pods(t, "labelSelector=app=burner", func(pods map[string]*corev1.Pod) bool {
		for name, p := range pods {
			burner = name
			return summary(p) == "Running ready main:running*0"
		}
		return false
	})
	n.sh(t, burner, "touch /tmp/load")
	top := func(want string, args ...string) {
		t.Helper()
		shown := regexp.MustCompile(want)
		n.await(t, strings.Join(args, " ")+" shows "+want, func() bool {
			out, err := n.try(t, nil, append([]string{"top"}, args...)...)
			return err == nil && shown.MatchString(out)
		})
	}
	top(`(?m)^burner-\S+ +main +(8\d|9\d|1[01]\d)m +\d+Mi`, "pods", "-l", "app=burner", "--containers")
	top(`(?m)^n1 +[1-9]\d*m +\d+% +\d+Mi +\d+% *\nn2 +[1-9]\d*m `, "nodes")
	n.scaled(t, "2")
	n.sh(t, burner, "rm /tmp/load")
	n.scaled(t, "1")
	out := n.kubectl(t, "describe", "hpa", "burner")
	for _, want := range []string{
		"New size: 2; reason: cpu resource utilization (percentage of request) above target", "New size: 1; reason: All metrics below target",
		"ValidMetricFound", "DesiredWithinRange",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	n.kubectl(t, "delete", "hpa,deployment", "burner")
}

// scaled waits until the burner's Deployment has so many replicas: three looks of the autoscaler, 15 s apart, at most.
func (n *node) scaled(t *testing.T, replicas string) {
	t.Helper()
	var out string
	for range 3 {
		var err error
		if out, err = n.try(t, nil, "wait", "--for=jsonpath={.spec.replicas}="+replicas, "deployment/burner", "--timeout=25s"); err == nil {
			return
		}
	}
	t.Fatalf("not %s replicas: %s\n%s", replicas, out, n.kubectl(t, "describe", "hpa", "burner"))
}

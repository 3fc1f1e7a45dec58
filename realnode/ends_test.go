package realnode

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func testEnds(t *testing.T, n *node) {
	t.Parallel()
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  containers: [{name: main, image: $IMAGE, command: [sh, -c, "tail /dev/zero"], resources: {limits: {memory: 16Mi}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: late}
spec:
  restartPolicy: Never
  activeDeadlineSeconds: 2
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: $IMAGE}]
---
apiVersion: v1
kind: Pod
metadata: {name: stubborn}
spec:
  terminationGracePeriodSeconds: 2
  containers: [{name: main, image: $IMAGE, command: [sh, -c, "trap '' TERM; while :; do sleep 1; done"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: polite}
spec:
  restartPolicy: Never
  containers: [{name: main, image: $IMAGE, command: [sh, -c, "trap 'echo -n bye > /dev/termination-log; exit 9' TERM; while :; do sleep 0.1; done"]}]
  terminationGracePeriodSeconds: 20
---
apiVersion: v1
kind: Pod
metadata: {name: family}
spec:
  terminationGracePeriodSeconds: 0
  shareProcessNamespace: true
  containers:
  - {name: main, image: $IMAGE, command: [hello], ports: [{containerPort: 8080, hostPort: 30999}], env: [{name: POD_NAME, value: family}]}
  - {name: other, image: $IMAGE}
`)
	n.state(t, "greedy", "Failed main:OOMKilled(137)*0")
	if late := n.pod(t, "late", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed }); late.Status.Reason != "DeadlineExceeded" || late.Status.Message != "Pod was active on the node longer than the specified deadline" {
		t.Errorf("late: %s: %s", late.Status.Reason, late.Status.Message)
	}
	n.state(t, "stubborn", "Running ready main:running*0")
	began := time.Now()
	n.kubectl(t, "delete", "pod/stubborn", "--timeout=30s")
	if took := time.Since(began); took < 2*time.Second || took > 10*time.Second {
		t.Errorf("a container that ignores SIGTERM was gone after %s, want its grace of 2s", took)
	}
	n.state(t, "polite", "Running ready main:running*0")
	began = time.Now()
	n.kubectl(t, "delete", "pod/polite", "--timeout=30s")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("a container that heeds SIGTERM was gone after %s", took)
	}

	n.state(t, "family", "Running ready main:running*0 other:running*0")
	if got, err := httpGet(n.outside, "http://"+nodeIP+":30999"); err != nil || got != " from family (secret missing)\n" {
		t.Errorf("host port: %q, %v", got, err)
	}
	if got := n.sh(t, "family", "ps -o args | grep -c -e '^hello' -e '^sleep 1000000' -e '^/pause'", "-c", "other"); got != "3\n" {
		t.Errorf("of three processes of the pod its container sees %q", got)
	}
	n.kubectl(t, "debug", "family", "--image="+image, "--image-pull-policy=Never", "--target=main", "--container=doctor", "--profile=general", "--", "sh", "-c", "echo well; sleep 1000000")
	n.pod(t, "family", func(p *corev1.Pod) bool {
		e := p.Status.EphemeralContainerStatuses
		return len(e) == 1 && e[0].State.Running != nil
	})
	if got := n.kubectl(t, "logs", "family", "-c", "doctor"); got != "well\n" {
		t.Errorf("the ephemeral container says %q", got)
	}
	n.kubectl(t, "delete", "pod", "greedy", "late", "family", "--timeout=30s")
}

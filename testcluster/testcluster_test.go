package testcluster

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kebernetes/kebernetes/client"
)

// within gives a test so much of the cluster's own time.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func web(replicas int32) *appsv1.Deployment {
	match := map[string]string{"app": "web"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: match},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: match},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "keb.local/web:1", Command: []string{"/app", "run"}}}},
			},
		},
	}
}

func (c *Cluster) awaitAvailable(ctx context.Context, n int32) {
	c.t.Helper()
	c.Await(ctx, "deployments.apps", fmt.Sprintf("%d available replicas", n), func(s client.Snapshot) bool {
		d, ok := client.From[*appsv1.Deployment](c.Client, s, "default", "web")
		return ok && d.Status.AvailableReplicas == n && d.Status.UpdatedReplicas == n && d.Status.ObservedGeneration == d.Generation
	})
}

func (c *Cluster) pods() []*corev1.Pod {
	return client.List[*corev1.Pod](c.Client, c.Snapshot(), "default", labels.SelectorFromSet(labels.Set{"app": "web"}))
}

// A Deployment spreads over three nodes; when one falls silent its pods are taken off after the five minutes that every pod
// tolerates, and run elsewhere. Seven minutes of cluster time, a fraction of a second of ours.
func TestPodsLeaveADeadNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Start(t, Options{Nodes: []string{"a", "b", "c"}})
		if _, err := client.Create(t.Context(), c.Client, web(6)); err != nil {
			t.Fatal(err)
		}
		c.awaitAvailable(within(t, time.Minute), 6)
		perNode := map[string]int{}
		for _, p := range c.pods() {
			perNode[p.Spec.NodeName]++
		}
		for _, node := range []string{"a", "b", "c"} {
			if perNode[node] != 2 {
				t.Errorf("node %s runs %d pods, want them spread evenly: %v", node, perNode[node], perNode)
			}
		}
		died := time.Now()
		c.KillNode("b")
		c.Await(within(t, 2*time.Minute), "nodes", "node b unreachable", func(s client.Snapshot) bool {
			n, _ := client.From[*corev1.Node](c.Client, s, "", "b")
			for _, cond := range n.Status.Conditions {
				if cond.Type == corev1.NodeReady {
					return cond.Status == corev1.ConditionUnknown
				}
			}
			return false
		})
		if silent := time.Since(died); silent < 30*time.Second || silent > 70*time.Second {
			t.Errorf("the node was given up after %s, want about the lease's 40 s", silent)
		}
		c.Await(within(t, 10*time.Minute), "pods", "six pods elsewhere", func(client.Snapshot) bool {
			elsewhere := 0
			for _, p := range c.pods() {
				if p.Spec.NodeName != "b" && p.Status.Phase == corev1.PodRunning {
					elsewhere++
				}
			}
			return elsewhere == 6
		})
		if took := time.Since(died); took < 5*time.Minute || took > 7*time.Minute {
			t.Errorf("pods were replaced after %s, want after the five minutes that they tolerate", took)
		}
		for _, p := range c.pods() {
			if p.Spec.NodeName == "b" && p.DeletionTimestamp == nil {
				t.Errorf("pod %s stays on the dead node", p.Name)
			}
		}
	})
}

// What was stored is there again when the cluster starts on the same directory, and the pods with it.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c := Start(t, Options{Nodes: []string{"a"}, Dir: dir})
		if _, err := client.Create(t.Context(), c.Client, web(3)); err != nil {
			t.Fatal(err)
		}
		c.awaitAvailable(within(t, time.Minute), 3)
		revision := c.Snapshot().Revision()
		c.Stop()
		again := Start(t, Options{Dir: dir})
		if got := again.Snapshot().Revision(); got < revision {
			t.Errorf("revision went back from %d to %d", revision, got)
		}
		if pods := again.pods(); len(pods) != 3 {
			t.Errorf("%d pods after the restart, want 3", len(pods))
		}
	})
}

// BenchmarkStart measures an empty cluster of three nodes from nothing to all nodes ready.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		c := Start(b, Options{Nodes: []string{"a", "b", "c"}})
		c.Await(b.Context(), "nodes", "three ready nodes", func(s client.Snapshot) bool {
			ready := 0
			for _, n := range client.List[*corev1.Node](c.Client, s, "", nil) {
				for _, cond := range n.Status.Conditions {
					if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
						ready++
					}
				}
			}
			return ready == 3
		})
		c.Stop()
	}
}

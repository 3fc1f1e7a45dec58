package agent

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/agent/node"
	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/cri/fake"
)

// TestNodePressure: a node that runs short of memory says so, evicts the least important pod, takes no new ones without requests,
// and after five minutes of plenty is as before.
func TestNodePressure(t *testing.T) {
	var free atomic.Int64
	free.Store(4 << 30)
	signals := func() node.Signals { return node.Signals{Memory: free.Load(), MemoryTotal: 8 << 30} }
	simulated(t, fake.Options{}, func(o *Options) { o.Signals = signals }, func(t *testing.T, c *cluster, _ *fake.Runtime) {
		requests := pod("requests")
		requests.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}
		important := pod("important")
		important.Spec.Priority = ptr.To[int32](1000)
		critical := pod("critical")
		critical.Spec.Priority = ptr.To[int32](2000000000)
		for _, p := range []*corev1.Pod{requests, important, critical, pod("plain")} {
			c.create(p)
		}
		free.Store(52 << 20)
		after(10 * time.Second)
		under := func(want corev1.ConditionStatus) {
			t.Helper()
			n, _ := client.From[*corev1.Node](c.client, c.client.Snapshot(), "", "n1")
			for _, one := range n.Status.Conditions {
				if one.Type == corev1.NodeMemoryPressure && one.Status != want {
					t.Errorf("MemoryPressure is %s (%s), want %s", one.Status, one.Reason, want)
				}
			}
		}
		under(corev1.ConditionTrue)
		free.Store(4 << 30) // one pod was enough
		after(10 * time.Second)
		c.want("plain", "Failed main:Error(143)*0")
		got := c.pod("plain").Status
		if want := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 52Mi. Container main was using 1Mi, request is 0, has larger consumption of memory. "; got.Reason != "Evicted" || got.Message != want {
			t.Errorf("%s: %q", got.Reason, got.Message)
		}
		for _, name := range []string{"requests", "important", "critical"} {
			c.want(name, "Running ready main:running*0")
		}
		for _, want := range []string{"Warning Evicted The node was low on resource: memory.", "Warning EvictionThresholdMet Attempting to reclaim memory",
			"Normal NodeHasInsufficientMemory"} {
			found := false
			for _, e := range c.events.list {
				found = found || strings.HasPrefix(strings.Join(strings.Fields(e), " "), want)
			}
			if !found {
				t.Errorf("no event %q in %q", want, c.events.list)
			}
		}
		c.create(pod("late"))
		if p := c.pod("late"); p.Status.Phase != corev1.PodFailed || p.Status.Message != "Pod was rejected: The node had condition: [MemoryPressure]. " {
			t.Errorf("%s %q", p.Status.Phase, p.Status.Message)
		}
		after(6 * time.Minute)
		under(corev1.ConditionFalse)
		c.create(pod("later"))
		c.want("later", "Running ready main:running*0")
	})
}

// TestDiskPressure: what nobody needs goes before any pod does, and one pod goes at a time.
func TestDiskPressure(t *testing.T) {
	var free atomic.Int64
	free.Store(50 << 30)
	signals := func() node.Signals {
		f := node.Filesystem{Free: free.Load(), Size: 100 << 30}
		return node.Signals{Disk: f, Images: f}
	}
	simulated(t, fake.Options{}, func(o *Options) { o.Signals = signals }, func(t *testing.T, c *cluster, r *fake.Runtime) {
		ended := pod("ended", "exit", "0")
		ended.Spec.RestartPolicy = corev1.RestartPolicyNever
		for _, p := range []*corev1.Pod{ended, pod("a"), pod("b")} {
			c.create(p)
		}
		after(time.Minute)
		before := summary(c.pod("ended"))
		dead := func() (n int) {
			all, err := r.ListContainers(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, one := range all {
				if strings.Contains(one.State.String(), "EXITED") {
					n++
				}
			}
			return n
		}
		if dead() != 1 {
			t.Fatalf("%d dead containers, %s", dead(), before)
		}
		free.Store(1 << 30)
		after(10 * time.Second)
		if dead() != 0 || summary(c.pod("ended")) != before {
			t.Errorf("%d dead containers, %s, before %s", dead(), summary(c.pod("ended")), before)
		}
		c.want("a", "Running ready main:running*0")
		after(10 * time.Second)
		failed := 0
		for _, name := range []string{"a", "b"} {
			if c.pod(name).Status.Reason == "Evicted" {
				failed++
			}
		}
		if failed != 1 {
			t.Errorf("%d pods are evicted at once", failed)
		}
		after(30 * time.Second)
		synctest.Wait()
		for _, name := range []string{"a", "b"} {
			if s := c.pod(name).Status; s.Reason != "Evicted" || s.Phase != corev1.PodFailed {
				t.Errorf("%s: %s %s", name, s.Phase, s.Reason)
			}
		}
	})
}

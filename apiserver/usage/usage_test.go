package usage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/kebernetes/kebernetes/store"
)

// node is a node whose one container uses half a processor from its start on, and which itself uses two.
type node struct {
	asked   int
	began   time.Time // of the container; zero: of the node, long ago
	silent  bool
	refuses bool
	breaks  bool
}

func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.asked++
	if n.silent {
		<-r.Context().Done()
		return
	}
	if n.breaks {
		fmt.Fprint(w, "# TYPE node_cpu_usage_seconds_total counter\nnode_cpu")
		panic(http.ErrAbortHandler)
	}
	if n.refuses {
		http.Error(w, "not today", http.StatusServiceUnavailable)
		return
	}
	now, began := time.Now(), n.began
	if began.IsZero() {
		began = now.Add(-time.Hour - now.Sub(start()))
	}
	const labels = `{container="main",namespace="ns",pod="web"}`
	fmt.Fprintf(w, "# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total %g %d\n", 2*now.Sub(start()).Seconds(), now.UnixMilli())
	fmt.Fprintf(w, "# TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes 1e9 %d\n", now.UnixMilli())
	fmt.Fprintf(w, "# TYPE container_cpu_usage_seconds_total counter\ncontainer_cpu_usage_seconds_total%s %g %d\n", labels, now.Sub(began).Seconds()/2, now.UnixMilli())
	fmt.Fprintf(w, "# TYPE container_memory_working_set_bytes gauge\ncontainer_memory_working_set_bytes%s 1.048576e+06 %d\n", labels, now.UnixMilli())
	fmt.Fprintf(w, "# TYPE container_start_time_seconds gauge\ncontainer_start_time_seconds%s %g\n", labels, float64(began.UnixMilli())/1000)
}

// start is where the clock of synctest begins.
func start() time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }

type nodes map[string]*node

func (n nodes) Node(name string) (http.Handler, error) {
	if n[name] == nil {
		return nil, errors.New("node " + name + " is not connected")
	}
	return n[name], nil
}

func meterOf(t *testing.T, n nodes) *Meter {
	s := store.NewMemory(0)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", Labels: map[string]string{"app": "web"}}}
	pod.Spec.NodeName, pod.Status.Phase = "a", corev1.PodRunning
	var events []store.Event
	put := func(resource string, o store.Object) {
		key := store.Key{Resource: resource, Namespace: o.GetNamespace(), Name: o.GetName()}
		events = append(events, store.Event{Type: store.Put, Item: &store.Item{Key: key, Object: o, Created: 1, Revision: 1}})
	}
	put("nodes", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
	put("nodes", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}})
	put("pods", pod)
	s.Publish(1, events)
	return New(Options{Reader: s, Nodes: n, Logger: slog.New(slog.DiscardHandler)})
}

// use asks for the pod and tells what it uses, over what time, and how long the answer took.
func use(t *testing.T, m *Meter) string {
	t.Helper()
	asked := time.Now()
	o, err := m.PodMetrics().Get(context.Background(), "ns", "web")
	took := time.Since(asked)
	if err != nil {
		return fmt.Sprintf("%v after %s", err, took)
	}
	p := o.(*metricsv1beta1.PodMetrics)
	c := p.Containers[0]
	return fmt.Sprintf("%s of %s over %s after %s", c.Usage.Cpu(), c.Usage.Memory(), p.Window.Duration.Round(time.Millisecond), took)
}

func TestSamplesAreTakenWhenAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &node{}
		m := meterOf(t, nodes{"a": a})
		for _, step := range []struct {
			pause time.Duration
			want  string
			asked int
		}{
			{0, "500m of 1Mi over 1s after 1s", 2},
			{5 * time.Second, "500m of 1Mi over 1s after 0s", 2},
			{10 * time.Second, "500m of 1Mi over 15s after 0s", 3},
			{15 * time.Second, "500m of 1Mi over 15s after 0s", 4},
			{time.Hour, "500m of 1Mi over 1s after 1s", 6},
		} {
			time.Sleep(step.pause)
			if got := use(t, m); got != step.want || a.asked != step.asked {
				t.Errorf("after %s: %s, %d samples; want %s, %d samples", step.pause, got, a.asked, step.want, step.asked)
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(m.meters) != 0 {
			t.Error("samples are kept although nobody asks")
		}
	})
}

func TestYoungContainersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &node{began: start().Add(-2 * time.Second)}
		m := meterOf(t, nodes{"a": a})
		const none = `podmetrics.metrics.k8s.io "ns/web" not found`
		if got := use(t, m); got != "500m of 1Mi over 1s after 1s" {
			t.Errorf("between two samples: %s", got)
		}
		a.began = time.Now().Add(20 * time.Second) // it is restarted
		time.Sleep(25 * time.Second)
		if got := use(t, m); got != none+" after 0s" {
			t.Errorf("five seconds after its start: %s", got)
		}
		time.Sleep(20 * time.Second)
		if got := use(t, m); got != "500m of 1Mi over 20s after 0s" {
			t.Errorf("from then on: %s", got)
		}
		a.began = time.Now().Add(time.Second)
		time.Sleep(16 * time.Second)
		if got := use(t, m); got != "500m of 1Mi over 15s after 0s" {
			t.Errorf("from its start, when that is long enough ago: %s", got)
		}
	})
}

func TestNodesThatDoNotAnswerAreLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, b := range map[string]*node{"not connected": nil, "silent": {silent: true}, "refusing": {refuses: true}, "breaking off": {breaks: true}} {
			m := meterOf(t, nodes{"a": {}, "b": b})
			asked := time.Now()
			out, err := m.NodeMetrics().List(context.Background(), "", func(store.Object) bool { return true })
			if err != nil || len(out) != 1 || out[0].GetName() != "a" || time.Since(asked) > patience {
				t.Errorf("%s: %d nodes after %s, %v", name, len(out), time.Since(asked), err)
				continue
			}
			n := out[0].(*metricsv1beta1.NodeMetrics)
			if cpu, memory := n.Usage.Cpu().MilliValue(), n.Usage.Memory().Value(); cpu != 2000 || memory != 1e9 || n.Window.Duration != time.Second {
				t.Errorf("%s: %dm, %d bytes over %s", name, cpu, memory, n.Window.Duration)
			}
			if _, err := m.NodeMetrics().Get(context.Background(), "", "b"); err == nil || err.Error() != `nodemetrics.metrics.k8s.io "b" not found` {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

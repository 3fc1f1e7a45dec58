package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller/controllertest"
)

// api is the small API of the controllers' tests, with bindings.
type api struct {
	*controllertest.API
	// refuse, when set, may refuse to bind a pod to a node.
	refuse func(pod, node string) error
	// requests counts calls of Bind.
	requests int
}

func newAPI() *api {
	return &api{API: controllertest.New(
		controllertest.Row[corev1.Pod, corev1.PodList]("", "v1", "pods", true),
		controllertest.Row[corev1.Node, corev1.NodeList]("", "v1", "nodes", false),
		controllertest.Row[corev1.Event, corev1.EventList]("", "v1", "events", true),
		controllertest.Row[corev1.Namespace, corev1.NamespaceList]("", "v1", "namespaces", false),
		controllertest.Row[corev1.Service, corev1.ServiceList]("", "v1", "services", true),
		controllertest.Row[corev1.ReplicationController, corev1.ReplicationControllerList]("", "v1", "replicationcontrollers", true),
		controllertest.Row[appsv1.ReplicaSet, appsv1.ReplicaSetList]("apps", "v1", "replicasets", true),
		controllertest.Row[appsv1.StatefulSet, appsv1.StatefulSetList]("apps", "v1", "statefulsets", true),
		controllertest.Row[corev1.PersistentVolume, corev1.PersistentVolumeList]("", "v1", "persistentvolumes", false),
		controllertest.Row[corev1.PersistentVolumeClaim, corev1.PersistentVolumeClaimList]("", "v1", "persistentvolumeclaims", true),
		controllertest.Row[storagev1.StorageClass, storagev1.StorageClassList]("storage.k8s.io", "v1", "storageclasses", false),
		controllertest.Row[storagev1.CSINode, storagev1.CSINodeList]("storage.k8s.io", "v1", "csinodes", false),
		controllertest.Row[storagev1.CSIDriver, storagev1.CSIDriverList]("storage.k8s.io", "v1", "csidrivers", false),
		controllertest.Row[storagev1.CSIStorageCapacity, storagev1.CSIStorageCapacityList]("storage.k8s.io", "v1", "csistoragecapacities", true),
	)}
}

func (a *api) Bind(_ context.Context, bindings []*corev1.Binding) []error {
	a.requests++
	errs := make([]error, len(bindings))
	for i, b := range bindings {
		pod, err := client.Get[*corev1.Pod](context.Background(), a.Client(), b.Namespace, b.Name)
		switch {
		case err != nil:
			errs[i] = err
		case pod.UID != b.UID || pod.Spec.NodeName != "":
			errs[i] = apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, b.Name, errors.New("already assigned"))
		case a.refuse != nil:
			errs[i] = a.refuse(b.Name, b.Target.Name)
		}
		if errs[i] == nil {
			controllertest.Change(a.API, b.Namespace, b.Name, func(p *corev1.Pod) { p.Spec.NodeName = b.Target.Name })
		}
	}
	return errs
}

// play runs a scheduler in virtual time.
func play(t *testing.T, test func(t *testing.T, a *api)) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		s, err := New(Options{Client: client.New(a, a.Table), Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
		if err != nil {
			t.Fatal(err)
		}
		controllertest.Start(t, s)
		test(t, a)
	})
}

// where tells which node each pod has, "-" for none.
func (a *api) where() string {
	synctest.Wait()
	var out []string
	for _, p := range controllertest.All[*corev1.Pod](a.API) {
		out = append(out, p.Name+"="+max(p.Spec.NodeName, "-"))
	}
	return strings.Join(out, " ")
}

func (a *api) expect(t *testing.T, want string) {
	t.Helper()
	if got := a.where(); got != want {
		t.Errorf("at %s: got %s, want %s", time.Now().Format("04:05"), got, want)
	}
}

// scheduled returns a pod's condition.
func (a *api) scheduled(name string) corev1.PodCondition {
	synctest.Wait()
	pod, err := client.Get[*corev1.Pod](context.Background(), a.Client(), "default", name)
	if err != nil {
		return corev1.PodCondition{Message: err.Error()}
	}
	if c := condition(pod, corev1.PodScheduled); c != nil {
		return *c
	}
	return corev1.PodCondition{}
}

// events returns what was told of a pod: "Type Reason: message".
func (a *api) events(name string) []string {
	synctest.Wait()
	var out []string
	for _, e := range controllertest.All[*corev1.Event](a.API) {
		if e.InvolvedObject.Name == name && strings.HasPrefix(e.Name, name+".") {
			out = append(out, e.Type+" "+e.Reason+": "+e.Message)
		}
	}
	return out
}

func TestPodsAreBound(t *testing.T) {
	play(t, func(t *testing.T, a *api) {
		controllertest.Put(a.API, node("a"))
		controllertest.Put(a.API, node("b"))
		for i := range 8 {
			controllertest.Put(a.API, pod(fmt.Sprint(i), requests("cpu=1"), owned("rs")))
		}
		controllertest.Put(a.API, pod("foreign", func(p *corev1.Pod) { p.Spec.SchedulerName = "other" }))
		synctest.Wait()
		on := map[string]int{}
		for _, p := range controllertest.All[*corev1.Pod](a.API) {
			on[p.Spec.NodeName]++
		}
		if fmt.Sprint(on) != "map[:1 a:4 b:4]" {
			t.Errorf("pods by node: %v", on)
		}
		p, _ := client.Get[*corev1.Pod](t.Context(), a.Client(), "default", "0")
		if got := a.events("0"); len(got) != 1 || got[0] != "Normal Scheduled: Successfully assigned default/0 to "+p.Spec.NodeName {
			t.Errorf("events: %q", got)
		}
	})
}

func TestManyPodsShareARequest(t *testing.T) {
	play(t, func(t *testing.T, a *api) {
		for i := range 1000 {
			controllertest.Put(a.API, pod(fmt.Sprint(i), requests("cpu=10m"), owned("rs")))
		}
		synctest.Wait()
		for i := range 10 {
			controllertest.Put(a.API, node(fmt.Sprint("n", i)))
		}
		time.Sleep(mostBackoff)
		synctest.Wait()
		for _, p := range controllertest.All[*corev1.Pod](a.API) {
			if p.Spec.NodeName == "" {
				t.Fatalf("%s has no node", p.Name)
			}
		}
		if a.requests > 10 {
			t.Errorf("%d requests", a.requests)
		}
	})
}

func TestPodWaitsForRoom(t *testing.T) {
	play(t, func(t *testing.T, a *api) {
		controllertest.Put(a.API, node("a", allocatable("cpu=1")))
		controllertest.Put(a.API, pod("first", requests("cpu=1")))
		a.expect(t, "first=a")
		controllertest.Put(a.API, pod("second", requests("cpu=1")))
		a.expect(t, "first=a second=-")
		const why = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
		c := a.scheduled("second")
		if c.Status != corev1.ConditionFalse || c.Reason != "Unschedulable" || c.Message != why || c.ObservedGeneration != 1 || !c.LastTransitionTime.Time.Equal(time.Now()) {
			t.Errorf("condition: %+v", c)
		}
		if got := a.events("second"); len(got) != 1 || got[0] != "Warning FailedScheduling: "+why {
			t.Errorf("events: %q", got)
		}
		a.Writes()
		time.Sleep(time.Hour)
		synctest.Wait()
		if w := a.Writes(); len(w) > 0 {
			t.Errorf("written while nothing happened: %q", w)
		}
		controllertest.Drop[*corev1.Pod](a.API, "default", "first")
		a.expect(t, "second=a")
	})
}

func TestWhatWakesAWaitingPod(t *testing.T) {
	for name, c := range map[string]struct {
		pod    *corev1.Pod
		change func(a *api)
		want   bool
	}{
		"a new node":    {pod("p", requests("cpu=2")), func(a *api) { controllertest.Put(a.API, node("b")) }, true},
		"a larger node": {pod("p", requests("cpu=2")), func(a *api) { controllertest.Put(a.API, node("a")) }, true},
		"a label":       {pod("p", selects("x", "1"), tolerating("t", corev1.TolerationOpExists, "", "")), func(a *api) { controllertest.Change(a.API, "", "a", label("x", "1")) }, true},
		"a taint that is gone": {pod("p", requests("memory=1Gi")), func(a *api) {
			controllertest.Change(a.API, "", "a", func(n *corev1.Node) { n.Spec.Taints = nil })
		}, true},
		"a pod that is gone": {pod("p", requests("cpu=1"), tolerating("t", corev1.TolerationOpExists, "", "")), func(a *api) { controllertest.Drop[*corev1.Pod](a.API, "default", "r") }, true},
		"a pod that is done": {pod("p", requests("cpu=1"), tolerating("t", corev1.TolerationOpExists, "", "")), func(a *api) {
			controllertest.Change(a.API, "default", "r", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
		}, true},
		"its own toleration": {pod("p"), func(a *api) {
			controllertest.Change(a.API, "default", "p", func(p *corev1.Pod) {
				tolerating("t", corev1.TolerationOpExists, "", "")(p)
				p.Generation++
			})
		}, true},
		"a heartbeat": {pod("p", requests("cpu=2")), func(a *api) {
			controllertest.Change(a.API, "", "a", func(n *corev1.Node) {
				n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, LastHeartbeatTime: metav1.Now()}}
			})
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, func(t *testing.T, a *api) {
				controllertest.Put(a.API, node("a", allocatable("cpu=1"), taint("t", "", corev1.TaintEffectNoSchedule)))
				controllertest.Put(a.API, pod("r", requests("cpu=1"), on("a")))
				controllertest.Put(a.API, c.pod)
				a.expect(t, "p=- r=a")
				c.change(a)
				time.Sleep(mostBackoff)
				synctest.Wait()
				p, err := client.Get[*corev1.Pod](t.Context(), a.Client(), "default", "p")
				if err != nil || (p.Spec.NodeName != "") != c.want {
					t.Errorf("node %q, %v", p.Spec.NodeName, a.scheduled("p"))
				}
			})
		})
	}
}

// A pod that waits for others is woken by those that it waits for, and by no others.
func TestWhatWakesAPodThatMindsOthers(t *testing.T) {
	const host = corev1.LabelHostname
	for name, c := range map[string]struct {
		pod    *corev1.Pod
		change func(a *api)
		want   bool
	}{
		"one that it wants beside it": {pod("p", beside(0, about("db", host))), func(a *api) { controllertest.Put(a.API, pod("s", labelled("db"), on("a"))) }, true},
		"one that it does not want":   {pod("p", beside(0, about("db", host))), func(a *api) { controllertest.Put(a.API, pod("s", labelled("x"), on("a"))) }, false},
		"one that stood in its way":   {pod("p", awayFrom(0, about("web", host))), func(a *api) { controllertest.Drop[*corev1.Pod](a.API, "default", "r") }, true},
		"one that kept it away":       {pod("p", labelled("hated")), func(a *api) { controllertest.Drop[*corev1.Pod](a.API, "default", "r") }, true},
		"a label that changes": {pod("p", awayFrom(0, about("web", host))), func(a *api) {
			controllertest.Change(a.API, "default", "r", labelled("else"))
		}, true},
		"a namespace's label": {pod("p", beside(0, about("web", host, func(t *corev1.PodAffinityTerm) {
			t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "x"}}
		}))), func(a *api) {
			controllertest.Put(a.API, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Labels: map[string]string{"team": "x"}}})
		}, true},
		"a node's label": {pod("p", awayFrom(0, about("web", host))), func(a *api) {
			controllertest.Change(a.API, "", "a", func(n *corev1.Node) { n.Labels = nil })
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, func(t *testing.T, a *api) {
				controllertest.Put(a.API, node("a"))
				controllertest.Put(a.API, pod("r", labelled("web"), on("a"), awayFrom(0, about("hated", host))))
				controllertest.Put(a.API, c.pod)
				a.expect(t, "p=- r=a")
				a.Writes()
				c.change(a)
				time.Sleep(mostBackoff)
				if got := strings.Contains(a.where(), "p=a"); got != c.want || !got && len(a.Writes()) > 0 {
					t.Errorf("%s: %v", a.where(), a.scheduled("p"))
				}
			})
		})
	}
}

func TestPodWaitsForOthersToEvenOut(t *testing.T) {
	play(t, func(t *testing.T, a *api) {
		app := func(p *corev1.Pod) { p.Labels = map[string]string{"app": "x"} }
		controllertest.Put(a.API, node("a"))
		controllertest.Put(a.API, node("b", allocatable("cpu=1")))
		controllertest.Put(a.API, pod("r", app, on("a")))
		controllertest.Put(a.API, pod("p", requests("cpu=2"), spreads(corev1.LabelHostname, 1, corev1.DoNotSchedule)))
		a.expect(t, "p=- r=a")
		controllertest.Put(a.API, pod("s", app, on("b")))
		time.Sleep(mostBackoff)
		a.expect(t, "p=a r=a s=b")
	})
}

func TestHigherPriorityGoesFirst(t *testing.T) {
	play(t, func(t *testing.T, a *api) {
		for i, p := range []int32{0, 5, -1, 9} {
			controllertest.Put(a.API, pod(fmt.Sprint("p", i), requests("cpu=1"), func(pod *corev1.Pod) { pod.Spec.Priority = &p }))
		}
		a.expect(t, "p0=- p1=- p2=- p3=-")
		controllertest.Put(a.API, node("a", allocatable("cpu=2")))
		time.Sleep(mostBackoff)
		a.expect(t, "p0=- p1=a p2=- p3=a")
	})
}

func TestPreemptionInTheLoop(t *testing.T) {
	play(t, func(t *testing.T, a *api) {
		controllertest.Put(a.API, node("a", allocatable("cpu=2")))
		controllertest.Put(a.API, pod("low", requests("cpu=2")))
		a.expect(t, "low=a")
		controllertest.Put(a.API, pod("high", requests("cpu=2"), priority(10)))
		a.expect(t, "high=- low=a")
		low, _ := client.Get[*corev1.Pod](t.Context(), a.Client(), "default", "low")
		if c := condition(low, corev1.DisruptionTarget); low.DeletionTimestamp == nil || c == nil || c.Reason != "PreemptionByScheduler" || c.Message != "default-scheduler: preempting to accommodate a higher priority pod" {
			t.Errorf("victim: %+v", low)
		}
		if got := a.events("low"); !slices.Contains(got, "Normal Preempted: Preempted by pod uid-high on node a") {
			t.Errorf("events: %q", got)
		}
		high, _ := client.Get[*corev1.Pod](t.Context(), a.Client(), "default", "high")
		if high.Status.NominatedNodeName != "a" || a.scheduled("high").Message != "0/1 nodes are available: 1 Insufficient cpu." {
			t.Errorf("preemptor: %+v", high.Status)
		}
		// While the victim ends, nobody else is asked to go, and its room is not given away.
		controllertest.Put(a.API, node("b", allocatable("cpu=1")))
		controllertest.Put(a.API, pod("middle", requests("cpu=1"), priority(5)))
		controllertest.Put(a.API, pod("thief", requests("cpu=2"), priority(5)))
		time.Sleep(mostBackoff)
		a.expect(t, "high=- low=a middle=b thief=-")
		controllertest.Drop[*corev1.Pod](a.API, "default", "low")
		time.Sleep(mostBackoff)
		a.expect(t, "high=a middle=b thief=-")
	})
}

func TestGates(t *testing.T) {
	play(t, func(t *testing.T, a *api) {
		controllertest.Put(a.API, node("a"))
		controllertest.Put(a.API, pod("p", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }))
		a.expect(t, "p=-")
		if c := a.scheduled("p"); c.Reason != "SchedulingGated" || c.Message != "Scheduling is blocked due to non-empty scheduling gates" {
			t.Errorf("condition: %+v", c)
		}
		controllertest.Change(a.API, "default", "p", func(p *corev1.Pod) { p.Spec.SchedulingGates = nil; p.Generation++ })
		a.expect(t, "p=a")
	})
}

func TestBindingThatFailsGivesRoomBack(t *testing.T) {
	play(t, func(t *testing.T, a *api) {
		broken := true
		a.refuse = func(pod, _ string) error {
			if pod == "p" && broken {
				return errors.New("no")
			}
			return nil
		}
		controllertest.Put(a.API, node("a", allocatable("cpu=1")))
		controllertest.Put(a.API, pod("p", requests("cpu=1")))
		a.expect(t, "p=-")
		if got := a.events("p"); !slices.Contains(got, "Warning FailedScheduling: binding rejected: no") {
			t.Errorf("events: %q", got)
		}
		controllertest.Put(a.API, pod("q", requests("cpu=1")))
		a.expect(t, "p=- q=a")
		broken = false
		controllertest.Drop[*corev1.Pod](a.API, "default", "q")
		time.Sleep(mostBackoff)
		a.expect(t, "p=a")
	})
}

// A pod that is deleted and made again under the same name is another pod.
func TestPodOfTheSameName(t *testing.T) {
	play(t, func(t *testing.T, a *api) {
		controllertest.Put(a.API, pod("p", requests("cpu=1")))
		a.expect(t, "p=-")
		controllertest.Drop[*corev1.Pod](a.API, "default", "p")
		controllertest.Put(a.API, pod("p", requests("cpu=2"), func(p *corev1.Pod) { p.UID = types.UID("again") }))
		controllertest.Put(a.API, node("a", allocatable("cpu=2")))
		time.Sleep(mostBackoff)
		a.expect(t, "p=a")
		controllertest.Put(a.API, pod("q", requests("cpu=1")))
		a.expect(t, "p=a q=-")
	})
}

// When the feed was lost, a new start from a snapshot knows all that happened meanwhile.
func TestLostFeed(t *testing.T) {
	play(t, func(t *testing.T, a *api) {
		controllertest.Put(a.API, node("a", allocatable("cpu=2")))
		controllertest.Put(a.API, pod("p", requests("cpu=1")))
		a.expect(t, "p=a")
		controllertest.Put(a.API, pod("large", requests("cpu=2")))
		a.expect(t, "large=- p=a")
		block := make(chan struct{})
		a.refuse = func(string, string) error { <-block; return nil }
		controllertest.Put(a.API, pod("slow", requests("cpu=1")))
		synctest.Wait()
		controllertest.Drop[*corev1.Pod](a.API, "default", "p")
		controllertest.Put(a.API, node("b", allocatable("cpu=2")))
		a.Compact(a.Snapshot().Revision())
		a.refuse = nil
		close(block)
		time.Sleep(mostBackoff)
		a.expect(t, "large=b slow=a")
	})
}

// BenchmarkSchedule schedules pods through the loop on 1,000 and 5,000 nodes, over an API that does nothing but store.
func BenchmarkSchedule(b *testing.B) {
	for _, nodes := range []int{1000, 5000} {
		b.Run(fmt.Sprint(nodes), func(b *testing.B) {
			a := newAPI()
			for i := range nodes {
				controllertest.Put(a.API, node(fmt.Sprint("node-", i), allocatable("cpu=32 memory=64Gi"), zone(fmt.Sprint(i%3))))
			}
			s, err := New(Options{Client: client.New(a, a.Table), Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			controllertest.Start(b, s)
			w, err := a.Watch("pods", a.Snapshot().Revision())
			if err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			go func() {
				for i := range b.N {
					controllertest.Put(a.API, pod(fmt.Sprint("pod-", i), requests("cpu=10m memory=10Mi"), owned(fmt.Sprint("rs-", i/100))))
				}
			}()
			for bound := 0; bound < b.N; {
				events, _, err := w.Next(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				for _, e := range events {
					if e.Item.Object.(*corev1.Pod).Spec.NodeName != "" && e.Prev.Object.(*corev1.Pod).Spec.NodeName == "" {
						bound++
					}
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
		})
	}
}

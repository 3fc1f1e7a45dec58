package workloads

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	. "github.com/kebernetes/kebernetes/controller/controllertest"
)

func daemonSet(surge, unavailable int32) *appsv1.DaemonSet {
	app := map[string]string{"app": "d"}
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: app}, Template: template("one", app), RevisionHistoryLimit: ptr.To[int32](10),
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{
				MaxSurge: ptr.To(intstr.FromInt32(surge)), MaxUnavailable: ptr.To(intstr.FromInt32(unavailable))}},
		},
	}
}

func node(name string, labels map[string]string, taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: corev1.NodeSpec{Taints: taints}}
}

// daemons lists the active pods as node=image, with a star when ready.
func daemons(api *API) string {
	var out []string
	for _, n := range All[*corev1.Node](api) {
		for _, p := range All[*corev1.Pod](api) {
			if nodeOf(p) == n.Name && p.DeletionTimestamp == nil {
				mark := ""
				if healthy(p) {
					mark = "*"
				}
				out = append(out, fmt.Sprintf("%s=%s%s", n.Name, p.Spec.Containers[0].Image, mark))
			}
		}
	}
	return strings.Join(out, " ")
}

// bind plays the scheduler for daemon pods, and the node agent after it.
func (k kubelet) runDaemons(d time.Duration, check func()) {
	for range int(d / time.Second) {
		for _, p := range All[*corev1.Pod](k.api) {
			if p.Spec.NodeName == "" {
				Change(k.api, p.Namespace, p.Name, func(p *corev1.Pod) {
					p.Spec.NodeName = nodeOf(p)
					if k.broken == nil || !k.broken(p) {
						p.Status.Phase = corev1.PodRunning
						p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
					}
				})
			} else if p.DeletionTimestamp != nil {
				Drop[*corev1.Pod](k.api, p.Namespace, p.Name)
			}
		}
		synctest.Wait()
		time.Sleep(time.Second)
		if check != nil {
			check()
		}
	}
}

func TestDaemonSetFollowsNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		k := kubelet{api: api}
		Put(api, node("a", nil))
		Put(api, node("tainted", nil, corev1.Taint{Key: "x", Effect: corev1.TaintEffectNoSchedule}))
		Put(api, node("troubled", nil, corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}))
		start(t, api)
		Put(api, daemonSet(0, 1))
		k.runDaemons(3*time.Second, nil)
		if got := daemons(api); got != "a=one* troubled=one*" {
			t.Fatalf("pods %s", got)
		}
		Put(api, node("b", nil))
		k.runDaemons(3*time.Second, nil)
		// A taint that only keeps new pods away lets the one there stay; a NoExecute one does not.
		Change(api, "", "a", func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "x", Effect: corev1.TaintEffectNoSchedule}} })
		Change(api, "", "b", func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "x", Effect: corev1.TaintEffectNoExecute}} })
		k.runDaemons(3*time.Second, nil)
		if got := daemons(api); got != "a=one* troubled=one*" {
			t.Errorf("pods after the taints: %s", got)
		}
		s := All[*appsv1.DaemonSet](api)[0].Status
		if s.DesiredNumberScheduled != 1 || s.CurrentNumberScheduled != 1 || s.NumberMisscheduled != 1 || s.NumberReady != 1 || s.ObservedGeneration != 1 {
			t.Errorf("status %+v", s)
		}
		pod := All[*corev1.Pod](api)[0]
		Change(api, "ns", pod.Name, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
		k.runDaemons(3*time.Second, nil)
		if got := daemons(api); strings.Count(got, "*") != len(All[*corev1.Pod](api)) {
			t.Errorf("after a failure: %s", got)
		}
	})
}

func TestDaemonSetSelectsNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		k := kubelet{api: api}
		Put(api, node("a", map[string]string{"color": "blue"}))
		Put(api, node("b", nil))
		start(t, api)
		ds := daemonSet(0, 1)
		ds.Spec.Template.Spec.NodeSelector = map[string]string{"color": "blue"}
		Put(api, ds)
		k.runDaemons(2*time.Second, nil)
		if got := daemons(api); got != "a=one*" {
			t.Errorf("pods %s", got)
		}
		Change(api, "", "b", func(n *corev1.Node) { n.Labels = map[string]string{"color": "blue"} })
		Change(api, "", "a", func(n *corev1.Node) { n.Labels = nil })
		k.runDaemons(2*time.Second, nil)
		if got := daemons(api); got != "b=one*" {
			t.Errorf("pods after the labels moved: %s", got)
		}
	})
}

func TestDaemonSetRolls(t *testing.T) {
	for _, c := range []struct {
		name               string
		surge, unavailable int32
		least, most        int
	}{{"one down at a time", 0, 1, 3, 4}, {"two down at a time", 0, 2, 2, 4}, {"one more at a time", 1, 0, 4, 5}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := newAPI()
				k := kubelet{api: api}
				for i := range 4 {
					Put(api, node(fmt.Sprint(i), nil))
				}
				start(t, api)
				Put(api, daemonSet(c.surge, c.unavailable))
				k.runDaemons(3*time.Second, nil)
				Change(api, "ns", "d", func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = "two"; d.Generation++ })
				k.runDaemons(20*time.Second, func() {
					got := daemons(api)
					if n := strings.Count(got, "*"); n < c.least || len(strings.Fields(got)) > c.most {
						t.Errorf("during the update: %s", got)
					}
				})
				if got := daemons(api); got != "0=two* 1=two* 2=two* 3=two*" {
					t.Errorf("after the update: %s", got)
				}
				if s := All[*appsv1.DaemonSet](api)[0].Status; s.UpdatedNumberScheduled != 4 || s.NumberAvailable != 4 || s.NumberUnavailable != 0 {
					t.Errorf("status %+v", s)
				}
			})
		})
	}
}

// A rollback must not restart pods that are still of the old template.
func TestDaemonSetRollbackSparesHealthyPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		k := kubelet{api: api, broken: func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image == "bad" }}
		for i := range 3 {
			Put(api, node(fmt.Sprint(i), nil))
		}
		start(t, api)
		Put(api, daemonSet(0, 1))
		k.runDaemons(3*time.Second, nil)
		before := map[string]bool{}
		for _, p := range All[*corev1.Pod](api) {
			before[p.Name] = true
		}
		Change(api, "ns", "d", func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = "bad"; d.Generation++ })
		k.runDaemons(10*time.Second, nil)
		Change(api, "ns", "d", func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = "one"; d.Generation++ })
		k.runDaemons(10*time.Second, nil)
		survivors := 0
		for _, p := range All[*corev1.Pod](api) {
			if before[p.Name] {
				survivors++
			}
		}
		if got := daemons(api); got != "0=one* 1=one* 2=one*" || survivors != 2 {
			t.Errorf("after the rollback: %s, %d never restarted", got, survivors)
		}
	})
}

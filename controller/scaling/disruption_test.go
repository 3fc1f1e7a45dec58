package scaling

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	. "github.com/kebernetes/kebernetes/controller/controllertest"
	"github.com/kebernetes/kebernetes/kinds"
)

var app = map[string]string{"app": "web"}

func budget(least, most string) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "b", Generation: 1}}
	b.Spec.Selector = &metav1.LabelSelector{MatchLabels: app}
	if least != "" {
		b.Spec.MinAvailable = ptr.To(intstr.Parse(least))
	}
	if most != "" {
		b.Spec.MaxUnavailable = ptr.To(intstr.Parse(most))
	}
	return b
}

func pods(ready, unready int, owned bool) (out []*corev1.Pod) {
	for i := range ready + unready {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("p", i), Labels: app}}
		p.Status.Phase = corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		if i >= ready {
			p.Status.Conditions[0].Status = corev1.ConditionFalse
		}
		if owned {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "rs", UID: "rs", Controller: ptr.To(true)}}
		}
		out = append(out, p)
	}
	return out
}

func TestPlanBudget(t *testing.T) {
	now := time.Unix(1000, 0)
	ten := func(*corev1.Pod) (scaled, error) { return scaled{"rs", 10}, nil }
	for _, c := range []struct {
		name   string
		budget *policyv1.PodDisruptionBudget
		pods   []*corev1.Pod
		scale  func(*corev1.Pod) (scaled, error)
		want   string // allowed healthy/desired of expected, condition
	}{
		{"a number of pods", budget("2", ""), pods(3, 1, false), nil, "1 3/2 of 4 SufficientPods"},
		{"no more than needed", budget("3", ""), pods(3, 1, false), nil, "0 3/3 of 4 InsufficientPods"},
		{"a share is of what is wanted, rounded up", budget("75%", ""), pods(9, 0, true), ten, "1 9/8 of 10 SufficientPods"},
		{"most unavailable", budget("", "30%"), pods(8, 0, true), ten, "1 8/7 of 10 SufficientPods"},
		{"most unavailable, as a number", budget("", "1"), pods(9, 0, true), ten, "0 9/9 of 10 InsufficientPods"},
		{"no pods", budget("0", ""), nil, nil, "0 0/0 of 0 InsufficientPods"},
		{"no scale", budget("", "1"), pods(3, 0, true), func(*corev1.Pod) (scaled, error) { return scaled{}, errors.New("x") }, "0 0/0 of 0 SyncFailed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			expected, desired, err := expectations(c.budget, c.pods, c.scale)
			s, _, _ := planBudget(c.budget, c.pods, expected, desired, err, now)
			got := fmt.Sprintf("%d %d/%d of %d %s", s.DisruptionsAllowed, s.CurrentHealthy, s.DesiredHealthy, s.ExpectedPods, s.Conditions[0].Reason)
			if got != c.want || s.ObservedGeneration != 1 {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestEvictedPodsCountAsGoneForAWhile(t *testing.T) {
	b := budget("1", "")
	b.Status.DisruptedPods = map[string]metav1.Time{"p0": metav1.Unix(1000, 0), "gone": metav1.Unix(1000, 0)}
	list := pods(3, 0, false)
	s, missing, again := planBudget(b, list, 3, 1, nil, time.Unix(1060, 0))
	if s.CurrentHealthy != 2 || len(s.DisruptedPods) != 1 || len(missing) != 0 || again != time.Minute {
		t.Errorf("in time: %+v, missing %d, again in %s", s, len(missing), again)
	}
	s, missing, _ = planBudget(b, list, 3, 1, nil, time.Unix(1200, 0))
	if s.CurrentHealthy != 3 || len(s.DisruptedPods) != 0 || len(missing) != 1 {
		t.Errorf("after the time: %+v, missing %d", s, len(missing))
	}
}

func TestBudgetFollowsPodsAndScale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deployments := Row[appsv1.Deployment, appsv1.DeploymentList]("apps", "v1", "deployments", true)
		deployments.Scale = &kinds.Scale{Get: func(o kinds.Object) *autoscalingv1.Scale {
			return &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: *o.(*appsv1.Deployment).Spec.Replicas}}
		}}
		api := New(deployments,
			Row[appsv1.ReplicaSet, appsv1.ReplicaSetList]("apps", "v1", "replicasets", true),
			Row[corev1.Pod, corev1.PodList]("", "v1", "pods", true),
			Row[corev1.Event, corev1.EventList]("", "v1", "events", true),
			Row[policyv1.PodDisruptionBudget, policyv1.PodDisruptionBudgetList]("policy", "v1", "poddisruptionbudgets", true))
		d := Put(api, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d"}, Spec: appsv1.DeploymentSpec{Replicas: ptr.To[int32](3)}})
		rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "rs", UID: "rs",
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))}}}
		Put(api, rs)
		Put(api, budget("", "1"))
		Start(t, Controllers(api.Env(t))...)
		for _, p := range pods(3, 0, true) {
			Put(api, p)
		}
		allowed := func() int32 {
			synctest.Wait()
			return All[*policyv1.PodDisruptionBudget](api)[0].Status.DisruptionsAllowed
		}
		if n := allowed(); n != 1 {
			t.Errorf("3 of 3: %d allowed", n)
		}
		Change(api, "ns", "p0", func(p *corev1.Pod) {
			p.Status.Conditions[0].Status = corev1.ConditionFalse
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
		})
		if n := allowed(); n != 0 {
			t.Errorf("2 of 3: %d allowed", n)
		}
		Change(api, "ns", "d", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](2); d.Generation++ })
		if n := allowed(); n != 1 {
			t.Errorf("2 of 2: %d allowed", n)
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if c := All[*corev1.Pod](api)[0].Status.Conditions[1]; c.Status != corev1.ConditionFalse {
			t.Errorf("the mark of a disruption that never came: %+v", c)
		}
	})
}

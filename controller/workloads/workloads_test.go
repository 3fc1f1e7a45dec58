package workloads

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
	. "github.com/kebernetes/kebernetes/controller/controllertest"
	"github.com/kebernetes/kebernetes/kinds"
)

func newAPI() *API {
	return New(
		Row[corev1.Pod, corev1.PodList]("", "v1", "pods", true),
		Row[corev1.Event, corev1.EventList]("", "v1", "events", true),
		Row[appsv1.Deployment, appsv1.DeploymentList]("apps", "v1", "deployments", true),
		Row[appsv1.ReplicaSet, appsv1.ReplicaSetList]("apps", "v1", "replicasets", true),
		Row[appsv1.StatefulSet, appsv1.StatefulSetList]("apps", "v1", "statefulsets", true),
		Row[appsv1.DaemonSet, appsv1.DaemonSetList]("apps", "v1", "daemonsets", true),
		Row[appsv1.ControllerRevision, appsv1.ControllerRevisionList]("apps", "v1", "controllerrevisions", true),
		Row[batchv1.Job, batchv1.JobList]("batch", "v1", "jobs", true),
		Row[batchv1.CronJob, batchv1.CronJobList]("batch", "v1", "cronjobs", true),
		Row[corev1.ReplicationController, corev1.ReplicationControllerList]("", "v1", "replicationcontrollers", true),
		Row[corev1.ConfigMap, corev1.ConfigMapList]("", "v1", "configmaps", true),
		Row[corev1.Secret, corev1.SecretList]("", "v1", "secrets", true),
		Row[corev1.Node, corev1.NodeList]("", "v1", "nodes", false),
		Row[corev1.PersistentVolumeClaim, corev1.PersistentVolumeClaimList]("", "v1", "persistentvolumeclaims", true),
	)
}

// kubelet plays the node agent: pods run and become ready after a while, deleted ones end after a while.
type kubelet struct {
	api   *API
	start time.Duration
	stop  time.Duration
	// broken says which pods never become ready.
	broken func(*corev1.Pod) bool
}

// step brings every pod as far as it is due, and says whether anything changed.
func (k kubelet) step() {
	for _, pod := range All[*corev1.Pod](k.api) {
		switch {
		case pod.DeletionTimestamp != nil:
			if time.Since(pod.DeletionTimestamp.Add(-30*time.Second)) >= k.stop {
				Drop[*corev1.Pod](k.api, pod.Namespace, pod.Name)
			}
		case pod.Status.Phase == "" && time.Since(pod.CreationTimestamp.Time) >= k.start && (k.broken == nil || !k.broken(pod)):
			setReady(k.api, pod)
		}
	}
}

func setReady(api *API, pod *corev1.Pod) {
	Change(api, pod.Namespace, pod.Name, func(p *corev1.Pod) {
		p.Spec.NodeName = "node"
		p.Status.Phase = corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
	})
}

// run lets virtual time pass in steps of a second, calling check after each.
func (k kubelet) run(d time.Duration, check func()) {
	for range int(d / time.Second) {
		time.Sleep(time.Second)
		k.step()
		synctest.Wait()
		if check != nil {
			check()
		}
	}
}

func template(image string, labels map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
	}
}

func deployment(replicas int32, image string) *appsv1.Deployment {
	app := map[string]string{"app": "web"}
	quarter := intstr.FromString("25%")
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", Annotations: map[string]string{"note": "kept"}},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(replicas), Selector: &metav1.LabelSelector{MatchLabels: app}, Template: template(image, app),
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &quarter, MaxUnavailable: &quarter}},
			RevisionHistoryLimit: ptr.To[int32](10), ProgressDeadlineSeconds: ptr.To[int32](600),
		},
	}
}

func get(api *API) *appsv1.Deployment {
	return All[*appsv1.Deployment](api)[0]
}

func progressing(d *appsv1.Deployment) string {
	c := condition(&d.Status, appsv1.DeploymentProgressing)
	if c == nil {
		return "none"
	}
	return string(c.Status) + " " + c.Reason + ": " + c.Message
}

// sets lists the ReplicaSets as image=size, sorted.
func sets(api *API) string {
	var out []string
	for _, rs := range All[*appsv1.ReplicaSet](api) {
		out = append(out, fmt.Sprintf("%s=%d", rs.Spec.Template.Spec.Containers[0].Image, *rs.Spec.Replicas))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func messages(api *API) []string {
	var out []string
	for _, e := range All[*corev1.Event](api) {
		out = append(out, e.Reason+" "+e.Message)
	}
	return out
}

func start(t *testing.T, api *API) { Start(t, Controllers(api.Env(t))...) }

func TestDeploymentRollsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		start(t, api)
		k := kubelet{api: api, start: 2 * time.Second, stop: time.Second}
		Put(api, deployment(5, "one"))
		k.run(10*time.Second, nil)
		d := get(api)
		rs := All[*appsv1.ReplicaSet](api)[0]
		if got := progressing(d); got != fmt.Sprintf("True NewReplicaSetAvailable: ReplicaSet %q has successfully progressed.", rs.Name) {
			t.Errorf("progressing: %s", got)
		}
		if d.Annotations[revisionAnnotation] != "1" || rs.Annotations["note"] != "kept" || rs.Annotations[maxReplicasAnnotation] != "7" {
			t.Errorf("annotations %v of %v", rs.Annotations, d.Annotations)
		}
		if d.Status.ObservedGeneration != d.Generation || d.Status.AvailableReplicas != 5 || d.Status.UnavailableReplicas != 0 {
			t.Errorf("status %+v", d.Status)
		}

		Change(api, "ns", "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "two"; d.Generation++ })
		k.run(30*time.Second, func() {
			pods, ready := 0, 0
			for _, p := range All[*corev1.Pod](api) {
				if controller.PodActive(p) {
					pods++
					if controller.PodReady(p) {
						ready++
					}
				}
			}
			if pods > 7 || ready < 4 {
				t.Errorf("%d pods, %d ready: beyond surge 2 or unavailable 1", pods, ready)
			}
		})
		if got := sets(api); got != "one=0 two=5" {
			t.Errorf("replica sets %s", got)
		}
		if got := get(api).Annotations[revisionAnnotation]; got != "2" {
			t.Errorf("revision %s", got)
		}
		// Back to the first template: kubectl rollout undo. Its set gets a new revision and remembers the old one.
		Change(api, "ns", "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "one"; d.Generation++ })
		k.run(30*time.Second, nil)
		if got := sets(api); got != "one=5 two=0" {
			t.Errorf("replica sets %s", got)
		}
		for _, rs := range All[*appsv1.ReplicaSet](api) {
			if *rs.Spec.Replicas == 5 && (rs.Annotations[revisionAnnotation] != "3" || rs.Annotations[revisionHistoryAnnotation] != "1") {
				t.Errorf("annotations after the undo: %v", rs.Annotations)
			}
		}
		if got := messages(api); !slices.Contains(got, "ScalingReplicaSet Scaled up replica set "+rs.Name+" from 0 to 5") ||
			!slices.Contains(got, "ScalingReplicaSet Scaled down replica set "+rs.Name+" from 5 to 4") {
			t.Errorf("events %q", got)
		}
	})
}

func TestDeploymentAtRestWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Put(api, deployment(3, "one"))
		start(t, api)
		kubelet{api: api}.run(5*time.Second, nil)
		api.Writes()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if w := api.Writes(); len(w) > 0 {
			t.Errorf("writes at rest: %q", w)
		}
	})
}

func TestDeploymentDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Put(api, deployment(3, "one"))
		start(t, api)
		k := kubelet{api: api, broken: func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image == "bad" }}
		k.run(5*time.Second, nil)
		Change(api, "ns", "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "bad"; d.Generation++ })
		k.run(599*time.Second, nil)
		if got := progressing(get(api)); !strings.HasPrefix(got, "True ReplicaSetUpdated: ReplicaSet ") {
			t.Errorf("before the deadline: %s", got)
		}
		k.run(10*time.Second, nil)
		if got := progressing(get(api)); !strings.HasPrefix(got, "False ProgressDeadlineExceeded: ReplicaSet ") || !strings.HasSuffix(got, "has timed out progressing.") {
			t.Errorf("after the deadline: %s", got)
		}
		if got := sets(api); got != "bad=1 one=3" {
			t.Errorf("replica sets %s: no more than may be unavailable goes", got)
		}
		// Rollover: a third template takes over from both.
		Change(api, "ns", "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "good"; d.Generation++ })
		k.run(30*time.Second, nil)
		if got := sets(api); got != "bad=0 good=3 one=0" {
			t.Errorf("replica sets %s", got)
		}
	})
}

func TestDeploymentRecreates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		d := deployment(3, "one")
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		Put(api, d)
		start(t, api)
		k := kubelet{api: api, stop: 5 * time.Second}
		k.run(5*time.Second, nil)
		Change(api, "ns", "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "two"; d.Generation++ })
		k.run(20*time.Second, func() {
			images := map[string]bool{}
			for _, p := range All[*corev1.Pod](api) {
				images[p.Spec.Containers[0].Image] = true
			}
			if len(images) > 1 {
				t.Errorf("old and new pods at once")
			}
		})
		if got := sets(api); got != "one=0 two=3" {
			t.Errorf("replica sets %s", got)
		}
	})
}

func TestDeploymentPausedScalesButDoesNotRoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Put(api, deployment(3, "one"))
		start(t, api)
		k := kubelet{api: api}
		k.run(5*time.Second, nil)
		Change(api, "ns", "web", func(d *appsv1.Deployment) {
			d.Spec.Paused, d.Spec.Replicas = true, ptr.To[int32](4)
			d.Spec.Template.Spec.Containers[0].Image = "two"
			d.Generation++
		})
		k.run(5*time.Second, nil)
		if got := sets(api); got != "one=4" {
			t.Errorf("replica sets %s", got)
		}
		if got := progressing(get(api)); got != "Unknown DeploymentPaused: Deployment is paused" {
			t.Errorf("progressing %s", got)
		}
		Change(api, "ns", "web", func(d *appsv1.Deployment) { d.Spec.Paused = false; d.Generation++ })
		k.run(20*time.Second, nil)
		if got := sets(api); got != "one=0 two=4" {
			t.Errorf("replica sets %s", got)
		}
	})
}

func TestDeploymentKeepsHistoryAndAdopts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		d := deployment(2, "v0")
		d.Spec.RevisionHistoryLimit = ptr.To[int32](2)
		orphan := newReplicaSet(d)
		orphan.OwnerReferences = nil
		orphan.Spec.Replicas = ptr.To[int32](2)
		Put(api, orphan)
		Put(api, d)
		start(t, api)
		k := kubelet{api: api}
		k.run(5*time.Second, nil)
		if got := sets(api); got != "v0=2" {
			t.Fatalf("replica sets %s: the orphan of the same template was not adopted", got)
		}
		for i := range 5 {
			Change(api, "ns", "web", func(d *appsv1.Deployment) {
				d.Spec.Template.Spec.Containers[0].Image = fmt.Sprintf("v%d", i+1)
				d.Generation++
			})
			k.run(20*time.Second, nil)
		}
		if got := sets(api); got != "v3=0 v4=0 v5=2" {
			t.Errorf("replica sets %s, want the newest and two old ones", got)
		}
	})
}

func TestHashCollisionGetsAnotherName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		d := deployment(1, "one")
		other := newReplicaSet(d)
		other.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "other", UID: "x", Controller: ptr.To(true)}}
		other.Spec.Replicas = ptr.To[int32](0)
		Put(api, other)
		Put(api, d)
		start(t, api)
		kubelet{api: api}.run(5*time.Second, nil)
		d = get(api)
		if ptr.Deref(d.Status.CollisionCount, 0) != 1 || d.Status.AvailableReplicas != 1 {
			t.Errorf("status %+v", d.Status)
		}
	})
}

func TestProportionalScaling(t *testing.T) {
	// Expected sizes are those of upstream's documentation and of hand calculation: the larger set gets the larger share.
	for _, c := range []struct {
		name           string
		from, to       int32
		surge          int32
		sizes, want    []int32 // newest first
		availableInNew int32
	}{
		{"documentation: 10 to 15 in the middle of 8 and 5", 10, 15, 3, []int32{5, 8}, []int32{7, 11}, 0},
		{"down", 10, 5, 0, []int32{5, 5}, []int32{3, 2}, 0},
		{"to nothing", 10, 0, 2, []int32{4, 8}, []int32{0, 0}, 0},
		{"up, equal sets: the newer gets what is left", 4, 7, 0, []int32{2, 2}, []int32{4, 3}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := deployment(c.to, "new")
			d.Spec.Strategy.RollingUpdate.MaxSurge = ptr.To(intstr.FromInt32(c.surge))
			var rss []*appsv1.ReplicaSet
			for i, image := range []string{"new", "old"} {
				from := deployment(c.from, image)
				rs := newReplicaSet(from)
				rs.CreationTimestamp = metav1.Unix(int64(100-i), 0)
				rs.Spec.Replicas = ptr.To(c.sizes[i])
				rs.Annotations = map[string]string{desiredReplicasAnnotation: fmt.Sprint(c.from), maxReplicasAnnotation: fmt.Sprint(c.from + c.surge)}
				rss = append(rss, rs)
			}
			p := planDeployment(d, rss, func(*appsv1.ReplicaSet) bool { return true }, time.Unix(1000, 0))
			if got := []int32{p.newest.size(), p.older[0].size()}; !slices.Equal(got, c.want) {
				t.Errorf("sizes %v, want %v", got, c.want)
			}
		})
	}
}

func TestReplicaSetAdoptsReleasesAndReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		app := map[string]string{"app": "web"}
		rs := Put(api, &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "rs"},
			Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](3), Selector: &metav1.LabelSelector{MatchLabels: app},
				Template: template("i", app), MinReadySeconds: 10},
		})
		orphan := Put(api, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "orphan", Labels: app}})
		start(t, api)
		synctest.Wait()
		pods := All[*corev1.Pod](api)
		if len(pods) != 3 {
			t.Fatalf("%d pods, want the orphan and two new ones", len(pods))
		}
		if p := Change(api, "ns", "orphan", func(*corev1.Pod) {}); !metav1.IsControlledBy(p, rs) || p.UID != orphan.UID {
			t.Errorf("the orphan has owners %v", p.OwnerReferences)
		}
		k := kubelet{api: api}
		k.run(time.Second, nil)
		if s := All[*appsv1.ReplicaSet](api)[0].Status; s.ReadyReplicas != 3 || s.AvailableReplicas != 0 {
			t.Errorf("before minReadySeconds: %+v", s)
		}
		k.run(10*time.Second, nil)
		if s := All[*appsv1.ReplicaSet](api)[0].Status; s.AvailableReplicas != 3 || s.FullyLabeledReplicas != 3 || s.ObservedGeneration != 1 {
			t.Errorf("after minReadySeconds: %+v", s)
		}
		Change(api, "ns", "orphan", func(p *corev1.Pod) { p.Labels = map[string]string{"app": "mine"} })
		synctest.Wait()
		released := Change(api, "ns", "orphan", func(*corev1.Pod) {})
		if len(released.OwnerReferences) != 0 || len(All[*corev1.Pod](api)) != 4 {
			t.Errorf("a pod whose labels left: owners %v, %d pods", released.OwnerReferences, len(All[*corev1.Pod](api)))
		}
	})
}

func TestReplicaSetTellsWhyItCannotCreate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		var allowed atomic.Bool
		api.Refuse = func(verb string, k *kinds.Kind, obj client.Object) error {
			if !allowed.Load() && verb == "create" && k.Resource == "pods" {
				return apierrors.NewForbidden(k.GroupResource(), "", fmt.Errorf("exceeded quota"))
			}
			return nil
		}
		app := map[string]string{"app": "web"}
		Put(api, &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "rs"},
			Spec:       appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](50), Selector: &metav1.LabelSelector{MatchLabels: app}, Template: template("i", app)},
		})
		start(t, api)
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if w := api.Writes(); len(w) > 3 {
			t.Errorf("a refusal of all cost %q, want few tries and the status", w)
		}
		s := All[*appsv1.ReplicaSet](api)[0].Status
		if len(s.Conditions) != 1 || s.Conditions[0].Reason != "FailedCreate" || !strings.Contains(s.Conditions[0].Message, "exceeded quota") {
			t.Errorf("conditions %+v", s.Conditions)
		}
		allowed.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := All[*appsv1.ReplicaSet](api)[0].Status; len(s.Conditions) != 0 || s.Replicas != 50 {
			t.Errorf("after the refusal: %+v", s)
		}
	})
}

func TestScaleDownOrder(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	type p struct {
		node     string
		phase    corev1.PodPhase
		ready    time.Duration // ago; 0 is not ready
		restarts int32
		age      time.Duration
		cost     string
	}
	// In the order in which they should go.
	for name, pods := range map[string][]p{
		"unassigned, pending, unready, ready": {
			{"", corev1.PodPending, 0, 0, time.Hour, ""}, {"a", corev1.PodPending, 0, 0, time.Hour, ""},
			{"a", corev1.PodRunning, 0, 0, time.Hour, ""}, {"a", corev1.PodRunning, time.Hour, 0, time.Hour, ""}},
		"cost before node":    {{"b", corev1.PodRunning, time.Hour, 0, time.Hour, "-5"}, {"crowded", corev1.PodRunning, time.Hour, 0, time.Hour, ""}},
		"crowded node first":  {{"crowded", corev1.PodRunning, time.Hour, 0, time.Hour, ""}, {"a", corev1.PodRunning, time.Minute, 0, time.Hour, ""}},
		"ready for less time": {{"a", corev1.PodRunning, time.Minute, 0, 2 * time.Hour, ""}, {"a", corev1.PodRunning, time.Hour, 0, time.Hour, ""}},
		"more restarts":       {{"a", corev1.PodRunning, time.Hour, 3, 2 * time.Hour, ""}, {"a", corev1.PodRunning, time.Hour, 0, time.Hour, ""}},
		"newer":               {{"a", corev1.PodRunning, time.Hour, 0, time.Hour, ""}, {"a", corev1.PodRunning, time.Hour, 0, 3 * time.Hour, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			var list []*corev1.Pod
			for i, p := range pods {
				pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(i), CreationTimestamp: metav1.NewTime(now.Add(-p.age)),
					Annotations: map[string]string{corev1.PodDeletionCost: p.cost}}}
				pod.Spec.NodeName, pod.Status.Phase = p.node, p.phase
				if p.ready > 0 {
					pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-p.ready))}}
				}
				pod.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: p.restarts}}
				list = append(list, pod)
			}
			slices.Reverse(list)
			var got, want []string
			for i, pod := range scaleDownOrder(list, map[string]int{"crowded": 5}, now) {
				got, want = append(got, pod.Name), append(want, fmt.Sprint(i))
			}
			if !slices.Equal(got, want) {
				t.Errorf("order %v", got)
			}
		})
	}
}

package workloads

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	. "github.com/kebernetes/kebernetes/controller/controllertest"
)

func statefulSet(replicas int32, edit ...func(*appsv1.StatefulSet)) *appsv1.StatefulSet {
	app := map[string]string{"app": "db"}
	s := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "db"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: ptr.To(replicas), Selector: &metav1.LabelSelector{MatchLabels: app}, Template: template("one", app), ServiceName: "svc",
			PodManagementPolicy: appsv1.OrderedReadyPodManagement, RevisionHistoryLimit: ptr.To[int32](10),
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To[int32](0)}},
		},
	}
	for _, e := range edit {
		e(s)
	}
	return s
}

// podList lists the pods as name=image, with a star when ready.
func podList(api *API) string {
	var out []string
	for _, p := range All[*corev1.Pod](api) {
		mark := ""
		if healthy(p) {
			mark = "*"
		}
		out = append(out, fmt.Sprintf("%s=%s%s", p.Name, p.Spec.Containers[0].Image, mark))
	}
	return strings.Join(out, " ")
}

func TestStatefulSetInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		start(t, api)
		k := kubelet{api: api, start: time.Second, stop: time.Second}
		Put(api, statefulSet(3, func(s *appsv1.StatefulSet) {
			s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
		}))
		synctest.Wait()
		if got := podList(api); got != "db-0=one" {
			t.Fatalf("at first: %s", got)
		}
		k.run(10*time.Second, nil)
		if got := podList(api); got != "db-0=one* db-1=one* db-2=one*" {
			t.Fatalf("filled: %s", got)
		}
		p := All[*corev1.Pod](api)[2]
		if p.Spec.Hostname != "db-2" || p.Spec.Subdomain != "svc" || p.Labels[appsv1.PodIndexLabel] != "2" || p.Labels[appsv1.StatefulSetPodNameLabel] != "db-2" ||
			p.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "data-db-2" || len(All[*corev1.PersistentVolumeClaim](api)) != 3 {
			t.Errorf("pod %+v of labels %v", p.Spec, p.Labels)
		}
		s := All[*appsv1.StatefulSet](api)[0].Status
		if s.ReadyReplicas != 3 || s.CurrentReplicas != 3 || s.UpdatedReplicas != 3 || s.CurrentRevision == "" || s.CurrentRevision != s.UpdateRevision {
			t.Errorf("status %+v", s)
		}
		// A canary: only what lies above the partition is updated, and comes back of its own revision.
		Change(api, "ns", "db", func(s *appsv1.StatefulSet) {
			s.Spec.Template.Spec.Containers[0].Image = "two"
			s.Spec.UpdateStrategy.RollingUpdate.Partition = ptr.To[int32](2)
			s.Generation++
		})
		k.run(10*time.Second, nil)
		Drop[*corev1.Pod](api, "ns", "db-0")
		k.run(10*time.Second, nil)
		if got := podList(api); got != "db-0=one* db-1=one* db-2=two*" {
			t.Errorf("canary: %s", got)
		}
		if s := All[*appsv1.StatefulSet](api)[0].Status; s.CurrentReplicas != 2 || s.UpdatedReplicas != 1 || s.CurrentRevision == s.UpdateRevision {
			t.Errorf("canary status %+v", s)
		}
		// The rest follows from the top, one at a time.
		Change(api, "ns", "db", func(s *appsv1.StatefulSet) {
			s.Spec.UpdateStrategy.RollingUpdate.Partition = ptr.To[int32](0)
			s.Generation++
		})
		k.run(20*time.Second, func() {
			if n := strings.Count(podList(api), "*"); n < 2 {
				t.Errorf("only %d pods ready during the update", n)
			}
		})
		if got := podList(api); got != "db-0=two* db-1=two* db-2=two*" {
			t.Errorf("updated: %s", got)
		}
		// Down from the top; claims stay.
		Change(api, "ns", "db", func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To[int32](1); s.Generation++ })
		k.run(10*time.Second, nil)
		if got := podList(api); got != "db-0=two*" || len(All[*corev1.PersistentVolumeClaim](api)) != 3 {
			t.Errorf("scaled down: %s", got)
		}
		// Back to the first template: its revision gets the newest number.
		Change(api, "ns", "db", func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "one"; s.Generation++ })
		k.run(10*time.Second, nil)
		var numbers []int64
		for _, r := range All[*appsv1.ControllerRevision](api) {
			numbers = append(numbers, r.Revision)
		}
		slices.Sort(numbers)
		if got := podList(api); got != "db-0=one*" || !slices.Equal(numbers, []int64{2, 3}) {
			t.Errorf("after the undo: %s, revisions %v", got, numbers)
		}
	})
}

func TestStatefulSetHaltsOnUnwellPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		start(t, api)
		k := kubelet{api: api, broken: func(p *corev1.Pod) bool { return p.Name == "db-1" }}
		Put(api, statefulSet(3))
		k.run(30*time.Second, nil)
		if got := podList(api); got != "db-0=one* db-1=one" {
			t.Errorf("filling halts: %s", got)
		}
		Change(api, "ns", "db", func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To[int32](1); s.Generation++ })
		k.run(5*time.Second, nil)
		if got := podList(api); got != "db-0=one*" {
			t.Errorf("the unwell one itself may go: %s", got)
		}
		Change(api, "ns", "db-0", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
		k.run(5*time.Second, nil)
		if got := podList(api); got != "db-0=one*" {
			t.Errorf("a failed pod comes back: %s", got)
		}
	})
}

func TestStatefulSetParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		start(t, api)
		Put(api, statefulSet(3, func(s *appsv1.StatefulSet) {
			s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
			s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 5}
		}))
		synctest.Wait()
		if got := podList(api); got != "db-5=one db-6=one db-7=one" {
			t.Errorf("all at once: %s", got)
		}
		Change(api, "ns", "db", func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To[int32](0); s.Generation++ })
		synctest.Wait()
		if got := podList(api); got != "" {
			t.Errorf("none at once: %s", got)
		}
	})
}

func TestClaimOwners(t *testing.T) {
	set := statefulSet(1)
	set.UID = "set"
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db-0", UID: "pod"}}
	other := metav1.OwnerReference{Kind: "Other", Name: "o", UID: "other"}
	const keep, drop = appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	for _, c := range []struct {
		deleted, scaled appsv1.PersistentVolumeClaimRetentionPolicyType
		leaving         bool
		want            string
	}{
		{keep, keep, true, "other"}, {drop, keep, true, "other set"}, {drop, drop, true, "other pod"}, {keep, drop, true, "other pod"},
		{keep, drop, false, "other"}, {drop, drop, false, "other set"},
	} {
		set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: c.deleted, WhenScaled: c.scaled}
		for _, before := range [][]metav1.OwnerReference{{other}, {other, {Kind: "Pod", Name: "db-0", UID: "older-pod"}}, {other, {Kind: "StatefulSet", Name: "db", UID: "set"}}} {
			var got []string
			for _, r := range claimOwners(set, pod, before, c.leaving) {
				got = append(got, string(r.UID))
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("deleted %s, scaled %s, leaving %t: %v, want %s", c.deleted, c.scaled, c.leaving, got, c.want)
			}
		}
	}
}

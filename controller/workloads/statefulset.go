package workloads

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

var statefulSetKind = appsv1.SchemeGroupVersion.WithKind("StatefulSet")

// StatefulSets keeps the numbered pods of each StatefulSet, with their volume claims, in their order.
func StatefulSets(env controller.Env) *controller.Loop {
	c := env.Client("statefulset-controller")
	r := &statefulSets{
		client:    c,
		events:    client.NewRecorder(c, "statefulset-controller", env.Logger),
		pods:      controller.NewIndex(controller.ByController(statefulSetKind.GroupKind())),
		revisions: controller.NewIndex(controller.ByController(statefulSetKind.GroupKind())),
	}
	return env.NewLoop(c, controller.Controller{
		Name: "statefulset-controller",
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*appsv1.StatefulSet](c), Keys: controller.Itself},
			{Resource: client.ResourceOf[*appsv1.ControllerRevision](c), Index: r.revisions, Keys: controller.Owner(statefulSetKind.GroupKind())},
			dependents[*appsv1.StatefulSet, *corev1.Pod](c, r.pods, statefulSetKind.GroupKind(), func(set *appsv1.StatefulSet) *metav1.LabelSelector { return set.Spec.Selector }),
		},
		Reconcile: r.reconcile,
	})
}

type statefulSets struct {
	client    *client.Client
	events    *client.Recorder
	pods      *controller.Index // by controller
	revisions *controller.Index // by controller
}

// memberOf says whether a pod's name is one of the set's.
func memberOf(set *appsv1.StatefulSet, pod client.Object) bool {
	_, ok := ordinalOf(set, pod.GetName())
	return ok
}

func (r *statefulSets) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	set, ok := client.From[*appsv1.StatefulSet](r.client, r.client.Snapshot(), key.Namespace, key.Name)
	if !ok {
		return 0, nil
	}
	sel, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return 0, err
	}
	pods, err := claimAll(ctx, r.client, set, statefulSetKind, planClaim(set, sel, candidates[*corev1.Pod](r.pods, set), func(p *corev1.Pod) bool { return memberOf(set, p) }))
	if err != nil {
		return 0, err
	}
	h := &history{client: r.client, owner: set, kind: statefulSetKind, labels: set.Spec.Template.Labels,
		collisions: set.Status.CollisionCount, hashLabel: revisionHash}
	revisions := controller.Indexed[*appsv1.ControllerRevision](r.revisions, controller.OwnedBy(set.UID))
	update, collided, err := h.sync(ctx, &set.Spec.Template, revisions)
	if collided {
		status := *set.Status.DeepCopy()
		status.CollisionCount = ptr.To(ptr.Deref(status.CollisionCount, 0) + 1)
		return 0, cmp.Or(r.writeStatus(ctx, set, status), err)
	}
	if err != nil {
		return 0, err
	}
	current := update
	for _, rev := range revisions {
		if rev.Name == set.Status.CurrentRevision {
			current = rev
		}
	}
	plan := planStatefulSet(set, current.Name, update.Name, pods, time.Now())
	failure := r.carryOut(ctx, set, plan, current, update)
	if failure == nil && len(plan.create)+len(plan.remove)+len(plan.recreate) > 0 {
		// The events of these writes bring the next reconcile, and with it the status.
		return 0, nil
	}
	if err := r.writeStatus(ctx, set, plan.status); err != nil {
		return 0, err
	}
	if failure != nil {
		return 0, failure
	}
	return plan.again, h.prune(ctx, revisions, set.Spec.RevisionHistoryLimit, func(rev *appsv1.ControllerRevision) bool {
		if rev.Name == plan.status.CurrentRevision || rev.Name == update.Name || rev.Name == current.Name {
			return true
		}
		for _, pod := range pods {
			if pod.Labels[appsv1.ControllerRevisionHashLabelKey] == rev.Name {
				return true
			}
		}
		return false
	})
}

// carryOut makes a plan true.
func (r *statefulSets) carryOut(ctx context.Context, set *appsv1.StatefulSet, plan *ordinalPlan, current, update *appsv1.ControllerRevision) error {
	if err := r.syncClaimOwners(ctx, set, plan); err != nil {
		return err
	}
	for _, pod := range plan.recreate {
		if pod.Status.Phase == corev1.PodFailed {
			r.events.Event(set, corev1.EventTypeWarning, "RecreatingFailedPod", "StatefulSet %s/%s is recreating failed Pod %s", set.Namespace, set.Name, pod.Name)
		} else {
			r.events.Event(set, corev1.EventTypeNormal, "RecreatingTerminatedPod", "StatefulSet %s/%s is recreating terminated Pod %s", set.Namespace, set.Name, pod.Name)
		}
	}
	for _, pod := range append(plan.recreate, plan.remove...) {
		if err := r.remove(ctx, set, pod); err != nil {
			return err
		}
	}
	for _, pod := range plan.relabel {
		fixed := pod.DeepCopy()
		identify(set, fixed)
		if _, err := client.Update(ctx, r.client, fixed); err != nil && !gone(err) {
			return fmt.Errorf("update pod %s: %w", pod.Name, err)
		}
	}
	for _, ordinal := range plan.pending {
		if err := r.createClaims(ctx, set, ordinal); err != nil {
			return err
		}
	}
	for _, slot := range plan.create {
		template, revision := &set.Spec.Template, update.Name
		if slot.current && current.Name != update.Name {
			old, err := templateOf(current)
			if err != nil {
				return err
			}
			template, revision = old, current.Name
		}
		if err := r.create(ctx, set, slot.ordinal, template, revision); err != nil {
			return err
		}
	}
	return nil
}

// create creates a pod and, before it, the claims that it mounts.
func (r *statefulSets) create(ctx context.Context, set *appsv1.StatefulSet, ordinal int, template *corev1.PodTemplateSpec, revision string) error {
	pod := newStatefulPod(set, ordinal, template, revision)
	err := r.createClaims(ctx, set, ordinal)
	if err == nil {
		_, err = client.Create(ctx, r.client, pod)
	}
	switch {
	case apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return err
	case err != nil:
		r.events.Event(set, corev1.EventTypeWarning, "FailedCreate", "create Pod %s in StatefulSet %s failed error: %s", pod.Name, set.Name, err)
		return err
	}
	r.events.Event(set, corev1.EventTypeNormal, "SuccessfulCreate", "create Pod %s in StatefulSet %s successful", pod.Name, set.Name)
	return nil
}

func (r *statefulSets) remove(ctx context.Context, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	err := client.Remove[*corev1.Pod](ctx, r.client, pod.Namespace, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	switch {
	case gone(err):
		return nil
	case err != nil:
		r.events.Event(set, corev1.EventTypeWarning, "FailedDelete", "delete Pod %s in StatefulSet %s failed error: %s", pod.Name, set.Name, err)
		return err
	}
	r.events.Event(set, corev1.EventTypeNormal, "SuccessfulDelete", "delete Pod %s in StatefulSet %s successful", pod.Name, set.Name)
	return nil
}

func (r *statefulSets) writeStatus(ctx context.Context, set *appsv1.StatefulSet, status appsv1.StatefulSetStatus) error {
	if apiequality.Semantic.DeepEqual(status, set.Status) {
		return nil
	}
	update := set.DeepCopy()
	update.Status = status
	_, err := client.UpdateStatus(ctx, r.client, update)
	if gone(err) && !stillThere(r.client, set) {
		return nil
	}
	return err
}

// newStatefulPod returns the pod of an ordinal: with its name, its labels and its claims.
func newStatefulPod(set *appsv1.StatefulSet, ordinal int, template *corev1.PodTemplateSpec, revision string) *corev1.Pod {
	pod := newPod(set, statefulSetKind, template)
	pod.Name = podName(set, ordinal)
	pod.Labels[appsv1.ControllerRevisionHashLabelKey] = revision
	identify(set, pod)
	pod.Spec.Hostname = pod.Name
	pod.Spec.Subdomain = set.Spec.ServiceName
	claims := map[string]string{}
	for i := range set.Spec.VolumeClaimTemplates {
		t := &set.Spec.VolumeClaimTemplates[i]
		claims[t.Name] = claimName(set, t, ordinal)
	}
	var volumes []corev1.Volume
	for i := range set.Spec.VolumeClaimTemplates {
		name := set.Spec.VolumeClaimTemplates[i].Name
		volumes = append(volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claims[name]},
		}})
	}
	for _, v := range pod.Spec.Volumes {
		if _, replaced := claims[v.Name]; !replaced {
			volumes = append(volumes, v)
		}
	}
	pod.Spec.Volumes = volumes
	return pod
}

// identify sets the labels that name a pod and its number.
func identify(set *appsv1.StatefulSet, pod *corev1.Pod) {
	pod.Labels = maps.Clone(pod.Labels)
	for k, v := range identity(set, pod.Name) {
		metav1.SetMetaDataLabel(&pod.ObjectMeta, k, v)
	}
}

func identity(set *appsv1.StatefulSet, name string) map[string]string {
	ordinal, _ := ordinalOf(set, name)
	return map[string]string{appsv1.StatefulSetPodNameLabel: name, appsv1.PodIndexLabel: fmt.Sprint(ordinal)}
}

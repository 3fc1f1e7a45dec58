package workloads

import (
	"context"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
)

func claimName(set *appsv1.StatefulSet, template *corev1.PersistentVolumeClaim, ordinal int) string {
	return fmt.Sprintf("%s-%s-%d", template.Name, set.Name, ordinal)
}

// createClaims creates the volume claims of an ordinal that do not exist.
func (r *statefulSets) createClaims(ctx context.Context, set *appsv1.StatefulSet, ordinal int) error {
	for i := range set.Spec.VolumeClaimTemplates {
		template := &set.Spec.VolumeClaimTemplates[i]
		name := claimName(set, template, ordinal)
		if _, there := client.From[*corev1.PersistentVolumeClaim](r.client, r.client.Snapshot(), set.Namespace, name); there {
			continue
		}
		claim := &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: set.Namespace, Name: name,
				Labels: cloneMap(template.Labels), Annotations: maps.Clone(template.Annotations),
			},
			Spec: *template.Spec.DeepCopy(),
		}
		maps.Copy(claim.Labels, set.Spec.Selector.MatchLabels)
		if whenDeleted(set) {
			claim.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, statefulSetKind)}
		}
		_, err := client.Create(ctx, r.client, claim)
		switch {
		case apierrors.IsAlreadyExists(err):
		case err != nil:
			r.events.Event(set, corev1.EventTypeWarning, "FailedCreate", "create Claim %s for Pod %s in StatefulSet %s failed error: %s",
				name, podName(set, ordinal), set.Name, err)
			return fmt.Errorf("create claim %s: %w", name, err)
		default:
			r.events.Event(set, corev1.EventTypeNormal, "SuccessfulCreate", "create Claim %s Pod %s in StatefulSet %s success",
				name, podName(set, ordinal), set.Name)
		}
	}
	return nil
}

func whenDeleted(set *appsv1.StatefulSet) bool {
	p := set.Spec.PersistentVolumeClaimRetentionPolicy
	return p != nil && p.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType
}

func whenScaled(set *appsv1.StatefulSet) bool {
	p := set.Spec.PersistentVolumeClaimRetentionPolicy
	return p != nil && p.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType
}

// syncClaimOwners makes the retention policy true by owner references, which the garbage collector follows: a claim that goes with
// the set is owned by the set, one that goes with a scale-down by the pod that is leaving.
func (r *statefulSets) syncClaimOwners(ctx context.Context, set *appsv1.StatefulSet, plan *ordinalPlan) error {
	if len(set.Spec.VolumeClaimTemplates) == 0 {
		return nil
	}
	for leaving, pods := range map[bool][]*corev1.Pod{false: plan.keep, true: plan.leave} {
		for _, pod := range pods {
			ordinal, _ := ordinalOf(set, pod.Name)
			for i := range set.Spec.VolumeClaimTemplates {
				if err := r.syncClaimOwner(ctx, set, pod, claimName(set, &set.Spec.VolumeClaimTemplates[i], ordinal), leaving); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (r *statefulSets) syncClaimOwner(ctx context.Context, set *appsv1.StatefulSet, pod *corev1.Pod, name string, leaving bool) error {
	claim, there := client.From[*corev1.PersistentVolumeClaim](r.client, r.client.Snapshot(), set.Namespace, name)
	if !there {
		return nil
	}
	owners := claimOwners(set, pod, claim.OwnerReferences, leaving)
	if apiequality.Semantic.DeepEqual(owners, claim.OwnerReferences) {
		return nil
	}
	update := claim.DeepCopy()
	update.OwnerReferences = owners
	if _, err := client.Update(ctx, r.client, update); err != nil {
		return fmt.Errorf("update owners of claim %s: %w", name, err)
	}
	return nil
}

// claimOwners returns a claim's owner references as the retention policy wants them. References of others stay.
func claimOwners(set *appsv1.StatefulSet, pod *corev1.Pod, refs []metav1.OwnerReference, leaving bool) []metav1.OwnerReference {
	var want []metav1.OwnerReference
	switch {
	case leaving && whenScaled(set):
		ref := *metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))
		ref.BlockOwnerDeletion = nil
		ref.Controller = nil
		want = append(want, ref)
	case whenDeleted(set):
		want = append(want, *metav1.NewControllerRef(set, statefulSetKind))
	}
	out := slices.DeleteFunc(slices.Clone(refs), func(ref metav1.OwnerReference) bool {
		ours := ref.UID == set.UID || ref.UID == pod.UID ||
			ref.Kind == "Pod" && ref.Name == pod.Name || ref.Kind == statefulSetKind.Kind && ref.Name == set.Name
		return ours && !slices.ContainsFunc(want, func(w metav1.OwnerReference) bool { return w.UID == ref.UID })
	})
	for _, w := range want {
		if !slices.ContainsFunc(out, func(ref metav1.OwnerReference) bool { return ref.UID == w.UID }) {
			// Two references must not both claim to be the controller.
			if slices.ContainsFunc(out, func(ref metav1.OwnerReference) bool { return ptr.Deref(ref.Controller, false) }) {
				w.Controller = nil
			}
			out = append(out, w)
		}
	}
	return out
}

package storage

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

// EphemeralVolumes makes the claims of pods' ephemeral volumes. A claim belongs to its pod, and goes with it.
func EphemeralVolumes(env controller.Env) *controller.Loop {
	c := env.Client("ephemeral-volume-controller")
	events := client.NewRecorder(c, "ephemeral_volume", env.Logger)
	return env.NewLoop(c, controller.Controller{
		Name: "ephemeral-volume-controller",
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*corev1.Pod](c), Keys: func(ev client.Event, add func(controller.Key)) {
				if ev.Type != client.Delete && hasEphemeral(ev.Item.Object.(*corev1.Pod)) {
					controller.Itself(ev, add)
				}
			}},
			// A claim that was in the way may be gone, or one of ours was deleted.
			{Resource: client.ResourceOf[*corev1.PersistentVolumeClaim](c), Keys: func(ev client.Event, add func(controller.Key)) {
				if ev.Type == client.Delete {
					addWaiting(c, ev.Item.Key, add)
				}
			}},
		},
		Reconcile: func(ctx context.Context, key controller.Key) (time.Duration, error) {
			pod, ok := client.From[*corev1.Pod](c, c.Snapshot(), key.Namespace, key.Name)
			if !ok || pod.DeletionTimestamp != nil || controller.PodFinished(pod) {
				return 0, nil
			}
			for i := range pod.Spec.Volumes {
				if err := ensureClaim(ctx, c, pod, &pod.Spec.Volumes[i]); err != nil {
					events.Event(pod, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume controller: %s", err)
					return 0, err
				}
			}
			return 0, nil
		},
	})
}

func hasEphemeral(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Ephemeral != nil {
			return true
		}
	}
	return false
}

// addWaiting adds the pods of a claim's namespace that want one of its name.
func addWaiting(c *client.Client, claim controller.Key, add func(controller.Key)) {
	for _, pod := range client.List[*corev1.Pod](c, c.Snapshot(), claim.Namespace, nil) {
		for i := range pod.Spec.Volumes {
			if v := &pod.Spec.Volumes[i]; v.Ephemeral != nil && ephemeral.VolumeClaimName(pod, v) == claim.Name {
				add(controller.KeyOf(pod))
			}
		}
	}
}

// ensureClaim makes the claim of one ephemeral volume.
func ensureClaim(ctx context.Context, c *client.Client, pod *corev1.Pod, v *corev1.Volume) error {
	if v.Ephemeral == nil || v.Ephemeral.VolumeClaimTemplate == nil {
		return nil
	}
	name := ephemeral.VolumeClaimName(pod, v)
	if claim, there := client.From[*corev1.PersistentVolumeClaim](c, c.Snapshot(), pod.Namespace, name); there {
		return ephemeral.VolumeIsForPod(pod, claim)
	}
	template := v.Ephemeral.VolumeClaimTemplate
	_, err := client.Create(ctx, c, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: name, Labels: maps.Clone(template.Labels), Annotations: maps.Clone(template.Annotations),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))}},
		Spec: *template.Spec.DeepCopy(),
	})
	if apierrors.IsAlreadyExists(err) {
		return nil // the next event says whose
	}
	if err != nil {
		return fmt.Errorf("create PVC %s: %w", name, err)
	}
	return nil
}

// Package storage holds the controllers of persistent volumes: which claim gets which volume, who makes and removes volumes, on
// which nodes they are attached, and that none goes while it is in use; one file each. Only daemon and testcluster import it.
package storage

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

// Controllers returns the components of this package that need no driver.
func Controllers(env controller.Env) []*controller.Loop {
	return []*controller.Loop{
		VolumeBinder(env),
		AttachDetach(env),
		EphemeralVolumes(env),
		ClaimProtection(env),
		VolumeProtection(env),
	}
}

// DriverControllers returns those that call volume drivers.
func DriverControllers(env controller.Env, drivers Drivers) []*controller.Loop {
	return []*controller.Loop{VolumeProvisioner(env, drivers), VolumeAttacher(env, drivers)}
}

// claimsOf lists the names of the claims that a pod mounts.
func claimsOf(pod *corev1.Pod) []string {
	var out []string
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			out = append(out, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			out = append(out, pod.Name+"-"+v.Name)
		}
	}
	return out
}

// protect keeps a finalizer on an object until it is being deleted and nothing uses it.
func protect[T client.Object](ctx context.Context, c *client.Client, obj T, finalizer string, used bool) error {
	has := slices.Contains(obj.GetFinalizers(), finalizer)
	deleting := obj.GetDeletionTimestamp() != nil
	update := obj.DeepCopyObject().(T)
	switch {
	case deleting && has && !used:
		update.SetFinalizers(slices.DeleteFunc(update.GetFinalizers(), func(f string) bool { return f == finalizer }))
	case !deleting && !has:
		update.SetFinalizers(append(update.GetFinalizers(), finalizer))
	default:
		return nil
	}
	_, err := client.Update(ctx, c, update)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

const (
	claimFinalizer  = "kubernetes.io/pvc-protection"
	volumeFinalizer = "kubernetes.io/pv-protection"
)

// ClaimProtection lets a claim go only when no pod mounts it. Pods that are on no node yet do not count: the node agent
// would not start them with a claim that is being deleted.
func ClaimProtection(env controller.Env) *controller.Loop {
	c := env.Client("pvc-protection-controller")
	pods := controller.NewIndex(func(obj client.Object, add func(controller.Group)) {
		pod := obj.(*corev1.Pod)
		if pod.Spec.NodeName == "" || controller.PodFinished(pod) {
			return
		}
		for _, claim := range claimsOf(pod) {
			add(controller.Group{pod.Namespace, claim})
		}
	})
	return env.NewLoop(c, controller.Controller{
		Name: "persistentvolumeclaim-protection-controller",
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*corev1.PersistentVolumeClaim](c), Keys: controller.Itself},
			{Resource: client.ResourceOf[*corev1.Pod](c), Index: pods, Keys: func(ev client.Event, add func(controller.Key)) {
				pod := ev.Item.Object.(*corev1.Pod)
				if ev.Type == client.Delete || controller.PodFinished(pod) {
					for _, claim := range claimsOf(pod) {
						add(controller.Key{Namespace: pod.Namespace, Name: claim})
					}
				}
			}},
		},
		Reconcile: func(ctx context.Context, key controller.Key) (time.Duration, error) {
			claim, ok := client.From[*corev1.PersistentVolumeClaim](c, c.Snapshot(), key.Namespace, key.Name)
			if !ok {
				return 0, nil
			}
			return 0, protect(ctx, c, claim, claimFinalizer, pods.Len(controller.Group{key.Namespace, key.Name}) > 0)
		},
	})
}

// VolumeProtection lets a volume go only when it is bound to no claim.
func VolumeProtection(env controller.Env) *controller.Loop {
	c := env.Client("pv-protection-controller")
	return env.NewLoop(c, controller.Controller{
		Name:    "persistentvolume-protection-controller",
		Watches: []controller.Watch{{Resource: client.ResourceOf[*corev1.PersistentVolume](c), Keys: controller.Itself}},
		Reconcile: func(ctx context.Context, key controller.Key) (time.Duration, error) {
			volume, ok := client.From[*corev1.PersistentVolume](c, c.Snapshot(), "", key.Name)
			if !ok {
				return 0, nil
			}
			return 0, protect(ctx, c, volume, volumeFinalizer, volume.Status.Phase == corev1.VolumeBound)
		},
	})
}

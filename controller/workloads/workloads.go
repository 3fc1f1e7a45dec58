// Package workloads holds the controllers that run pods: Deployment, ReplicaSet, ReplicationController, StatefulSet,
// DaemonSet, Job and CronJob, one file each. What they plan is computed by pure functions of (spec, what is there, now); the
// Reconcile of each carries it out. Only daemon and testcluster import it.
package workloads

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

// Controllers returns the components of this package.
func Controllers(env controller.Env) []*controller.Loop {
	return []*controller.Loop{
		Deployments(env),
		ReplicaSets(env),
		StatefulSets(env),
		DaemonSets(env),
		Jobs(env),
		CronJobs(env),
		TTLAfterFinished(env),
		ReplicationControllers(env),
	}
}

// newPod returns the pod that a controller makes from its template: named for the owner, owned by it.
func newPod(owner client.Object, gvk schema.GroupVersionKind, template *corev1.PodTemplateSpec) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       owner.GetNamespace(),
			GenerateName:    owner.GetName() + "-",
			Labels:          cloneMap(template.Labels),
			Annotations:     cloneMap(template.Annotations),
			Finalizers:      append([]string(nil), template.Finalizers...),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, gvk)},
		},
	}
	template.Spec.DeepCopyInto(&pod.Spec)
	return pod
}

func cloneMap(m map[string]string) map[string]string {
	out := make(map[string]string, len(m)+1)
	for k, v := range m {
		out[k] = v
	}
	return out
}

// createPods creates n pods in batches that double from one, so that a refusal that would meet all of them costs few
// requests: upstream's slow start. It returns how many were created and the first error.
func createPods(ctx context.Context, c *client.Client, events *client.Recorder, owner client.Object, n int, pod func(i int) *corev1.Pod) (int, error) {
	created := 0
	for batch := 1; created < n; batch *= 2 {
		size := min(batch, n-created)
		errs := make([]error, size)
		var wg sync.WaitGroup
		for i := range size {
			wg.Go(func() { errs[i] = createPod(ctx, c, events, owner, pod(created+i)) })
		}
		wg.Wait()
		var failed error
		done := 0
		for _, err := range errs {
			switch {
			case err == nil:
				done++
			case failed == nil:
				failed = err
			}
		}
		created += done
		if failed != nil {
			return created, failed
		}
	}
	return created, nil
}

// createPod creates a pod for its owner and records what became of it.
func createPod(ctx context.Context, c *client.Client, events *client.Recorder, owner client.Object, pod *corev1.Pod) error {
	created, err := client.Create(ctx, c, pod)
	if err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			events.Event(owner, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return err
	}
	events.Event(owner, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %s", created.Name)
	return nil
}

// deletePods deletes pods of an owner at once and returns the first error. Pods that are gone already count as deleted.
func deletePods(ctx context.Context, c *client.Client, events *client.Recorder, owner client.Object, pods []*corev1.Pod) error {
	errs := make([]error, len(pods))
	var wg sync.WaitGroup
	for i, pod := range pods {
		wg.Go(func() { errs[i] = deletePod(ctx, c, events, owner, pod) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// deletePod deletes a pod of its owner, if it is still the same pod, and records what became of it.
func deletePod(ctx context.Context, c *client.Client, events *client.Recorder, owner client.Object, pod *corev1.Pod) error {
	err := client.Remove[*corev1.Pod](ctx, c, pod.Namespace, pod.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &pod.UID},
	})
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		return nil
	case err != nil:
		events.Event(owner, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return err
	}
	events.Event(owner, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", pod.Name)
	return nil
}

// dependents is the watch of a controller for the objects of type T that its objects of type O own, which index holds by
// owner. Events lead to the owner, and for an object without one to all that could adopt it.
func dependents[O, T client.Object](c *client.Client, index *controller.Index, gk schema.GroupKind, selector func(O) *metav1.LabelSelector) controller.Watch {
	owner := controller.Owner(gk)
	return controller.Watch{Resource: client.ResourceOf[T](c), Index: index, Keys: func(ev client.Event, add func(controller.Key)) {
		owner(ev, add)
		if !orphanMoved(ev) {
			return
		}
		obj := ev.Item.Object
		for _, o := range client.List[O](c, c.Snapshot(), obj.GetNamespace(), nil) {
			sel, err := metav1.LabelSelectorAsSelector(selector(o))
			if err == nil && !sel.Empty() && sel.Matches(labels.Set(obj.GetLabels())) {
				add(controller.KeyOf(o))
			}
		}
	}}
}

// candidates returns the objects that an owner has, and those that it may adopt.
func candidates[T client.Object](index *controller.Index, owner client.Object) []T {
	return append(controller.Indexed[T](index, controller.OwnedBy(owner.GetUID())),
		controller.Indexed[T](index, controller.Orphans(owner.GetNamespace()))...)
}

// claim is what an owner must do to make its set of objects the one that its selector names.
type claim[T client.Object] struct {
	owned   []T // owned already and matching
	adopt   []T
	release []T
}

// planClaim sorts candidates (owned by the owner, or by none). adoptable narrows what may be adopted beyond the labels; nil
// does not. An owner that is being deleted neither adopts nor releases.
func planClaim[T client.Object](owner client.Object, sel labels.Selector, candidates []T, adoptable func(T) bool) claim[T] {
	var out claim[T]
	deleting := owner.GetDeletionTimestamp() != nil
	for _, obj := range candidates {
		ref := metav1.GetControllerOfNoCopy(obj)
		matches := sel.Matches(labels.Set(obj.GetLabels()))
		switch {
		case ref != nil && ref.UID != owner.GetUID():
		case ref != nil && matches:
			out.owned = append(out.owned, obj)
		case ref != nil:
			if !deleting {
				out.release = append(out.release, obj)
			}
		case matches && !deleting && obj.GetDeletionTimestamp() == nil && (adoptable == nil || adoptable(obj)):
			out.adopt = append(out.adopt, obj)
		}
	}
	return out
}

// claimAll carries a claim out and returns the objects that the owner has afterwards.
func claimAll[T client.Object](ctx context.Context, c *client.Client, owner client.Object, gvk schema.GroupVersionKind, plan claim[T]) ([]T, error) {
	out := plan.owned
	for _, obj := range plan.adopt {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid":             obj.GetUID(),
			"ownerReferences": []metav1.OwnerReference{*metav1.NewControllerRef(owner, gvk)},
		}})
		if err != nil {
			return nil, err
		}
		adopted, err := client.Patch[T](ctx, c, obj.GetNamespace(), obj.GetName(), "", types.StrategicMergePatchType, patch)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("adopt %s: %w", obj.GetName(), err)
		}
		out = append(out, adopted)
	}
	for _, obj := range plan.release {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid":             obj.GetUID(),
			"ownerReferences": []map[string]any{{"$patch": "delete", "uid": owner.GetUID()}},
		}})
		if err != nil {
			return nil, err
		}
		_, err = client.Patch[T](ctx, c, obj.GetNamespace(), obj.GetName(), "", types.StrategicMergePatchType, patch)
		// Invalid: it has no such owner reference, or another object has taken the name.
		if err != nil && !gone(err) && !apierrors.IsInvalid(err) {
			return nil, fmt.Errorf("release %s: %w", obj.GetName(), err)
		}
	}
	return out, nil
}

// gone says that the object is no longer there, or another has its name.
func gone(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsConflict(err) }

// orphanMoved says whether an event may make an object without owner match a selector that it did not match before.
func orphanMoved(ev client.Event) bool {
	if metav1.GetControllerOfNoCopy(ev.Item.Object) != nil {
		return false
	}
	if ev.Type == client.Delete {
		return false
	}
	return ev.Prev == nil || metav1.GetControllerOfNoCopy(ev.Prev.Object) != nil ||
		!labels.Equals(ev.Item.Object.GetLabels(), ev.Prev.Object.GetLabels())
}

// count32 is the value of an optional replica count, which defaulting sets to 1.
func count32(n *int32) int32 { return ptr.Deref(n, 1) }

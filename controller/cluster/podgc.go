package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

const (
	// finishedPods is how many pods that have run to their end are kept: the default of upstream's --terminated-pod-gc-threshold.
	finishedPods = 12500
	// nodeQuarantine is how long a node must be gone before its pods are: it may only be registering again.
	nodeQuarantine = 40 * time.Second
)

// PodGC deletes the pods that nobody else ends: on nodes that are gone or declared out of service, being deleted before they were
// ever bound, or finished and too many.
func PodGC(env controller.Env) *controller.Loop {
	c := env.Client("pod-garbage-collector")
	r := &podGC{
		client: c,
		finished: controller.NewIndex(func(obj client.Object, add func(controller.Group)) {
			if controller.PodFinished(obj.(*corev1.Pod)) {
				add(controller.Group{})
			}
		}),
		gone: map[string]time.Time{},
	}
	return env.NewLoop(c, controller.Controller{
		Name: "pod-garbage-collector-controller",
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*corev1.Pod](c), Index: r.finished, Keys: r.podChanged},
			{Resource: client.ResourceOf[*corev1.Node](c), Keys: r.nodeChanged},
		},
		Reconcile: r.reconcile,
	})
}

type podGC struct {
	client *client.Client
	// finished holds the pods that have run to their end, in one group.
	finished *controller.Index

	mu   sync.Mutex
	gone map[string]time.Time // nodes that pods name and that do not exist, and since when
}

func (r *podGC) podChanged(ev client.Event, add func(controller.Key)) {
	pod := ev.Item.Object.(*corev1.Pod)
	if ev.Type == client.Delete {
		return
	}
	if controller.PodFinished(pod) && r.finished.Len(controller.Group{}) > finishedPods {
		add(controller.Key{})
	}
	if pod.Spec.NodeName == "" {
		if pod.DeletionTimestamp != nil {
			add(controller.KeyOf(pod))
		}
		return
	}
	node, ok := client.From[*corev1.Node](r.client, r.client.Snapshot(), "", pod.Spec.NodeName)
	if !ok || pod.DeletionTimestamp != nil && outOfService(node) {
		add(controller.KeyOf(pod))
	}
}

func (r *podGC) nodeChanged(ev client.Event, add func(controller.Key)) {
	node := ev.Item.Object.(*corev1.Node)
	if ev.Type == client.Put {
		r.mu.Lock()
		delete(r.gone, node.Name)
		r.mu.Unlock()
		if !outOfService(node) {
			return
		}
	}
	for _, pod := range podsOn(r.client, node.Name) {
		add(controller.KeyOf(pod))
	}
}

// outOfService says that an operator has declared a node that is not ready to be out of service.
func outOfService(node *corev1.Node) bool {
	return nodeReady(node) != corev1.ConditionTrue && slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == corev1.TaintNodeOutOfService
	})
}

func (r *podGC) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	if key == (controller.Key{}) {
		return 0, r.thin(ctx)
	}
	snap := r.client.Snapshot()
	pod, ok := client.From[*corev1.Pod](r.client, snap, key.Namespace, key.Name)
	if !ok {
		return 0, nil
	}
	if pod.Spec.NodeName == "" {
		if pod.DeletionTimestamp == nil {
			return 0, nil
		}
		return 0, r.remove(ctx, pod, "")
	}
	node, ok := client.From[*corev1.Node](r.client, snap, "", pod.Spec.NodeName)
	if ok {
		if pod.DeletionTimestamp == nil || !outOfService(node) {
			return 0, nil
		}
		return 0, r.remove(ctx, pod, "")
	}
	now := time.Now()
	if left := r.since(pod.Spec.NodeName, now).Add(nodeQuarantine).Sub(now); left > 0 {
		return left, nil
	}
	return 0, r.remove(ctx, pod, "PodGC: node no longer exists")
}

// since is when a node was first found missing.
func (r *podGC) since(node string, now time.Time) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.gone[node]
	if !ok {
		t = now
		r.gone[node] = t
	}
	return t
}

// thin deletes the oldest finished pods beyond the threshold.
func (r *podGC) thin(ctx context.Context) error {
	pods := controller.Indexed[*corev1.Pod](r.finished, controller.Group{})
	if len(pods) <= finishedPods {
		return nil
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return utilerrors.NewAggregate(parallel(pods[:len(pods)-finishedPods], func(pod *corev1.Pod) error {
		return r.remove(ctx, pod, "")
	}))
}

// remove deletes a pod without grace. A pod that has not finished is marked failed before; with a message it also says that it was
// disrupted, so that a Job does not count that against it.
func (r *podGC) remove(ctx context.Context, pod *corev1.Pod, message string) error {
	fail := func(s *corev1.PodStatus) {
		if s.Phase != corev1.PodSucceeded {
			s.Phase = corev1.PodFailed
		}
	}
	var err error
	switch {
	case controller.PodFinished(pod):
	case message != "":
		err = disrupt(ctx, r.client, pod, "DeletionByPodGC", message, fail)
	default:
		update := pod.DeepCopy()
		fail(&update.Status)
		err = patchPodStatus(ctx, r.client, pod, update)
	}
	if err == nil {
		err = client.Remove[*corev1.Pod](ctx, r.client, pod.Namespace, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: ptr.To[int64](0), Preconditions: &metav1.Preconditions{UID: &pod.UID},
		})
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// patchPodStatus writes the difference between two states of a pod's status, as the roles of these controllers allow patches
// only.
func patchPodStatus(ctx context.Context, c *client.Client, old, update *corev1.Pod) error {
	before, err := json.Marshal(&corev1.Pod{Status: old.Status})
	if err != nil {
		return err
	}
	after, err := json.Marshal(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: old.UID}, Status: update.Status})
	if err != nil {
		return err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, &corev1.Pod{})
	if err != nil {
		return err
	}
	_, err = client.Patch[*corev1.Pod](ctx, c, old.Namespace, old.Name, "status", types.StrategicMergePatchType, patch)
	return err
}

package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

// TaintEviction deletes the pods that do not tolerate a NoExecute taint of their node: at once, or when the time of their
// toleration is over.
func TaintEviction(env controller.Env) *controller.Loop {
	// It acts as the node controller, whose role has what it needs; upstream gives it none of its own.
	c := env.Client("node-controller")
	r := &taintEviction{
		client: c,
		events: client.NewRecorder(c, "taint-eviction-controller", env.Logger),
		marked: map[types.UID]time.Time{},
	}
	return env.NewLoop(c, controller.Controller{
		Name:    "taint-eviction-controller",
		Workers: 8,
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*corev1.Pod](c), Keys: r.podChanged},
			{Resource: client.ResourceOf[*corev1.Node](c), Keys: r.nodeChanged},
		},
		Reconcile: r.reconcile,
	})
}

type taintEviction struct {
	client *client.Client
	events *client.Recorder

	mu     sync.Mutex
	marked map[types.UID]time.Time // pods whose time runs, and since when
}

func (r *taintEviction) podChanged(ev client.Event, add func(controller.Key)) {
	pod := ev.Item.Object.(*corev1.Pod)
	if ev.Type == client.Put {
		node, ok := client.From[*corev1.Node](r.client, r.client.Snapshot(), "", pod.Spec.NodeName)
		if !ok || len(noExecute(node)) == 0 {
			return
		}
		add(controller.KeyOf(pod))
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.marked, pod.UID)
}

func (r *taintEviction) nodeChanged(ev client.Event, add func(controller.Key)) {
	node := ev.Item.Object.(*corev1.Node)
	taints := noExecute(node)
	if ev.Prev == nil && len(taints) == 0 {
		return
	}
	if ev.Prev != nil && sameTaints(taints, noExecute(ev.Prev.Object.(*corev1.Node))) {
		return
	}
	for _, pod := range podsOn(r.client, node.Name) {
		add(controller.KeyOf(pod))
	}
}

func sameTaints(a, b []corev1.Taint) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Key != b[i].Key || a[i].Value != b[i].Value {
			return false
		}
	}
	return true
}

// noExecute returns the taints of a node that drive pods away.
func noExecute(node *corev1.Node) []corev1.Taint {
	var out []corev1.Taint
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			out = append(out, t)
		}
	}
	return out
}

func (r *taintEviction) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	snap := r.client.Snapshot()
	pod, ok := client.From[*corev1.Pod](r.client, snap, key.Namespace, key.Name)
	if !ok || pod.DeletionTimestamp != nil || controller.PodFinished(pod) {
		return 0, nil
	}
	node, ok := client.From[*corev1.Node](r.client, snap, "", pod.Spec.NodeName)
	if !ok {
		return 0, nil
	}
	evict, stay := tolerated(pod.Spec.Tolerations, noExecute(node))
	if !evict {
		r.unmark(pod)
		return 0, nil
	}
	now := time.Now()
	if left := r.mark(pod.UID, now).Add(stay).Sub(now); left > 0 {
		return left, nil
	}
	r.events.Event(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s/%s", pod.Namespace, pod.Name)
	err := disrupt(ctx, r.client, pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", nil)
	if err == nil {
		err = client.Remove[*corev1.Pod](ctx, r.client, pod.Namespace, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return 0, fmt.Errorf("evict pod %s: %w", pod.Name, err)
	}
	r.mu.Lock()
	delete(r.marked, pod.UID)
	r.mu.Unlock()
	return 0, nil
}

// mark starts the pod's time, or returns when it started.
func (r *taintEviction) mark(uid types.UID, now time.Time) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	since, ok := r.marked[uid]
	if !ok {
		since = now
		r.marked[uid] = since
	}
	return since
}

// unmark stops the pod's time.
func (r *taintEviction) unmark(pod *corev1.Pod) {
	r.mu.Lock()
	_, ok := r.marked[pod.UID]
	delete(r.marked, pod.UID)
	r.mu.Unlock()
	if ok {
		r.events.Event(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Cancelling deletion of Pod %s/%s", pod.Namespace, pod.Name)
	}
}

// tolerated says whether a pod with these tolerations must leave a node with these taints, and how long it may stay until then:
// the shortest time of the tolerations that match. Tolerations without a time hold for ever.
func tolerated(tolerations []corev1.Toleration, taints []corev1.Taint) (evict bool, stay time.Duration) {
	shortest := int64(-1)
	for i := range taints {
		matched := false
		for j := range tolerations {
			t := &tolerations[j]
			if !t.ToleratesTaint(klog.Background(), &taints[i], true) {
				continue
			}
			matched = true
			if s := t.TolerationSeconds; s != nil && (shortest < 0 || *s < shortest) {
				shortest = max(0, *s)
			}
		}
		if !matched {
			return true, 0
		}
	}
	if shortest < 0 {
		return false, 0
	}
	return true, time.Duration(shortest) * time.Second
}

// disrupt notes in the pod's status that it is deleted for a reason outside of it, and lets edit change more of the status.
func disrupt(ctx context.Context, c *client.Client, pod *corev1.Pod, reason, message string, edit func(*corev1.PodStatus)) error {
	update := pod.DeepCopy()
	next := corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: message,
		ObservedGeneration: pod.Generation, LastTransitionTime: metav1.Now(),
	}
	if old := controller.PodCondition(update, corev1.DisruptionTarget); old != nil {
		if old.Status == corev1.ConditionTrue {
			next.LastTransitionTime = old.LastTransitionTime
		}
		*old = next
	} else {
		update.Status.Conditions = append(update.Status.Conditions, next)
	}
	if edit != nil {
		edit(&update.Status)
	}
	return patchPodStatus(ctx, c, pod, update)
}

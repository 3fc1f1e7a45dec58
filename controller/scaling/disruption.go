package scaling

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

const (
	// deletionTimeout is how long an evicted pod counts as gone before its deletion has begun: upstream's number.
	deletionTimeout = 2 * time.Minute
	// staleTarget is how long a pod may bear the mark of a disruption that never came.
	staleTarget = 2 * time.Minute
	// podKeys marks the keys of pods; others are budgets.
	podKeys = "pods"
)

// DisruptionBudgets computes how many pods of each PodDisruptionBudget may be evicted now; the eviction of the API takes from that.
func DisruptionBudgets(env controller.Env) *controller.Loop {
	c := env.Client("disruption-controller")
	r := &disruption{client: c, events: client.NewRecorder(c, "controllermanager", env.Logger)}
	return env.NewLoop(c, controller.Controller{
		Name: "disruption-controller",
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*policyv1.PodDisruptionBudget](c), Keys: controller.Itself},
			{Resource: client.ResourceOf[*corev1.Pod](c), Keys: r.podChanged},
			{Resource: "replicasets.apps", Keys: r.ownerChanged},
			{Resource: "deployments.apps", Keys: r.ownerChanged},
			{Resource: "statefulsets.apps", Keys: r.ownerChanged},
			{Resource: "replicationcontrollers", Keys: r.ownerChanged},
		},
		Reconcile: r.reconcile,
	})
}

type disruption struct {
	client *client.Client
	events *client.Recorder
}

// podChanged adds the budgets that select a pod, before and after the event, and the pod itself when it bears the mark of a disruption.
func (r *disruption) podChanged(ev client.Event, add func(controller.Key)) {
	pod := ev.Item.Object.(*corev1.Pod)
	if ev.Type == client.Put && marked(pod) {
		add(controller.Key{Resource: podKeys, Namespace: pod.Namespace, Name: pod.Name})
	}
	var before *corev1.Pod
	if ev.Prev != nil {
		before = ev.Prev.Object.(*corev1.Pod)
	}
	if ev.Type == client.Put && before != nil && labels.Equals(pod.Labels, before.Labels) &&
		counts(pod) == counts(before) && (pod.DeletionTimestamp == nil) == (before.DeletionTimestamp == nil) {
		return
	}
	for _, budget := range client.List[*policyv1.PodDisruptionBudget](r.client, r.client.Snapshot(), pod.Namespace, nil) {
		sel, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
		if err == nil && (sel.Matches(labels.Set(pod.Labels)) || before != nil && sel.Matches(labels.Set(before.Labels))) {
			add(controller.KeyOf(budget))
		}
	}
}

// ownerChanged adds all budgets of a namespace in which something was scaled.
func (r *disruption) ownerChanged(ev client.Event, add func(controller.Key)) {
	if ev.Type == client.Put && ev.Prev != nil && ev.Item.Object.GetGeneration() == ev.Prev.Object.GetGeneration() {
		return
	}
	for _, budget := range client.List[*policyv1.PodDisruptionBudget](r.client, r.client.Snapshot(), ev.Item.Key.Namespace, nil) {
		add(controller.KeyOf(budget))
	}
}

// marked says that a pod is said to be about to be disrupted, but is not being deleted.
func marked(pod *corev1.Pod) bool {
	c := controller.PodCondition(pod, corev1.DisruptionTarget)
	return c != nil && c.Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil && !controller.PodFinished(pod)
}

// counts says whether a pod is a healthy one in the eyes of a budget.
func counts(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && controller.PodReady(pod)
}

func (r *disruption) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	if key.Resource == podKeys {
		return r.unmark(ctx, key)
	}
	snap := r.client.Snapshot()
	budget, ok := client.From[*policyv1.PodDisruptionBudget](r.client, snap, key.Namespace, key.Name)
	if !ok {
		return 0, nil
	}
	sel, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
	if err != nil {
		return 0, err
	}
	var pods []*corev1.Pod
	for _, pod := range client.List[*corev1.Pod](r.client, snap, budget.Namespace, sel) {
		if !controller.PodFinished(pod) {
			pods = append(pods, pod)
		}
	}
	if len(pods) == 0 {
		r.events.Event(budget, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	expected, desired, failure := expectations(budget, pods, func(pod *corev1.Pod) (scaled, error) { return r.scaleOf(snap, pod) })
	if failure != nil {
		r.events.Event(budget, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", failure)
	}
	status, missing, again := planBudget(budget, pods, expected, desired, failure, time.Now())
	for _, pod := range missing {
		r.events.Event(pod, corev1.EventTypeWarning, "NotDeleted", "Pod was expected by PDB %s/%s to be deleted but it wasn't", budget.Namespace, budget.Name)
	}
	if apiequality.Semantic.DeepEqual(status, budget.Status) {
		return again, nil
	}
	update := budget.DeepCopy()
	update.Status = status
	if _, err := client.UpdateStatus(ctx, r.client, update); err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	return again, nil
}

// scaled is what a pod's owner wants: its identity and how many pods.
type scaled struct {
	uid      types.UID
	replicas int32
}

// scaleOf returns the owner of a pod that says how many there should be: the Deployment above its ReplicaSet, or whatever has a scale.
func (r *disruption) scaleOf(snap client.Snapshot, pod *corev1.Pod) (scaled, error) {
	item := r.owner(snap, pod)
	if item == nil {
		return scaled{}, fmt.Errorf("found no controllers for pod %q", pod.Name)
	}
	if item.Key.Resource == "replicasets.apps" {
		if above := r.owner(snap, item.Object); above != nil && above.Key.Resource == "deployments.apps" {
			item = above
		}
	}
	gr := schema.ParseGroupResource(item.Key.Resource)
	k := r.client.Table().Resource(gr)
	if k.Scale == nil {
		return scaled{}, fmt.Errorf("%s does not implement the scale subresource", gr)
	}
	return scaled{item.Object.GetUID(), k.Scale.Get(item.Object).Spec.Replicas}, nil
}

// owner returns the controlling owner of an object, or nil.
func (r *disruption) owner(snap client.Snapshot, obj client.Object) *client.Item {
	ref := metav1.GetControllerOfNoCopy(obj)
	if ref == nil {
		return nil
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil
	}
	k := r.client.Table().Kind(schema.GroupKind{Group: gv.Group, Kind: ref.Kind})
	if k == nil {
		return nil
	}
	key := client.Key{Resource: k.GroupResource().String(), Name: ref.Name}
	if k.Namespaced {
		key.Namespace = obj.GetNamespace()
	}
	item := snap.Get(key)
	if item == nil || item.Object.GetUID() != ref.UID {
		return nil
	}
	return item
}

// expectations returns how many pods a budget reckons with, and how many of them must be healthy.
func expectations(budget *policyv1.PodDisruptionBudget, pods []*corev1.Pod, scale func(*corev1.Pod) (scaled, error)) (expected, desired int32, err error) {
	least, most := budget.Spec.MinAvailable, budget.Spec.MaxUnavailable
	if most == nil && least == nil {
		return 0, 0, nil
	}
	if most == nil && least.Type == intstr.Int {
		return int32(len(pods)), least.IntVal, nil
	}
	owners := map[types.UID]int32{}
	for _, pod := range pods {
		if metav1.GetControllerOfNoCopy(pod) == nil {
			continue
		}
		s, err := scale(pod)
		if err != nil {
			return 0, 0, err
		}
		owners[s.uid] = s.replicas
	}
	for _, n := range owners {
		expected += n
	}
	if most != nil {
		n, err := intstr.GetScaledValueFromIntOrPercent(most, int(expected), true)
		return expected, max(0, expected-int32(n)), err
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(least, int(expected), true)
	return expected, int32(n), err
}

// planBudget computes the status. missing lists pods whose eviction was let through, but which nobody deleted in time.
func planBudget(budget *policyv1.PodDisruptionBudget, pods []*corev1.Pod, expected, desired int32, failure error, now time.Time) (status policyv1.PodDisruptionBudgetStatus, missing []*corev1.Pod, again time.Duration) {
	status = *budget.Status.DeepCopy()
	status.ObservedGeneration = budget.Generation
	if failure != nil {
		// When in doubt, nothing may be evicted.
		status.DisruptionsAllowed = 0
		setAllowed(&status, budget.Generation, metav1.ConditionFalse, policyv1.SyncFailedReason, failure.Error(), now)
		return status, nil, 0
	}
	status.DisruptedPods = map[string]metav1.Time{}
	status.CurrentHealthy = 0
	for _, pod := range pods {
		since, disrupted := budget.Status.DisruptedPods[pod.Name]
		if disrupted && pod.DeletionTimestamp == nil {
			if left := since.Add(deletionTimeout).Sub(now); left > 0 {
				status.DisruptedPods[pod.Name] = since
				again = controller.Sooner(again, left)
				continue
			}
			missing = append(missing, pod)
		}
		if counts(pod) {
			status.CurrentHealthy++
		}
	}
	status.ExpectedPods, status.DesiredHealthy = expected, desired
	status.DisruptionsAllowed = max(0, status.CurrentHealthy-desired)
	if expected <= 0 {
		status.DisruptionsAllowed = 0
	}
	if status.DisruptionsAllowed > 0 {
		setAllowed(&status, budget.Generation, metav1.ConditionTrue, policyv1.SufficientPodsReason, "", now)
	} else {
		setAllowed(&status, budget.Generation, metav1.ConditionFalse, policyv1.InsufficientPodsReason, "", now)
	}
	return status, missing, again
}

func setAllowed(s *policyv1.PodDisruptionBudgetStatus, generation int64, status metav1.ConditionStatus, reason, message string, now time.Time) {
	apimeta.SetStatusCondition(&s.Conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: status, Reason: reason, Message: message,
		ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(now),
	})
}

// unmark takes back the mark of a disruption that did not come.
func (r *disruption) unmark(ctx context.Context, key controller.Key) (time.Duration, error) {
	pod, ok := client.From[*corev1.Pod](r.client, r.client.Snapshot(), key.Namespace, key.Name)
	if !ok || !marked(pod) {
		return 0, nil
	}
	c := controller.PodCondition(pod, corev1.DisruptionTarget)
	now := time.Now()
	if left := c.LastTransitionTime.Add(staleTarget).Sub(now); left > 0 {
		return left, nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": map[string]any{"conditions": []corev1.PodCondition{{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse, ObservedGeneration: pod.Generation, LastTransitionTime: metav1.NewTime(now),
	}}}})
	if err != nil {
		return 0, err
	}
	_, err = client.Patch[*corev1.Pod](ctx, r.client, pod.Namespace, pod.Name, "status", types.StrategicMergePatchType, patch)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return 0, nil
	}
	return 0, err
}

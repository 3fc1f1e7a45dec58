package workloads

import (
	"context"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

var replicaSetKind = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")

// burstReplicas bounds how many pods one reconcile creates or deletes, as upstream does.
const burstReplicas = 500

// ReplicaSets keeps as many pods as each ReplicaSet wants, and writes their count to its status.
func ReplicaSets(env controller.Env) *controller.Loop {
	c := env.Client("replicaset-controller")
	r := &replicaSets{
		client: c,
		events: client.NewRecorder(c, "replicaset-controller", env.Logger),
		pods:   controller.NewIndex(controller.ByController(replicaSetKind.GroupKind())),
		sets:   controller.NewIndex(controller.ByController(deploymentKind.GroupKind())),
	}
	return env.NewLoop(c, controller.Controller{
		Name: "replicaset-controller",
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*appsv1.ReplicaSet](c), Keys: controller.Itself, Index: r.sets},
			dependents[*appsv1.ReplicaSet, *corev1.Pod](c, r.pods, replicaSetKind.GroupKind(), func(rs *appsv1.ReplicaSet) *metav1.LabelSelector { return rs.Spec.Selector }),
		},
		Reconcile: r.reconcile,
	})
}

type replicaSets struct {
	client *client.Client
	events *client.Recorder
	pods   *controller.Index // by controller
	sets   *controller.Index // by controller
}

func (r *replicaSets) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	rs, ok := client.From[*appsv1.ReplicaSet](r.client, r.client.Snapshot(), key.Namespace, key.Name)
	if !ok {
		return 0, nil
	}
	sel, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil || sel.Empty() {
		return 0, err
	}
	plan := planClaim(rs, sel, candidates[*corev1.Pod](r.pods, rs), controller.PodActive)
	pods, err := claimAll(ctx, r.client, rs, replicaSetKind, plan)
	if err != nil {
		return 0, err
	}
	var failure error
	create, remove := 0, []*corev1.Pod(nil)
	if rs.DeletionTimestamp == nil {
		create, remove = planReplicas(count32(rs.Spec.Replicas), pods, func() map[string]int { return r.neighbours(rs) }, time.Now())
	}
	switch {
	case create > 0:
		_, failure = createPods(ctx, r.client, r.events, rs, create, func(int) *corev1.Pod {
			return newPod(rs, replicaSetKind, &rs.Spec.Template)
		})
	case len(remove) > 0:
		failure = deletePods(ctx, r.client, r.events, rs, remove)
	}
	if failure == nil && create+len(remove) > 0 {
		// The events of these writes bring the next reconcile, and with it the status.
		return 0, nil
	}
	status, again := replicaSetStatus(rs, pods, failure, time.Now())
	if err := r.writeStatus(ctx, rs, status); err != nil {
		return 0, err
	}
	return again, failure
}

// planReplicas decides how many pods to create, or which to delete, to have as many active ones as wanted.
func planReplicas(wanted int32, pods []*corev1.Pod, neighbours func() map[string]int, now time.Time) (create int, remove []*corev1.Pod) {
	active := make([]*corev1.Pod, 0, len(pods))
	for _, pod := range pods {
		if controller.PodActive(pod) {
			active = append(active, pod)
		}
	}
	diff := len(active) - int(wanted)
	switch {
	case diff < 0:
		return min(-diff, burstReplicas), nil
	case diff == 0:
		return 0, nil
	case wanted > 0:
		// With some to keep, it matters which.
		active = scaleDownOrder(active, neighbours(), now)
	}
	return 0, active[:min(diff, burstReplicas)]
}

// neighbours counts, per node, the active pods of all ReplicaSets that share this one's owner.
func (r *replicaSets) neighbours(rs *appsv1.ReplicaSet) map[string]int {
	siblings := []*appsv1.ReplicaSet{rs}
	if ref := metav1.GetControllerOfNoCopy(rs); ref != nil && ref.Kind == deploymentKind.Kind {
		siblings = controller.Indexed[*appsv1.ReplicaSet](r.sets, controller.OwnedBy(ref.UID))
	}
	out := map[string]int{}
	for _, sibling := range siblings {
		for _, pod := range controller.Indexed[*corev1.Pod](r.pods, controller.OwnedBy(sibling.UID)) {
			if controller.PodActive(pod) {
				out[pod.Spec.NodeName]++
			}
		}
	}
	return out
}

// replicaSetStatus computes the status from the pods that are there. again is when the next ready pod becomes available.
func replicaSetStatus(rs *appsv1.ReplicaSet, pods []*corev1.Pod, failure error, now time.Time) (status appsv1.ReplicaSetStatus, again time.Duration) {
	template := labels.Set(rs.Spec.Template.Labels).AsSelectorPreValidated()
	var terminating int32
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil && !controller.PodFinished(pod) {
			terminating++
		}
		if !controller.PodActive(pod) {
			continue
		}
		status.Replicas++
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		if !controller.PodReady(pod) {
			continue
		}
		status.ReadyReplicas++
		available, wait := controller.PodAvailable(pod, rs.Spec.MinReadySeconds, now)
		if available {
			status.AvailableReplicas++
		}
		again = controller.Sooner(again, wait)
	}
	status.TerminatingReplicas = &terminating
	status.ObservedGeneration = rs.Generation
	status.Conditions = replicaFailure(rs, int(status.Replicas), failure, now)
	return status, again
}

// replicaFailure returns the conditions with ReplicaFailure set or taken out, as the last creations and deletions went.
func replicaFailure(rs *appsv1.ReplicaSet, active int, failure error, now time.Time) []appsv1.ReplicaSetCondition {
	var out []appsv1.ReplicaSetCondition
	var before *appsv1.ReplicaSetCondition
	for i := range rs.Status.Conditions {
		if rs.Status.Conditions[i].Type == appsv1.ReplicaSetReplicaFailure {
			before = &rs.Status.Conditions[i]
			continue
		}
		out = append(out, rs.Status.Conditions[i])
	}
	switch {
	case failure == nil:
		return out
	case before != nil:
		return append(out, *before)
	}
	reason := "FailedCreate"
	if active > int(count32(rs.Spec.Replicas)) {
		reason = "FailedDelete"
	}
	return append(out, appsv1.ReplicaSetCondition{
		Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: reason,
		Message: failure.Error(), LastTransitionTime: metav1.NewTime(now),
	})
}

func (r *replicaSets) writeStatus(ctx context.Context, rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) error {
	if apiequality.Semantic.DeepEqual(rs.Status, status) {
		return nil
	}
	update := rs.DeepCopy()
	update.Status = status
	_, err := client.UpdateStatus(ctx, r.client, update)
	if gone(err) && !stillThere(r.client, rs) {
		return nil
	}
	return err
}

// stillThere says whether an object of that name and UID is in the snapshot.
func stillThere[T client.Object](c *client.Client, obj T) bool {
	now, ok := client.From[T](c, c.Snapshot(), obj.GetNamespace(), obj.GetName())
	return ok && now.GetUID() == obj.GetUID()
}

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

var replicationControllerKind = corev1.SchemeGroupVersion.WithKind("ReplicationController")

// ReplicationControllers keeps as many pods as each ReplicationController wants, by the plans of ReplicaSets.
func ReplicationControllers(env controller.Env) *controller.Loop {
	c := env.Client("replication-controller")
	r := &replicationControllers{
		client: c,
		events: client.NewRecorder(c, "replication-controller", env.Logger),
		pods:   controller.NewIndex(controller.ByController(replicationControllerKind.GroupKind())),
	}
	return env.NewLoop(c, controller.Controller{
		Name: "replicationcontroller-controller",
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*corev1.ReplicationController](c), Keys: controller.Itself},
			dependents[*corev1.ReplicationController, *corev1.Pod](c, r.pods, replicationControllerKind.GroupKind(), func(rc *corev1.ReplicationController) *metav1.LabelSelector {
				return &metav1.LabelSelector{MatchLabels: rc.Spec.Selector}
			}),
		},
		Reconcile: r.reconcile,
	})
}

type replicationControllers struct {
	client *client.Client
	events *client.Recorder
	pods   *controller.Index // by controller
}

func (r *replicationControllers) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	rc, ok := client.From[*corev1.ReplicationController](r.client, r.client.Snapshot(), key.Namespace, key.Name)
	if !ok || rc.Spec.Template == nil {
		return 0, nil
	}
	sel := labels.SelectorFromSet(rc.Spec.Selector)
	if sel.Empty() {
		return 0, nil
	}
	pods, err := claimAll(ctx, r.client, rc, replicationControllerKind, planClaim(rc, sel, candidates[*corev1.Pod](r.pods, rc), controller.PodActive))
	if err != nil {
		return 0, err
	}
	var failure error
	create, remove := 0, []*corev1.Pod(nil)
	if rc.DeletionTimestamp == nil {
		create, remove = planReplicas(count32(rc.Spec.Replicas), pods, func() map[string]int { return perNode(pods) }, time.Now())
	}
	switch {
	case create > 0:
		_, failure = createPods(ctx, r.client, r.events, rc, create, func(int) *corev1.Pod {
			return newPod(rc, replicationControllerKind, rc.Spec.Template)
		})
	case len(remove) > 0:
		failure = deletePods(ctx, r.client, r.events, rc, remove)
	}
	if failure == nil && create+len(remove) > 0 {
		// The events of these writes bring the next reconcile, and with it the status.
		return 0, nil
	}
	status, again := replicaSetStatus(asReplicaSet(rc), pods, failure, time.Now())
	if err := r.writeStatus(ctx, rc, &status); err != nil {
		return 0, err
	}
	return again, failure
}

// perNode counts active pods per node.
func perNode(pods []*corev1.Pod) map[string]int {
	out := map[string]int{}
	for _, pod := range pods {
		if controller.PodActive(pod) {
			out[pod.Spec.NodeName]++
		}
	}
	return out
}

// asReplicaSet shows a ReplicationController as what it is otherwise called.
func asReplicaSet(rc *corev1.ReplicationController) *appsv1.ReplicaSet {
	rs := &appsv1.ReplicaSet{
		ObjectMeta: rc.ObjectMeta,
		Spec:       appsv1.ReplicaSetSpec{Replicas: rc.Spec.Replicas, MinReadySeconds: rc.Spec.MinReadySeconds, Template: *rc.Spec.Template},
	}
	for _, c := range rc.Status.Conditions {
		rs.Status.Conditions = append(rs.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return rs
}

func (r *replicationControllers) writeStatus(ctx context.Context, rc *corev1.ReplicationController, s *appsv1.ReplicaSetStatus) error {
	status := corev1.ReplicationControllerStatus{
		Replicas: s.Replicas, FullyLabeledReplicas: s.FullyLabeledReplicas, ReadyReplicas: s.ReadyReplicas,
		AvailableReplicas: s.AvailableReplicas, ObservedGeneration: s.ObservedGeneration,
	}
	for _, c := range s.Conditions {
		status.Conditions = append(status.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	if apiequality.Semantic.DeepEqual(status, rc.Status) {
		return nil
	}
	update := rc.DeepCopy()
	update.Status = status
	_, err := client.UpdateStatus(ctx, r.client, update)
	if gone(err) && !stillThere(r.client, rc) {
		return nil
	}
	return err
}

package workloads

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

var deploymentKind = appsv1.SchemeGroupVersion.WithKind("Deployment")

// Deployments drives each Deployment's ReplicaSets: one for the template of today, scaled up while the older ones go down.
func Deployments(env controller.Env) *controller.Loop {
	c := env.Client("deployment-controller")
	r := &deployments{
		client: c,
		events: client.NewRecorder(c, "deployment-controller", env.Logger),
		sets:   controller.NewIndex(controller.ByController(deploymentKind.GroupKind())),
	}
	return env.NewLoop(c, controller.Controller{
		Name: "deployment-controller",
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*appsv1.Deployment](c), Keys: controller.Itself},
			dependents[*appsv1.Deployment, *appsv1.ReplicaSet](c, r.sets, deploymentKind.GroupKind(), func(d *appsv1.Deployment) *metav1.LabelSelector { return d.Spec.Selector }),
			{Resource: client.ResourceOf[*corev1.Pod](c), Keys: r.podEnded},
		},
		Reconcile: r.reconcile,
	})
}

type deployments struct {
	client *client.Client
	events *client.Recorder
	sets   *controller.Index // by controller
}

// podEnded adds the Deployment of a pod that is gone or has run to its end: with strategy Recreate the new pods wait for
// that. All else that matters of pods shows in the status of the ReplicaSets.
func (r *deployments) podEnded(ev client.Event, add func(controller.Key)) {
	pod := ev.Item.Object.(*corev1.Pod)
	if ev.Type != client.Delete && !controller.PodFinished(pod) {
		return
	}
	key, ok := controller.OwnerOf(pod, replicaSetKind.GroupKind())
	if !ok {
		return
	}
	snap := r.client.Snapshot()
	rs, ok := client.From[*appsv1.ReplicaSet](r.client, snap, key.Namespace, key.Name)
	if !ok {
		return
	}
	key, ok = controller.OwnerOf(rs, deploymentKind.GroupKind())
	if !ok {
		return
	}
	d, ok := client.From[*appsv1.Deployment](r.client, snap, key.Namespace, key.Name)
	if ok && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		add(key)
	}
}

func (r *deployments) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	d, ok := client.From[*appsv1.Deployment](r.client, r.client.Snapshot(), key.Namespace, key.Name)
	if !ok {
		return 0, nil
	}
	sel, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil || sel.Empty() {
		return 0, err
	}
	sets, err := claimAll(ctx, r.client, d, deploymentKind, planClaim(d, sel, candidates[*appsv1.ReplicaSet](r.sets, d), nil))
	if err != nil {
		return 0, err
	}
	plan := planDeployment(d, sets, func(rs *appsv1.ReplicaSet) bool {
		return slices.ContainsFunc(client.List[*corev1.Pod](r.client, r.client.Snapshot(), rs.Namespace, nil), func(p *corev1.Pod) bool {
			return metav1.IsControlledBy(p, rs) && !controller.PodFinished(p)
		})
	}, time.Now())
	return plan.again, r.carryOut(ctx, d, plan)
}

// carryOut makes a plan true: the new ReplicaSet, then sizes and annotations, then what is deleted, then the status.
func (r *deployments) carryOut(ctx context.Context, d *appsv1.Deployment, plan *rollout) error {
	var failure error
	if plan.create != nil {
		failure = r.create(ctx, d, plan)
	}
	for _, set := range plan.sets {
		if !set.changed || failure != nil {
			continue
		}
		if err := r.update(ctx, d, set); err != nil {
			return err
		}
	}
	for _, rs := range plan.remove {
		err := client.Remove[*appsv1.ReplicaSet](ctx, r.client, rs.Namespace, rs.Name, metav1.DeleteOptions{
			Preconditions:     &metav1.Preconditions{UID: &rs.UID},
			PropagationPolicy: ptr.To(metav1.DeletePropagationBackground),
		})
		if err != nil && !gone(err) {
			return fmt.Errorf("delete replica set %s: %w", rs.Name, err)
		}
	}
	annotation := plan.revision
	if annotation == "" {
		annotation = d.Annotations[revisionAnnotation]
	}
	if annotation == d.Annotations[revisionAnnotation] && apiequality.Semantic.DeepEqual(d.Status, plan.status) {
		return failure
	}
	update := d.DeepCopy()
	update.Status = plan.status
	if annotation != "" {
		metav1.SetMetaDataAnnotation(&update.ObjectMeta, revisionAnnotation, annotation)
	}
	_, err := client.UpdateStatus(ctx, r.client, update)
	if gone(err) && !stillThere(r.client, d) {
		return nil
	}
	return cmp.Or(failure, err)
}

// create creates the ReplicaSet of the plan. When the name is taken by one of another template, the collision count in the status
// goes up, and the next try gets another name.
func (r *deployments) create(ctx context.Context, d *appsv1.Deployment, plan *rollout) error {
	rs, err := client.Create(ctx, r.client, plan.create)
	switch {
	case err == nil:
		if n := count32(rs.Spec.Replicas); n > 0 {
			r.scaled(d, rs.Name, 0, n)
		}
		return nil
	case apierrors.IsAlreadyExists(err):
		plan.revision = ""
		plan.status = *d.Status.DeepCopy()
		other, there := client.From[*appsv1.ReplicaSet](r.client, r.client.Snapshot(), d.Namespace, plan.create.Name)
		if there && metav1.IsControlledBy(other, d) && sameTemplate(&other.Spec.Template, &d.Spec.Template) {
			return err
		}
		plan.status.CollisionCount = ptr.To(ptr.Deref(plan.status.CollisionCount, 0) + 1)
		return err
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return err
	}
	message := fmt.Sprintf("Failed to create new replica set %q: %v", plan.create.Name, err)
	plan.revision = ""
	plan.status = *d.Status.DeepCopy()
	if hasDeadline(d) {
		setCondition(&plan.status, appsv1.DeploymentProgressing, corev1.ConditionFalse, "ReplicaSetCreateError", message, time.Now())
	}
	r.events.Event(d, corev1.EventTypeWarning, "ReplicaSetCreateError", "%s", message)
	return err
}

// update writes a ReplicaSet that the plan changed.
func (r *deployments) update(ctx context.Context, d *appsv1.Deployment, set *replicas) error {
	from, to := count32(set.was.Spec.Replicas), count32(set.Spec.Replicas)
	if _, err := client.Update(ctx, r.client, set.ReplicaSet); err != nil {
		return fmt.Errorf("update replica set %s: %w", set.Name, err)
	}
	if from != to {
		r.scaled(d, set.Name, from, to)
	}
	return nil
}

func (r *deployments) scaled(d *appsv1.Deployment, name string, from, to int32) {
	direction := "up"
	if to < from {
		direction = "down"
	}
	r.events.Event(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", direction, name, from, to)
}

// newReplicaSet returns the ReplicaSet of the Deployment's template, with no replicas yet.
func newReplicaSet(d *appsv1.Deployment) *appsv1.ReplicaSet {
	hash := templateHash(&d.Spec.Template, d.Status.CollisionCount)
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       d.Namespace,
			Name:            d.Name + "-" + hash,
			Labels:          cloneMap(d.Spec.Template.Labels),
			Annotations:     map[string]string{},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, deploymentKind)},
		},
		Spec: appsv1.ReplicaSetSpec{
			MinReadySeconds: d.Spec.MinReadySeconds,
			Selector:        d.Spec.Selector.DeepCopy(),
			Template:        *d.Spec.Template.DeepCopy(),
		},
	}
	rs.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	rs.Spec.Template.Labels = cloneMap(rs.Labels)
	rs.Spec.Selector.MatchLabels = cloneMap(rs.Spec.Selector.MatchLabels)
	rs.Spec.Selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	return rs
}

// templateHash names a template. It need not be upstream's hash: ReplicaSets are found by comparing templates, the hash only keeps
// their names and pods apart.
func templateHash(t *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	// The protobuf form of an API type is deterministic: maps are written in order of their keys.
	bytes, err := t.Marshal()
	if err != nil {
		panic(fmt.Sprintf("workloads: encode pod template: %v", err))
	}
	h.Write(bytes)
	if collisions != nil {
		fmt.Fprint(h, *collisions)
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// sameTemplate compares two templates but for the label that the controller adds.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	return equalLabels(a.Labels, b.Labels) &&
		apiequality.Semantic.DeepEqual(a.Annotations, b.Annotations) &&
		slices.Equal(a.Finalizers, b.Finalizers) &&
		apiequality.Semantic.DeepEqual(&a.Spec, &b.Spec)
}

func equalLabels(a, b map[string]string) bool {
	size := func(m map[string]string) int {
		if _, ok := m[appsv1.DefaultDeploymentUniqueLabelKey]; ok {
			return len(m) - 1
		}
		return len(m)
	}
	if size(a) != size(b) {
		return false
	}
	for k, v := range a {
		if k == appsv1.DefaultDeploymentUniqueLabelKey {
			continue
		}
		if other, ok := b[k]; !ok || other != v {
			return false
		}
	}
	return true
}

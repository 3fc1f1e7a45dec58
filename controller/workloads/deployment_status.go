package workloads

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/controller"
)

// hasDeadline says whether the Deployment's progress is watched; the largest number means never.
func hasDeadline(d *appsv1.Deployment) bool {
	s := d.Spec.ProgressDeadlineSeconds
	return s != nil && *s != math.MaxInt32
}

func condition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

// setCondition replaces the condition of a type, unless status and reason stay the same; the transition time stays when
// the status does.
func setCondition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string, now time.Time) {
	before := condition(s, t)
	if before != nil && before.Status == status && before.Reason == reason {
		return
	}
	next := appsv1.DeploymentCondition{
		Type: t, Status: status, Reason: reason, Message: message,
		LastUpdateTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
	}
	if before != nil && before.Status == status {
		next.LastTransitionTime = before.LastTransitionTime
	}
	dropCondition(s, t)
	s.Conditions = append(s.Conditions, next)
}

func dropCondition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) {
	s.Conditions = slices.DeleteFunc(s.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == t })
}

// markPaused notes in the Progressing condition when a rollout was paused or resumed, so that the time in between does not
// count against its deadline.
func (p *rollout) markPaused() {
	c := condition(&p.status, appsv1.DeploymentProgressing)
	if !hasDeadline(p.deployment) || c != nil && c.Reason == "ProgressDeadlineExceeded" {
		return
	}
	paused := c != nil && c.Reason == "DeploymentPaused"
	switch {
	case p.deployment.Spec.Paused && !paused:
		setCondition(&p.status, appsv1.DeploymentProgressing, corev1.ConditionUnknown, "DeploymentPaused", "Deployment is paused", p.now)
	case !p.deployment.Spec.Paused && paused:
		setCondition(&p.status, appsv1.DeploymentProgressing, corev1.ConditionUnknown, "DeploymentResumed", "Deployment is resumed", p.now)
	}
}

// count writes the sums over all sets, and the Available condition, into the status.
func (p *rollout) count() {
	s := &p.status
	s.ObservedGeneration = p.deployment.Generation
	s.Replicas, s.UpdatedReplicas, s.ReadyReplicas, s.AvailableReplicas = 0, 0, 0, 0
	var terminating int32
	known := true
	for _, set := range p.sets {
		s.Replicas += set.Status.Replicas
		s.ReadyReplicas += set.Status.ReadyReplicas
		s.AvailableReplicas += set.Status.AvailableReplicas
		switch {
		case set.Status.TerminatingReplicas != nil:
			terminating += *set.Status.TerminatingReplicas
		case set.Status.ObservedGeneration != 0:
			known = false
		}
	}
	if p.newest != nil {
		s.UpdatedReplicas = p.newest.Status.Replicas
	}
	s.UnavailableReplicas = max(0, p.total()+p.createdSize()-s.AvailableReplicas)
	s.TerminatingReplicas = nil
	if known {
		s.TerminatingReplicas = &terminating
	}
	_, maxUnavailable := p.fenceposts()
	if s.AvailableReplicas >= p.wanted()-maxUnavailable {
		setCondition(s, appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable",
			"Deployment has minimum availability.", p.now)
	} else {
		setCondition(s, appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable",
			"Deployment does not have minimum availability.", p.now)
	}
}

// complete says whether the rollout has reached its end, as the ReplicaSets' status shows it now.
func (p *rollout) complete() bool {
	trial := &rollout{deployment: p.deployment, now: p.now, sets: p.sets, newest: p.newest}
	trial.count()
	return trial.done()
}

func (p *rollout) done() bool {
	n := p.wanted()
	return p.status.UpdatedReplicas == n && p.status.Replicas == n && p.status.AvailableReplicas == n
}

// progress counts, and then tells in the conditions how the rollout goes.
func (p *rollout) progress() {
	p.count()
	p.judge()
	dropCondition(&p.status, appsv1.DeploymentReplicaFailure)
	if c := p.failure(); c != nil {
		setCondition(&p.status, appsv1.DeploymentReplicaFailure, c.Status, c.Reason, c.Message, p.now)
		// A failure that goes on keeps its times, or the status would change with every look at it.
		if before := condition(&p.deployment.Status, appsv1.DeploymentReplicaFailure); before != nil &&
			before.Status == c.Status && before.Reason == c.Reason {
			*condition(&p.status, appsv1.DeploymentReplicaFailure) = *before
		}
	}
}

// judge sets the Progressing condition, and asks to be called again when the deadline passes.
func (p *rollout) judge() {
	if !hasDeadline(p.deployment) {
		dropCondition(&p.status, appsv1.DeploymentProgressing)
		return
	}
	before := condition(&p.status, appsv1.DeploymentProgressing)
	if before != nil && before.Reason == "NewReplicaSetAvailable" && p.status.Replicas == p.status.UpdatedReplicas && p.create == nil {
		return
	}
	subject := fmt.Sprintf("Deployment %q", p.deployment.Name)
	switch {
	case p.newest != nil:
		subject = fmt.Sprintf("ReplicaSet %q", p.newest.Name)
	case p.create != nil:
		subject = fmt.Sprintf("ReplicaSet %q", p.create.Name)
	}
	deadline := time.Duration(*p.deployment.Spec.ProgressDeadlineSeconds) * time.Second
	switch {
	case p.done():
		setCondition(&p.status, appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetAvailable",
			subject+" has successfully progressed.", p.now)
		return
	case p.moved():
		// Every step forward starts the deadline anew, so the update time changes even when the reason does not.
		var since *metav1.Time
		if before != nil && before.Status == corev1.ConditionTrue {
			since = before.LastTransitionTime.DeepCopy()
		}
		dropCondition(&p.status, appsv1.DeploymentProgressing)
		setCondition(&p.status, appsv1.DeploymentProgressing, corev1.ConditionTrue, "ReplicaSetUpdated",
			subject+" is progressing.", p.now)
		if since != nil {
			condition(&p.status, appsv1.DeploymentProgressing).LastTransitionTime = *since
		}
	case before != nil && before.Reason != "NewReplicaSetAvailable" && before.Reason != "ProgressDeadlineExceeded" &&
		p.now.Sub(before.LastUpdateTime.Time) > deadline:
		setCondition(&p.status, appsv1.DeploymentProgressing, corev1.ConditionFalse, "ProgressDeadlineExceeded",
			subject+" has timed out progressing.", p.now)
		return
	}
	c := condition(&p.status, appsv1.DeploymentProgressing)
	if c != nil && c.Reason != "ProgressDeadlineExceeded" {
		// A second later, as times in the API have no fractions.
		left := c.LastUpdateTime.Add(deadline + time.Second).Sub(p.now)
		p.again = controller.Sooner(p.again, max(left, time.Millisecond))
	}
}

// moved says whether the counts show progress since the status was last written.
func (p *rollout) moved() bool {
	before, now := &p.deployment.Status, &p.status
	return now.UpdatedReplicas > before.UpdatedReplicas ||
		now.Replicas-now.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		now.ReadyReplicas > before.ReadyReplicas || now.AvailableReplicas > before.AvailableReplicas
}

// failure returns a ReplicaSet's failure to create or delete pods: the newest one's, or else any.
func (p *rollout) failure() *appsv1.ReplicaSetCondition {
	sets := p.older
	if p.newest != nil {
		sets = append([]*replicas{p.newest}, p.older...)
	}
	for _, s := range sets {
		for i := range s.Status.Conditions {
			if s.Status.Conditions[i].Type == appsv1.ReplicaSetReplicaFailure {
				return &s.Status.Conditions[i]
			}
		}
	}
	return nil
}

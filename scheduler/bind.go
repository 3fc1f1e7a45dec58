package scheduler

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

	"github.com/kebernetes/kebernetes/client"
)

const (
	// batchSize is how many pods are placed and bound at once: enough that a commit costs little per pod, few enough that
	// the first of them does not wait long.
	batchSize = 256
	// reporters is how many conditions are written at a time, so that they share the disk's syncs.
	reporters = 16
	// tellAgain is how often an event repeats a refusal that stays the same.
	tellAgain = time.Minute
)

// placement is a pod that found a node.
type placement struct {
	entry *entry
	node  string
}

// schedule places a batch, binds what found a node and reports what did not.
func (s *Scheduler) schedule(ctx context.Context, batch []*entry, now time.Time) {
	var bound []placement
	var refused []*entry
	for _, r := range runs(batch) {
		first := r[0]
		s.picker.pick(first.class, first.group, len(r), func(slot int32) {
			e := r[0]
			r = r[1:]
			node := s.columns.nodes[slot].Name
			s.columns.place(&placed{uid: e.pod.UID, node: node, class: e.class, group: e.group, priority: e.priority, assumed: true, pod: e.pod})
			bound = append(bound, placement{e, node})
		})
		if len(r) == 0 {
			continue
		}
		why := s.picker.explain(first.class, first.pod.Spec.PreemptionPolicy)
		for _, e := range r {
			e.refusal = why
			s.queue.park(e)
			refused = append(refused, e)
		}
	}
	s.bind(ctx, bound)
	s.report(ctx, refused, now)
}

// runs splits a batch into runs of pods that are alike, highest priority first, by first arrival within a priority.
func runs(batch []*entry) [][]*entry {
	type likeness struct {
		class    *class
		group    groupKey
		priority int32
		never    bool
	}
	at := map[likeness]int{}
	var out [][]*entry
	for _, e := range batch {
		policy := e.pod.Spec.PreemptionPolicy
		l := likeness{e.class, e.group, e.priority, policy != nil && *policy == corev1.PreemptNever}
		i, ok := at[l]
		if !ok {
			i = len(out)
			at[l] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], e)
	}
	return out
}

// bind writes the placements in one request. A pod that cannot be bound gives its room back.
func (s *Scheduler) bind(ctx context.Context, placements []placement) {
	if len(placements) == 0 {
		return
	}
	bindings := make([]*corev1.Binding, len(placements))
	for i, p := range placements {
		pod := p.entry.pod
		bindings[i] = &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: p.node},
		}
	}
	errs := s.client.Bind(ctx, bindings)
	for i, p := range placements {
		pod, err := p.entry.pod, errs[i]
		if err == nil {
			s.queue.drop(pod.UID)
			s.recorder.Event(pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, p.node)
			continue
		}
		s.room = s.columns.remove(pod.UID) || s.room
		// A pod that is gone leaves the queue with its event.
		s.queue.retry(p.entry)
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) || ctx.Err() != nil {
			continue
		}
		s.log.Warn("pod not bound", "pod", pod.Namespace+"/"+pod.Name, "node", p.node, "err", err)
		s.recorder.Event(pod, corev1.EventTypeWarning, "FailedScheduling", "binding rejected: %v", err)
	}
}

// report tells of pods that found no node, and of new gates: an event and the pod's condition.
func (s *Scheduler) report(ctx context.Context, refused []*entry, now time.Time) {
	var work []func()
	for _, e := range refused {
		pod := e.pod
		condition := unschedulableCondition(pod, e.refusal.message)
		differs := conditionDiffers(pod, condition)
		if differs || now.Sub(e.told) >= tellAgain {
			e.told = now
			s.recorder.Event(pod, corev1.EventTypeWarning, "FailedScheduling", "%s", e.refusal.message)
		}
		if differs {
			work = append(work, func() { s.setCondition(ctx, pod, condition, now) })
		}
	}
	for _, pod := range s.ungated {
		work = append(work, func() { s.setCondition(ctx, pod, gatedCondition(pod), now) })
	}
	s.ungated = nil
	var wait sync.WaitGroup
	for part := range slices.Chunk(work, max(1, (len(work)+reporters-1)/reporters)) {
		wait.Go(func() {
			for _, f := range part {
				f()
			}
		})
	}
	wait.Wait()
}

func unschedulableCondition(pod *corev1.Pod, message string) corev1.PodCondition {
	return corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable,
		Message: message, ObservedGeneration: pod.Generation,
	}
}

func gatedCondition(pod *corev1.Pod) corev1.PodCondition {
	return corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
		Message: "Scheduling is blocked due to non-empty scheduling gates", ObservedGeneration: pod.Generation,
	}
}

func condition(pod *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == t {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// conditionDiffers tells whether a condition says something new.
func conditionDiffers(pod *corev1.Pod, want corev1.PodCondition) bool {
	has := condition(pod, want.Type)
	return has == nil || has.Status != want.Status || has.Reason != want.Reason || has.Message != want.Message
}

// setCondition patches one condition of a pod's status. The uid in it keeps it off a pod of the same name that came since.
func (s *Scheduler) setCondition(ctx context.Context, pod *corev1.Pod, want corev1.PodCondition, now time.Time) {
	want.LastTransitionTime = metav1.NewTime(now)
	if has := condition(pod, want.Type); has != nil && has.Status == want.Status {
		want.LastTransitionTime = has.LastTransitionTime
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status":   map[string]any{"conditions": []corev1.PodCondition{want}},
	})
	if err == nil {
		_, err = client.Patch[*corev1.Pod](ctx, s.client, pod.Namespace, pod.Name, "status", types.StrategicMergePatchType, patch)
	}
	if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		s.log.Warn("condition not written", "pod", pod.Namespace+"/"+pod.Name, "err", fmt.Errorf("patch status: %w", err))
	}
}

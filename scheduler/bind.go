package scheduler

import (
	"context"
	"encoding/json"
	"reflect"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
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

// batch is what one round of the loop came to.
type batch struct {
	bound   []placement
	refused []*entry
	// victims are the pods to delete, by the pod that they make way for.
	victims map[*entry][]*placed
}

// schedule places pods, binds those that found a node, makes others make way for those that did not, and tells of it.
func (s *Scheduler) schedule(ctx context.Context, waiting []*entry, now time.Time) {
	b := &batch{victims: map[*entry][]*placed{}}
	for _, r := range runs(waiting) {
		s.place(b, r)
	}
	s.bind(ctx, b.bound)
	s.report(ctx, b, now)
}

// place finds nodes for a run of pods that are alike.
func (s *Scheduler) place(b *batch, r []*entry) {
	first := r[0]
	release := s.columns.reserve(first.priority, func(uid types.UID) bool {
		return slices.ContainsFunc(r, func(e *entry) bool { return e.pod.UID == uid })
	})
	took := func(e *entry, slot int32) {
		node := s.columns.nodes[slot].Name
		delete(s.columns.nominated, e.pod.UID)
		s.columns.place(&placed{uid: e.pod.UID, node: node, class: e.class, group: e.group, priority: e.priority, assumed: true, pod: e.pod})
		b.bound = append(b.bound, placement{e, node})
	}
	// Room that was made for a pod is tried first.
	r = slices.DeleteFunc(r, func(e *entry) bool {
		slot, ok := s.columns.slots[e.nominated]
		if ok = ok && s.picker.fits(e.class, slot); ok {
			took(e, slot)
		}
		return ok
	})
	s.picker.pick(first.class, first.group, len(r), func(slot int32) {
		e := r[0]
		r = r[1:]
		took(e, slot)
	})
	release()
	if len(r) > 0 {
		s.refuse(b, r)
	}
}

// refuse deals with the pods of a run that found no node.
func (s *Scheduler) refuse(b *batch, r []*entry) {
	first := r[0]
	b.refused = append(b.refused, r...)
	why := s.picker.explain(first.class)
	policy := first.pod.Spec.PreemptionPolicy
	never := policy != nil && *policy == corev1.PreemptNever
	hopeless := "" // once one found nobody to make way, the rest will not either
	limits := sync.OnceValue(s.budgets)
	for _, e := range r {
		e.refusal = why
		switch {
		case s.columns.len() == 0:
		case never:
			e.refusal.message += " preemption: not eligible due to preemptionPolicy=Never."
		case e.nominated != "" && s.columns.awaits(e):
			e.refusal.mendable = true
			e.refusal.message += " preemption: not eligible due to a terminating pod on the nominated node."
		case hopeless != "":
			s.columns.nominate(e, "")
			e.refusal.message += hopeless
		default:
			hopeless = s.preempt(b, e, limits())
			e.refusal.message += hopeless
		}
		s.queue.park(e)
	}
}

// preempt chooses pods that make way for one of higher priority. Without any, it returns why.
func (s *Scheduler) preempt(b *batch, e *entry, limits []budget) (why string) {
	release := s.columns.reserve(e.priority, func(uid types.UID) bool { return uid == e.pod.UID })
	found, reasons := s.picker.preempt(e.class, e.priority, limits)
	release()
	if found == nil {
		s.columns.nominate(e, "")
		return " preemption: " + summary(s.columns.len(), reasons)
	}
	for _, v := range found.victims {
		if !v.victim {
			v.victim = true
			b.victims[e] = append(b.victims[e], v)
		}
	}
	node := s.columns.nodes[found.slot].Name
	// Those of lower priority that counted on the node look for another.
	for uid, p := range s.columns.nominated {
		if p.node == node && p.priority < e.priority {
			if lower := s.queue.entries[uid]; lower != nil {
				s.columns.nominate(lower, "")
			}
		}
	}
	s.columns.nominate(e, node)
	e.refusal.mendable = true
	return ""
}

// budgets reads the disruption budgets, in a cluster that knows such.
func (s *Scheduler) budgets() []budget {
	if s.client.Table().Type(reflect.TypeFor[*policyv1.PodDisruptionBudget]()) == nil {
		return nil
	}
	return budgets(client.List[*policyv1.PodDisruptionBudget](s.client, s.client.Snapshot(), "", nil))
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
			s.changed.added = true
			s.queue.drop(pod.UID)
			s.recorder.Event(pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, p.node)
			continue
		}
		s.changed.room = s.columns.remove(pod.UID) || s.changed.room
		// A pod that is gone leaves the queue with its event.
		s.queue.retry(p.entry)
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) || ctx.Err() != nil {
			continue
		}
		s.log.Warn("pod not bound", "pod", pod.Namespace+"/"+pod.Name, "node", p.node, "err", err)
		s.recorder.Event(pod, corev1.EventTypeWarning, "FailedScheduling", "binding rejected: %v", err)
	}
}

// report tells of pods that found no node, and of new gates, by an event and the pod's condition; and deletes those that make way.
func (s *Scheduler) report(ctx context.Context, b *batch, now time.Time) {
	var work []func()
	var mu sync.Mutex
	var failed []*entry
	for _, e := range b.refused {
		pod, nominated := e.pod, e.nominated
		condition := unschedulableCondition(pod, e.refusal.message)
		differs := conditionDiffers(pod, condition) || nominated != pod.Status.NominatedNodeName
		if differs || now.Sub(e.told) >= tellAgain {
			e.told = now
			s.recorder.Event(pod, corev1.EventTypeWarning, "FailedScheduling", "%s", e.refusal.message)
		}
		if differs {
			work = append(work, func() { s.patchStatus(ctx, pod, condition, &nominated, now) })
		}
		for _, v := range b.victims[e] {
			work = append(work, func() {
				if err := s.evict(ctx, v, pod, now); err != nil {
					mu.Lock()
					defer mu.Unlock()
					v.victim, failed = false, append(failed, e)
				}
			})
		}
	}
	for _, pod := range s.ungated {
		work = append(work, func() { s.patchStatus(ctx, pod, gatedCondition(pod), nil, now) })
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
	for _, e := range failed {
		s.queue.unpark(e)
	}
}

// evict deletes a pod that makes way for another.
func (s *Scheduler) evict(ctx context.Context, v *placed, by *corev1.Pod, now time.Time) error {
	s.patchStatus(ctx, v.pod, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
		Message: corev1.DefaultSchedulerName + ": preempting to accommodate a higher priority pod", ObservedGeneration: v.pod.Generation,
	}, nil, now)
	err := client.Remove[*corev1.Pod](ctx, s.client, v.pod.Namespace, v.pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &v.pod.UID}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // gone already
	}
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("pod not preempted", "pod", v.pod.Namespace+"/"+v.pod.Name, "err", err)
		}
		return err
	}
	s.recorder.Event(v.pod, corev1.EventTypeNormal, "Preempted", "Preempted by pod %s on node %s", by.UID, v.node)
	return nil
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

// patchStatus writes one condition, and with nominated the node where others make way. The uid in it keeps it off a pod of
// the same name that came since.
func (s *Scheduler) patchStatus(ctx context.Context, pod *corev1.Pod, want corev1.PodCondition, nominated *string, now time.Time) {
	want.LastTransitionTime = metav1.NewTime(now)
	if has := condition(pod, want.Type); has != nil && has.Status == want.Status {
		want.LastTransitionTime = has.LastTransitionTime
	}
	status := map[string]any{"conditions": []corev1.PodCondition{want}}
	if nominated != nil {
		status["nominatedNodeName"] = *nominated
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err == nil {
		_, err = client.Patch[*corev1.Pod](ctx, s.client, pod.Namespace, pod.Name, "status", types.StrategicMergePatchType, patch)
	}
	if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		s.log.Warn("pod status not written", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
}

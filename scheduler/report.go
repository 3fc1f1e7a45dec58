package scheduler

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
)

// report tells of pods that found no node, and of new gates, by an event and the pod's condition; and deletes those that make way.
func (s *Scheduler) report(ctx context.Context, b *batch, now time.Time) {
	var work []func()
	var mu sync.Mutex
	var failed []*entry
	unbound := map[*binding]error{}
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
	for _, w := range b.waiting {
		work = append(work, func() {
			if err := s.request(ctx, w); err != nil {
				mu.Lock()
				defer mu.Unlock()
				unbound[w] = err
			}
		})
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
	for _, w := range b.waiting {
		s.await(ctx, w, unbound[w])
	}
}

// await keeps a pod until its claims are bound, unless they could not even be asked for.
func (s *Scheduler) await(ctx context.Context, w *binding, err error) {
	if err == nil {
		s.binding[w.entry.pod.UID] = w
		s.claimsMoved = true // they may be bound by now
		return
	}
	s.giveUp(w.placement)
	if ctx.Err() == nil && !apierrors.IsConflict(err) {
		s.recorder.Event(w.entry.pod, corev1.EventTypeWarning, "FailedScheduling", "running PreBind plugin %q: %v", "VolumeBinding", err)
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

// patchStatus writes one condition, and with nominated the node where others make way.
func (s *Scheduler) patchStatus(ctx context.Context, pod *corev1.Pod, want corev1.PodCondition, nominated *string, now time.Time) {
	want.LastTransitionTime = metav1.NewTime(now)
	if has := condition(pod, want.Type); has != nil && has.Status == want.Status {
		want.LastTransitionTime = has.LastTransitionTime
	}
	status := map[string]any{"conditions": []corev1.PodCondition{want}}
	if nominated != nil {
		status["nominatedNodeName"] = *nominated
	}
	err := s.patchPod(ctx, pod, status)
	if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		s.log.Warn("pod status not written", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
}

// patchPod writes parts of a pod's status. The uid in the patch keeps it off a pod of the same name that came since.
func (s *Scheduler) patchPod(ctx context.Context, pod *corev1.Pod, status map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return err
	}
	_, err = client.Patch[*corev1.Pod](ctx, s.client, pod.Namespace, pod.Name, "status", types.StrategicMergePatchType, patch)
	return err
}

package scheduler

import (
	"context"
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
	bound []placement
	// waiting are those whose claims have to be bound first.
	waiting []*binding
	refused []*entry
	// victims are the pods to delete, by the pod that they make way for.
	victims map[*entry][]*placed
}

// schedule places pods, binds those that found a node, makes others make way for those that did not, and tells of it.
func (s *Scheduler) schedule(ctx context.Context, waiting []*entry, now time.Time) {
	b := &batch{victims: map[*entry][]*placed{}}
	for _, r := range runs(waiting) {
		s.place(b, r, now)
	}
	s.bind(ctx, b.bound)
	s.report(ctx, b, now)
	clear(s.promised)
	clear(s.given)
}

// place finds nodes for a run of pods that are alike.
func (s *Scheduler) place(b *batch, pods []*entry, now time.Time) {
	subject, why := s.subjectOf(pods[0])
	if why != "" {
		for _, e := range pods {
			e.refusal = s.picker.refuseOutright(why)
			s.columns.nominate(e, "")
			s.queue.park(e)
		}
		b.refused = append(b.refused, pods...)
		return
	}
	r := s.picker.begin(subject)
	defer s.picker.end(r)
	s.reserve(r, pods)
	took := func(e *entry, slot int32) {
		at := placement{e, s.columns.nodes[slot].Name}
		delete(s.columns.nominated, e.pod.UID)
		placed := &placed{uid: e.pod.UID, node: at.node, class: e.class, kin: e.kin, priority: e.priority, assumed: true, pod: e.pod}
		if subject.storage != nil {
			placed.attaches = subject.storage.attaches
			if promises, _, _ := subject.storage.promises(slot); len(promises) > 0 {
				s.give(promises, slot)
				b.waiting = append(b.waiting, &binding{at, promises, now})
				s.columns.place(placed)
				return
			}
		}
		s.columns.place(placed)
		b.bound = append(b.bound, at)
	}
	// Room that was made for a pod is tried first.
	pods = slices.DeleteFunc(pods, func(e *entry) bool {
		slot, ok := s.columns.slots[e.nominated]
		if ok = ok && r.refused(s.columns, slot) == nil; ok {
			took(e, slot)
			r.took(slot)
		}
		return ok
	})
	if len(pods) == 0 {
		return
	}
	s.picker.pick(r, len(pods), func(slot int32) {
		took(pods[0], slot)
		pods = pods[1:]
	})
	if len(pods) > 0 {
		s.refuse(b, r, pods)
	}
}

// subjectOf reads what has to be known of a pod to place it, or why it cannot be placed at all.
func (s *Scheduler) subjectOf(e *entry) (out subject, why string) {
	out = subject{class: e.class, kin: e.kin, rules: e.class.rules}
	snap := s.client.Snapshot()
	if len(out.rules) == 0 {
		if selector := s.fellows(e, snap); selector != nil {
			out.rules, out.loose = defaultRules(e.pod.Namespace, selector), true
		}
	}
	if len(e.class.claims) > 0 && s.columns.len() > 0 {
		out.storage, why = s.storageOf(e.pod, snap)
	}
	return out, why
}

// reserve counts the nominated pods that the pods of a run must leave room for.
func (s *Scheduler) reserve(r *run, pods []*entry) {
	for uid, p := range s.columns.nominated {
		if p.priority >= pods[0].priority && !slices.ContainsFunc(pods, func(e *entry) bool { return e.pod.UID == uid }) {
			s.picker.reserve(r, p)
		}
	}
}

// refuse deals with the pods of a run that found no node.
func (s *Scheduler) refuse(b *batch, r *run, pods []*entry) {
	first := pods[0]
	b.refused = append(b.refused, pods...)
	why := s.picker.explain(r)
	policy := first.pod.Spec.PreemptionPolicy
	never := policy != nil && *policy == corev1.PreemptNever
	hopeless := "" // once one found nobody to make way, the rest will not either
	limits := sync.OnceValue(s.budgets)
	for _, e := range pods {
		if p := s.columns.nominated[e.pod.UID]; p != nil {
			s.picker.reserve(r, p) // from the others of the run
		}
	}
	for _, e := range pods {
		e.refusal = why
		switch {
		case s.columns.len() == 0:
		case never:
			e.refusal.message += beforePreemption + "not eligible due to preemptionPolicy=Never."
		case e.nominated != "" && s.columns.awaits(e):
			e.refusal.message += beforePreemption + "not eligible due to a terminating pod on the nominated node."
		case hopeless != "":
			s.unnominate(r, e)
			e.refusal.message += hopeless
		default:
			hopeless = s.preempt(b, r, e, limits())
			e.refusal.message += hopeless
		}
		s.queue.park(e)
	}
}

// unnominate gives up the room that was kept for a pod.
func (s *Scheduler) unnominate(r *run, e *entry) {
	s.picker.release(r, e.pod.UID)
	s.columns.nominate(e, "")
}

// preempt chooses pods that make way for one of higher priority. Without any, it returns why.
func (s *Scheduler) preempt(b *batch, r *run, e *entry, limits []budget) (why string) {
	s.unnominate(r, e)
	found, reasons := s.picker.preempt(r, e.priority, limits)
	if found == nil {
		return beforePreemption + summary(s.columns.len(), reasons)
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
	s.picker.reserve(r, s.columns.nominated[e.pod.UID])
	return ""
}

// budgets reads the disruption budgets.
func (s *Scheduler) budgets() []budget {
	if !knows[*policyv1.PodDisruptionBudget](s.client) {
		return nil
	}
	return budgets(client.List[*policyv1.PodDisruptionBudget](s.client, s.client.Snapshot(), "", nil))
}

// runs splits a batch into runs of pods that are alike, highest priority first, by first arrival within a priority. Pods with
// claims go alone: what one is given, another is not.
func runs(batch []*entry) [][]*entry {
	type likeness struct {
		class    *class
		kin      *kin
		owner    types.UID
		priority int32
		never    bool
	}
	at := map[likeness]int{}
	var out [][]*entry
	for _, e := range batch {
		policy := e.pod.Spec.PreemptionPolicy
		l := likeness{class: e.class, kin: e.kin, priority: e.priority, never: policy != nil && *policy == corev1.PreemptNever}
		if e.owner != nil {
			l.owner = e.owner.UID
		}
		i, ok := at[l]
		if !ok || len(e.class.claims) > 0 {
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
			s.changed.came[sortOf{p.entry.kin, p.entry.class}] = true
			s.queue.drop(pod.UID)
			s.recorder.Event(pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, p.node)
			continue
		}
		s.giveUp(p)
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) || ctx.Err() != nil {
			continue
		}
		s.log.Warn("pod not bound", "pod", pod.Namespace+"/"+pod.Name, "node", p.node, "err", err)
		s.recorder.Event(pod, corev1.EventTypeWarning, "FailedScheduling", "binding rejected: %v", err)
	}
}

// giveUp takes a pod off the node that it was to have. (One that is gone leaves the queue with its event.)
func (s *Scheduler) giveUp(p placement) {
	s.left(s.columns.remove(p.entry.pod.UID))
	s.queue.retry(p.entry)
}

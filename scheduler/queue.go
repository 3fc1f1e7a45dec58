package scheduler

import (
	"container/heap"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// How long a pod waits after an attempt that failed before the next one: doubling from the first to the second. Upstream's numbers.
const (
	firstBackoff = time.Second
	mostBackoff  = 10 * time.Second
)

// entry is a pod that waits for a node.
type entry struct {
	pod      *corev1.Pod
	class    *class
	kin      *kin
	owner    *metav1.OwnerReference // its controller; nil for none
	priority int32
	arrival  uint64 // order of arrival, for pods of one priority

	attempts int
	tried    time.Time // of the last attempt
	refusal  refusal   // what it came to
	told     time.Time // when the last event said so
	// nominated is the node where other pods make way for this one.
	nominated string

	place place
	at    int // index in the heap of its place
}

// place is where in the queue an entry is.
type place uint8

const (
	taken   place = iota // an attempt is under way
	ready                // waits for its turn
	waiting              // waits for its back-off to end
	parked               // waits for something to change in the cluster
	gated                // waits for its scheduling gates to go
)

// queue holds all pods that wait for a node. Its decisions take the time as an argument. Not safe for concurrent use.
type queue struct {
	entries  map[types.UID]*entry
	ready    entries
	waiting  entries
	arrivals uint64
}

func newQueue() *queue {
	return &queue{
		entries: map[types.UID]*entry{},
		ready: entries{before: func(a, b *entry) bool {
			return a.priority > b.priority || a.priority == b.priority && a.arrival < b.arrival
		}},
		waiting: entries{before: func(a, b *entry) bool { return a.again().Before(b.again()) }},
	}
}

// again is when an entry may be tried again.
func (e *entry) again() time.Time {
	wait := mostBackoff
	if n := e.attempts - 1; n < 4 {
		wait = min(firstBackoff<<max(n, 0), mostBackoff)
	}
	return e.tried.Add(wait)
}

// put adds a pod, or takes in a newer state of it. read is asked for its class and kin only when they may have changed.
func (q *queue) put(pod *corev1.Pod, read func(*corev1.Pod) (*class, *kin)) *entry {
	e := q.entries[pod.UID]
	isGated := len(pod.Spec.SchedulingGates) > 0
	if e == nil {
		q.arrivals++
		e = &entry{arrival: q.arrivals, place: taken}
		q.entries[pod.UID] = e
	} else if e.pod.Generation == pod.Generation && isGated == (e.place == gated) && maps.Equal(e.pod.Labels, pod.Labels) {
		e.pod = pod
		return e
	}
	q.leave(e)
	e.pod, e.owner = pod, metav1.GetControllerOfNoCopy(pod)
	e.class, e.kin = read(pod)
	e.priority = 0
	if pod.Spec.Priority != nil {
		e.priority = *pod.Spec.Priority
	}
	if isGated {
		e.place = gated
		return e
	}
	q.enter(e, ready)
	return e
}

func (q *queue) heapOf(p place) *entries {
	switch p {
	case ready:
		return &q.ready
	case waiting:
		return &q.waiting
	}
	return nil
}

// leave takes an entry out of its place.
func (q *queue) leave(e *entry) {
	if h := q.heapOf(e.place); h != nil {
		heap.Remove(h, e.at)
	}
	e.place = taken
}

func (q *queue) enter(e *entry, p place) {
	e.place = p
	if h := q.heapOf(p); h != nil {
		heap.Push(h, e)
	}
}

// drop forgets a pod.
func (q *queue) drop(uid types.UID) {
	if e := q.entries[uid]; e != nil {
		q.leave(e)
		delete(q.entries, uid)
	}
}

// take returns up to n pods whose turn it is, highest priority first, in order of arrival.
func (q *queue) take(n int, now time.Time) []*entry {
	q.ripen(now)
	out := make([]*entry, 0, min(n, len(q.ready.list)))
	for len(out) < n && len(q.ready.list) > 0 {
		e := heap.Pop(&q.ready).(*entry)
		e.place, e.tried = taken, now
		e.attempts++
		out = append(out, e)
	}
	return out
}

// ripen readies those whose back-off is over.
func (q *queue) ripen(now time.Time) {
	for len(q.waiting.list) > 0 && !q.waiting.list[0].again().After(now) {
		e := q.waiting.list[0]
		q.leave(e)
		q.enter(e, ready)
	}
}

// next is when the first back-off ends; ok is false when none does.
func (q *queue) next() (at time.Time, ok bool) {
	if len(q.waiting.list) == 0 {
		return time.Time{}, false
	}
	return q.waiting.list[0].again(), true
}

// park puts away a pod that no node takes, until something changes that may help it.
func (q *queue) park(e *entry) {
	if q.entries[e.pod.UID] == e && e.place == taken {
		q.enter(e, parked)
	}
}

// unpark tries a parked pod again after its back-off.
func (q *queue) unpark(e *entry) {
	if q.entries[e.pod.UID] == e && e.place == parked {
		q.enter(e, waiting)
	}
}

// retry puts back a pod whose attempt failed for a passing reason.
func (q *queue) retry(e *entry) {
	if q.entries[e.pod.UID] == e && e.place == taken {
		q.enter(e, waiting)
	}
}

// entries is a heap.
type entries struct {
	list   []*entry
	before func(a, b *entry) bool
}

func (h *entries) Len() int           { return len(h.list) }
func (h *entries) Less(i, j int) bool { return h.before(h.list[i], h.list[j]) }
func (h *entries) Swap(i, j int) {
	h.list[i], h.list[j] = h.list[j], h.list[i]
	h.list[i].at, h.list[j].at = i, j
}

func (h *entries) Push(x any) {
	e := x.(*entry)
	e.at = len(h.list)
	h.list = append(h.list, e)
}

func (h *entries) Pop() any {
	last := len(h.list) - 1
	e := h.list[last]
	h.list[last] = nil
	h.list = h.list[:last]
	return e
}

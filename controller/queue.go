package controller

import (
	"container/heap"
	"sync"
	"time"
)

// The back-off of a key that keeps failing, as upstream's workqueue has it: 5 ms, doubling, at most 1000 s.
const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = 1000 * time.Second
)

// queue hands each key to a worker once, however often it was added, and never to two workers at once. Workers are
// started when there is work and end when there is none.
type queue struct {
	workers int
	process func(Key) (again time.Duration, err error)

	mu      sync.Mutex
	isOpen  bool
	running int // workers
	wg      sync.WaitGroup
	entries map[Key]*entry
	ready   []*entry // first in, first out
	delayed delayHeap
	timer   *time.Timer
	// wake is when timer fires; zero when it does not.
	wake time.Time
}

// entry is a key that is waiting, running, delayed or has failed. Others have none.
type entry struct {
	key      Key
	queued   bool
	running  bool
	dirty    bool // added while running
	failures int
	due      time.Time
	place    int // in delayed; -1 when not there
}

func newQueue(workers int, process func(Key) (time.Duration, error)) *queue {
	return &queue{workers: workers, process: process, entries: map[Key]*entry{}}
}

// open lets workers start; keys may be added before.
func (q *queue) open() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.isOpen = true
	q.staff()
	q.schedule()
}

// close starts no more work and waits for the workers.
func (q *queue) close() {
	q.mu.Lock()
	q.isOpen = false
	if q.timer != nil {
		q.timer.Stop()
	}
	q.mu.Unlock()
	q.wg.Wait()
}

// add makes a worker process the key soon.
func (q *queue) add(key Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.entries[key]
	if e == nil {
		e = &entry{key: key, place: -1}
		q.entries[key] = e
	}
	q.push(e)
}

func (q *queue) push(e *entry) {
	switch {
	case e.running:
		e.dirty = true
	case !e.queued:
		e.queued = true
		q.ready = append(q.ready, e)
		q.staff()
	}
}

// staff starts workers for the keys that wait.
func (q *queue) staff() {
	for n := len(q.ready); q.isOpen && n > 0 && q.running < q.workers; n-- {
		q.running++
		q.wg.Go(q.work)
	}
}

// work processes keys until none waits.
func (q *queue) work() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.isOpen && len(q.ready) > 0 {
		e := q.ready[0]
		q.ready[0] = nil
		q.ready = q.ready[1:]
		e.queued, e.running = false, true
		q.mu.Unlock()
		again, err := q.process(e.key)
		q.mu.Lock()
		q.finish(e, again, err)
	}
	if len(q.ready) == 0 {
		q.ready = nil
	}
	q.running--
}

// finish decides when the key comes back. What was asked for before is forgotten: the newest run knows best.
func (q *queue) finish(e *entry, again time.Duration, err error) {
	e.running = false
	if err != nil {
		again = min(minBackoff<<min(e.failures, 20), maxBackoff)
		e.failures++
	} else {
		e.failures = 0
	}
	q.delay(e, again)
	if e.dirty {
		e.dirty = false
		q.push(e)
	}
	if !e.queued && e.place < 0 {
		delete(q.entries, e.key)
	}
}

// delay puts the key's next run at a time from now; 0 takes it out.
func (q *queue) delay(e *entry, after time.Duration) {
	if after <= 0 {
		if e.place >= 0 {
			heap.Remove(&q.delayed, e.place)
		}
		return
	}
	e.due = time.Now().Add(after)
	if e.place >= 0 {
		heap.Fix(&q.delayed, e.place)
	} else {
		heap.Push(&q.delayed, e)
	}
	q.schedule()
}

// schedule sets the timer to the earliest delayed key.
func (q *queue) schedule() {
	if len(q.delayed) == 0 || !q.isOpen {
		return
	}
	next := q.delayed[0].due
	if !q.wake.IsZero() && !next.Before(q.wake) {
		return
	}
	q.wake = next
	if q.timer == nil {
		q.timer = time.AfterFunc(time.Until(next), q.ring)
	} else {
		q.timer.Reset(time.Until(next))
	}
}

// ring queues the delayed keys whose time has come.
func (q *queue) ring() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wake = time.Time{}
	now := time.Now()
	for len(q.delayed) > 0 && !q.delayed[0].due.After(now) {
		q.push(heap.Pop(&q.delayed).(*entry))
	}
	q.schedule()
}

// delayHeap orders delayed entries by due time.
type delayHeap []*entry

func (h delayHeap) Len() int           { return len(h) }
func (h delayHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h delayHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}
func (h *delayHeap) Push(x any) {
	e := x.(*entry)
	e.place = len(*h)
	*h = append(*h, e)
}
func (h *delayHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.place = -1
	return e
}

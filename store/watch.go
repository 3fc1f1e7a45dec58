package store

import (
	"context"
	"sort"
	"sync"
)

const (
	// ringEvents and ringBytes bound the history of one resource, whatever its age: about two seconds of the fastest
	// burst that the store takes. Who falls further behind lists again.
	ringEvents = 8192
	ringBytes  = 16 << 20
	// newsEvents and newsBytes bound how many events keep the cached encodings of states that are no longer current: what
	// watchers that keep up have still to read, some tenths of a second of the fastest burst.
	newsEvents = 2048
	newsBytes  = 2 << 20
	// watchBatch is how many events one Next returns at most, so that a cursor's buffer stays small.
	watchBatch = 256
)

// ring holds the newest events of one resource in order of revision. Watchers are cursors into it: they cost the publisher
// nothing but the closing of one channel.
type ring struct {
	mu    sync.Mutex
	buf   []Event // circular; its length is a power of two
	head  uint64  // sequence number of the oldest event held
	tail  uint64  // sequence number of the next event
	size  int     // sum of the sizes of the items held
	news  uint64  // sequence number of the oldest event that keeps cached encodings, whether current or not
	fresh int     // sum of the sizes of the items from news on
	// floor: events up to this revision may be gone.
	floor int64
	// codec decodes the events that are frozen; nil when none ever was.
	codec Codec
	// wake is closed by the next publish; nil while nobody waits.
	wake   chan struct{}
	closed bool
}

func (r *ring) at(seq uint64) *Event { return &r.buf[seq&uint64(len(r.buf)-1)] }

// publish appends events and wakes the watchers.
func (r *ring) publish(events []Event) {
	r.mu.Lock()
	for _, e := range events {
		if r.tail-r.head == uint64(len(r.buf)) {
			r.grow()
		}
		*r.at(r.tail) = e
		r.tail++
		r.size += e.Item.size()
		r.fresh += e.Item.size()
		for r.tail-r.news > newsEvents || r.fresh > newsBytes {
			r.age()
		}
		for r.tail-r.head > 1 && (r.tail-r.head > ringEvents || r.size > ringBytes) {
			r.drop()
		}
	}
	wake := r.wake
	r.wake = nil
	r.mu.Unlock()
	if wake != nil {
		close(wake)
	}
}

func (r *ring) grow() {
	r.resize(max(16, 2*len(r.buf)))
}

func (r *ring) resize(n int) {
	buf := make([]Event, n)
	for seq := r.head; seq < r.tail; seq++ {
		buf[seq&uint64(n-1)] = *r.at(seq)
	}
	r.buf = buf
}

// drop forgets the oldest event.
func (r *ring) drop() {
	if r.news == r.head {
		r.age()
	}
	e := r.at(r.head)
	r.floor = max(r.floor, e.Item.Revision)
	r.size -= e.Item.size()
	*e = Event{}
	r.head++
}

// compact forgets the events up to a revision, and gives memory back once most of the ring is empty.
func (r *ring) compact(before int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.head < r.tail && r.at(r.head).Item.Revision <= before {
		r.drop()
	}
	r.floor = max(r.floor, before)
	held := int(r.tail - r.head)
	if len(r.buf) > 64 && held < len(r.buf)/4 {
		n := len(r.buf) / 2
		for n > 64 && held < n/4 {
			n /= 2
		}
		r.resize(n)
	}
}

// age lets go of what the oldest of the news has cached and is not current: the state that it ended, and its own when that
// was the object's last. An object's present state is ended by no event, and keeps its encodings.
func (r *ring) age() {
	e := r.at(r.news)
	if e.Prev != nil {
		e.Prev.retire()
	}
	if e.Type == Delete {
		e.Item.retire()
	}
	r.fresh -= e.Item.size()
	r.news++
}

// trim ages the events up to a revision; see Memory.Trim.
func (r *ring) trim(before int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.news < r.tail && r.at(r.news).Item.Revision <= before {
		r.age()
	}
}

// seek returns the sequence number of the first event after a revision.
func (r *ring) seek(after int64) uint64 {
	n := int(r.tail - r.head)
	i := sort.Search(n, func(i int) bool { return r.at(r.head+uint64(i)).Item.Revision > after })
	return r.head + uint64(i)
}

func (r *ring) close() {
	r.mu.Lock()
	r.closed = true
	wake := r.wake
	r.wake = nil
	r.mu.Unlock()
	if wake != nil {
		close(wake)
	}
}

// Watch is a cursor over one resource's events. For one goroutine at a time. It needs no closing.
type Watch struct {
	memory   *Memory
	ring     *ring
	seq      uint64
	revision int64
	buf      []Event
}

// Next returns the next events in order of revision, waiting until there is one or ctx is done. The slice is valid until the
// next call. revision is how far the cursor has come: all events of the resource up to it have been returned, which is what a
// bookmark says; it is told with ctx's error too. Next returns ErrCompacted when the reader was so slow that events were
// lost, ErrClosed at shutdown once all events are read.
func (w *Watch) Next(ctx context.Context) (events []Event, revision int64, err error) {
	for {
		events, wait, err := w.poll()
		if err != nil || len(events) > 0 {
			return events, w.revision, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, w.revision, ctx.Err()
		}
	}
}

// Pending returns a channel that is closed when Next would return at once, for readers that wait on several things. It is
// valid until the next call of Next.
func (w *Watch) Pending() <-chan struct{} {
	w.ring.mu.Lock()
	defer w.ring.mu.Unlock()
	if w.ring.closed || w.seq < w.ring.tail {
		return w.memory.ready
	}
	return w.ring.waiter()
}

// waiter returns the channel that the next publish closes. The caller holds the lock.
func (r *ring) waiter() <-chan struct{} {
	if r.wake == nil {
		r.wake = make(chan struct{})
	}
	return r.wake
}

// poll returns the next events, in the cursor's buffer, or the channel to wait on.
func (w *Watch) poll() ([]Event, <-chan struct{}, error) {
	events, codec, wait, err := w.take()
	if err == nil {
		err = thaw(events, codec)
	}
	return events, wait, err
}

// take copies the next events into the cursor's buffer, with the codec of those that are frozen.
func (w *Watch) take() ([]Event, Codec, <-chan struct{}, error) {
	// Read before the ring is: all events up to it are in the rings by then.
	delivered := w.memory.delivered.Load()
	r := w.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.seq < r.head {
		return nil, nil, nil, ErrCompacted
	}
	var codec Codec
	if w.seq < r.news {
		codec = r.codec
	}
	n := min(int(r.tail-w.seq), watchBatch)
	if n == 0 {
		if r.closed {
			return nil, nil, nil, ErrClosed
		}
		w.revision = max(w.revision, delivered)
		return nil, nil, r.waiter(), nil
	}
	w.buf = w.buf[:0]
	for range n {
		w.buf = append(w.buf, *r.at(w.seq))
		w.seq++
	}
	w.revision = w.buf[n-1].Item.Revision
	if w.seq == r.tail {
		w.revision = max(w.revision, delivered)
	}
	return w.buf, codec, nil, nil
}

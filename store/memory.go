package store

import (
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// Memory is the published state: what all implementations share. Readers take snapshots and watch without ever waiting for
// a writer's disk. An owner (store/local, store/etcd, or the client's mirror of a remote server) tells it what happened, in one
// of two ways: Publish, with revisions of the owner's own; or Mirror and Reset, where Memory itself counts.
type Memory struct {
	state atomic.Pointer[state]
	// delivered is the revision up to which all events are in the rings. It trails state by the time that takes.
	delivered atomic.Int64
	// ready is closed from the start: the answer of Pending when there is something to read.
	ready chan struct{}

	// mu serialises publishers. It is held over state and rings together, so that a Watch from a snapshot's revision never
	// lands between the two.
	mu sync.Mutex
	// work holds the trees that the next publish changes, at the positions of state.trees: the published ones are clones.
	work  []*tree
	rings map[string]*ring
	// floor is what a ring starts with: no history is held up to here.
	floor  int64
	closed bool
}

// NewMemory returns an empty Memory at a revision, with no history before it.
func NewMemory(revision int64) *Memory {
	m := &Memory{ready: make(chan struct{}), rings: map[string]*ring{}, floor: revision}
	close(m.ready)
	m.state.Store(&state{revision: revision})
	m.delivered.Store(revision)
	return m
}

// Snapshot is the newest published state.
func (m *Memory) Snapshot() Snapshot { return Snapshot{m.state.Load()} }

// Watch is a cursor over the events of one resource with a revision greater than after. It returns ErrCompacted when events
// after that revision may be gone, ErrFuture when the revision has not been reached, ErrClosed at shutdown.
func (m *Memory) Watch(resource string, after int64) (*Watch, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, ErrClosed
	}
	if after > m.state.Load().revision {
		return nil, ErrFuture
	}
	r := m.ring(resource)
	r.mu.Lock()
	defer r.mu.Unlock()
	if after < r.floor {
		return nil, ErrCompacted
	}
	return &Watch{memory: m, ring: r, seq: r.seek(after), revision: after}, nil
}

// Compacted is the oldest revision from which a Watch of any resource is still whole.
func (m *Memory) Compacted() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	oldest := m.floor
	for _, r := range m.rings {
		r.mu.Lock()
		oldest = max(oldest, r.floor)
		r.mu.Unlock()
	}
	return oldest
}

// ring returns the resource's ring. The caller holds mu.
func (m *Memory) ring(resource string) *ring {
	r := m.rings[resource]
	if r == nil {
		r = &ring{floor: m.floor}
		m.rings[resource] = r
	}
	return r
}

// Publish makes events visible, which bring the state to a revision; events may be none. Revisions rise from call to call and from event to event,
// over all resources. The events' items and Prev are complete: Publish sets nothing in them.
func (m *Memory) Publish(revision int64, events []Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.publish(revision, events)
}

func (m *Memory) publish(revision int64, events []Event) {
	old := m.state.Load()
	next := &state{revision: revision, index: old.index, trees: slices.Clone(old.trees)}
	touched := m.apply(next, events)
	for _, i := range touched {
		next.trees[i] = m.work[i].Clone()
	}
	m.state.Store(next)
	m.deliver(events)
	m.delivered.Store(revision)
}

// apply changes the working trees, and returns the positions of those it changed.
func (m *Memory) apply(s *state, events []Event) []int {
	var touched []int
	for _, e := range events {
		i := m.position(s, e.Item.Key.Resource)
		if len(touched) == 0 || touched[len(touched)-1] != i && !slices.Contains(touched, i) {
			touched = append(touched, i)
		}
		at := entry{namespace: e.Item.Key.Namespace, name: e.Item.Key.Name, item: e.Item}
		if e.Type == Delete {
			m.work[i].Delete(at)
		} else {
			m.work[i].ReplaceOrInsert(at)
		}
	}
	return touched
}

// position returns the place of a resource in s, which is not yet published, and makes one if there is none.
func (m *Memory) position(s *state, resource string) int {
	if i, ok := s.index[resource]; ok {
		return i
	}
	index := maps.Clone(s.index)
	if index == nil {
		index = map[string]int{}
	}
	i := len(m.work)
	index[resource] = i
	s.index = index
	m.work = append(m.work, newTree())
	s.trees = append(s.trees, newTree())
	return i
}

// deliver appends the events to the rings, each run of one resource at once: most publishes are one such run.
func (m *Memory) deliver(events []Event) {
	for len(events) > 0 {
		resource := events[0].Item.Key.Resource
		n := 1
		for n < len(events) && events[n].Item.Key.Resource == resource {
			n++
		}
		m.ring(resource).publish(events[:n])
		events = events[n:]
	}
}

// Load fills in the items of a resource before anyone reads, without events. They come ordered by namespace and name.
// History of the resource begins after floor.
func (m *Memory) Load(resource string, floor int64, items iter.Seq[*Item]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.state.Load()
	next := &state{revision: old.revision, index: old.index, trees: slices.Clone(old.trees)}
	i := m.position(next, resource)
	for item := range items {
		m.work[i].ReplaceOrInsert(entry{namespace: item.Key.Namespace, name: item.Key.Name, item: item})
	}
	next.trees[i] = m.work[i].Clone()
	m.state.Store(next)
	m.ring(resource).compact(floor)
}

// History returns the events that the ring of a resource holds after a revision, and the revision up to which
// events may be gone, which is at least after. Their objects are decoded anew where they were frozen.
func (m *Memory) History(resource string, after int64) (events []Event, floor int64) {
	m.mu.Lock()
	r := m.ring(resource)
	m.mu.Unlock()
	r.mu.Lock()
	floor = max(after, r.floor)
	for seq := r.seek(floor); seq < r.tail; seq++ {
		events = append(events, *r.at(seq))
	}
	codec := r.codec
	r.mu.Unlock()
	if n := len(events); thaw(events, codec) != nil {
		return nil, events[n-1].Item.Revision
	}
	return events, floor
}

// Compact forgets the history up to a revision.
func (m *Memory) Compact(before int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.compact(before)
}

func (m *Memory) compact(before int64) {
	m.floor = max(m.floor, before)
	for _, r := range m.rings {
		r.compact(before)
	}
}

// Trim lets go of the cached encodings of states that were no longer current at a revision. Their events stay; a watcher
// that comes late enough to read them encodes them again, for itself alone.
func (m *Memory) Trim(before int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.rings {
		r.trim(before)
	}
}

// mirrorHistory is how many revisions of history a mirror keeps: its readers are in this process, and none is slow for long.
const mirrorHistory = 2048

// forget keeps a mirror's history short. The caller holds mu.
func (m *Memory) forget(revision int64) {
	if revision-m.floor > 2*mirrorHistory {
		m.compact(revision - mirrorHistory)
	}
}

// Mirror publishes what happened to one object at another server. Memory counts the revisions of a mirror itself, because
// the watches that feed it (one per resource) come in no common order, while its own readers rely on one: Item.Revision,
// Snapshot.Revision and Watch are in this process's count, the object's resourceVersion is the server's.
func (m *Memory) Mirror(typ EventType, key Key, obj Object, size int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.state.Load()
	e := mirrored(s, s.revision+1, typ, key, obj, size)
	if e.Type == Delete && e.Prev == nil {
		return
	}
	m.publish(s.revision+1, []Event{e})
	m.forget(s.revision + 1)
}

func mirrored(s *state, revision int64, typ EventType, key Key, obj Object, size int) Event {
	e := Event{Type: typ, Item: &Item{Key: key, Object: obj, Created: revision, Revision: revision, Size: size}}
	if e.Prev = (Snapshot{s}).Get(key); e.Prev != nil {
		e.Item.Created = e.Prev.Created
	}
	return e
}

// Reset replaces all objects of a mirrored resource by what a new list of the server holds. Readers see only the differences
// (by resourceVersion), as events: nobody has to start again because a connection broke.
func (m *Memory) Reset(resource string, objects iter.Seq2[Key, Object]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.state.Load()
	revision := s.revision
	var events []Event
	listed := map[Key]bool{}
	for key, obj := range objects {
		listed[key] = true
		prev := (Snapshot{s}).Get(key)
		if prev != nil && prev.Object.GetResourceVersion() == obj.GetResourceVersion() {
			continue
		}
		revision++
		e := mirrored(s, revision, Put, key, obj, 0)
		if prev != nil && prev.Object.GetUID() != obj.GetUID() {
			events = append(events, mirrored(s, revision, Delete, key, prev.Object, prev.Size))
			revision++
			e.Item.Created, e.Item.Revision, e.Prev = revision, revision, nil
		}
		events = append(events, e)
	}
	for item := range (Snapshot{s}).List(resource, "") {
		if !listed[item.Key] {
			revision++
			events = append(events, mirrored(s, revision, Delete, item.Key, item.Object, item.Size))
		}
	}
	if len(events) > 0 {
		m.publish(revision, events)
		m.forget(revision)
	}
}

// Close wakes all watchers with ErrClosed. Snapshots stay readable.
func (m *Memory) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	for _, r := range m.rings {
		r.close()
	}
}

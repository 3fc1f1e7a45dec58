package local

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"time"

	"github.com/kebernetes/kebernetes/store"
)

const (
	// maxObject bounds one object's bytes; the API refuses far smaller ones.
	maxObject = 16 << 20
	// chunkSize is how large a log entry grows before the next one is begun in the same append.
	chunkSize = 1 << 20
	// pendingMax bounds what volatile records wait in memory for the next append.
	pendingMax = 256 << 10
	// batchMax is how many calls of Commit a batch waits for, as long as they come.
	batchMax = 256
	// reserveAhead is how many revisions volatile records may take before something must be written.
	reserveAhead = 10_000
)

// request is one call of Commit on its way through the committer.
type request struct {
	writes   []store.Write
	payloads []payload
	results  []store.Result
	done     chan struct{}
}

// payload is an object as it goes to disk.
type payload struct {
	keyID uint32
	bytes []byte
}

// pending holds encoded records that are not in the log yet, in chunks that become one entry each.
type pending struct {
	chunks []chunk
	count  int
	bytes  int
}

type chunk struct {
	records []byte
	count   int
}

func (p *pending) add(r *record) {
	if n := len(p.chunks); n == 0 || len(p.chunks[n-1].records) > chunkSize {
		p.chunks = append(p.chunks, chunk{})
	}
	c := &p.chunks[len(p.chunks)-1]
	before := len(c.records)
	c.records = appendRecord(c.records, r)
	c.count++
	p.count++
	p.bytes += len(c.records) - before
}

// Commit tries each write; see store.Store. Objects are encoded here, in the caller's goroutine, before they queue.
func (l *Local) Commit(ctx context.Context, writes ...store.Write) []store.Result {
	r := &request{
		writes:   writes,
		payloads: make([]payload, len(writes)),
		results:  make([]store.Result, len(writes)),
		done:     make(chan struct{}),
	}
	for i := range writes {
		r.payloads[i], r.results[i].Err = l.encode(&writes[i])
	}
	if !l.enqueue(r) {
		return failAll(len(writes), store.ErrClosed)
	}
	select {
	case <-r.done:
		return r.results
	case <-ctx.Done():
		return failAll(len(writes), ctx.Err())
	}
}

func failAll(n int, err error) []store.Result {
	results := make([]store.Result, n)
	for i := range results {
		results[i].Err = err
	}
	return results
}

func (l *Local) encode(w *store.Write) (payload, error) {
	if w.Object == nil {
		if w.Expect == 0 {
			return payload{}, fmt.Errorf("delete %s %s/%s: an object that must not exist", w.Key.Resource, w.Key.Namespace, w.Key.Name)
		}
		return payload{}, nil
	}
	w.Object.SetResourceVersion("")
	return l.encodeObject(w.Key, w.Object)
}

func (l *Local) encodeObject(key store.Key, obj store.Object) (payload, error) {
	b, err := l.opts.Codec.Encode(key.Resource, obj)
	if err == nil && len(b) > maxObject {
		err = fmt.Errorf("%d bytes are more than the store takes", len(b))
	}
	if err != nil {
		return payload{}, fmt.Errorf("encode %s %s/%s: %w", key.Resource, key.Namespace, key.Name, err)
	}
	if !l.opts.Encrypt(key.Resource) {
		return payload{bytes: b}, nil
	}
	id, sealed := l.keys.seal(key, b)
	return payload{id, sealed}, nil
}

// enqueue hands a request to the committer, which runs only while there is work.
func (l *Local) enqueue(r *request) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopping {
		return false
	}
	l.waiting = append(l.waiting, r)
	if !l.committing {
		l.committing = true
		go l.commitWaiting()
	}
	return true
}

// commitWaiting commits whatever waits, all at once, until nothing does. While one append syncs, the next batch gathers.
func (l *Local) commitWaiting() {
	var taken []*request
	for {
		l.gather()
		l.mu.Lock()
		taken, l.waiting = l.waiting, taken[:0]
		if len(taken) == 0 {
			l.committing = false
			if l.stopping {
				close(l.idle)
			}
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		l.commit(taken)
		for i, r := range taken {
			close(r.done)
			taken[i] = nil
		}
	}
}

// gather lets others join the batch, as long as some do whenever the processor is left to them. A writer alone loses
// nothing; of many who keep the processors busy, each would else have a sync of its own, a new tree, and watchers woken.
func (l *Local) gather() {
	for before, now := -1, 0; now > before && now < batchMax; {
		runtime.Gosched()
		before = now
		l.mu.Lock()
		now = len(l.waiting)
		l.mu.Unlock()
	}
}

// commit runs one batch: check, append, publish. On an error of the disk nothing is published, and nothing ever again:
// after a failed sync nobody knows what the disk holds, until a new start reads it.
func (l *Local) commit(requests []*request) {
	if err := l.failure(); err != nil {
		for _, r := range requests {
			copy(r.results, failAll(len(r.results), err))
		}
		return
	}
	t := &txn{local: l, base: l.memory.Snapshot(), changed: map[store.Key]*store.Item{}, revision: l.revision}
	for _, r := range requests {
		for i := range r.writes {
			if i > 0 && r.writes[i].Expect == store.Prior && r.results[i-1].Err != nil {
				r.results[i] = r.results[i-1]
			}
			if r.results[i].Err == nil {
				r.results[i] = t.try(r.writes[i], r.payloads[i])
			}
		}
	}
	if len(t.events) == 0 {
		return
	}
	now := time.Now()
	if t.durable || t.revision > l.log.reserved || l.pending.bytes > pendingMax {
		if err := l.log.append(&l.pending, t.revision, t.revision+reserveAhead, now); err != nil {
			l.fail(err, requests)
			return
		}
	}
	l.revision = t.revision
	l.memory.Publish(t.revision, t.events)
	if l.history.add(now, t.revision, l.log.last, l.log.written) {
		signal(l.grown)
	}
	if !l.watching.Load() && !l.watching.Swap(true) {
		signal(l.wrote)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// fail ends the store: Run returns err. Writes that already knew their refusal keep it.
func (l *Local) fail(err error, requests []*request) {
	err = fmt.Errorf("write log: %w", err)
	if l.failed.CompareAndSwap(nil, &err) {
		close(l.failing)
	}
	for _, r := range requests {
		for i := range r.results {
			if r.results[i].Err == nil {
				r.results[i] = store.Result{Err: err}
			}
		}
	}
}

// txn is one batch in the making, over the published state.
type txn struct {
	local    *Local
	base     store.Snapshot
	changed  map[store.Key]*store.Item // nil for deleted
	events   []store.Event
	revision int64
	durable  bool
}

// try checks one write and, when it holds, gives it a revision.
func (t *txn) try(w store.Write, p payload) store.Result {
	current, ok := t.changed[w.Key]
	if !ok {
		current = t.base.Get(w.Key)
	}
	if err := expected(w, current); err != nil {
		return store.Result{Item: current, Err: err}
	}
	// The record will be in the chunk that is open, or in the one after: no later than in this entry.
	index := t.local.log.last + uint64(len(t.local.pending.chunks)) + 1
	for p.keyID != 0 && !t.local.keys.use(p.keyID, index) { // rotated away while the write waited
		var err error
		if p, err = t.local.encodeObject(w.Key, w.Object); err != nil {
			return store.Result{Err: err}
		}
	}
	t.revision++
	item := &store.Item{Key: w.Key, Object: w.Object, Created: t.revision, Revision: t.revision, Size: len(p.bytes)}
	event := store.Event{Item: item, Prev: current}
	if current != nil {
		item.Created = current.Created
	}
	if w.Object == nil {
		event.Type = store.Delete
		item.Object, item.Size = store.Tombstone(current.Object, t.revision), current.Size
		t.changed[w.Key] = nil
	} else {
		item.Object.SetResourceVersion(strconv.FormatInt(t.revision, 10))
		t.changed[w.Key] = item
	}
	t.events = append(t.events, event)
	t.local.pending.add(&record{event.Type, item.Revision, item.Created, p.keyID, w.Key, p.bytes})
	t.durable = t.durable || !t.local.opts.Volatile(w.Key.Resource)
	return store.Result{Item: item}
}

// expected tells whether a write's condition holds.
func expected(w store.Write, current *store.Item) error {
	switch {
	case current == nil && (w.Expect > 0 || w.Object == nil):
		return store.ErrNotFound
	case current != nil && w.Expect == 0:
		return store.ErrExists
	case current != nil && w.Expect > 0 && w.Expect != current.Revision:
		return store.ErrConflict
	}
	return nil
}

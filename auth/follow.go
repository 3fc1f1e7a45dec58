package auth

import (
	"context"

	"github.com/kebernetes/kebernetes/store"
)

// follower keeps an index of one resource in step with the store. Whoever asks the index drains the events first, so an answer is
// never older than the snapshot that the asker has seen, and an idle cluster spends nothing on it. The owner of the index
// holds its lock around behind (for reading) and catchUp (for writing).
type follower struct {
	reader   store.Reader
	resource string
	// reset empties the index; apply replaces old by new in it, either of them may be nil.
	reset func()
	apply func(old, new store.Object)

	watch   *store.Watch
	pending <-chan struct{}
}

// behind says whether there is something to drain.
func (f *follower) behind() bool {
	if f.watch == nil {
		return true
	}
	select {
	case <-f.pending:
		return true
	default:
		return false
	}
}

func (f *follower) catchUp() {
	if f.watch == nil {
		f.rebuild()
		return
	}
	for f.behind() {
		// Next does not wait: Pending says that it would return at once.
		events, _, err := f.watch.Next(context.Background())
		if err != nil {
			// Events were lost, or the store is closing: the snapshot still holds the truth.
			f.rebuild()
			return
		}
		for i := range events {
			var old, new store.Object
			if events[i].Prev != nil {
				old = events[i].Prev.Object
			}
			if events[i].Type == store.Put {
				new = events[i].Item.Object
			}
			f.apply(old, new)
		}
		f.pending = f.watch.Pending()
	}
}

// rebuild starts over from a snapshot. Should the watch fail the index is rebuilt on the next use.
func (f *follower) rebuild() {
	f.watch = nil
	f.reset()
	snapshot := f.reader.Snapshot()
	for item := range snapshot.List(f.resource, "") {
		f.apply(nil, item.Object)
	}
	if watch, err := f.reader.Watch(f.resource, snapshot.Revision()); err == nil {
		f.watch, f.pending = watch, watch.Pending()
	}
}

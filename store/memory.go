package store

import (
	"context"
	"iter"
)

// Item is one state of one object. Immutable, but for the encodings that are cached in it.
type Item struct {
	Key    Key
	Object Object
	// Created is the revision that created the object, Revision the one of this state.
	Created  int64
	Revision int64
}

// Encoding returns the cached bytes under key, or calls encode once and keeps what it returns. Keys are the caller's own
// small numbers (format and API version). Two callers at once may both encode; one result is kept. Errors are not kept.
func (i *Item) Encoding(key uint8, encode func() ([]byte, error)) ([]byte, error) { panic("contract") }

// Snapshot is the state of all resources at one revision. The zero Snapshot is empty. Safe for concurrent use.
type Snapshot struct{}

// Revision is the revision of the newest change that the snapshot holds.
func (s Snapshot) Revision() int64 { panic("contract") }

// Get returns an item, or nil.
func (s Snapshot) Get(key Key) *Item { panic("contract") }

// List yields the items of a resource in one namespace ("" for all), ordered by namespace and name.
func (s Snapshot) List(resource, namespace string) iter.Seq[*Item] { panic("contract") }

// ListFrom is List starting after the key given, for paging.
func (s Snapshot) ListFrom(resource, namespace string, after Key) iter.Seq[*Item] { panic("contract") }

// Len counts the items of a resource, in O(1).
func (s Snapshot) Len(resource string) int { panic("contract") }

// Watch is a cursor over one resource's events. For one goroutine at a time.
type Watch struct{}

// Next returns the next events in order of revision, waiting until there is one or ctx is done. The slice is valid until the
// next call. revision is how far the cursor has come: all events of the resource up to it have been returned, which is what a
// bookmark says. It returns ErrCompacted when the reader was so slow that events were lost, ErrClosed at shutdown.
func (w *Watch) Next(ctx context.Context) (events []Event, revision int64, err error) {
	panic("contract")
}

// Pending returns a channel that is closed when Next would return at once, for readers that wait on several things. It is valid until the next call of Next.
func (w *Watch) Pending() <-chan struct{} { panic("contract") }

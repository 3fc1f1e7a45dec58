// Package store keeps every object of the cluster: decoded, immutable and once per process, under one global revision.
//
// It knows no kinds: a resource is a name, an object is anything with Kubernetes metadata, and codecs are passed in.
// The package itself holds the contract and Memory, the part that every implementation shares: copy-on-write trees,
// snapshots, and the rings that feed watches. store/local adds a write-ahead log on disk; client uses Memory alone as the
// mirror of a remote server. store, and what lies below it, imports nothing else of this module; apiserver, auth, admission,
// client and daemon may import it.
package store

import (
	"context"
	"errors"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Object is what the store holds. Once handed to Commit, or read from a snapshot, it is never changed again by anyone:
// whoever wants another state makes a DeepCopyObject first.
type Object interface {
	metav1.Object
	runtime.Object
}

// Key names one object. Namespace is empty for cluster-scoped resources.
type Key struct {
	Resource  string // schema.GroupResource.String(): "pods", "deployments.apps"
	Namespace string
	Name      string
}

// Any as Write.Expect accepts whatever revision is current, and none.
const Any int64 = -1

// Prior as Write.Expect means the revision that the write before it in the same Commit makes of the same object: when that
// one is refused, so is this one, with the same error, and nothing comes between the two.
const Prior int64 = -2

// Write is one wanted change of one object.
type Write struct {
	Key Key
	// Object is the new state, owned by the store from here on; nil deletes. The store sets its resourceVersion.
	Object Object
	// Expect is the modRevision that must be current: 0 means the object must not exist, Any means no condition,
	// Prior that the write before must have held.
	// A delete with Expect 0 is an error.
	Expect int64
}

// Result tells what became of one Write.
type Result struct {
	// Item is the state after the write, for a delete the last state with the revision of the deletion.
	// When Err is ErrConflict or ErrExists it is the current state, which the write did not expect.
	Item *Item
	Err  error
}

// Errors that callers compare with errors.Is. The API turns them into a Status in one place.
var (
	// ErrExists: Expect was 0 and the object is there.
	ErrExists = errors.New("object exists")
	// ErrNotFound: the object is not there.
	ErrNotFound = errors.New("object not found")
	// ErrConflict: the object is there at another revision than expected.
	ErrConflict = errors.New("revision conflict")
	// ErrCompacted: the history from the wanted revision on is gone; the caller lists again (410 Gone).
	ErrCompacted = errors.New("revision compacted")
	// ErrFuture: the wanted revision has not been reached.
	ErrFuture = errors.New("revision not reached")
	// ErrClosed: the store is shutting down.
	ErrClosed = errors.New("store closed")
)

// Store is the contract that store/local and store/etcd fulfil; storetest holds its suite.
type Store interface {
	Reader

	// Commit tries each write on its own, in the order given: writes do not depend on each other, but for those that expect
	// Prior, and each that succeeds gets a revision of its own. It returns one result per write once all that succeeded are durable (resources that the
	// store was told are volatile: once they are published). Many callers at once share one sync to disk.
	// A done ctx stops the wait, not the write.
	Commit(ctx context.Context, writes ...Write) []Result
}

// Reader is the shared read copy. Its methods never block and never touch the disk.
type Reader interface {
	// Snapshot is the newest published state, of all resources at one revision, in O(1).
	Snapshot() Snapshot
	// Watch is a cursor over the events of one resource with a revision greater than after.
	// It returns ErrCompacted when events after that revision may be gone already.
	Watch(resource string, after int64) (*Watch, error)
	// Compacted is the oldest revision from which a Watch of any resource is still whole.
	Compacted() int64
}

// EventType says what an Event did.
type EventType uint8

// The two things that can happen to an object: Put creates or replaces it, Delete removes it.
const (
	Put EventType = iota
	Delete
)

// Event is one change, as watchers see it. Immutable.
type Event struct {
	Type EventType
	// Item is the new state; for Delete the last state, whose revision and resourceVersion are those of the deletion.
	Item *Item
	// Prev is the state before, nil when the object was created.
	Prev *Item
}

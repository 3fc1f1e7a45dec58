package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

const (
	// followMost bounds the watches of single objects that a Remote has open at a time: those of 110 pods with nine objects each. What
	// comes beyond is read every followRest until a place is free.
	followMost = 1000
	followRest = time.Minute
	// followWait bounds how long a reader waits for an object that was just begun to be followed, before it asks for itself.
	followWait = 2 * time.Second
	// copyPatience is how long the server may take to confirm what the copy holds, before the copy is believed without.
	copyPatience = 5 * time.Second
)

// Follower makes the copy hold single objects of resources that are too much, or forbidden, to mirror as a whole.
type Follower interface {
	// Follow makes the copy hold one object, from the server's present state on, as long as the fieldSelector ("" for none) picks it
	// and until the Hold is released. Resource is as ResourceOf spells it.
	Follow(resource, namespace, name, fieldSelector string) *Hold
}

// Hold keeps one object followed.
type Hold struct {
	// Synced is closed once the copy has the object, or once a first attempt to read it has failed.
	Synced <-chan struct{}
	// Release gives up the hold. It must be called once.
	Release func()
}

// follows are the objects that a Remote follows. Each is watched once, however many hold it.
type follows struct {
	slots chan struct{}
	run   sync.WaitGroup

	mu      sync.Mutex
	ctx     context.Context // Run's own; nil before
	ended   bool
	entries map[followKey]*follow
}

type followKey struct {
	store.Key
	selector string
}

// follow is one object that is followed.
type follow struct {
	remote *Remote
	kind   *kinds.Kind
	followKey
	synced chan struct{} // closed once an attempt to read the object is over
	again  chan struct{} // holds one token when an object that does not change is to be watched all the same
	// at is a revision of the server whose state of the object the copy shows; 0 before it was read.
	at atomic.Int64

	// Guarded by follows.mu:
	holds  int
	cancel context.CancelFunc // nil until it runs
	object Object             // nil for none
	size   int
	known  bool // the object was read
}

var _ Follower = (*Remote)(nil)

// Follow implements Follower. It panics when the resource is not in the table: a programmer's mistake.
func (r *Remote) Follow(resource, namespace, name, fieldSelector string) *Hold {
	key := followKey{store.Key{Resource: resource, Namespace: namespace, Name: name}, fieldSelector}
	s := &r.follows
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.entries[key]
	if f == nil {
		f = &follow{remote: r, kind: r.o.Table.Resource(schema.ParseGroupResource(resource)), followKey: key,
			synced: make(chan struct{}), again: make(chan struct{}, 1)}
		if f.kind == nil {
			panic(fmt.Sprintf("client: no kind of resource %s to follow", resource))
		}
		s.entries[key] = f
		if s.ctx != nil && !s.ended {
			s.start(f)
		}
	}
	f.holds++
	return &Hold{Synced: f.synced, Release: func() { s.release(f) }}
}

// start begins to follow an object. The caller holds mu.
func (s *follows) start(f *follow) {
	var ctx context.Context
	ctx, f.cancel = context.WithCancel(s.ctx)
	s.run.Go(func() { f.run(ctx) })
}

// follow follows what is to be followed until ctx is done.
func (s *follows) follow(ctx context.Context) {
	s.mu.Lock()
	s.ctx = ctx
	for _, f := range s.entries {
		s.start(f)
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.run.Wait()
}

func (s *follows) release(f *follow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.holds--; f.holds > 0 {
		return
	}
	if f.cancel != nil {
		f.cancel()
	}
	delete(s.entries, f.followKey)
	s.publish(f)
}

// publish makes the copy show an object as those that follow it know it: who sees it whatever it is knows better than who
// sees it only as long as a selector picks it. The caller holds mu.
func (s *follows) publish(changed *follow) {
	memory := changed.remote.memory
	best := s.entries[followKey{changed.Key, ""}]
	if best == nil || !best.known {
		for _, f := range s.entries {
			if f.Key == changed.Key && f.known && f.object != nil {
				best = f
			}
		}
	}
	have := memory.Snapshot().Get(changed.Key)
	switch {
	case best == nil || best.object == nil:
		if have != nil {
			memory.Mirror(store.Delete, changed.Key, have.Object, have.Size)
		}
	case have == nil || have.Object.GetUID() != best.object.GetUID() || have.Object.GetResourceVersion() != best.object.GetResourceVersion():
		memory.Mirror(store.Put, changed.Key, best.object, best.size)
	}
}

// show takes in a state of the object, nil for none, that the server had at a revision.
func (f *follow) show(obj Object, size int, revision int64) {
	s := &f.remote.follows
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[f.followKey] != f {
		return // released meanwhile
	}
	f.object, f.size, f.known = obj, size, true
	s.publish(f)
	f.confirm(revision)
	f.tried()
}

// confirm notes that the copy is the server's state at a revision.
func (f *follow) confirm(revision int64) {
	for {
		at := f.at.Load()
		if at >= revision || f.at.CompareAndSwap(at, revision) {
			return
		}
	}
}

// tried lets those who wait for the first reading go on.
func (f *follow) tried() {
	select {
	case <-f.synced:
	default:
		close(f.synced)
	}
}

// run follows the object until ctx is done, with back-off while the server cannot be reached or refuses.
func (f *follow) run(ctx context.Context) {
	s := &f.remote.follows
	first := retries()
	delay := first
	for ctx.Err() == nil {
		reached := f.remote.reached.next()
		var got bool
		var err error
		var rest time.Duration
		select {
		case s.slots <- struct{}{}:
			got, err = f.watch(ctx)
			<-s.slots
		default:
			err = f.look(ctx)
			rest = followRest
		}
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		f.tried()
		final := f.final()
		s.mu.Unlock()
		if got {
			delay = first
		}
		var due <-chan time.Time
		if !IsUnreachable(err) {
			reached = nil
		}
		switch {
		case final: // it says itself that it does not change
		case rest > 0:
			due = time.After(rest)
		case reached != nil && len(f.remote.mirrors) > 0:
			// A mirror tries again all the time; a thousand others need not.
			due = time.After(followRest)
		case apierrors.IsForbidden(err) && delay.Steps == 0:
			due = time.After(followRest)
		default:
			due = time.After(delay.Step())
		}
		f.remote.o.Logger.Debug("object is followed again", "resource", f.Resource, "namespace", f.Namespace, "name", f.Name, "err", err)
		select {
		case <-ctx.Done():
		case <-f.again:
		case <-reached:
		case <-due:
		}
	}
}

// final says whether the object does not change any more. The caller holds mu.
func (f *follow) final() bool {
	switch obj := f.object.(type) {
	case *corev1.ConfigMap:
		return obj.Immutable != nil && *obj.Immutable
	case *corev1.Secret:
		return obj.Immutable != nil && *obj.Immutable
	}
	return false
}

// errFinal ends the watch of an object that does not change any more.
var errFinal = errors.New("the object is immutable")

// watch runs one watch of the object until it ends. got says whether the present state arrived.
func (f *follow) watch(ctx context.Context) (got bool, err error) {
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, f.Name).String()
	if f.selector != "" {
		selector += "," + f.selector
	}
	var initial Object
	var size int
	s := &f.remote.follows
	err = f.remote.stream(ctx, f.kind, f.Namespace, selector, func(typ string, obj Object, frame int) error {
		revision := number(obj.GetResourceVersion())
		switch {
		case isSynced(typ, obj):
			f.show(initial, size, revision)
			got = true
		case typ == "BOOKMARK":
			f.confirm(revision)
		case !got:
			initial, size = obj, frame
		case typ == "DELETED":
			f.show(nil, 0, revision)
		default:
			f.show(obj, frame, revision)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if got && f.final() {
			return errFinal
		}
		return nil
	})
	return got, err
}

// look reads the object once. Where a selector must pick it that is left to a watch.
func (f *follow) look(ctx context.Context) error {
	if f.selector != "" {
		return nil
	}
	seen := f.remote.newest.Load()
	obj, err := f.remote.read(ctx, f.kind, f.Namespace, f.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	f.show(obj, 0, seen)
	return nil
}

// followed returns the follow of an object that shows it whatever it is, nil for none.
func (r *Remote) followed(k *kinds.Kind, namespace, name string) *follow {
	s := &r.follows
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.entries) == 0 {
		return nil
	}
	return s.entries[followKey{store.Key{Resource: k.GroupResource().String(), Namespace: namespace, Name: name}, ""}]
}

// get reads the object: from the copy where that is at least as new as all that this process was shown, from the server otherwise, and
// again from the copy while the server cannot be asked.
func (f *follow) get(ctx context.Context) (Object, error) {
	late := time.NewTimer(followWait)
	defer late.Stop()
	select {
	case <-f.synced:
	case <-late.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	seen, at := f.remote.newest.Load(), f.at.Load()
	if at > 0 && at >= seen {
		return f.copy()
	}
	asking, cancel := ctx, context.CancelFunc(func() {})
	if at > 0 {
		asking, cancel = context.WithTimeout(ctx, copyPatience)
	}
	defer cancel()
	obj, err := f.remote.read(asking, f.kind, f.Namespace, f.Name)
	if at > 0 && IsUnreachable(err) && ctx.Err() == nil {
		return f.copy()
	}
	if err == nil || apierrors.IsNotFound(err) {
		f.compare(obj, seen)
	}
	return obj, err
}

// compare takes in what a read answered, nil for nothing: the copy is confirmed by it, or its watch wakes, or will soon tell.
func (f *follow) compare(obj Object, seen int64) {
	s := &f.remote.follows
	s.mu.Lock()
	defer s.mu.Unlock()
	same := (obj == nil) == (f.object == nil) &&
		(obj == nil || obj.GetUID() == f.object.GetUID() && obj.GetResourceVersion() == f.object.GetResourceVersion())
	switch {
	case f.known && same:
		f.confirm(seen)
	case f.final():
		select {
		case f.again <- struct{}{}:
		default:
		}
	}
}

// copy is what the copy shows.
func (f *follow) copy() (Object, error) {
	if item := f.remote.memory.Snapshot().Get(f.Key); item != nil {
		return item.Object, nil
	}
	return nil, apierrors.NewNotFound(f.kind.GroupResource(), f.Name)
}

// read reads one object from the server.
func (r *Remote) read(ctx context.Context, k *kinds.Kind, namespace, name string) (Object, error) {
	return r.call(ctx, http.MethodGet, r.path(k, namespace, name, ""), "", nil)
}

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/apiserver/view"
	"github.com/kebernetes/kebernetes/apiserver/wire"
	"github.com/kebernetes/kebernetes/store"
)

const (
	// bookmarkEvery is how often a watch that allows bookmarks hears how far it has come; upstream's interval.
	bookmarkEvery = time.Minute
	// watchLeast and watchMost bound how long a watch without timeoutSeconds lasts; upstream's --min-request-timeout.
	watchLeast = 30 * time.Minute
	watchMost  = 60 * time.Minute
	// bookmarkBeforeEnd is how long before its end a watch gets its last bookmark; upstream's.
	bookmarkBeforeEnd = 2 * time.Second
)

// watcher is one open watch.
type watcher struct {
	rq        *request
	cursor    *store.Watch
	selection view.Selection
	namespace string
	frames    wire.Frames
	buf       *wire.Buffer // what is to be sent; nil when nothing is, as thousands of watches are idle
	pace      *view.Watcher
	bookmarks bool
	quiet     *time.Timer // runs until the next bookmark is due
	revision  int64
	unflushed bool // something was written that may still be in a buffer
	gone      bool // the client takes nothing any more
}

// watch sends changes as they happen, until the client leaves, the time is over or the server stops.
func (rq *request) watch() error {
	m, err := rq.accept(true)
	if err != nil {
		return err
	}
	o, err := listOptions(rq.values(), true)
	if err != nil {
		return err
	}
	if rq.legacyWatch && rq.name != "" && o.FieldSelector == "" {
		o.FieldSelector = "metadata.name=" + rq.name
	}
	sel, err := view.Select(rq.kind, o.LabelSelector, o.FieldSelector)
	if err != nil {
		return err
	}
	w := &watcher{rq: rq, selection: sel, bookmarks: o.AllowWatchBookmarks}
	if rq.kind.Namespaced {
		w.namespace = rq.namespace
	}
	var table *wire.Table
	if m.Shape == wire.Tables {
		if table, err = rq.newTable(m); err != nil {
			return err
		}
	}
	if w.frames, err = wire.NewFrames(rq.kind, rq.served, m, table, rq.s.Now); err != nil {
		return err
	}
	initial, err := w.open(&o)
	forgotten := errors.Is(err, store.ErrCompacted)
	if err != nil && !forgotten {
		return err
	}
	ctx, cancel := rq.watchContext(o.TimeoutSeconds)
	defer cancel()
	var leave func()
	w.pace, leave = rq.s.crowds.Join(rq.kind.StorageResource().String())
	defer leave()
	contentType := wire.TypeJSON
	if m.Format == wire.Protobuf {
		contentType = wire.TypeProtobufWatch
	}
	rq.head(http.StatusOK, contentType, -1)
	rq.flush()
	if forgotten { // told in the stream, as when a watch falls behind
		w.fail(tooOld(w.revision, rq.s.Store.Compacted()))
		return nil
	}
	w.run(ctx, initial, o.SendInitialEvents != nil && *o.SendInitialEvents)
	return nil
}

// watchContext ends when the watch is to end: by its own time, with the client's connection, or with the server.
func (rq *request) watchContext(seconds *int64) (context.Context, context.CancelFunc) {
	timeout := watchLeast + rand.N(watchMost-watchLeast)
	if seconds != nil && *seconds > 0 {
		timeout = time.Duration(*seconds) * time.Second
	}
	ctx, cancel := context.WithTimeout(rq.r.Context(), timeout)
	unhook := context.AfterFunc(rq.s.stop, cancel)
	return ctx, func() { unhook(); cancel() }
}

// open places the cursor. It returns the present objects when the watch begins with them
// (https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-watch).
func (w *watcher) open(o *metav1.ListOptions) (*view.View, error) {
	s, resource := w.rq.s, w.rq.kind.StorageResource().String()
	rv, err := view.ParseVersion(o.ResourceVersion)
	if err != nil {
		return nil, err
	}
	if o.SendInitialEvents == nil && rv > 0 {
		w.revision = rv
		w.cursor, err = s.Store.Watch(resource, rv)
		if errors.Is(err, store.ErrFuture) {
			return nil, view.TooLarge(rv, s.Store.Snapshot().Revision())
		}
		return nil, err
	}
	v := view.Now(s.Store, resource)
	if rv > v.Revision() {
		return nil, view.TooLarge(rv, v.Revision())
	}
	w.revision = v.Revision()
	if w.cursor, err = s.Store.Watch(resource, v.Revision()); err != nil {
		return nil, err
	}
	if o.SendInitialEvents != nil && !*o.SendInitialEvents {
		return nil, nil
	}
	return v, nil
}

// run sends the present objects, if any, and then events until ctx is done.
func (w *watcher) run(ctx context.Context, initial *view.View, announceEnd bool) {
	if initial != nil && !w.sendInitial(initial) {
		return
	}
	if announceEnd && w.bookmarks {
		w.sendBookmark(true)
	}
	if !w.send() {
		return
	}
	for {
		events, revision, err := w.next(ctx)
		w.revision = revision
		for i := range events {
			if err := w.event(&events[i]); err != nil {
				w.fail(err)
				return
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, errQuiet):
			w.sendBookmark(false)
		case errors.Is(err, store.ErrCompacted):
			w.fail(tooOld(w.revision, w.rq.s.Store.Compacted()))
			return
		default:
			w.send()
			return
		}
		sent := w.buf != nil || w.unflushed
		if !w.send() {
			return
		}
		if sent {
			w.pace.Pause(ctx)
		}
	}
}

// tooOld is the end of a watch whose events are forgotten; the client lists again.
func tooOld(revision, oldest int64) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", revision, oldest))
}

// errQuiet says that nothing happened for as long as a bookmark may take.
var errQuiet = errors.New("no events")

// next waits for events, but not beyond the time of the next bookmark.
func (w *watcher) next(ctx context.Context) ([]store.Event, int64, error) {
	if !w.bookmarks {
		return w.cursor.Next(ctx)
	}
	wait := bookmarkEvery
	if end, ok := ctx.Deadline(); ok {
		if left := time.Until(end) - bookmarkBeforeEnd; left > 0 {
			wait = min(wait, left)
		}
	}
	if w.quiet == nil {
		w.quiet = time.NewTimer(wait)
	} else {
		w.quiet.Reset(wait)
	}
	defer w.quiet.Stop()
	select {
	case <-w.cursor.Pending():
	case <-ctx.Done():
	case <-w.quiet.C: // Next tells how far the cursor has come meanwhile, though nothing of the resource happened
		now, cancel := context.WithCancel(ctx)
		cancel()
		events, revision, err := w.cursor.Next(now)
		if errors.Is(err, context.Canceled) {
			err = errQuiet
		}
		return events, revision, err
	}
	return w.cursor.Next(ctx)
}

func (w *watcher) sendInitial(v *view.View) bool {
	for item := range v.List(w.namespace, store.Key{}) {
		if !w.selection.Matches(item.Object) {
			continue
		}
		if err := w.append(wire.Added, item); err != nil {
			w.fail(err)
			return false
		}
		if w.gone {
			return false
		}
	}
	return true
}

// event appends what a change looks like through the selection: an object that begins to match is added, one that no
// longer does is deleted.
func (w *watcher) event(e *store.Event) error {
	if w.namespace != "" && e.Item.Key.Namespace != w.namespace || w.selection.Name != "" && e.Item.Key.Name != w.selection.Name {
		return nil
	}
	was := e.Prev != nil && w.selection.Matches(e.Prev.Object)
	is := e.Type == store.Put && w.selection.Matches(e.Item.Object)
	switch {
	case is && was:
		return w.append(wire.Modified, e.Item)
	case is:
		return w.append(wire.Added, e.Item)
	case !was:
		return nil
	case e.Type == store.Delete:
		return w.append(wire.Deleted, e.Item)
	}
	// The object left the selection: tell its last state that matched, under the version at which it left.
	return w.append(wire.Deleted, departed(e))
}

// departed is the state of an object when it left a selection. The object's version must be that of the event, so that a
// client can go on from it.
func departed(e *store.Event) *store.Item {
	obj := store.Copy(e.Prev.Object)
	obj.SetResourceVersion(e.Item.Object.GetResourceVersion())
	return &store.Item{Key: e.Item.Key, Object: obj, Created: e.Item.Created, Revision: e.Item.Revision}
}

func (w *watcher) append(typ string, item *store.Item) (err error) {
	b := w.out()
	b.B, err = w.frames.Event(b.B, typ, item)
	if len(b.B) >= streamPiece {
		w.write()
	}
	return err
}

func (w *watcher) sendBookmark(initialEnd bool) {
	b := w.out()
	b.B = w.frames.Bookmark(b.B, w.revision, initialEnd)
}

// out is where the next frame goes.
func (w *watcher) out() *wire.Buffer {
	if w.buf == nil {
		w.buf = wire.GetBuffer()
	}
	return w.buf
}

// fail ends the watch with an event that says why.
func (w *watcher) fail(err error) {
	b := w.out()
	b.B = w.frames.Error(b.B, status(err))
	w.send()
}

func (w *watcher) write() {
	_, err := w.rq.w.Write(w.buf.B)
	w.buf.Free()
	w.buf, w.unflushed, w.gone = nil, true, w.gone || err != nil
}

// send sends what has been gathered. It returns false when the client is gone.
func (w *watcher) send() bool {
	if w.buf != nil {
		w.write()
	}
	if w.unflushed {
		w.unflushed = false
		w.rq.flush()
	}
	return !w.gone
}

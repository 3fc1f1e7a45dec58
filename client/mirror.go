package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// MirrorSpec names a resource that a Remote keeps a copy of, all of it or what a field selector picks.
type MirrorSpec struct {
	Resource      schema.GroupResource
	FieldSelector string
	// Strip, when set, takes from each object what the copy need not hold, before anybody sees it.
	Strip func(obj Object)
}

// mirror is the copy of one resource, kept fresh by one watch. Writes wait until it shows them, so that whoever wrote
// reads what they wrote.
type mirror struct {
	remote   *Remote
	kind     *kinds.Kind
	selector fields.Selector
	strip    func(obj Object)
	// synced is closed once the present state was read for the first time.
	synced chan struct{}

	mu sync.Mutex
	// seen is the server's revision up to which the copy holds everything.
	seen    int64
	waiting []*waiter
}

// waiter is a write that waits for the copy to show it.
type waiter struct {
	shown func(seen int64) bool
	done  chan struct{}
}

// mirrorWait bounds how long a write waits for the copy to show it: longer than a watch needs to begin anew after its
// connection broke. A server that is gone for longer leaves the copy old, whatever its readers do.
const mirrorWait = 15 * time.Second

func newMirror(r *Remote, spec MirrorSpec) *mirror {
	m := &mirror{
		remote: r, kind: r.o.Table.Resource(spec.Resource), selector: fields.ParseSelectorOrDie(spec.FieldSelector), strip: spec.Strip, synced: make(chan struct{}),
	}
	if m.kind == nil {
		panic(fmt.Sprintf("client: no kind of resource %s to mirror", spec.Resource))
	}
	return m
}

func (m *mirror) resource() string { return m.kind.GroupResource().String() }

// retries are the waits before a watch begins anew, while the server cannot be reached.
func retries() wait.Backoff {
	return wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 8, Cap: 10 * time.Second}
}

// run watches for ever, with back-off while the server cannot be reached.
func (m *mirror) run(ctx context.Context) {
	first := retries()
	delay := first
	for ctx.Err() == nil {
		got, err := m.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if got {
			delay = first
		}
		m.remote.o.Logger.Debug("mirror starts again", "resource", m.resource(), "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(delay.Step()):
		}
	}
}

// follow runs one watch from the present state on, until it ends. got says whether the present state arrived.
func (m *mirror) follow(ctx context.Context) (got bool, err error) {
	r := m.remote
	initial := map[store.Key]store.Object{}
	err = r.stream(ctx, m.kind, "", m.selector.String(), func(typ string, obj Object, size int) error {
		if m.strip != nil && typ != "BOOKMARK" {
			m.strip(obj)
		}
		key := store.Key{Resource: m.resource(), Namespace: obj.GetNamespace(), Name: obj.GetName()}
		switch {
		case isSynced(typ, obj):
			r.memory.Reset(m.resource(), pairs(initial))
			got, initial = true, nil
		case typ == "BOOKMARK":
		case !got:
			initial[key] = obj
		case typ == "DELETED":
			r.memory.Mirror(store.Delete, key, obj, size)
		default:
			r.memory.Mirror(store.Put, key, obj, size)
		}
		if got {
			m.advance(obj.GetResourceVersion())
		}
		return nil
	})
	return got, err
}

// isSynced says whether an event of a watch ends the present state, which comes before what happens.
func isSynced(typ string, obj Object) bool {
	return typ == "BOOKMARK" && obj.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true"
}

// stream runs one watch of a namespace ("" for all), and hands the present state and then the events to each, with their size in
// bytes, until it ends or each fails.
func (r *Remote) stream(ctx context.Context, k *kinds.Kind, namespace, selector string, each func(typ string, obj Object, size int) error) error {
	q := url.Values{
		"watch": {"true"}, "sendInitialEvents": {"true"}, "allowWatchBookmarks": {"true"},
		"resourceVersionMatch": {"NotOlderThan"}, "resourceVersion": {"0"},
	}
	if selector != "" {
		q.Set("fieldSelector", selector)
	}
	req, err := r.request(ctx, http.MethodGet, r.path(k, namespace, "", "")+"?"+q.Encode(), "", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", protobufType+";stream=watch")
	select {
	case r.opening <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	resp, err := r.http.Do(req)
	<-r.opening
	if err != nil {
		return err
	}
	r.reached.tell()
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return readStatus(resp)
	}
	var buf []byte
	for {
		if buf, err = readFrame(resp.Body, buf); err != nil {
			return err
		}
		typ, obj, err := r.event(buf)
		if err != nil {
			return err
		}
		if err := each(typ, obj, len(buf)); err != nil {
			return err
		}
	}
}

// readFrame reads one frame of a protobuf watch, its length in four bytes before it, into buf, which grows as needed.
func readFrame(in io.Reader, buf []byte) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return buf, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxAnswer {
		return buf, fmt.Errorf("read watch: an event of %d bytes", n)
	}
	buf = slices.Grow(buf[:0], int(n))[:n]
	_, err := io.ReadFull(in, buf)
	return buf, err
}

// event decodes one frame of a watch.
func (r *Remote) event(frame []byte) (string, Object, error) {
	var e metav1.WatchEvent
	var unknown runtime.Unknown
	if err := unknown.Unmarshal(frame[min(len(frame), 4):]); err == nil && bytes.HasPrefix(frame, []byte("k8s\x00")) {
		if err := e.Unmarshal(unknown.Raw); err != nil {
			return "", nil, fmt.Errorf("decode watch event: %w", err)
		}
	} else if err := e.Unmarshal(frame); err != nil {
		return "", nil, fmt.Errorf("decode watch event: %w", err)
	}
	out, _, err := r.codec.Decode(e.Object.Raw, nil, nil)
	if err != nil {
		return "", nil, fmt.Errorf("decode watch event: %w", err)
	}
	if status, ok := out.(*metav1.Status); ok {
		return "", nil, &apierrors.StatusError{ErrStatus: *status}
	}
	obj, ok := out.(Object)
	if !ok {
		return "", nil, fmt.Errorf("decode watch event: %T has no metadata", out)
	}
	return e.Type, obj, nil
}

func pairs(m map[store.Key]store.Object) iter.Seq2[store.Key, store.Object] {
	return func(yield func(store.Key, store.Object) bool) {
		for k, v := range m {
			if !yield(k, v) {
				return
			}
		}
	}
}

// advance notes that the copy holds everything up to a version, and lets go the writes that it shows.
func (m *mirror) advance(version string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remote.advance(number(version))
	if m.seen = max(m.seen, number(version)); !m.hasSynced() {
		close(m.synced)
	}
	m.waiting = slices.DeleteFunc(m.waiting, func(w *waiter) bool {
		if !w.shown(m.seen) {
			return false
		}
		close(w.done)
		return true
	})
}

func (m *mirror) hasSynced() bool {
	select {
	case <-m.synced:
		return true
	default:
		return false
	}
}

// await waits until the copy shows a write. One that was never read is not waited for: nobody keeps it.
func (m *mirror) await(ctx context.Context, shown func(seen int64) bool) {
	m.mu.Lock()
	if !m.hasSynced() || shown(m.seen) {
		m.mu.Unlock()
		return
	}
	w := &waiter{shown: shown, done: make(chan struct{})}
	m.waiting = append(m.waiting, w)
	m.mu.Unlock()
	late := time.NewTimer(mirrorWait)
	defer late.Stop()
	select {
	case <-w.done:
		return
	case <-ctx.Done():
	case <-late.C:
		m.remote.o.Logger.Warn("a write is done, but not seen yet", "resource", m.resource(), "after", mirrorWait)
	}
	m.giveUp(w)
}

// giveUp forgets a waiter.
func (m *mirror) giveUp(w *waiter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.waiting = slices.DeleteFunc(m.waiting, func(other *waiter) bool { return other == w })
}

// shown takes what a write of kind k returned, and waits until the copy of the resource, if there is one, holds that state
// or a newer one.
func (r *Remote) shown(ctx context.Context, k *kinds.Kind) func(Object, error) (Object, error) {
	return func(obj Object, err error) (Object, error) {
		if err != nil || obj == nil {
			return obj, err
		}
		version := number(obj.GetResourceVersion())
		r.advance(version)
		m := r.mirrors[k.GroupResource().String()]
		if m == nil || !m.concerns(obj) {
			return obj, nil
		}
		m.await(ctx, func(seen int64) bool { return seen >= version })
		return obj, nil
	}
}

// concerns says whether a new state of an object makes an event in the copy: it is in it, or belongs there.
func (m *mirror) concerns(obj Object) bool {
	if m.selector.Empty() || m.item(obj.GetNamespace(), obj.GetName()) != nil {
		return true
	}
	set := fields.Set{"metadata.name": obj.GetName(), "metadata.namespace": obj.GetNamespace()}
	if m.kind.Fields != nil {
		maps.Copy(set, m.kind.Fields(obj))
	}
	return m.selector.Matches(set)
}

func (m *mirror) item(namespace, name string) *store.Item {
	return m.remote.memory.Snapshot().Get(store.Key{Resource: m.resource(), Namespace: namespace, Name: name})
}

// ended is called before an object is deleted, and returns what waits, after that, until the copy shows it gone or going.
func (r *Remote) ended(ctx context.Context, k *kinds.Kind, namespace, name string) func() {
	m := r.mirrors[k.GroupResource().String()]
	if m == nil {
		return func() {}
	}
	before := m.item(namespace, name)
	if before == nil {
		return func() {}
	}
	return func() {
		m.await(ctx, func(int64) bool {
			now := m.item(namespace, name)
			return now == nil || now.Object.GetUID() != before.Object.GetUID() || now.Object.GetDeletionTimestamp() != nil
		})
	}
}

// bound waits until the copy of pods shows a binding.
func (r *Remote) bound(ctx context.Context, pods *kinds.Kind, b *corev1.Binding) {
	m := r.mirrors[pods.GroupResource().String()]
	if m == nil || m.item(b.Namespace, b.Name) == nil {
		return
	}
	m.await(ctx, func(int64) bool {
		now := m.item(b.Namespace, b.Name)
		return now == nil || now.Object.(*corev1.Pod).Spec.NodeName != ""
	})
}

// advance notes that this process was shown a revision of the server.
func (r *Remote) advance(revision int64) {
	for {
		newest := r.newest.Load()
		if newest >= revision || r.newest.CompareAndSwap(newest, revision) {
			return
		}
	}
}

// number is a resourceVersion as the server counts; 0 for none.
func number(version string) int64 {
	n, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

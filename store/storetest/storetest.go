// Package storetest is the contract of a store as tests: every implementation passes Run. Tests alone import it.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/store"
)

// Harness makes stores of one implementation.
type Harness struct {
	// Open returns an empty store, which the harness closes when the test ends.
	Open func(t *testing.T) store.Store
	// Reopen closes a store that Open returned and opens it again, as a restart does.
	Reopen func(t *testing.T, s store.Store) store.Store
}

// The resources of the suite, all ConfigMaps. Volatile is one that the implementation was told is volatile.
const (
	Resource = "configmaps"
	Other    = "others.example.com"
	Volatile = "volatiles.example.com"
)

// Key names an object of the suite.
func Key(resource, name string) store.Key {
	return store.Key{Resource: resource, Namespace: "default", Name: name}
}

// Object returns a new object that holds a value.
func Object(key store.Key, value string) store.Object {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, Data: map[string]string{"value": value}}
}

// Value returns what an object of the suite holds, "" for none.
func Value(i *store.Item) string {
	if i == nil {
		return ""
	}
	return i.Object.(*corev1.ConfigMap).Data["value"]
}

// Put is a write of a value.
func Put(key store.Key, value string, expect int64) store.Write {
	return store.Write{Key: key, Object: Object(key, value), Expect: expect}
}

// Run runs the whole contract.
func Run(t *testing.T, h Harness) {
	for name, test := range map[string]func(*testing.T, Harness){
		"Conditions":           testConditions,
		"OneCommitManyWrites":  testManyWrites,
		"PriorWrite":           testPriorWrite,
		"SnapshotsStay":        testSnapshotsStay,
		"EventsTellAll":        testEventsTellAll,
		"WatchBounds":          testWatchBounds,
		"VolatileIsPublished":  testVolatile,
		"CancelledCommit":      testCancelled,
		"Linearizable":         testLinearizable,
		"RestartKeepsState":    testRestartKeepsState,
		"RestartResumesWatch":  testRestartResumesWatch,
		"ConcurrentWatchOrder": testConcurrentWatchOrder,
	} {
		t.Run(name, func(t *testing.T) { test(t, h) })
	}
}

// must commits writes that all succeed.
func must(t *testing.T, s store.Store, writes ...store.Write) []*store.Item {
	t.Helper()
	var items []*store.Item
	for i, r := range s.Commit(t.Context(), writes...) {
		if r.Err != nil {
			t.Fatalf("write %d of %s: %v", i, writes[i].Key.Name, r.Err)
		}
		items = append(items, r.Item)
	}
	return items
}

func testConditions(t *testing.T, h Harness) {
	s := h.Open(t)
	a, none := Key(Resource, "a"), Key(Resource, "none")
	first := must(t, s, Put(a, "1", 0))[0]
	for _, c := range []struct {
		what  string
		write store.Write
		err   error
		value string // of the item that comes with the error
	}{
		{"create of what is there", Put(a, "x", 0), store.ErrExists, "1"},
		{"update at another revision", Put(a, "x", first.Revision+1), store.ErrConflict, "1"},
		{"update of what is not there", Put(none, "x", first.Revision), store.ErrNotFound, ""},
		{"delete at another revision", store.Write{Key: a, Expect: first.Revision + 1}, store.ErrConflict, "1"},
		{"delete of what is not there", store.Write{Key: none, Expect: store.Any}, store.ErrNotFound, ""},
	} {
		r := s.Commit(t.Context(), c.write)[0]
		if !errors.Is(r.Err, c.err) || Value(r.Item) != c.value {
			t.Errorf("%s: %v with %q, want %v with %q", c.what, r.Err, Value(r.Item), c.err, c.value)
		}
	}
	if r := s.Commit(t.Context(), store.Write{Key: none}); r[0].Err == nil {
		t.Error("delete that expects nothing to be there was taken")
	}
	if now := s.Snapshot().Revision(); now != first.Revision {
		t.Errorf("refused writes moved the revision from %d to %d", first.Revision, now)
	}
	second := must(t, s, Put(a, "2", first.Revision))[0]
	third := must(t, s, Put(a, "3", store.Any))[0]
	gone := must(t, s, store.Write{Key: a, Expect: third.Revision})[0]
	again := must(t, s, Put(a, "4", store.Any))[0]
	for i, item := range []*store.Item{first, second, third, gone, again} {
		created := first.Revision
		if item == again {
			created = again.Revision
		}
		if item.Object.GetResourceVersion() != strconv.FormatInt(item.Revision, 10) || item.Created != created {
			t.Errorf("state %d: resourceVersion %s, revision %d, created %d", i, item.Object.GetResourceVersion(), item.Revision, item.Created)
		}
		if i > 0 && i < 4 && item.Revision <= first.Revision {
			t.Errorf("state %d: revision %d", i, item.Revision)
		}
	}
	if Value(gone) != "3" || third.Object.GetResourceVersion() == gone.Object.GetResourceVersion() {
		t.Errorf("deletion returned %q at %s, the state before is now at %s", Value(gone), gone.Object.GetResourceVersion(), third.Object.GetResourceVersion())
	}
}

func testManyWrites(t *testing.T, h Harness) {
	s := h.Open(t)
	a, b := Key(Resource, "a"), Key(Other, "b")
	results := s.Commit(t.Context(), Put(a, "1", 0), Put(a, "2", 0), Put(b, "1", 0), store.Write{Key: a, Expect: store.Any}, Put(a, "3", 0))
	last := int64(0)
	for i, want := range []error{nil, store.ErrExists, nil, nil, nil} {
		if !errors.Is(results[i].Err, want) {
			t.Errorf("write %d: %v, want %v", i, results[i].Err, want)
		}
		if want == nil && results[i].Err == nil {
			if results[i].Item.Revision <= last {
				t.Errorf("write %d has revision %d after %d", i, results[i].Item.Revision, last)
			}
			last = results[i].Item.Revision
		}
	}
	if now := s.Snapshot(); now.Revision() != last || Value(now.Get(a)) != "3" || now.Len(Resource) != 1 {
		t.Errorf("at %d: %q, %d objects", now.Revision(), Value(now.Get(a)), now.Len(Resource))
	}
}

// A write that follows another of the same object happens only with it.
func testPriorWrite(t *testing.T, h Harness) {
	s := h.Open(t)
	a := Key(Resource, "a")
	first := must(t, s, Put(a, "1", 0))[0]
	end := store.Write{Key: a, Expect: store.Prior}
	for i, r := range s.Commit(t.Context(), Put(a, "2", first.Revision+1), end) {
		if !errors.Is(r.Err, store.ErrConflict) || Value(r.Item) != "1" {
			t.Errorf("write %d after a refused one: %v with %q", i, r.Err, Value(r.Item))
		}
	}
	if now := s.Snapshot(); Value(now.Get(a)) != "1" {
		t.Errorf("after a refused write: %q", Value(now.Get(a)))
	}
	last := must(t, s, Put(a, "2", first.Revision), end)[1]
	if now := s.Snapshot(); now.Get(a) != nil || Value(last) != "2" {
		t.Errorf("marked and removed: %q, last %q", Value(now.Get(a)), Value(last))
	}
}

func testSnapshotsStay(t *testing.T, h Harness) {
	s := h.Open(t)
	a, b := Key(Resource, "a"), Key(Resource, "b")
	must(t, s, Put(a, "1", 0))
	before := s.Snapshot()
	must(t, s, Put(a, "2", store.Any), Put(b, "1", 0))
	if Value(before.Get(a)) != "1" || before.Get(b) != nil || before.Len(Resource) != 1 {
		t.Error("a snapshot changed")
	}
	if now := s.Snapshot(); Value(now.Get(a)) != "2" || now.Len(Resource) != 2 {
		t.Error("a commit that returned is not in a new snapshot")
	}
}

// describe says what an event tells.
func describe(e store.Event) string {
	return fmt.Sprintf("%d %s %q from %q", e.Type, e.Item.Key.Name, Value(e.Item), Value(e.Prev))
}

// read returns the descriptions of the next n events.
func read(t *testing.T, w *store.Watch, n int) (events []store.Event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for len(events) < n {
		next, _, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("after %d of %d events: %v", len(events), n, err)
		}
		events = append(events, next...)
	}
	return events
}

func testEventsTellAll(t *testing.T, h Harness) {
	s := h.Open(t)
	a := Key(Resource, "a")
	w, err := s.Watch(Resource, s.Snapshot().Revision())
	if err != nil {
		t.Fatal(err)
	}
	must(t, s, Put(Key(Other, "x"), "1", 0))
	items := must(t, s, Put(a, "1", 0), Put(a, "2", store.Any), store.Write{Key: a, Expect: store.Any}, Put(a, "3", 0))
	for i, e := range read(t, w, 4) {
		want := []string{`0 a "1" from ""`, `0 a "2" from "1"`, `1 a "2" from "2"`, `0 a "3" from ""`}[i]
		if got := describe(e); got != want || e.Item != items[i] {
			t.Errorf("event %d: %s, want %s (and the item that Commit returned)", i, got, want)
		}
	}
}

func testWatchBounds(t *testing.T, h Harness) {
	s := h.Open(t)
	now := must(t, s, Put(Key(Resource, "a"), "1", 0))[0].Revision
	if _, err := s.Watch(Resource, now+1_000_000); !errors.Is(err, store.ErrFuture) {
		t.Errorf("watch from the future: %v", err)
	}
	if before := s.Compacted() - 1; before >= 0 {
		if _, err := s.Watch(Resource, before); !errors.Is(err, store.ErrCompacted) {
			t.Errorf("watch from before the history: %v", err)
		}
	}
	if _, err := s.Watch("never.seen", now); err != nil {
		t.Errorf("watch of a resource without objects: %v", err)
	}
}

func testVolatile(t *testing.T, h Harness) {
	s := h.Open(t)
	a := Key(Volatile, "a")
	last := int64(0)
	for i := range 100 {
		item := must(t, s, Put(a, strconv.Itoa(i), store.Any))[0]
		if item.Revision <= last || s.Snapshot().Get(a) != item {
			t.Fatalf("revision %d after %d, or not published", item.Revision, last)
		}
		last = item.Revision
	}
	must(t, s, Put(Key(Resource, "b"), "1", 0))
	s = h.Reopen(t, s)
	if got := Value(s.Snapshot().Get(a)); got != "99" {
		t.Errorf("after an orderly restart: %q", got)
	}
}

func testCancelled(t *testing.T, h Harness) {
	s := h.Open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a := Key(Resource, "a")
	w, err := s.Watch(Resource, s.Snapshot().Revision())
	if err != nil {
		t.Fatal(err)
	}
	// The wait may end early, the write goes on.
	if err := s.Commit(ctx, Put(a, "1", 0))[0].Err; err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if got := describe(read(t, w, 1)[0]); got != `0 a "1" from ""` {
		t.Error(got)
	}
}

func testConcurrentWatchOrder(t *testing.T, h Harness) {
	s := h.Open(t)
	const writers, writes = 8, 100
	start := s.Snapshot().Revision()
	var wait sync.WaitGroup
	for i := range writers {
		wait.Go(func() {
			for j := range writes {
				must(t, s, Put(Key(Resource, fmt.Sprintf("%d-%d", i, j%7)), strconv.Itoa(j), store.Any))
			}
		})
	}
	for range 4 {
		wait.Go(func() {
			w, err := s.Watch(Resource, start)
			if err != nil {
				t.Error(err)
				return
			}
			last := start
			for _, e := range read(t, w, writers*writes) {
				if e.Item.Revision != last+1 {
					t.Errorf("revision %d after %d", e.Item.Revision, last)
				}
				last = e.Item.Revision
			}
		})
	}
	wait.Wait()
}

func testRestartKeepsState(t *testing.T, h Harness) {
	s := h.Open(t)
	for i := range 100 {
		must(t, s, Put(Key(Resource, strconv.Itoa(i%10)), strconv.Itoa(i), store.Any))
	}
	must(t, s, store.Write{Key: Key(Resource, "3"), Expect: store.Any})
	before := s.Snapshot()
	s = h.Reopen(t, s)
	now := s.Snapshot()
	if now.Revision() < before.Revision() || now.Len(Resource) != 9 {
		t.Fatalf("at %d after %d, %d objects", now.Revision(), before.Revision(), now.Len(Resource))
	}
	for want := range before.List(Resource, "") {
		got := now.Get(want.Key)
		if got == nil || Value(got) != Value(want) || got.Revision != want.Revision || got.Created != want.Created ||
			got.Object.GetResourceVersion() != want.Object.GetResourceVersion() {
			t.Errorf("%s: %+v, want %+v", want.Key.Name, got, want)
		}
	}
	if item := must(t, s, Put(Key(Resource, "new"), "1", 0))[0]; item.Revision <= before.Revision() {
		t.Errorf("revision %d after %d", item.Revision, before.Revision())
	}
}

func testRestartResumesWatch(t *testing.T, h Harness) {
	s := h.Open(t)
	a := Key(Resource, "a")
	items := must(t, s, Put(a, "1", 0), Put(a, "2", store.Any), store.Write{Key: a, Expect: store.Any}, Put(a, "3", 0))
	s = h.Reopen(t, s)
	for from := range items {
		w, err := s.Watch(Resource, items[from].Revision)
		if err != nil {
			t.Fatalf("watch from write %d: %v", from, err)
		}
		if from == 0 {
			must(t, s, Put(a, "4", store.Any))
		}
		want := []string{`0 a "2" from "1"`, `1 a "2" from "2"`, `0 a "3" from ""`, `0 a "4" from "3"`}[from:]
		for i, e := range read(t, w, len(want)) {
			if got := describe(e); got != want[i] || e.Item.Object.GetResourceVersion() != strconv.FormatInt(e.Item.Revision, 10) {
				t.Errorf("from write %d, event %d: %s, want %s", from, i, got, want[i])
			}
		}
	}
}

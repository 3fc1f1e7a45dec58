package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// feed publishes small writes, one revision each, the way an owner does.
type feed struct {
	memory   *Memory
	revision int64
}

func (f *feed) write(typ EventType, key Key) {
	f.revision++
	obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, ResourceVersion: fmt.Sprint(f.revision)}}
	item := &Item{Key: key, Object: obj, Created: f.revision, Revision: f.revision}
	prev := f.memory.Snapshot().Get(key)
	if prev != nil {
		item.Created = prev.Created
	}
	f.memory.Publish(f.revision, []Event{{Type: typ, Item: item, Prev: prev}})
}

func key(resource, path string) Key {
	namespace, name, _ := strings.Cut(path, "/")
	return Key{resource, namespace, name}
}

func names(seq iter.Seq[*Item]) string {
	var out []string
	for i := range seq {
		out = append(out, i.Key.Namespace+"/"+i.Key.Name)
	}
	return strings.Join(out, " ")
}

func TestSnapshotLists(t *testing.T) {
	f := feed{memory: NewMemory(0)}
	for _, path := range []string{"b/2", "a/1", "b/1", "a/3", "c/1", "a/2"} {
		f.write(Put, key("pods", path))
	}
	before := f.memory.Snapshot()
	f.write(Delete, key("pods", "b/1"))
	f.write(Put, key("nodes", "/n"))
	now := f.memory.Snapshot()
	for _, c := range []struct {
		what, got, want string
	}{
		{"all, before", names(before.List("pods", "")), "a/1 a/2 a/3 b/1 b/2 c/1"},
		{"all, now", names(now.List("pods", "")), "a/1 a/2 a/3 b/2 c/1"},
		{"namespace", names(now.List("pods", "a")), "a/1 a/2 a/3"},
		{"empty namespace", names(now.List("pods", "aa")), ""},
		{"from a key", names(now.ListFrom("pods", "", key("pods", "a/2"))), "a/3 b/2 c/1"},
		{"from a key that is gone", names(now.ListFrom("pods", "", key("pods", "b/1"))), "b/2 c/1"},
		{"namespace from a key", names(now.ListFrom("pods", "a", key("pods", "a/1"))), "a/2 a/3"},
		{"namespace from a key before it", names(now.ListFrom("pods", "b", key("pods", "a/2"))), "b/2"},
		{"namespace from a key past it", names(now.ListFrom("pods", "a", key("pods", "b/2"))), ""},
		{"cluster scoped", names(now.List("nodes", "")), "/n"},
		{"unknown resource", names(now.List("unknown", "")), ""},
		{"zero snapshot", names(Snapshot{}.List("pods", "")), ""},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.what, c.got, c.want)
		}
	}
	if before.Len("pods") != 6 || now.Len("pods") != 5 || now.Revision() != 8 || now.Get(key("pods", "b/1")) != nil {
		t.Errorf("lengths %d %d, revision %d", before.Len("pods"), now.Len("pods"), now.Revision())
	}
}

func TestWatchFromRevision(t *testing.T) {
	f := feed{memory: NewMemory(100), revision: 100}
	for i := range 10 {
		f.write(Put, key([]string{"pods", "nodes"}[i%2], fmt.Sprint("ns/", i)))
	}
	f.memory.Compact(103)
	for _, c := range []struct {
		resource string
		after    int64
		want     string
	}{
		{"pods", 103, "105 107 109"},
		{"pods", 105, "107 109"},
		{"nodes", 105, "106 108 110"},
		{"pods", 102, "revision compacted"},
		{"other", 102, "revision compacted"},
		{"pods", 111, "revision not reached"},
	} {
		if got := drain(f.memory, c.resource, c.after); got != c.want {
			t.Errorf("watch %s after %d: got %q, want %q", c.resource, c.after, got, c.want)
		}
	}
	if got := f.memory.Compacted(); got != 103 {
		t.Errorf("compacted %d", got)
	}
}

// drain reads what a new cursor has at once.
func drain(m *Memory, resource string, after int64) string {
	w, err := m.Watch(resource, after)
	if err != nil {
		return err.Error()
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var got []string
	for {
		events, _, err := w.Next(ctx)
		if err != nil {
			return strings.Join(got, " ")
		}
		for _, e := range events {
			got = append(got, fmt.Sprint(e.Item.Revision))
		}
	}
}

func TestWatchWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := feed{memory: NewMemory(0)}
		w, err := f.memory.Watch("pods", 0)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-w.Pending():
			t.Fatal("pending with nothing to read")
		default:
		}
		got := make(chan string)
		go func() {
			for {
				events, revision, err := w.Next(t.Context())
				got <- fmt.Sprintf("%d events, at %d, %v", len(events), revision, err)
				if err != nil {
					return
				}
			}
		}()
		synctest.Wait()
		f.write(Put, key("nodes", "/n")) // other resources wake nobody
		synctest.Wait()
		f.write(Put, key("pods", "a/1"))
		if g := <-got; g != "1 events, at 2, <nil>" {
			t.Error(g)
		}
		f.memory.Close()
		if g := <-got; g != "0 events, at 2, store closed" {
			t.Error(g)
		}
	})
}

func TestBookmarkRevisionMovesWithOtherResources(t *testing.T) {
	f := feed{memory: NewMemory(0)}
	w, _ := f.memory.Watch("pods", 0)
	f.write(Put, key("nodes", "/n"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, revision, err := w.Next(ctx); revision != 1 || !errors.Is(err, context.Canceled) {
		t.Errorf("at %d, %v", revision, err)
	}
}

func TestSlowWatcherIsToldToListAgain(t *testing.T) {
	f := feed{memory: NewMemory(0)}
	slow, _ := f.memory.Watch("pods", 0)
	quick, _ := f.memory.Watch("pods", 0)
	for range ringEvents + 1 {
		f.write(Put, key("pods", "a/1"))
		if events, _, err := quick.Next(t.Context()); len(events) != 1 || err != nil {
			t.Fatalf("%d events, %v", len(events), err)
		}
	}
	if _, _, err := slow.Next(t.Context()); !errors.Is(err, ErrCompacted) {
		t.Errorf("got %v", err)
	}
	if got := f.memory.Compacted(); got != 1 {
		t.Errorf("compacted %d", got)
	}
}

func TestRingIsBoundedByBytes(t *testing.T) {
	m := NewMemory(0)
	for i := range int64(100) {
		m.Publish(i+1, []Event{{Item: &Item{Key: key("secrets", "a/1"), Revision: i + 1, Size: 1 << 20}}})
	}
	if events, floor := m.History("secrets", 0); len(events) != ringBytes>>20 || floor != 100-ringBytes>>20 {
		t.Errorf("%d events, floor %d", len(events), floor)
	}
	m.Compact(100)
	if events, _ := m.History("secrets", 0); len(events) != 0 {
		t.Errorf("%d events after compaction", len(events))
	}
}

// A reader that takes a snapshot and watches from its revision sees every change exactly once, whatever the writer does meanwhile.
func TestSnapshotAndWatchNeverRace(t *testing.T) {
	f := feed{memory: NewMemory(0)}
	const writes = 2000
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for last := int64(0); last < writes; {
				s := f.memory.Snapshot()
				if s.Revision() < last {
					t.Errorf("snapshot went back from %d to %d", last, s.Revision())
				}
				w, err := f.memory.Watch("pods", s.Revision())
				if err != nil {
					t.Error(err)
					return
				}
				last = s.Revision()
				for range min(3, writes-last) {
					events, revision, err := w.Next(t.Context())
					if err != nil || events[0].Item.Revision != last+1 {
						t.Errorf("after %d: %v %v", last, events, err)
						return
					}
					if now := f.memory.Snapshot().Revision(); now < revision {
						t.Errorf("event %d is ahead of the snapshot %d", revision, now)
					}
					last = revision
					if last == writes {
						return
					}
				}
			}
		})
	}
	for i := range writes {
		f.write(Put, key("pods", fmt.Sprint("ns/", i%50)))
	}
	readers.Wait()
}

func TestMirrorShowsOnlyDifferencesAfterReset(t *testing.T) {
	m := NewMemory(0)
	pod := func(name, uid, version string) (Key, Object) {
		return Key{"pods", "a", name}, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, UID: types.UID(uid), ResourceVersion: version}}
	}
	for _, name := range []string{"same", "changed", "gone", "replaced"} {
		k, o := pod(name, name, "7")
		m.Mirror(Put, k, o, 0)
	}
	k, o := pod("never", "x", "7")
	m.Mirror(Delete, k, o, 0)
	w, err := m.Watch("pods", m.Snapshot().Revision())
	if err != nil {
		t.Fatal(err)
	}
	m.Reset("pods", func(yield func(Key, Object) bool) {
		_ = yield(pod("same", "same", "7")) && yield(pod("changed", "changed", "9")) && yield(pod("replaced", "other", "8")) && yield(pod("new", "new", "9"))
	})
	events, revision, err := w.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range events {
		got = append(got, fmt.Sprintf("%s:%d:%t", e.Item.Key.Name, e.Type, e.Prev != nil))
	}
	slices.Sort(got)
	if s := strings.Join(got, " "); s != "changed:0:true gone:1:true new:0:false replaced:0:false replaced:1:true" {
		t.Error(s)
	}
	if revision != m.Snapshot().Revision() || names(m.Snapshot().List("pods", "")) != "a/changed a/new a/replaced a/same" {
		t.Errorf("at %d of %d: %s", revision, m.Snapshot().Revision(), names(m.Snapshot().List("pods", "")))
	}
}

func TestEncodingIsMadeOnce(t *testing.T) {
	var item Item
	var wait sync.WaitGroup
	seen := make([][]byte, 16)
	for i := range seen {
		wait.Go(func() {
			b, err := item.Encoding(uint8(i%2), func() ([]byte, error) { return []byte{byte(i)}, nil })
			if err != nil {
				t.Error(err)
			}
			seen[i] = b
		})
	}
	wait.Wait()
	for i := range seen {
		if &seen[i][0] != &seen[i%2][0] {
			t.Errorf("encodings %d and %d differ", i, i%2)
		}
	}
	if _, err := item.Encoding(9, func() ([]byte, error) { return nil, errors.New("no") }); err == nil {
		t.Error("error swallowed")
	}
	if b, err := item.Encoding(9, func() ([]byte, error) { return []byte("yes"), nil }); err != nil || string(b) != "yes" {
		t.Error("error kept")
	}
}

func TestTombstoneLeavesTheLastStateAlone(t *testing.T) {
	free := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "a", "resourceVersion": "1"}, "spec": "s"}}
	typed := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a", ResourceVersion: "1"}, Data: map[string]string{"k": "v"}}
	for _, last := range []Object{free, typed} {
		gone := Tombstone(last, 7)
		if gone.GetResourceVersion() != "7" || gone.GetName() != "a" || last.GetResourceVersion() != "1" {
			t.Errorf("%+v from %+v", gone, last)
		}
	}
}

func TestTrimKeepsOnlyEncodingsOfWhatIsCurrent(t *testing.T) {
	f := feed{memory: NewMemory(0)}
	var items []*Item
	for _, path := range []string{"a/old", "a/old", "a/gone", "a/young"} {
		f.write(Put, key("pods", path))
		items = append(items, f.memory.Snapshot().Get(key("pods", path)))
	}
	f.write(Delete, key("pods", "a/gone"))
	for _, i := range items {
		if _, err := i.Encoding(1, func() ([]byte, error) { return []byte("x"), nil }); err != nil {
			t.Fatal(err)
		}
	}
	f.memory.Trim(f.revision)
	var kept []bool
	for _, i := range items {
		_, ok := cached(i.encodings.Load(), 1)
		kept = append(kept, ok)
	}
	if fmt.Sprint(kept) != "[false true false true]" {
		t.Errorf("kept %v", kept)
	}
}

// However fast events come, only the newest keep the encodings of what they ended; and nothing that is retired keeps any again.
func TestNewsIsBounded(t *testing.T) {
	encode := func(i *Item) { _, _ = i.Encoding(1, func() ([]byte, error) { return []byte("x"), nil }) }
	for _, c := range []struct {
		size, keep int
	}{{1, newsEvents}, {newsBytes / 8, 8}, {2 * newsBytes, 0}} {
		m := NewMemory(0)
		var items []*Item
		for rev := int64(1); rev <= 2*newsEvents; rev++ {
			e := Event{Item: &Item{Key: key("pods", "a/p"), Revision: rev, Size: c.size}, Prev: m.Snapshot().Get(key("pods", "a/p"))}
			items = append(items, e.Item)
			m.Publish(rev, []Event{e})
			encode(e.Item)
		}
		kept := 0
		for _, i := range items {
			encode(i)
			if _, ok := i.Cached(1); ok {
				kept++
			}
		}
		if _, ok := items[len(items)-1].Cached(1); !ok || kept != c.keep+1 { // each event's past, and the present
			t.Errorf("size %d: %d kept, want %d and the current one", c.size, kept, c.keep)
		}
	}
}

// jsonCodec is a codec for config maps.
type jsonCodec struct{}

func (jsonCodec) Encode(_ string, obj Object) ([]byte, error) { return json.Marshal(obj) }

func (jsonCodec) Decode(_ string, data []byte) (Object, error) {
	obj := &corev1.ConfigMap{}
	return obj, json.Unmarshal(data, obj)
}

// What is frozen reads as it did before, from any revision on; what is current or news is not touched.
func TestFreeze(t *testing.T) {
	m := NewMemory(0)
	write := func(typ EventType, name, value string) {
		rev, k := m.Snapshot().Revision()+1, key("configmaps", "a/"+name)
		e := Event{Type: typ, Prev: m.Snapshot().Get(k), Item: &Item{Key: k, Created: rev, Revision: rev, Size: 10}}
		if e.Prev != nil {
			e.Item.Created = e.Prev.Created
		}
		if e.Item.Object = (Object)(nil); typ == Delete {
			e.Item.Object = Tombstone(e.Prev.Object, rev)
		} else {
			e.Item.Object = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: fmt.Sprint(rev)}, Data: map[string]string{"k": value}}
		}
		m.Publish(rev, []Event{e})
	}
	shown := func(after int64) (text string) {
		w, err := m.Watch("configmaps", after)
		if err != nil {
			t.Fatal(err)
		}
		events, _, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			line, err := json.Marshal([]any{e.Type, e.Item.Key, e.Item.Created, e.Item.Revision, e.Item.Size, e.Item.Object, e.Prev})
			if err != nil {
				t.Fatal(err)
			}
			text += string(line) + "\n"
		}
		return text
	}
	write(Put, "x", "1")
	write(Put, "stays", "1")
	write(Put, "x", "2")
	write(Delete, "x", "")
	write(Put, "x", "3")
	write(Delete, "x", "")
	write(Put, "y", "1")
	write(Put, "y", "2")
	write(Put, "y", "3")
	var before []string
	for after := range int64(9) {
		before = append(before, shown(after))
	}
	m.Trim(8)
	for range 2 {
		if err := m.Freeze(jsonCodec{}); err != nil {
			t.Fatal(err)
		}
	}
	for after, want := range before {
		if got := shown(int64(after)); got != want {
			t.Errorf("after %d:\n%swant\n%s", after, got, want)
		}
	}
	events, _ := m.History("configmaps", 0)
	if len(events) != 9 || events[3].Item.Object.GetResourceVersion() != "4" || events[1].Item != m.Snapshot().Get(key("configmaps", "a/stays")) {
		t.Errorf("history: %+v", events)
	}
	decoded := 0
	for seq := range uint64(9) {
		if e := m.rings["configmaps"].at(seq); e.Item.Object != nil {
			decoded++
		}
	}
	if decoded != 2 { // one that is current, one that is news
		t.Errorf("%d states are decoded", decoded)
	}
	m.Compact(5)
	write(Put, "z", "1")
	if got := shown(6); strings.Count(got, "\n") != 4 {
		t.Errorf("after a compaction:\n%s", got)
	}
}

func TestMirrorForgets(t *testing.T) {
	m := NewMemory(0)
	for i := range 10 * mirrorHistory {
		k := key("pods", "a/p")
		m.Mirror(Put, k, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p", ResourceVersion: fmt.Sprint(i)}}, 0)
	}
	if events, _ := m.History("pods", 0); len(events) < mirrorHistory || len(events) > 2*mirrorHistory {
		t.Errorf("%d events", len(events))
	}
}

func BenchmarkPublish(b *testing.B) {
	f := feed{memory: NewMemory(0)}
	for i := range 10000 {
		f.write(Put, key("pods", fmt.Sprint("ns/", i)))
	}
	k := key("pods", "ns/5000")
	b.ReportAllocs()
	for b.Loop() {
		f.write(Put, k)
	}
}

func BenchmarkGet(b *testing.B) {
	f := feed{memory: NewMemory(0)}
	for i := range 10000 {
		f.write(Put, key("pods", fmt.Sprint("ns/", i)))
	}
	k := key("pods", "ns/5000")
	b.ReportAllocs()
	for b.Loop() {
		if f.memory.Snapshot().Get(k) == nil {
			b.Fatal("missing")
		}
	}
}

// BenchmarkFanOut publishes to 200 watchers; events/s counts what they read.
func BenchmarkFanOut(b *testing.B) {
	f := feed{memory: NewMemory(0)}
	const watchers = 200
	var done sync.WaitGroup
	for range watchers {
		w, err := f.memory.Watch("pods", 0)
		if err != nil {
			b.Fatal(err)
		}
		done.Go(func() {
			for n := 0; n < b.N; {
				events, _, err := w.Next(b.Context())
				if err != nil {
					b.Error(err)
					return
				}
				n += len(events)
			}
		})
	}
	b.ResetTimer()
	for range b.N {
		f.write(Put, key("pods", "ns/1"))
		if f.revision%1000 == 0 {
			// Stay within the ring: the benchmark is of the fan-out, not of falling behind.
			w, _ := f.memory.Watch("pods", f.revision-1)
			_, _, _ = w.Next(b.Context())
		}
	}
	done.Wait()
	b.ReportMetric(float64(b.N)*watchers/b.Elapsed().Seconds(), "events/s")
}

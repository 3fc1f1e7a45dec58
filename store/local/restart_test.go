package local

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/store"
	"github.com/kebernetes/kebernetes/store/storetest"
)

// A store that is written to, snapshot, crashed and closed at random holds at every start what it held before, and tells its
// watchers the same history.
func TestRestartsAtRandom(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(uint64(seed), 1))
	opts := options(t.TempDir())
	var history []string // of storetest.Resource, by revision from firstRevision+1 on
	revisions := []int64{}
	for range 12 {
		l, err := Open(opts)
		if err != nil {
			t.Fatal(err)
		}
		for range 1 + random.IntN(8) {
			for range random.IntN(60) {
				key := storetest.Key(storetest.Resource, fmt.Sprint(random.IntN(20)))
				w := storetest.Put(key, fmt.Sprint(random.Int()), store.Any)
				if random.IntN(4) == 0 {
					w.Object = nil
				}
				prev := l.Snapshot().Get(key)
				if r := l.Commit(t.Context(), w)[0]; r.Err == nil {
					e := store.Event{Item: r.Item, Prev: prev}
					if w.Object == nil {
						e.Type = store.Delete
					}
					history = append(history, event(e))
					revisions = append(revisions, r.Item.Revision)
				}
				if random.IntN(5) == 0 {
					commit(t, l, storetest.Put(storetest.Key(storetest.Volatile, "v"), "x", store.Any))
				}
			}
			if random.IntN(3) == 0 {
				// Pretend that part of the history is old.
				at := l.history.spans[len(l.history.spans)-1]
				l.history.mu.Lock()
				l.history.spans = append(l.history.spans, span{begin: time.Now().Add(time.Hour), end: time.Now().Add(time.Hour), revision: at.revision, index: at.index, written: at.written})
				l.history.mu.Unlock()
			}
			if random.IntN(3) == 0 {
				if err := l.snapshot(true); err != nil {
					t.Fatal(err)
				}
			}
		}
		before := l.Snapshot()
		if random.IntN(2) == 0 {
			err = l.release()
		} else {
			err = l.stop()
		}
		if err != nil {
			t.Fatal(err)
		}
		if l, err = Open(opts); err != nil {
			t.Fatal(err)
		}
		compareStates(t, before, l.Snapshot())
		compareHistory(t, l, history, revisions)
		if err := l.release(); err != nil {
			t.Fatal(err)
		}
	}
}

func event(e store.Event) string {
	return fmt.Sprintf("%d: %d %s %s from %s", e.Item.Revision, e.Type, e.Item.Key.Name, storetest.Value(e.Item), storetest.Value(e.Prev))
}

func compareStates(t *testing.T, want, got store.Snapshot) {
	t.Helper()
	if got.Revision() < want.Revision() || got.Len(storetest.Resource) != want.Len(storetest.Resource) {
		t.Fatalf("revision %d after %d, %d objects after %d", got.Revision(), want.Revision(), got.Len(storetest.Resource), want.Len(storetest.Resource))
	}
	for item := range want.List(storetest.Resource, "") {
		if g := got.Get(item.Key); g == nil || g.Revision != item.Revision || g.Created != item.Created || storetest.Value(g) != storetest.Value(item) {
			t.Fatalf("%s: %+v, want %+v", item.Key.Name, g, item)
		}
	}
}

// compareHistory reads all that a watch from the oldest possible revision tells.
func compareHistory(t *testing.T, l *Local, history []string, revisions []int64) {
	t.Helper()
	_, floor := l.memory.History(storetest.Resource, 0)
	w, err := l.Watch(storetest.Resource, floor)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var got, want []string
	for i, r := range revisions {
		if r > floor {
			want = append(want, history[i])
		}
	}
	for err == nil {
		var events []store.Event
		events, _, err = w.Next(ctx)
		for _, e := range events {
			got = append(got, event(e))
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("history after %d:\n%s\nwant:\n%s", floor, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestSnapshotKeepsTheLogShort(t *testing.T) {
	s := start(t, options(t.TempDir()))
	w, err := s.Watch(storetest.Resource, s.Snapshot().Revision())
	if err != nil {
		t.Fatal(err)
	}
	value := strings.Repeat("v", 256<<10)
	for i := range 300 { // 75 MB
		commit(t, s, storetest.Put(storetest.Key(storetest.Resource, fmt.Sprint(i%4)), value, store.Any))
		if _, _, err := w.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	var size int64
	for _, path := range segments(t, s.opts) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > 5*segmentSize {
		t.Errorf("the log has %d MiB", size>>20)
	}
	s = start(t, s.opts)
	if got := s.Snapshot().Len(storetest.Resource); got != 4 {
		t.Errorf("%d objects", got)
	}
}

func TestHistoryExpires(t *testing.T) {
	opts := options(t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		s := start(t, opts)
		first := commit(t, s, storetest.Put(storetest.Key(storetest.Resource, "a"), "1", 0)).Revision
		time.Sleep(historyAge - time.Minute)
		second := commit(t, s, storetest.Put(storetest.Key(storetest.Resource, "a"), "2", store.Any)).Revision
		if _, err := s.Watch(storetest.Resource, first-1); err != nil {
			t.Errorf("young history: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if _, err := s.Watch(storetest.Resource, first-1); !errors.Is(err, store.ErrCompacted) {
			t.Errorf("old history: %v", err)
		}
		if _, err := s.Watch(storetest.Resource, second-1); err != nil {
			t.Errorf("young history beside old: %v", err)
		}
		time.Sleep(historyAge)
		if got := s.Compacted(); got != second {
			t.Errorf("compacted %d, not %d, after a quiet time", got, second)
		}
		if s.watching.Load() {
			t.Error("something still wakes up")
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
}

func TestCrashEndsVolatileHistoryAndNeverReusesRevisions(t *testing.T) {
	opts := options(t.TempDir())
	l, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	durable := commit(t, l, storetest.Put(storetest.Key(storetest.Resource, "a"), "1", 0)).Revision
	var lost int64
	for range reserveAhead / 100 {
		for range 250 {
			lost = commit(t, l, storetest.Put(storetest.Key(storetest.Volatile, "v"), "1", store.Any)).Revision
		}
	}
	if err := l.release(); err != nil {
		t.Fatal(err)
	}
	if l, err = Open(opts); err != nil {
		t.Fatal(err)
	}
	defer l.release()
	if now := l.Snapshot().Revision(); now < lost {
		t.Errorf("revision %d, but %d was seen", now, lost)
	}
	if _, err := l.Watch(storetest.Volatile, lost); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("watch of volatile objects: %v", err)
	}
	if _, err := l.Watch(storetest.Resource, durable); err != nil {
		t.Errorf("watch of durable objects: %v", err)
	}
	if r := commit(t, l, storetest.Put(storetest.Key(storetest.Volatile, "v"), "2", store.Any)); r.Revision <= lost {
		t.Errorf("revision %d is given again", r.Revision)
	}
}

func secret(name, value string) store.Write {
	return store.Write{Key: storetest.Key("secrets", name), Expect: store.Any, Object: &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string][]byte{"password": []byte(value)}}}
}

func TestSecretsAreInNoFile(t *testing.T) {
	const plain = "correct horse battery staple"
	s := start(t, options(t.TempDir()))
	commit(t, s, secret("a", plain))
	commit(t, s, secret("b", plain))
	if err := s.snapshot(true); err != nil {
		t.Fatal(err)
	}
	if err := s.RotateKey(); err != nil {
		t.Fatal(err)
	}
	commit(t, s, secret("c", plain))
	backup, err := os.Create(filepath.Join(s.opts.Dir, "backup"))
	if err == nil {
		err = errors.Join(s.WriteBackup(backup), backup.Close(), s.close())
	}
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	err = filepath.WalkDir(s.opts.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		data, err := os.ReadFile(path)
		for _, form := range []string{plain, base64.StdEncoding.EncodeToString([]byte(plain))} {
			if bytes.Contains(data, []byte(form)) {
				t.Errorf("%s holds a secret", path)
			}
		}
		if info, err := d.Info(); err == nil && filepath.Dir(path) == s.opts.Dir && filepath.Base(path) != "backup" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return err
	})
	if err != nil || files < 5 {
		t.Errorf("%d files, %v", files, err)
	}
	s = start(t, s.opts)
	for _, name := range []string{"a", "b", "c"} {
		if got := s.Snapshot().Get(storetest.Key("secrets", name)).Object.(*corev1.Secret); string(got.Data["password"]) != plain {
			t.Errorf("%s: %q", name, got.Data)
		}
	}
}

func TestOldKeysAreForgotten(t *testing.T) {
	opts := options(t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		s := start(t, opts)
		for i := range 3 {
			commit(t, s, secret(fmt.Sprint(i), "hush"))
			if err := s.RotateKey(); err != nil {
				t.Fatal(err)
			}
		}
		if got := len(s.keys.keys.Load().file.Keys); got != 4 {
			t.Errorf("%d keys while the log needs all", got)
		}
		time.Sleep(2 * historyAge)
		commit(t, s, secret("x", "hush"))
		time.Sleep(2 * historyAge)
		if err := s.RotateKey(); err != nil {
			t.Fatal(err)
		}
		// The entry that stays in the log as its bound was written under the key before the newest.
		if got := len(s.keys.keys.Load().file.Keys); got > 2 {
			t.Errorf("%d keys when the log needs none", got)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		s = start(t, opts)
		if got := s.Snapshot().Len("secrets"); got != 4 {
			t.Errorf("%d secrets", got)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestBackupAndRestore(t *testing.T) {
	s := start(t, options(t.TempDir()))
	fill(t, s, 500)
	commit(t, s, secret("a", "hush"))
	var backup bytes.Buffer
	if err := s.WriteBackup(&backup); err != nil {
		t.Fatal(err)
	}
	later := commit(t, s, secret("b", "hush")).Revision
	opts := options(filepath.Join(t.TempDir(), "new"))
	if err := Restore(opts.Dir, bytes.NewReader(backup.Bytes()[:backup.Len()-1])); err == nil {
		t.Error("half a backup was restored")
	}
	if err := Restore(opts.Dir, &backup); err != nil {
		t.Fatal(err)
	}
	if err := Restore(opts.Dir, &backup); err == nil {
		t.Error("a store was overwritten")
	}
	r := start(t, opts)
	now := r.Snapshot()
	if got := now.Get(storetest.Key("secrets", "a")); got == nil || string(got.Object.(*corev1.Secret).Data["password"]) != "hush" {
		t.Errorf("secret: %v", got)
	}
	if now.Len(storetest.Resource) != 500 || now.Len("secrets") != 1 || now.Revision() <= later {
		t.Errorf("%d objects, %d secrets, revision %d", now.Len(storetest.Resource), now.Len("secrets"), now.Revision())
	}
	if _, err := r.Watch(storetest.Resource, later); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("watch from before: %v", err)
	}
	if item := commit(t, r, secret("b", "hush")); item.Revision <= now.Revision() {
		t.Errorf("revision %d", item.Revision)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	s := start(t, options(t.TempDir()))
	if _, err := Open(s.opts); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second open: %v", err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	start(t, s.opts)
}

func TestFailedDiskEndsTheStore(t *testing.T) {
	l, err := Open(options(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	before := commit(t, l, storetest.Put(storetest.Key(storetest.Resource, "a"), "1", 0)).Revision
	if err := l.log.wal.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if r := l.Commit(t.Context(), storetest.Put(storetest.Key(storetest.Resource, "b"), "1", 0))[0]; r.Err == nil || r.Item != nil {
			t.Errorf("commit on a failed disk: %+v", r)
		}
	}
	if now := l.Snapshot(); now.Revision() != before || now.Len(storetest.Resource) != 1 {
		t.Error("a write that failed was published")
	}
	if err := l.Run(t.Context()); err == nil {
		t.Error("Run hides the failure")
	}
	if r := l.Commit(t.Context(), storetest.Put(storetest.Key(storetest.Resource, "c"), "1", 0))[0]; !errors.Is(r.Err, store.ErrClosed) {
		t.Errorf("commit after the end: %v", r.Err)
	}
}

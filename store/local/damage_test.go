package local

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft-wal/segment"

	"github.com/kebernetes/kebernetes/store"
	"github.com/kebernetes/kebernetes/store/storetest"
)

// crashed returns the options of a store that holds n writes, one append each, and was not closed in order.
func crashed(t *testing.T, n int, value string) Options {
	t.Helper()
	opts := options(t.TempDir())
	l, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		commit(t, l, storetest.Put(storetest.Key(storetest.Resource, fmt.Sprint(i)), value, 0))
	}
	if err := l.release(); err != nil {
		t.Fatal(err)
	}
	return opts
}

func commit(t testing.TB, s store.Store, w store.Write) *store.Item {
	t.Helper()
	r := s.Commit(t.Context(), w)[0]
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	return r.Item
}

// segments returns the log's files, oldest first.
func segments(t *testing.T, opts Options) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(opts.Dir, "log", "*.wal"))
	if err != nil || len(paths) == 0 {
		t.Fatal("no segments", err)
	}
	return paths
}

// frames returns the offsets of a segment's frames of one type.
func frames(data []byte, typ byte) (at []int) {
	for i := segmentHeader; i+segmentAlign <= len(data) && data[i] != 0; {
		if data[i] == typ {
			at = append(at, i)
		}
		n := 0
		if data[i] != segment.FrameCommit {
			n = int(binary.LittleEndian.Uint32(data[i+4:]))
		}
		i += segmentAlign + (n+segmentAlign-1)&^(segmentAlign-1)
	}
	return at
}

// A crash leaves some of the last append's bytes: whichever they are, all before is there and the store goes on.
func TestTornTailIsCutOff(t *testing.T) {
	const writes = 5
	for name, tear := range map[string]func(data []byte, entry, end int){
		"all but the commit":   func(data []byte, entry, end int) { clear(data[end-segmentAlign : end]) },
		"half of the entry":    func(data []byte, entry, end int) { clear(data[(entry+end)/2 : end]) },
		"only the second half": func(data []byte, entry, end int) { clear(data[entry : (entry+end)/2]) },
		"no head":              func(data []byte, entry, end int) { clear(data[entry : entry+segmentAlign]) },
		"nonsense":             func(data []byte, entry, end int) { copy(data[entry:end], bytes.Repeat([]byte{1, 0, 0, 0, 255}, end)) },
	} {
		t.Run(name, func(t *testing.T) {
			opts := crashed(t, writes, strings.Repeat("v", 3000))
			path := segments(t, opts)[0]
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			entries, commits := frames(data, segment.FrameEntry), frames(data, segment.FrameCommit)
			tear(data, entries[writes-1], commits[writes-1]+segmentAlign)
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			for round := range 3 {
				l, err := Open(opts)
				if err != nil {
					t.Fatal(err)
				}
				if got := l.Snapshot().Len(storetest.Resource); got != writes-1+round {
					t.Errorf("start %d: %d objects", round, got)
				}
				commit(t, l, storetest.Put(storetest.Key(storetest.Resource, fmt.Sprint("after", round)), "short", 0))
				if err := l.release(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// Damage anywhere else is refused: the error names the file, and the file stays as it is.
func TestDamageIsRefused(t *testing.T) {
	flip := func(at func(data []byte) int) func([]byte) []byte {
		return func(data []byte) []byte {
			data[at(data)] ^= 0x40
			return data
		}
	}
	firstEntry := func(data []byte) int { return frames(data, segment.FrameEntry)[0] }
	for name, c := range map[string]struct {
		file   func(opts Options) string
		damage func([]byte) []byte
	}{
		"first entry of the newest segment": {tailFile, flip(func(d []byte) int { return firstEntry(d) + 50 })},
		"length in the newest segment":      {tailFile, flip(func(d []byte) int { return firstEntry(d) + 4 })},
		"type of a frame":                   {tailFile, flip(firstEntry)},
		"a page of zeros":                   {tailFile, func(d []byte) []byte { clear(d[firstEntry(d) : firstEntry(d)+4096]); return d }},
		"head of the newest segment":        {tailFile, flip(func([]byte) int { return 0 })},
		"sealed segment":                    {sealedFile, flip(func(d []byte) int { return len(d) / 2 })},
		"sealed segment cut short":          {sealedFile, func(d []byte) []byte { return d[:len(d)/2] }},
		"snapshot":                          {snapshotFile, flip(func(d []byte) int { return len(d) / 2 })},
		"snapshot cut short":                {snapshotFile, func(d []byte) []byte { return d[:len(d)-5] }},
		"snapshot without its end":          {snapshotFile, func(d []byte) []byte { return d[:len(d)-frameHead-2] }},
		"snapshot's magic":                  {snapshotFile, flip(func([]byte) int { return 3 })},
		"snapshot empty":                    {snapshotFile, func([]byte) []byte { return nil }},
		"keys":                              {func(o Options) string { return keysPath(o.Dir) }, func([]byte) []byte { return []byte("{}") }},
		"meta data of the log":              {func(o Options) string { return filepath.Join(o.Dir, "log", "wal-meta.db") }, func([]byte) []byte { return make([]byte, 8192) }},
	} {
		t.Run(name, func(t *testing.T) {
			opts := grown(t)
			path := c.file(opts)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			damaged := c.damage(data)
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := Open(opts)
			if err == nil {
				l.release()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), filepath.Base(path)) {
				t.Errorf("the error does not name %s: %v", path, err)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(after, damaged) {
				t.Error("the file was changed")
			}
		})
	}
	t.Run("snapshot missing", func(t *testing.T) {
		opts := grown(t)
		if err := os.Remove(snapshotPath(opts.Dir)); err != nil {
			t.Fatal(err)
		}
		if l, err := Open(opts); err == nil {
			l.release()
			t.Fatal("opened")
		}
	})
}

func tailFile(opts Options) string {
	paths, _ := filepath.Glob(filepath.Join(opts.Dir, "log", "*.wal"))
	return paths[len(paths)-1]
}

func sealedFile(opts Options) string {
	paths, _ := filepath.Glob(filepath.Join(opts.Dir, "log", "*.wal"))
	return paths[len(paths)-2]
}

func snapshotFile(opts Options) string { return snapshotPath(opts.Dir) }

// grown returns the options of a store with a snapshot, a sealed segment that is still needed, and a newest one with several appends.
func grown(t *testing.T) Options {
	t.Helper()
	opts := options(t.TempDir())
	l, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	write := func() {
		for i := range 10 {
			commit(t, l, storetest.Put(storetest.Key(storetest.Resource, fmt.Sprint(i)), strings.Repeat("v", 512<<10), store.Any))
		}
	}
	for range 3 {
		write()
	}
	if err := l.snapshot(false); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		write()
	}
	if err := l.release(); err != nil {
		t.Fatal(err)
	}
	if len(segments(t, opts)) < 2 {
		t.Fatal("one segment only")
	}
	return opts
}

// A crash may come when the newest segment is full, but the log's meta data do not yet say so.
func TestFullSegmentThatNobodySealed(t *testing.T) {
	opts := options(t.TempDir())
	l, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	meta := filepath.Join(opts.Dir, "log", "wal-meta.db")
	before, err := os.ReadFile(meta)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; len(segments(t, opts)) == 1; n++ {
		commit(t, l, storetest.Put(storetest.Key(storetest.Resource, fmt.Sprint(n)), strings.Repeat("v", 700<<10), 0))
		l.log.wal.LastIndex()
	}
	if err := l.release(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(segments(t, opts)[1]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(meta, before, 0o600); err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		s := start(t, opts)
		if got := s.Snapshot().Len(storetest.Resource); got < n-1+round {
			t.Fatalf("start %d: %d objects of %d", round, got, n+round)
		}
		commit(t, s, storetest.Put(storetest.Key(storetest.Resource, fmt.Sprint("after", round)), "short", 0))
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	}
}

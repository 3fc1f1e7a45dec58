package local

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kebernetes/kebernetes/store"
	"github.com/kebernetes/kebernetes/store/storetest"
)

// BenchmarkCommit is one writer alone: the cost of a sync.
func BenchmarkCommit(b *testing.B) {
	s := start(b, options(b.TempDir()))
	benchmarkWriters(b, s, storetest.Resource, 1)
}

// BenchmarkCommit64 is 64 writers that share syncs.
func BenchmarkCommit64(b *testing.B) {
	s := start(b, options(b.TempDir()))
	benchmarkWriters(b, s, storetest.Resource, 64)
}

func BenchmarkCommitVolatile(b *testing.B) {
	s := start(b, options(b.TempDir()))
	benchmarkWriters(b, s, storetest.Volatile, 1)
}

func BenchmarkCommitEncrypted64(b *testing.B) {
	opts := options(b.TempDir())
	opts.Encrypt = func(string) bool { return true }
	benchmarkWriters(b, start(b, opts), storetest.Resource, 64)
}

func benchmarkWriters(b *testing.B, s store.Store, resource string, writers int) {
	fill(b, s, 3000)
	value := fmt.Sprintf("%01000d", 0)
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ReportAllocs()
	b.ResetTimer()
	var wait sync.WaitGroup
	for range writers {
		wait.Go(func() {
			for i := left.Add(-1); i >= 0; i = left.Add(-1) {
				if r := s.Commit(b.Context(), storetest.Put(storetest.Key(resource, "object-"+strconv.Itoa(int(i%3000))), value, store.Any)); r[0].Err != nil {
					b.Error(r[0].Err)
				}
			}
		})
	}
	wait.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
}

// BenchmarkOpen opens a store of 10,000 objects of 1 kB after a crash, from the snapshot and from the log's tail.
func BenchmarkOpen(b *testing.B) {
	for _, from := range []string{"snapshot", "log"} {
		b.Run(from, func(b *testing.B) {
			opts := options(b.TempDir())
			l, err := Open(opts)
			if err != nil {
				b.Fatal(err)
			}
			for i := range 100 {
				writes := make([]store.Write, 100)
				for j := range writes {
					writes[j] = storetest.Put(storetest.Key(storetest.Resource, fmt.Sprint("object-", i*100+j)), fmt.Sprintf("%01000d", j), 0)
				}
				l.Commit(b.Context(), writes...)
			}
			if from == "snapshot" {
				l.memory.Compact(l.revision)
				if err := l.snapshot(true); err != nil {
					b.Fatal(err)
				}
			}
			if err := l.release(); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				l, err := Open(opts)
				if err != nil || l.Snapshot().Len(storetest.Resource) != 10000 {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := l.release(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

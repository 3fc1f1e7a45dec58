package local

import (
	"bytes"
	"runtime"
	"testing"
	"time"

	"github.com/kebernetes/kebernetes/store"
	"github.com/kebernetes/kebernetes/store/storetest"
)

// bounded fails when decoding took much more memory than the input is large.
func bounded(t *testing.T, data []byte, decode func()) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	decode()
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20+100*uint64(len(data)) {
		t.Errorf("%d bytes taken for %d", grown, len(data))
	}
}

func someRecord() *record {
	return &record{typ: store.Put, revision: 7, created: 3, key: storetest.Key(storetest.Resource, "a"), payload: []byte("payload")}
}

func FuzzBatch(f *testing.F) {
	var p pending
	p.add(someRecord())
	p.add(&record{typ: store.Delete, revision: 8, created: 3, keyID: 9, key: storetest.Key(storetest.Resource, "a")})
	f.Add(encodeBatch(nil, batch{index: 5, group: 4, at: time.UnixMilli(1), reserved: 99}, p.count, p.chunks[0].records))
	f.Fuzz(func(t *testing.T, data []byte) {
		bounded(t, data, func() {
			_, _ = decodeEntry(data)
			p := parser{rest: data} // as if the checksum held
			_, _ = p.records()
			if b, err := decodeBatch(data); err == nil {
				var p pending
				for _, r := range b.records {
					p.add(&r)
				}
				if again, err := decodeBatch(encodeBatch(nil, b, p.count, bytes.Join([][]byte{nil, joined(p)}, nil))); err != nil || len(again.records) != len(b.records) {
					t.Errorf("%v after encoding again", err)
				}
			}
		})
	})
}

func joined(p pending) (out []byte) {
	for _, c := range p.chunks {
		out = append(out, c.records...)
	}
	return out
}

func FuzzSnapshot(f *testing.F) {
	var b bytes.Buffer
	w, err := newSnapshotWriter(&b, snapshotHeader{revision: 5, logIndex: 2, floors: map[string]int64{storetest.Resource: 6}})
	if err != nil {
		f.Fatal(err)
	}
	if err := w.record(someRecord()); err != nil {
		f.Fatal(err)
	}
	if err := w.end(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:20])
	f.Fuzz(func(t *testing.T, data []byte) {
		bounded(t, data, func() {
			_ = readSnapshot(bytes.NewReader(data), func(kind byte, payload []byte) error {
				_, _ = decodeHeader(payload)
				p := parser{rest: payload}
				_, _ = p.records()
				return nil
			})
			_, _ = decodeHeader(data)
			_, _ = parseKeys(data)
		})
	})
}

func FuzzSegment(f *testing.F) {
	f.Add([]byte("short"))
	f.Add(append(make([]byte, segmentHeader), 1, 0, 0, 0, 2, 0, 0, 0, 9, 9, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3, 4))
	f.Fuzz(func(t *testing.T, data []byte) {
		bounded(t, data, func() {
			if s := scanSegment(data); s.end > len(data) || s.index >= max(s.end, 1) || s.start > s.end {
				t.Errorf("%+v of %d bytes", s, len(data))
			}
			_, _ = laterGroup(data, 1)
		})
	})
}

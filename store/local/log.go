package local

import (
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
)

// walLog is the write side of the log. Append is the committer's alone.
type walLog struct {
	wal  *wal.WAL
	meta *metadb.BoltMetaDB
	// last is the index of the newest entry, written the bytes of all entries ever appended (from an arbitrary start).
	last    uint64
	written int64
	// reserved is that of the newest entry: the revision up to which may be published.
	reserved int64
	// entry is the memory of an append's first entry, which the library copies.
	entry []byte
}

// openLog reads the entries from an index on and opens the log for more.
func openLog(dir string, from uint64, log *slog.Logger) (*walLog, []batch, error) {
	w := &walLog{meta: &metadb.BoltMetaDB{}}
	batches, last, err := readLog(dir, w.meta, from, log)
	if err != nil {
		return nil, nil, errors.Join(err, w.meta.Close())
	}
	w.wal, err = wal.Open(dir, wal.WithMetaStore(w.meta), wal.WithSegmentSize(segmentSize),
		wal.WithLogger(hclog.New(&hclog.LoggerOptions{Name: "wal", Level: hclog.Warn, DisableTime: true, Output: slog.NewLogLogger(log.Handler(), slog.LevelWarn).Writer()})))
	if err != nil {
		return nil, nil, errors.Join(err, w.meta.Close())
	}
	known, err := w.wal.LastIndex()
	if err == nil && known != last {
		err = &damage{filepath.Join(dir, metadb.FileName), errors.New("it does not fit the log beside it")}
	}
	if err != nil {
		return nil, nil, errors.Join(err, w.close())
	}
	w.last = max(last, from)
	return w, batches, nil
}

// append writes all pending records with one sync, and resets pending. With none, it writes the bound alone.
func (w *walLog) append(p *pending, revision, reserved int64, now time.Time) error {
	chunks := p.chunks
	if len(chunks) == 0 {
		chunks = []chunk{{}}
	}
	head := batch{group: w.last + 1, at: now, reserved: reserved}
	entries := make([]*raft.Log, len(chunks))
	bytes := 0
	for i, c := range chunks {
		head.index = head.group + uint64(i)
		data := encodeBatch(w.entry, head, c.count, c.records)
		w.entry = nil
		entries[i] = &raft.Log{Index: head.index, Data: data}
		bytes += len(data)
	}
	if err := w.wal.StoreLogs(entries); err != nil {
		return err
	}
	w.last, w.reserved = head.index, reserved
	w.written += int64(bytes)
	// Keep one chunk's memory and its entry's, unless it grew large.
	first := chunks[0]
	*p = pending{chunks: p.chunks[:0]}
	if cap(first.records) <= 2*chunkSize {
		w.entry = entries[0].Data
		*p = pending{chunks: []chunk{{records: first.records[:0]}}}
	}
	return nil
}

// cut forgets the entries before an index. That one stays, so that the log is never without a bound (batch.reserved). Whole
// segments go; so some entries may stay on disk, unread.
func (w *walLog) cut(index uint64) error {
	first, err := w.wal.FirstIndex()
	if err != nil || first == 0 || first >= index {
		return err
	}
	return w.wal.DeleteRange(first, index-1)
}

func (w *walLog) close() error { return errors.Join(w.wal.Close(), w.meta.Close()) }

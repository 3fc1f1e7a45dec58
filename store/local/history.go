package local

import (
	"sync"
	"time"
)

const (
	// spanAge and spanBytes bound one span: coarse enough that there are few, fine enough to cut the log where wanted.
	spanAge   = 10 * time.Second
	spanBytes = 256 << 10
	// snapshotAfter is how large the log's tail grows at least before a snapshot: reading that much takes a start a few tens of milliseconds.
	snapshotAfter = 8 << 20
)

// span is a stretch of the log that was written within a short time.
type span struct {
	begin, end time.Time
	// revision and index are the newest at its end: all entries up to index hold only records up to revision, or records
	// that a snapshot at revision covers anyway. written is the log's byte count there.
	revision int64
	index    uint64
	written  int64
}

// history remembers when what was written, in order to forget by age and to cut the log by size.
type history struct {
	mu    sync.Mutex
	spans []span
	// cut is where the last snapshot cut the log, live how large that is.
	cut  span
	live int64
	// forgotten is the revision up to which expire has told to forget.
	forgotten int64
}

// add records that the state is at revision now, and tells whether the log wants a snapshot.
func (h *history) add(now time.Time, revision int64, index uint64, written int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := span{begin: now, end: now, revision: revision, index: index, written: written}
	if n := len(h.spans); n > 0 { // always, but for the first
		last := &h.spans[n-1]
		start := h.cut.written
		if n > 1 {
			start = h.spans[n-2].written
		}
		if now.Sub(last.begin) < spanAge && written-start < spanBytes {
			s.begin = last.begin
			*last = s
			return h.due(written)
		}
	}
	h.spans = append(h.spans, s)
	return h.due(written)
}

// due tells whether the tail has outgrown the live data.
func (h *history) due(written int64) bool {
	limit := max(snapshotAfter, h.live)
	return written-h.cut.written > limit
}

// expire drops what ended before a time, but for the newest such span, where the log may be cut. It returns the revision up to
// which history is to be forgotten, 0 for nothing new, and whether there is younger history.
func (h *history) expire(before time.Time) (revision int64, more bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := 0
	for old < len(h.spans) && !h.spans[old].end.After(before) {
		old++
	}
	more = old < len(h.spans)
	if old == 0 {
		return 0, more
	}
	h.spans = append(h.spans[:0], h.spans[old-1:]...)
	if h.spans[0].revision <= h.forgotten {
		return 0, more
	}
	h.forgotten = h.spans[0].revision
	return h.forgotten, more
}

// at returns the newest revision whose span ended before a time.
func (h *history) at(before time.Time) (revision int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.spans {
		if s.end.After(before) {
			break
		}
		revision = s.revision
	}
	return revision
}

// cutPoint picks where a snapshot cuts the log: where history became too old, or later, so as to leave at most half of the
// limit. Without anything to cut it is where the log is cut already, and ok is false.
func (h *history) cutPoint(before time.Time) (at span, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	keep := max(snapshotAfter, h.live) / 2
	written := h.spans[len(h.spans)-1].written
	start := h.cut.written
	at = h.cut
	for _, s := range h.spans {
		if s.end.After(before) && written-start <= keep {
			break
		}
		at, ok, start = s, s.index > h.cut.index, s.written
	}
	return at, ok
}

// done records that the log was cut, and how large the snapshot is.
func (h *history) done(at span, live int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cut, h.live = at, live
}

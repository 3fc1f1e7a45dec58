// Package local is the embedded store: everything in memory, a write-ahead log and a snapshot file beside it on disk.
//
// A commit is encoded (and encrypted) by its caller, then taken together with all that wait by one committer, which checks
// the expected revisions, appends the whole lot with one sync, publishes and answers. A start reads the snapshot and the log's tail;
// the tail also yields the history that lets watches resume. Nothing runs while nothing is written.
// daemon and store tests may import it.
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kebernetes/kebernetes/store"
)

var _ store.Store = (*Local)(nil)

// Options says where and how to keep the objects. Dir and Codec are required.
type Options struct {
	// Dir holds the log, the snapshot and the encryption keys. It is made, for the owner alone, if it is not there.
	Dir string
	// Codec is in practice protobuf. Decode may be handed what any earlier version wrote.
	Codec store.Codec
	// Encrypt tells which resources are encrypted on disk; nil for none.
	Encrypt func(resource string) bool
	// Volatile tells which resources are published without waiting for the disk: a crash may lose their newest changes, and
	// ends the history of their watches. nil for none.
	Volatile func(resource string) bool
	// Logger defaults to discarding.
	Logger *slog.Logger
}

// Local is a store in memory and in a directory. Open it, use it at once, and Run it.
type Local struct {
	opts   Options
	memory *store.Memory
	keys   *keyring
	lock   *os.File
	log    *walLog
	// volatileFloor is where the history of volatile resources begins: a crash may have lost events before it.
	volatileFloor int64

	mu         sync.Mutex
	waiting    []*request
	committing bool
	stopping   bool
	// idle is closed when the committer rests after stopping was set.
	idle chan struct{}

	// committer state; touched by the committer alone, and by Run once that rests.
	revision int64
	pending  pending

	history history
	// wrote wakes Run after a quiet time, grown when the log wants a snapshot; both hold one token.
	wrote, grown chan struct{}
	// failed holds the error after which nothing can be committed any more.
	failed   atomic.Pointer[error]
	failing  chan struct{}
	watching atomic.Bool // Run has a timer for the history that there is

	snapshots sync.Mutex // one snapshot at a time, and none once stopped
	stopped   bool
}

// Open reads the store in a directory, or makes a new one. It repairs a log that a crash cut short; it refuses to touch
// anything that is damaged otherwise, and names the file. The store is released by Run.
func Open(opts Options) (*Local, error) {
	l, err := open(opts)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", opts.Dir, err)
	}
	return l, nil
}

func open(opts Options) (_ *Local, err error) {
	if opts.Encrypt == nil {
		opts.Encrypt = func(string) bool { return false }
	}
	if opts.Volatile == nil {
		opts.Volatile = func(string) bool { return false }
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Local{opts: opts, idle: make(chan struct{}), wrote: make(chan struct{}, 1), grown: make(chan struct{}, 1), failing: make(chan struct{})}
	if err := os.MkdirAll(filepath.Join(opts.Dir, "log"), 0o700); err != nil {
		return nil, err
	}
	if l.lock, err = lockDir(opts.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.release()
		}
	}()
	if l.keys, err = openKeyring(keysPath(opts.Dir)); err != nil {
		return nil, err
	}
	if err := l.recover(); err != nil {
		return nil, err
	}
	return l, l.keys.ensure()
}

// release closes the files.
func (l *Local) release() error {
	var err error
	if l.log != nil {
		err = l.log.close()
	}
	return errors.Join(err, l.lock.Close())
}

// Name names the component.
func (l *Local) Name() string { return "store" }

// Snapshot is the newest published state.
func (l *Local) Snapshot() store.Snapshot { return l.memory.Snapshot() }

// Watch is a cursor over the events of one resource; see store.Reader.
func (l *Local) Watch(resource string, after int64) (*store.Watch, error) {
	if after < l.volatileFloor && l.opts.Volatile(resource) {
		return nil, store.ErrCompacted
	}
	return l.memory.Watch(resource, after)
}

// Compacted is the oldest revision from which a Watch of any resource is still whole.
func (l *Local) Compacted() int64 { return max(l.volatileFloor, l.memory.Compacted()) }

const (
	// historyAge is how long events are kept for watches that resume: what the API promises its clients at least.
	historyAge = 5 * time.Minute
	// historyStep is how much longer than that an event may stay.
	historyStep = 30 * time.Second
	// encodingAge is how long the encodings of events are kept at least: all watchers that keep up have read them by then.
	encodingAge = 5 * time.Second
)

// Run forgets old history and writes snapshots when the log has outgrown them, until ctx ends; then it finishes what was
// committed and closes the store. While nothing is written, nothing wakes it. It returns the error that ended the store, if
// one did: after a failed write to disk, nothing more is taken.
func (l *Local) Run(ctx context.Context) error {
	timer := time.NewTimer(historyStep)
	defer timer.Stop()
	l.watching.Store(true)
	var err error
	for done := false; !done && err == nil; {
		select {
		case <-ctx.Done():
			done = true
		case <-l.failing:
			done = true
		case <-l.grown:
			err = l.snapshot(false)
		case <-l.wrote:
			timer.Reset(historyStep)
		case <-timer.C:
			l.compact(time.Now(), timer)
		}
	}
	return errors.Join(err, l.stop())
}

// compact forgets what is too old, and sets the timer if there is more to come.
func (l *Local) compact(now time.Time, timer *time.Timer) {
	l.watching.Store(false)
	before, more := l.history.expire(now.Add(-historyAge))
	if before > 0 {
		l.memory.Compact(before)
	}
	l.memory.Trim(l.history.at(now.Add(-encodingAge)))
	if err := l.memory.Freeze(l.opts.Codec); err != nil {
		l.opts.Logger.Warn("history stays unpacked", "err", err)
	}
	if more && !l.watching.Swap(true) {
		timer.Reset(historyStep)
	}
}

// stop refuses new commits, waits for those under way, writes what is not written yet and closes everything.
func (l *Local) stop() error {
	l.mu.Lock()
	l.stopping = true
	resting := !l.committing
	l.mu.Unlock()
	if !resting {
		<-l.idle
	}
	l.snapshots.Lock() // a snapshot under way ends first
	defer l.snapshots.Unlock()
	l.stopped = true
	err := l.failure()
	if err == nil && (l.pending.count > 0 || l.log.reserved != l.revision) {
		// The exact bound tells the next start that nothing was lost.
		err = l.log.append(&l.pending, l.revision, l.revision, time.Now())
	}
	l.memory.Close()
	return errors.Join(err, l.release())
}

func (l *Local) failure() error {
	if err := l.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// RotateKey makes a new encryption key for all that is written from now on and rewrites the snapshot. The log's tail
// needs the older keys for a while yet; they are forgotten with a later snapshot.
func (l *Local) RotateKey() error {
	if err := l.keys.rotate(); err != nil {
		return err
	}
	return l.snapshot(true)
}

package local

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/kebernetes/kebernetes/store"
)

func snapshotPath(dir string) string { return filepath.Join(dir, "snapshot") }

// snapshot writes the state where history begins, and cuts the log there. Unless forced, it does so only if that makes the
// log shorter.
func (l *Local) snapshot(force bool) error {
	l.snapshots.Lock()
	defer l.snapshots.Unlock()
	now := time.Now()
	at, ok := l.history.cutPoint(now.Add(-historyAge))
	if l.stopped || !ok && !force {
		return nil
	}
	state, header, past := l.at(at.revision)
	header.logIndex, header.at = at.index, now
	used := map[uint32]bool{}
	var size int64
	err := replaceFile(snapshotPath(l.opts.Dir), func(f *os.File) error {
		w, err := newSnapshotWriter(f, header)
		if err != nil {
			return err
		}
		if err := l.writeItems(w, state, past, used); err != nil {
			return err
		}
		size = w.bytes
		return w.end()
	})
	if err == nil {
		err = l.log.cut(at.index)
	}
	if err == nil {
		err = l.keys.forget(at.index, used)
	}
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	l.history.done(at, size)
	l.opts.Logger.Debug("snapshot written", "revision", at.revision, "bytes", size, "took", time.Since(now))
	return nil
}

// at returns the newest state, and what each resource's history says of the objects that changed since a revision, or since
// the resource's history begins: their items then, nil for none. Together they are the state that the header describes.
func (l *Local) at(revision int64) (store.Snapshot, snapshotHeader, map[store.Key]*store.Item) {
	now := l.memory.Snapshot()
	h := snapshotHeader{revision: revision, floors: map[string]int64{}}
	past := map[store.Key]*store.Item{}
	for resource := range now.Resources() {
		events, floor := l.memory.History(resource, revision)
		if floor > now.Revision() {
			// All that the history began with is newer than now: what now holds is the state at its own revision.
			floor = now.Revision()
			events = nil
		}
		h.floors[resource] = floor
		for i := len(events) - 1; i >= 0; i-- {
			if e := events[i]; e.Item.Revision <= now.Revision() {
				past[e.Item.Key] = e.Prev
			}
		}
	}
	return now, h, past
}

// writeItems writes all objects of a state, with those in past in place of the newest.
func (l *Local) writeItems(w *snapshotWriter, state store.Snapshot, past map[store.Key]*store.Item, used map[uint32]bool) error {
	put := func(item *store.Item) error {
		p, err := l.encodeObject(item.Key, item.Object)
		if err != nil {
			return err
		}
		used[p.keyID] = true
		return w.record(&record{store.Put, item.Revision, item.Created, p.keyID, item.Key, p.bytes})
	}
	for resource := range state.Resources() {
		for item := range state.List(resource, "") {
			if before, changed := past[item.Key]; changed {
				delete(past, item.Key)
				item = before
			}
			if item == nil {
				continue
			}
			if err := put(item); err != nil {
				return err
			}
		}
	}
	for _, item := range past {
		if item == nil {
			continue
		}
		if err := put(item); err != nil {
			return err
		}
	}
	return nil
}

// WriteBackup writes the newest state, as a snapshot that Restore takes. It holds the encryption keys, so it is to be kept
// as safe as the cluster itself.
func (l *Local) WriteBackup(w io.Writer) error {
	if err := l.backup(w); err != nil {
		return fmt.Errorf("back up store: %w", err)
	}
	return nil
}

func (l *Local) backup(w io.Writer) error {
	state := l.memory.Snapshot()
	out, err := newSnapshotWriter(w, snapshotHeader{revision: state.Revision(), at: time.Now()})
	if err != nil {
		return err
	}
	if err := l.writeItems(out, state, nil, map[uint32]bool{}); err != nil {
		return err
	}
	if err := out.flush(); err != nil {
		return err
	}
	// Last, so that they hold all keys that the records needed.
	keys, err := l.keys.export()
	if err != nil {
		return err
	}
	if err := out.frame(frameKeys, keys); err != nil {
		return err
	}
	return out.end()
}

// restoredAhead is how far a restored store's revisions begin after the backup's. The lost cluster went on after the backup
// was taken; clients that saw what it did then must not meet the same revisions with another meaning.
const restoredAhead = 1_000_000_000

// Restore makes a store of a backup, in a directory that holds none. Watches begin anew in it.
func Restore(dir string, backup io.Reader) error {
	if err := restore(dir, backup); err != nil {
		return fmt.Errorf("restore store %s: %w", dir, err)
	}
	return nil
}

func restore(dir string, backup io.Reader) error {
	if entries, err := os.ReadDir(dir); len(entries) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("it is not empty: move it away first"))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var keys []byte
	var records uint64
	err := replaceFile(snapshotPath(dir), func(f *os.File) error {
		var w *snapshotWriter
		return readSnapshot(backup, func(kind byte, payload []byte) (err error) {
			switch kind {
			case frameHeader:
				h, err := decodeHeader(payload)
				if err != nil {
					return err
				}
				h.revision += restoredAhead
				h.logIndex, h.floors = 0, nil
				w, err = newSnapshotWriter(f, h)
				return err
			case frameRecords:
				p := parser{rest: payload}
				found, err := p.records()
				if err != nil {
					return err
				}
				records += uint64(len(found))
				return w.frame(kind, payload)
			case frameKeys:
				keys = payload
				_, err := parseKeys(payload)
				return err
			case frameEnd:
				if p := (parser{rest: payload}); p.number() != records {
					return errCutShort
				}
				w.records = records
				return w.end()
			}
			return errMalformed
		})
	})
	if err != nil || keys == nil {
		return err
	}
	return replaceFile(keysPath(dir), func(f *os.File) error { _, err := f.Write(keys); return err })
}

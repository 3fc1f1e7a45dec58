package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/kebernetes/kebernetes/store"
)

// firstRevision is an empty store's: 0 means "any" in the API.
const firstRevision = 1

// recover reads the snapshot and the log's tail into memory.
func (l *Local) recover() error {
	header, items, err := l.loadSnapshot()
	if err != nil {
		return err
	}
	log, batches, err := openLog(filepath.Join(l.opts.Dir, "log"), header.logIndex, l.opts.Logger)
	if err != nil {
		return err
	}
	l.log = log
	l.memory = store.NewMemory(header.revision)
	for resource, list := range items {
		l.memory.Load(resource, header.floor(resource), slices.Values(list))
	}
	for resource, floor := range header.floors {
		if items[resource] == nil {
			l.memory.Load(resource, floor, slices.Values[[]*store.Item](nil))
		}
	}
	events, err := l.replay(&header, batches)
	if err != nil {
		return err
	}
	l.revision = header.revision
	if n := len(events); n > 0 {
		l.revision = max(l.revision, events[n-1].Item.Revision)
	}
	if n := len(batches); n > 0 {
		log.reserved = batches[n-1].reserved
	}
	if log.reserved > l.revision {
		// A crash: revisions up to the reserved one may have been published and lost.
		l.revision = log.reserved
		l.volatileFloor = l.revision
	}
	log.reserved = l.revision
	l.memory.Publish(l.revision, events)
	l.remember(&header, batches)
	return nil
}

// remember rebuilds when what was written.
func (l *Local) remember(header *snapshotHeader, batches []batch) {
	l.history = history{cut: span{revision: header.revision, index: header.logIndex}}
	if info, err := os.Stat(snapshotPath(l.opts.Dir)); err == nil {
		l.history.live = info.Size()
	}
	revision := header.revision
	for _, b := range batches {
		for _, r := range b.records {
			revision = r.revision
			l.log.written += int64(len(r.payload) + 64)
			if r.keyID != 0 {
				l.keys.use(r.keyID, b.index)
			}
		}
		l.history.add(b.at, revision, b.index, l.log.written)
	}
	if l.history.add(time.Now(), l.revision, l.log.last, l.log.written) {
		signal(l.grown)
	}
}

// loadSnapshot reads the snapshot, if there is one. Frames are decoded on all cores while the file is read.
func (l *Local) loadSnapshot() (header snapshotHeader, items map[string][]*store.Item, err error) {
	path := snapshotPath(l.opts.Dir)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return snapshotHeader{revision: firstRevision}, nil, nil
	}
	if err != nil {
		return header, nil, fmt.Errorf("read snapshot: %w", err)
	}
	defer f.Close()
	d := newDecoder(l)
	var records uint64
	err = readSnapshot(f, func(kind byte, payload []byte) (err error) {
		switch kind {
		case frameHeader:
			header, err = decodeHeader(payload)
			return err
		case frameRecords:
			p := parser{rest: payload}
			found, err := p.records()
			records += uint64(len(found))
			d.add(found)
			return err
		case frameEnd:
			p := parser{rest: payload}
			if p.number() != records {
				return errCutShort
			}
			return nil
		}
		return nil // keys, in a backup that was put in place by hand
	})
	decoded, decodeErr := d.wait()
	if err = errors.Join(err, decodeErr); err != nil {
		return header, nil, &damage{path, err}
	}
	items = map[string][]*store.Item{}
	for _, group := range decoded {
		for _, item := range group {
			items[item.Key.Resource] = append(items[item.Key.Resource], item)
		}
	}
	return header, items, nil
}

// decoder decodes groups of records on all cores, and keeps their order.
type decoder struct {
	local   *Local
	work    chan func()
	workers sync.WaitGroup

	mu     sync.Mutex
	groups [][]*store.Item
	err    error
	names  map[string]string
}

func newDecoder(l *Local) *decoder {
	n := runtime.GOMAXPROCS(0)
	d := &decoder{local: l, work: make(chan func(), 2*n), names: map[string]string{}}
	for range n {
		d.workers.Go(func() {
			for f := range d.work {
				f()
			}
		})
	}
	return d
}

// add queues a group; the items of deletions are left without an object.
func (d *decoder) add(records []record) {
	d.mu.Lock()
	i := len(d.groups)
	d.groups = append(d.groups, nil)
	d.mu.Unlock()
	d.work <- func() {
		items := make([]*store.Item, len(records))
		var err error
		for j := range records {
			if items[j], err = d.decode(&records[j]); err != nil {
				break
			}
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.groups[i] = items
		d.err = errors.Join(d.err, err)
	}
}

func (d *decoder) wait() ([][]*store.Item, error) {
	close(d.work)
	d.workers.Wait()
	return d.groups, d.err
}

func (d *decoder) decode(r *record) (*store.Item, error) {
	item := &store.Item{Key: r.key, Created: r.created, Revision: r.revision, Size: len(r.payload)}
	item.Key.Resource = d.intern(r.key.Resource)
	if r.typ == store.Delete {
		return item, nil
	}
	plain := r.payload
	var err error
	if r.keyID != 0 {
		plain, err = d.local.keys.open(r.keyID, r.key, r.payload)
	}
	if err == nil {
		item.Object, err = d.local.opts.Codec.Decode(item.Key.Resource, plain)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s/%s at revision %d: %w", r.key.Resource, r.key.Namespace, r.key.Name, r.revision, err)
	}
	item.Object.SetResourceVersion(strconv.FormatInt(r.revision, 10))
	return item, nil
}

// intern makes all items of a resource share its name.
func (d *decoder) intern(name string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if shared, ok := d.names[name]; ok {
		return shared
	}
	d.names[name] = name
	return name
}

// replay turns the log's tail into events over the loaded state.
func (l *Local) replay(header *snapshotHeader, batches []batch) ([]store.Event, error) {
	d := newDecoder(l)
	for _, b := range batches {
		b.records = slices.DeleteFunc(slices.Clone(b.records), func(r record) bool { return r.revision <= header.floor(r.key.Resource) })
		if len(b.records) > 0 {
			d.add(b.records)
		}
	}
	groups, err := d.wait()
	if err != nil {
		return nil, &damage{filepath.Join(l.opts.Dir, "log"), err}
	}
	base := l.memory.Snapshot()
	current := map[store.Key]*store.Item{}
	var events []store.Event
	for _, group := range groups {
		for _, item := range group {
			prev, ok := current[item.Key]
			if !ok {
				prev = base.Get(item.Key)
			}
			e := store.Event{Item: item, Prev: prev}
			current[item.Key] = item
			if item.Object == nil {
				if prev == nil {
					return nil, &damage{filepath.Join(l.opts.Dir, "log"), fmt.Errorf("revision %d deletes an object that is not there", item.Revision)}
				}
				e.Type = store.Delete
				item.Object, item.Size = store.Tombstone(prev.Object, item.Revision), prev.Size
				current[item.Key] = nil
			}
			events = append(events, e)
		}
	}
	return events, nil
}

package store

// Codec turns objects into bytes and back. It must be safe for concurrent use. Decode must not keep data.
type Codec interface {
	Encode(resource string, obj Object) ([]byte, error)
	Decode(resource string, data []byte) (Object, error)
}

// freezeBatch is how many events are frozen between two looks at the ring, which are all that a publisher can meet.
const freezeBatch = 256

// Freeze packs the states in the history that are neither current nor news (see Trim): decoded, they take several times the
// room, in pieces between which nothing else fits. Who reads such an event, late as it is, gets its states decoded anew.
func (m *Memory) Freeze(codec Codec) error {
	m.mu.Lock()
	rings := make([]*ring, 0, len(m.rings))
	for _, r := range m.rings {
		rings = append(rings, r)
	}
	m.mu.Unlock()
	for _, r := range rings {
		if err := r.freeze(m.Snapshot(), codec); err != nil {
			return err
		}
	}
	return nil
}

// freeze freezes what is older than the news. It encodes without the lock: events are never changed but here.
func (r *ring) freeze(now Snapshot, codec Codec) error {
	f := freezer{now: now, codec: codec, done: map[*Item]*Item{}}
	var batch []Event
	for seq := uint64(0); ; seq += uint64(len(batch)) {
		seq, batch = r.old(seq, batch[:0])
		if len(batch) == 0 {
			return nil
		}
		for i := range batch {
			if err := f.freeze(&batch[i]); err != nil {
				return err
			}
		}
		r.replace(seq, batch, codec)
	}
}

// old copies the next events that are not news, from a sequence number on, and returns that of the first.
func (r *ring) old(seq uint64, batch []Event) (uint64, []Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seq = max(seq, r.head)
	for at := seq; at < r.news && len(batch) < freezeBatch; at++ {
		batch = append(batch, *r.at(at))
	}
	return seq, batch
}

func (r *ring) replace(seq uint64, batch []Event, codec Codec) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.codec = codec
	for i, e := range batch {
		if at := seq + uint64(i); at >= r.head {
			*r.at(at) = e
		}
	}
}

// freezer freezes events, each state of theirs once.
type freezer struct {
	now   Snapshot
	codec Codec
	done  map[*Item]*Item
}

func (f *freezer) freeze(e *Event) (err error) {
	switch {
	case e.Type == Delete && e.Prev != nil: // it is the state before, under the revision of the deletion
		e.Item = &Item{Key: e.Item.Key, Created: e.Item.Created, Revision: e.Item.Revision, Size: e.Item.Size}
	case e.Type == Put && f.now.Get(e.Item.Key) != e.Item:
		if e.Item, err = f.state(e.Item); err != nil {
			return err
		}
	}
	if e.Prev != nil {
		e.Prev, err = f.state(e.Prev)
	}
	return err
}

func (f *freezer) state(i *Item) (*Item, error) {
	if i.Object == nil {
		return i, nil
	}
	if frozen := f.done[i]; frozen != nil {
		return frozen, nil
	}
	data, err := f.codec.Encode(i.Key.Resource, i.Object)
	if err != nil {
		return nil, err
	}
	frozen := &Item{Key: i.Key, Created: i.Created, Revision: i.Revision, Size: i.Size}
	frozen.encodings.Store(&[]encoding{{bytes: data}})
	f.done[i] = frozen
	return frozen, nil
}

// thaw decodes the states of events that were frozen. What it cannot decode counts as forgotten.
func thaw(events []Event, codec Codec) error {
	if codec == nil {
		return nil
	}
	done := map[*Item]*Item{}
	state := func(i *Item) (*Item, error) {
		if i == nil || i.Object != nil {
			return i, nil
		}
		if thawed := done[i]; thawed != nil {
			return thawed, nil
		}
		obj, err := codec.Decode(i.Key.Resource, (*i.encodings.Load())[0].bytes)
		if err != nil {
			return nil, ErrCompacted
		}
		done[i] = &Item{Key: i.Key, Object: obj, Created: i.Created, Revision: i.Revision, Size: i.Size}
		done[i].retire()
		return done[i], nil
	}
	for i := range events {
		e := &events[i]
		var err error
		if e.Prev, err = state(e.Prev); err != nil {
			return err
		}
		if e.Type == Delete && e.Item.Object == nil {
			last := e.Item
			e.Item = &Item{Key: last.Key, Object: Tombstone(e.Prev.Object, last.Revision), Created: last.Created, Revision: last.Revision, Size: last.Size}
			e.Item.retire()
			continue
		}
		if e.Item, err = state(e.Item); err != nil {
			return err
		}
	}
	return nil
}

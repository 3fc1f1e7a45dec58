package controller

import (
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/kinds"
)

// feed turns the events of several cursors into index updates and queued keys. Cursors are read under one lock, by whoever
// comes first: the goroutine that waits for the cursor, or a worker that is about to reconcile and must not see an older
// state than its own last write.
type feed struct {
	client  *client.Client
	queue   *queue
	every   func(*kinds.Kind) (Watch, bool)
	mu      sync.Mutex
	cursors []*cursor
}

type cursor struct {
	Watch
	watch *client.Watch
	// kind is set for a cursor that every asked for; done ends it with its kind.
	kind *kinds.Kind
	done chan struct{}
}

// start opens all cursors at one snapshot and delivers what it holds.
func (f *feed) start(watches []Watch) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	snap := f.client.Snapshot()
	for _, w := range watches {
		cur := &cursor{Watch: w}
		f.cursors = append(f.cursors, cur)
		if err := f.restart(cur, snap); err != nil {
			return err
		}
	}
	_, err := f.syncKinds(snap)
	return err
}

// syncKinds opens cursors for kinds that are new in the table, which it returns, and ends those of kinds that have gone. The caller holds mu.
func (f *feed) syncKinds(snap client.Snapshot) (opened []*cursor, err error) {
	if f.every == nil {
		return nil, nil
	}
	rows := f.client.Table().All()
	followed := map[*kinds.Kind]bool{}
	f.cursors = slices.DeleteFunc(f.cursors, func(cur *cursor) bool {
		if cur.kind == nil || slices.Contains(rows, cur.kind) {
			followed[cur.kind] = true
			return false
		}
		close(cur.done)
		return true
	})
	for _, k := range rows {
		if followed[k] {
			continue
		}
		w, ok := f.every(k)
		if !ok {
			continue
		}
		cur := &cursor{Watch: w, kind: k, done: make(chan struct{})}
		f.cursors = append(f.cursors, cur)
		opened = append(opened, cur)
		if err := f.restart(cur, snap); err != nil {
			return opened, err
		}
	}
	return opened, nil
}

// restart opens a cursor at a snapshot, or at a newer one when the events since are gone already.
func (f *feed) restart(cur *cursor, snap client.Snapshot) error {
	for {
		w, err := f.client.Watch(cur.Resource, snap.Revision())
		if isCompacted(err) {
			snap = f.client.Snapshot()
			continue
		}
		if err != nil {
			return err
		}
		cur.watch = w
		break
	}
	if cur.Index != nil {
		cur.Index.reset(snap.List(cur.Resource, ""), func(gone *client.Item) {
			cur.keys(client.Event{Type: client.Delete, Item: gone}, f.queue.add)
		})
	}
	if cur.Keys != nil {
		for item := range snap.List(cur.Resource, "") {
			cur.Keys(client.Event{Type: client.Put, Item: item}, f.queue.add)
		}
	}
	return nil
}

func (c *cursor) keys(ev client.Event, add func(Key)) {
	if c.Keys != nil {
		c.Keys(ev, add)
	}
}

// follow delivers events until ctx ends (nil) or a cursor breaks.
func (f *feed) follow(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	f.mu.Lock()
	for _, cur := range f.cursors {
		g.Go(func() error { return f.followOne(ctx, cur) })
	}
	f.mu.Unlock()
	g.Go(func() error {
		if f.every == nil {
			<-ctx.Done()
			return nil
		}
		for {
			changed := f.client.Table().Changed()
			f.mu.Lock()
			opened, err := f.syncKinds(f.client.Snapshot())
			f.mu.Unlock()
			if err != nil {
				return err
			}
			for _, cur := range opened {
				g.Go(func() error { return f.followOne(ctx, cur) })
			}
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			}
		}
	})
	return g.Wait()
}

// followOne delivers the events of one cursor until ctx or the cursor's kind ends.
func (f *feed) followOne(ctx context.Context, cur *cursor) error {
	for {
		f.mu.Lock()
		pending := cur.watch.Pending()
		f.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-cur.done:
			return nil
		case <-pending:
		}
		f.mu.Lock()
		err := f.drain(cur)
		f.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// catchUp delivers all events that have been published before the call.
func (f *feed) catchUp() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, cur := range f.cursors {
		if err := f.drain(cur); err != nil {
			return err
		}
	}
	return nil
}

// drain reads a cursor until nothing is pending; the caller holds mu.
func (f *feed) drain(cur *cursor) error {
	for {
		select {
		case <-cur.watch.Pending():
		default:
			return nil
		}
		// Something is pending, so Next does not wait.
		events, _, err := cur.watch.Next(context.Background())
		if isCompacted(err) {
			if err := f.restart(cur, f.client.Snapshot()); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		for _, ev := range events {
			if cur.Index != nil {
				cur.Index.apply(ev)
			}
			cur.keys(ev, f.queue.add)
		}
	}
}

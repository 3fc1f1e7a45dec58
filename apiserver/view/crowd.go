package view

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// perWatcher is about three times what it costs one of two cores to send one watcher something, the client's end
	// included: a frame, an encryption, a system call and a few switches, 65 us in all. What is sent hardly matters beside. So
	// two thirds of the time are left for those who write, and what they write in it travels together.
	perWatcher = 100 * time.Microsecond
	// longest bounds the delay of an event that follows another at once.
	longest = 50 * time.Millisecond
	// shortest is what a timer is worth: few watchers are not held up at all.
	shortest = 500 * time.Microsecond
)

// Crowds counts the watchers of each resource, so that what many of them are sent can be spaced out: events that come close
// together travel together. The zero value is ready. Safe for concurrent use.
type Crowds struct {
	mu    sync.Mutex
	sizes map[string]*atomic.Int64
}

// Join adds a watcher of a resource, until leave is called.
func (c *Crowds) Join(resource string) (w *Watcher, leave func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	size := c.sizes[resource]
	if size == nil {
		size = &atomic.Int64{}
		if c.sizes == nil {
			c.sizes = map[string]*atomic.Int64{}
		}
		c.sizes[resource] = size
	}
	size.Add(1)
	return &Watcher{crowd: size}, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if size.Add(-1) == 0 {
			delete(c.sizes, resource)
		}
	}
}

// Watcher is one watcher. For one goroutine at a time.
type Watcher struct {
	crowd *atomic.Int64
	timer *time.Timer
}

// gap is how long a watcher in a crowd is left alone after it was sent something. The first event after a pause goes out at
// once.
func gap(crowd int64) time.Duration {
	d := min(time.Duration(crowd)*perWatcher, longest)
	if d < shortest {
		return 0
	}
	return d
}

// Pause waits until the watcher is to be sent something again, or ctx is done.
func (w *Watcher) Pause(ctx context.Context) {
	d := gap(w.crowd.Load())
	if d == 0 {
		return
	}
	if w.timer == nil {
		w.timer = time.NewTimer(d)
	} else {
		w.timer.Reset(d)
	}
	select {
	case <-w.timer.C:
	case <-ctx.Done():
		w.timer.Stop()
	}
}

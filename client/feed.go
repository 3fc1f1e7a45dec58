package client

import (
	"context"
	"errors"
	"fmt"
)

// Feed is the events of several resources, for who reads all that there are at a time. For one goroutine at a time. It needs no
// closing.
type Feed struct{ watches []*Watch }

// OpenFeed returns the events of resources (as ResourceOf names them) after a revision. Errors are those of Watch.
func OpenFeed(c *Client, after int64, resources ...string) (*Feed, error) {
	f := &Feed{}
	for _, resource := range resources {
		w, err := c.Watch(resource, after)
		if err != nil {
			return nil, fmt.Errorf("watch %s: %w", resource, err)
		}
		f.watches = append(f.watches, w)
	}
	return f, nil
}

// Pending returns a channel that is closed while there are events of the resource that stands at index i, and a nil one, on which one waits
// for ever, where none does. It is valid until the next call of Drain.
func (f *Feed) Pending(i int) <-chan struct{} {
	if i >= len(f.watches) {
		return nil
	}
	return f.watches[i].Pending()
}

// Drain hands all events that there are to note, one resource after the other, and returns the revision up to which that is all. It
// does not wait. Errors are those of Watch.Next.
func (f *Feed) Drain(note func(Event)) (revision int64, err error) {
	// A context that is done makes Next return at once.
	now, cancel := context.WithCancel(context.Background())
	cancel()
	for i, w := range f.watches {
		for {
			events, at, err := w.Next(now)
			if err != nil && !errors.Is(err, context.Canceled) {
				return 0, err
			}
			for _, e := range events {
				note(e)
			}
			if len(events) > 0 {
				continue
			}
			if i == 0 || at < revision {
				revision = at
			}
			break
		}
	}
	return revision, nil
}

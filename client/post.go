package client

import (
	"context"
	"net/http"
)

// PostPath posts JSON to a path of the server that is no resource's, and returns the error that it answers with, if any.
func (r *Remote) PostPath(ctx context.Context, path string, body []byte) error {
	req, err := r.request(ctx, http.MethodPost, r.o.Server+path, jsonType, body)
	if err != nil {
		return err
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusMultipleChoices {
		return readStatus(resp)
	}
	return nil
}

// WaitSeen waits until the copy of a mirrored resource holds everything up to one of the server's revisions of it.
func (r *Remote) WaitSeen(ctx context.Context, resource string, version int64) error {
	m := r.mirrors[resource]
	m.mu.Lock()
	if m.seen >= version {
		m.mu.Unlock()
		return nil
	}
	w := &waiter{shown: func(seen int64) bool { return seen >= version }, done: make(chan struct{})}
	m.waiting = append(m.waiting, w)
	m.mu.Unlock()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
	}
	m.giveUp(w)
	return ctx.Err()
}

package fake

import (
	"context"
	"sync"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// listener queues events for one caller of Events.
type listener struct {
	mu    sync.Mutex
	queue []*rt.ContainerEventResponse
	wake  chan struct{} // holds one token when the queue may be non-empty
}

// publish hands an event to all listeners; the caller holds r.mu.
func (r *Runtime) publish(sandboxID, id string, what rt.ContainerEventType) {
	if len(r.listeners) == 0 {
		return
	}
	event := &rt.ContainerEventResponse{ContainerId: id, ContainerEventType: what, CreatedAt: time.Now().UnixNano()}
	if s := r.sandboxes[sandboxID]; s != nil {
		event.PodSandboxStatus = s.status
	}
	for _, c := range r.containers {
		if c.sandbox == sandboxID {
			event.ContainersStatuses = append(event.ContainersStatuses, c.status)
		}
	}
	for l := range r.listeners {
		l.mu.Lock()
		l.queue = append(l.queue, event)
		l.mu.Unlock()
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// Events implements cri.Containers.
func (r *Runtime) Events(ctx context.Context, ready func(), f func(*rt.ContainerEventResponse)) error {
	l := &listener{wake: make(chan struct{}, 1)}
	r.mu.Lock()
	r.listeners[l] = struct{}{}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.listeners, l)
		r.mu.Unlock()
	}()
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.wake:
		}
		l.mu.Lock()
		queue := l.queue
		l.queue = nil
		l.mu.Unlock()
		for _, e := range queue {
			f(e)
		}
	}
}

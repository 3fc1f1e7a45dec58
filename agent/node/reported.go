package node

import "context"

// Reported returns once the node's status in the API tells how things are now, volumes in use above all.
func (k *Keeper) Reported(ctx context.Context) error {
	told := make(chan struct{})
	k.putBack([]chan struct{}{told})
	k.Report()
	select {
	case <-told:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (k *Keeper) takeWaiters() []chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := k.waiters
	k.waiters = nil
	return out
}

func (k *Keeper) putBack(waiters []chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.waiters = append(k.waiters, waiters...)
}

package agent

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// turnTime is how long a call may keep its turn. A call that hangs loses it then, and holds nobody up any longer. It is as well
// how long a pod waits for a turn before that is said.
const turnTime = 10 * time.Second

// turnKind says what a turn is for.
type turnKind int

// The kinds of turns: what comes first in this list goes first, so that pods that were begun are finished before others are begun.
const (
	containerTurn turnKind = iota
	sandboxTurn
	turnKinds
)

func (k turnKind) String() string { return [turnKinds]string{"container", "sandbox"}[k] }

// turns bounds how many sandboxes and containers are made at a time. What makes them is work for the processor, so that more at
// once end no sooner, but all of them late; and each of them lives in memory meanwhile. Of one kind, whoever asks first goes first.
// Safe for concurrent use; a nil one bounds nothing.
type turns struct {
	most int

	mu      sync.Mutex
	held    []*turn
	waiting [turnKinds][]*turn
}

// turn is one pod's.
type turn struct {
	kind  turnKind
	pod   string
	since time.Time     // when it began
	ready chan struct{} // closed when it begins
}

// newTurns is for this machine; docs/decisions/006-what-a-pod-start-costs.md has the figures.
func newTurns() *turns { return &turns{most: max(4, 2*runtime.GOMAXPROCS(0))} }

// take waits for a turn until ctx ends, which is the only error. done gives it back. waits is called once, with the reason,
// when that takes long.
func (t *turns) take(ctx context.Context, kind turnKind, pod string, waits func(why string)) (done func(), err error) {
	if t == nil {
		return func() {}, ctx.Err()
	}
	mine := &turn{kind: kind, pod: pod, ready: make(chan struct{})}
	t.mu.Lock()
	t.waiting[kind] = append(t.waiting[kind], mine)
	t.next()
	t.mu.Unlock()
	long := time.NewTimer(turnTime)
	defer long.Stop()
	for {
		select {
		case <-mine.ready:
			lost := time.AfterFunc(turnTime, func() { t.leave(mine) })
			return func() { lost.Stop(); t.leave(mine) }, nil
		case <-ctx.Done():
			t.leave(mine)
			return nil, ctx.Err()
		case <-long.C:
			waits(t.why(kind))
		}
	}
}

// next lets those begin whose turn it is. The lock is held.
func (t *turns) next() {
	for kind := range t.waiting {
		for len(t.held) < t.most && len(t.waiting[kind]) > 0 {
			first := t.waiting[kind][0]
			t.waiting[kind] = t.waiting[kind][1:]
			t.held = append(t.held, first)
			first.since = time.Now()
			close(first.ready)
		}
	}
}

// leave gives a turn back, or gives up waiting for it. Repeatable.
func (t *turns) leave(mine *turn) {
	is := func(other *turn) bool { return other == mine }
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held = slices.DeleteFunc(t.held, is)
	t.waiting[mine.kind] = slices.DeleteFunc(t.waiting[mine.kind], is)
	t.next()
}

// why says what a turn of a kind waits for.
func (t *turns) why(kind turnKind) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	ahead := 0
	for k := range kind + 1 {
		ahead += len(t.waiting[k])
	}
	text := fmt.Sprintf("Waiting for the container runtime to make the pod's %s: %d wait and %d are being made", kind, ahead, len(t.held))
	if len(t.held) > 0 {
		first := t.held[0]
		text += fmt.Sprintf(", the first of them the %s of pod %s for %s", first.kind, first.pod, time.Since(first.since).Round(time.Second))
	}
	return text
}

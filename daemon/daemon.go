// Package daemon wires keb together: System is the ordered list of components of one process, and the only place where the
// packages meet. It is the sole importer of everything; only cli and testcluster import it.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Component is a part of the process with a life of its own.
type Component interface {
	// Name says which part it is, for logs and errors.
	Name() string
	// Run works until ctx is done, waits for all that it started, and returns nil then. Any other return ends the process.
	Run(ctx context.Context) error
}

// starter is a Component that those after it in the list need running: they start once Started is closed.
type starter interface {
	Component
	Started() <-chan struct{}
}

// stopDeadline is how long all components together may take to stop before the process ends without them.
const stopDeadline = 20 * time.Second

// ErrStopDeadline says that a component did not stop in time.
var ErrStopDeadline = errors.New("stop deadline exceeded")

// running is a started component.
type running struct {
	Component
	cancel context.CancelFunc
	done   chan struct{}
}

// supervise starts the components in order, those that others need before those others, waits until ctx is done or one of them returns, and stops them in reverse order:
// each is told to stop only when those after it have stopped. It returns the first component's error, if any.
func supervise(ctx context.Context, log *slog.Logger, components []Component) error {
	ended := make(chan error, len(components))
	started := make([]running, 0, len(components))
	for _, c := range components {
		// Each has a context of its own, so that those it depends on outlive it at shutdown.
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		r := running{Component: c, cancel: cancel, done: make(chan struct{})}
		started = append(started, r)
		go func() {
			defer close(r.done)
			err := c.Run(own)
			switch {
			case err != nil:
				ended <- fmt.Errorf("%s: %w", c.Name(), err)
			case own.Err() == nil:
				ended <- fmt.Errorf("%s: ended by itself", c.Name())
			}
		}()
		if first, stop := awaitReady(ctx, c, ended); stop {
			return stopAll(log, started, first, ended)
		}
	}
	var first error
	select {
	case <-ctx.Done():
	case first = <-ended:
	}
	return stopAll(log, started, first, ended)
}

// awaitReady waits for a component that others need. stop says that the process is to end before that.
func awaitReady(ctx context.Context, c Component, ended <-chan error) (first error, stop bool) {
	s, ok := c.(starter)
	if !ok {
		return nil, false
	}
	select {
	case <-s.Started():
		return nil, false
	case <-ctx.Done():
		return nil, true
	case err := <-ended:
		return err, true
	}
}

// stopAll stops what was started, the last first. first is the failure that led here, if any.
func stopAll(log *slog.Logger, started []running, first error, ended <-chan error) error {
	deadline := time.NewTimer(stopDeadline)
	defer deadline.Stop()
	for i := len(started) - 1; i >= 0; i-- {
		started[i].cancel()
		select {
		case <-started[i].done:
			log.Debug("stopped", "component", started[i].Name())
		case <-deadline.C:
			return errors.Join(first, fmt.Errorf("stop %s: %w", started[i].Name(), ErrStopDeadline))
		}
	}
	if first == nil {
		select {
		case first = <-ended: // a failure while stopping
		default:
		}
	}
	return first
}

package daemon

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

type part struct {
	name string
	run  func(ctx context.Context) error
}

func (p part) Name() string                  { return p.name }
func (p part) Run(ctx context.Context) error { return p.run(ctx) }

func TestSuperviseStopsInReverseOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var stopped []string
		wait := func(name string) Component {
			return part{name, func(ctx context.Context) error {
				<-ctx.Done()
				mu.Lock()
				defer mu.Unlock()
				stopped = append(stopped, name)
				return nil
			}}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := supervise(ctx, slog.New(slog.DiscardHandler), []Component{wait("store"), wait("api"), wait("agent")}); err != nil {
			t.Fatal(err)
		}
		if want := []string{"agent", "api", "store"}; !slices.Equal(stopped, want) {
			t.Errorf("stopped %v, want %v", stopped, want)
		}
	})
}

func TestSuperviseEndsWithTheFirstFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("disk full")
		waits := part{"api", func(ctx context.Context) error { <-ctx.Done(); return nil }}
		fails := part{"store", func(context.Context) error { return broken }}
		err := supervise(t.Context(), slog.New(slog.DiscardHandler), []Component{fails, waits})
		if !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "store: ") {
			t.Errorf("got %v, want the store's error", err)
		}
	})
}

func TestSuperviseDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		hangs := part{"agent", func(context.Context) error { <-release; return nil }}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := supervise(ctx, slog.New(slog.DiscardHandler), []Component{hangs})
		if !errors.Is(err, ErrStopDeadline) || !strings.Contains(err.Error(), "agent") {
			t.Errorf("got %v, want the stop deadline of the agent", err)
		}
	})
}

type needed struct {
	part
	ready chan struct{}
}

func (n needed) Started() <-chan struct{} { return n.ready }

func TestSuperviseWaitsForWhatOthersNeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := needed{ready: make(chan struct{})}
		isReady := false
		api.part = part{"api", func(ctx context.Context) error {
			time.Sleep(time.Second)
			isReady = true
			close(api.ready)
			<-ctx.Done()
			return nil
		}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		uses := part{"controllers", func(ctx context.Context) error {
			if !isReady {
				t.Error("started before what it needs was ready")
			}
			<-ctx.Done()
			return nil
		}}
		if err := supervise(ctx, slog.New(slog.DiscardHandler), []Component{api, uses}); err != nil {
			t.Fatal(err)
		}
	})
}

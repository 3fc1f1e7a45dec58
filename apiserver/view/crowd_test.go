package view

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestPause(t *testing.T) {
	for _, c := range []struct {
		watchers int
		want     time.Duration
	}{
		{1, 0}, {4, 0}, {5, 500 * time.Microsecond}, {100, 10 * time.Millisecond}, {500, 50 * time.Millisecond}, {1000, 50 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			var crowds Crowds
			var w *Watcher
			var leaves []func()
			for range c.watchers {
				one, leave := crowds.Join("pods")
				w, leaves = one, append(leaves, leave)
			}
			other, leave := crowds.Join("secrets")
			for range 2 {
				start := time.Now()
				other.Pause(t.Context())
				w.Pause(t.Context())
				if took := time.Since(start); took != c.want {
					t.Errorf("among %d watchers, one is left alone for %v, want %v", c.watchers, took, c.want)
				}
			}
			gone, cancel := context.WithCancel(t.Context())
			cancel()
			start := time.Now()
			w.Pause(gone)
			if took := time.Since(start); took != 0 {
				t.Errorf("a watcher that has gone waits for %v", took)
			}
			for _, leave := range append(leaves, leave) {
				leave()
			}
			if len(crowds.sizes) != 0 {
				t.Errorf("%d resources are kept without watchers", len(crowds.sizes))
			}
		})
	}
}

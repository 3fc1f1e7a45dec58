package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestTurns asks for turns, one a millisecond, and notes who began when.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := &turns{most: 2}
		start := time.Now()
		var began []string
		ask := func(kind turnKind, pod string, work time.Duration) {
			go func() {
				done, err := turns.take(t.Context(), kind, pod, func(string) {})
				if err != nil {
					t.Error(err)
					return
				}
				began = append(began, fmt.Sprintf("%s@%d", pod, time.Since(start).Milliseconds()))
				time.Sleep(work)
				done()
			}()
			time.Sleep(time.Millisecond)
		}
		ask(sandboxTurn, "a", 100*time.Millisecond)
		ask(sandboxTurn, "hangs", time.Hour)
		ask(sandboxTurn, "b", 100*time.Millisecond)
		ask(sandboxTurn, "c", 100*time.Millisecond)
		ask(containerTurn, "d", 100*time.Millisecond)
		ask(sandboxTurn, "e", 20*time.Second)
		ask(sandboxTurn, "f", time.Second)
		time.Sleep(2 * time.Hour)
		// d is a container's and goes before the sandboxes; f goes on when the hanging call has lost its turn.
		if got, want := strings.Join(began, " "), "a@0 hangs@1 d@100 b@200 c@300 e@400 f@10001"; got != want {
			t.Errorf("turns began: %s\nwant %s", got, want)
		}
		if len(turns.held) != 0 {
			t.Errorf("%d turns are still held", len(turns.held))
		}
	})
}

func TestTurnsSayWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := &turns{most: 1}
		if _, err := turns.take(t.Context(), sandboxTurn, "shop/hangs", nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		go func() {
			done, err := turns.take(t.Context(), containerTurn, "shop/slow", func(string) {})
			if err == nil {
				time.Sleep(time.Minute)
				done()
			}
		}()
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		said := ""
		if _, err := turns.take(ctx, sandboxTurn, "shop/web", func(why string) { said += why }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the wait ended with %v", err)
		}
		want := "Waiting for the container runtime to make the pod's sandbox: 1 wait and 1 are being made, the first of them the container of pod shop/slow for 2s"
		if said != want {
			t.Errorf("said %q\nwant %q", said, want)
		}
		if len(turns.waiting[sandboxTurn]) != 0 {
			t.Error("who gave up waits still")
		}
		time.Sleep(time.Hour)
	})
}

package daemon

import (
	"os"
	"strings"
	"sync"
	"testing"
)

// One process has a data directory, which others may look at as often as they like.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	holder := func(want int) {
		t.Helper()
		if pid, err := Holder(dir); pid != want || err != nil {
			t.Errorf("holder %d, %v, want %d", pid, err, want)
		}
	}
	holder(0)
	done := make(chan struct{})
	var lookers sync.WaitGroup
	for range 2 {
		lookers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					_, _ = Holder(dir)
				}
			}
		})
	}
	for range 200 {
		l, err := takeLock(dir)
		if err != nil {
			t.Error(err)
			break
		}
		l.release()
	}
	close(done)
	lookers.Wait()
	held, err := takeLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	holder(os.Getpid())
	if _, err := takeLock(dir); err == nil || !strings.Contains(err.Error(), "is in use by process") {
		t.Errorf("a second claim: %v", err)
	}
	held.release()
	holder(0)
}

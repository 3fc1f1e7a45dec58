package daemon

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slow is the socket of a peer that takes a write only when told, and counts them.
type slow struct {
	net.Conn
	take   chan struct{}
	writes [][]byte
	ends   chan struct{} // closed by a deadline for writes
	once   sync.Once
	closed bool
}

func newSlow() *slow { return &slow{take: make(chan struct{}), ends: make(chan struct{})} }

func (s *slow) Write(p []byte) (int, error) {
	select {
	case <-s.take:
		s.writes = append(s.writes, bytes.Clone(p))
		return len(p), nil
	case <-s.ends:
		return 0, os.ErrDeadlineExceeded
	}
}

func (s *slow) SetReadDeadline(time.Time) error { return nil }

func (s *slow) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() {
		time.AfterFunc(time.Until(t), func() { s.once.Do(func() { close(s.ends) }) })
	}
	return nil
}

func (s *slow) Close() error { s.closed = true; return nil }

func (s *slow) got() string { return string(bytes.Join(s.writes, []byte("|"))) }

func TestLinkGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, closing := newSlow(), sync.WaitGroup{}
		l := newLink(peer, &closing)
		io.WriteString(l, "a")
		synctest.Wait()
		io.WriteString(l, "b")
		io.WriteString(l, "c")
		peer.take <- struct{}{}
		peer.take <- struct{}{}
		synctest.Wait()
		if got := peer.got(); got != "a|bc" {
			t.Errorf("written: %q, want what came during the first write in one more", got)
		}
		if err := l.Close(); err != nil || !peer.closed {
			t.Errorf("closed: %v, %v", peer.closed, err)
		}
	})
}

func TestLinkHoldsWritersBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, closing := newSlow(), sync.WaitGroup{}
		l := newLink(peer, &closing)
		taken := 0
		done := make(chan error)
		go func() {
			for {
				if _, err := l.Write(make([]byte, 16<<10)); err != nil {
					done <- err
					return
				}
				taken += 16 << 10
			}
		}()
		synctest.Wait()
		if taken > 3*linkMost {
			t.Errorf("%d bytes were taken that the peer does not read", taken)
		}
		if err := l.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the writer hears %v", err)
		}
		l.Close()
	})
}

func TestLinkSendsWhatWasWrittenBeforeTheEnd(t *testing.T) {
	for _, reads := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			peer, closing := newSlow(), sync.WaitGroup{}
			l := newLink(peer, &closing)
			io.WriteString(l, "a")
			synctest.Wait()
			io.WriteString(l, "the end")
			l.SetDeadline(time.Now()) // as TLS does behind its last record
			if _, err := io.WriteString(l, "more"); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("what comes later: %v", err)
			}
			if reads {
				peer.take <- struct{}{}
				peer.take <- struct{}{}
				synctest.Wait()
			}
			start := time.Now()
			l.Close()
			closing.Wait()
			if got := peer.got(); reads && got != "a|the end" {
				t.Errorf("sent: %q", got)
			}
			if took := time.Since(start); took > closeTimeout || !peer.closed {
				t.Errorf("a peer that reads %v: closed %v after %v", reads, peer.closed, took)
			}
			if _, err := io.WriteString(l, "x"); !errors.Is(err, net.ErrClosed) {
				t.Errorf("written to a closed connection: %v", err)
			}
		})
	}
}

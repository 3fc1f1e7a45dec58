package daemon

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// linkMost bounds what waits for one connection's socket; what comes beyond waits with its writer.
	linkMost = 64 << 10
	// closeTimeout is how long a connection that is closed may take to send what was written before.
	closeTimeout = time.Second
)

// links gives the connections of a listener their gathering of writes.
type links struct {
	net.Listener
	// closing counts the connections that are closed but still send; each does so for closeTimeout at most.
	closing sync.WaitGroup
}

// Accept waits for the next connection.
func (l *links) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newLink(c, &l.closing), nil
}

// link is a connection whose writes gather while one is under way, so that one system call sends them all. HTTP/2 makes a
// record of each frame, and TLS a system call of each record, of which 200 watches on one connection write thousands a second;
// nothing waits when nothing is under way. A failed write is told to those that follow.
type link struct {
	net.Conn
	closing *sync.WaitGroup

	mu       sync.Mutex
	changed  sync.Cond // of all below
	waiting  *[]byte   // what was written since the write under way began
	writing  bool      // drain runs
	refusing bool      // the time for writes is over
	closed   bool
	err      error // of the last write
}

func newLink(c net.Conn, closing *sync.WaitGroup) *link {
	l := &link{Conn: c, closing: closing}
	l.changed.L = &l.mu
	return l
}

// linkBuffers is memory for use again; it holds no state. Idle connections have none.
var linkBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, linkMost+32<<10) // a TLS record more than linkMost
	return &b
}}

// Write takes p. It waits only while much was taken that could not be sent yet.
func (l *link) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.err == nil && !l.closed && l.waiting != nil && len(*l.waiting) >= linkMost {
		l.changed.Wait()
	}
	switch {
	case l.closed:
		return 0, net.ErrClosed
	case l.err != nil:
		return 0, l.err
	case l.refusing:
		return 0, os.ErrDeadlineExceeded
	}
	if l.waiting == nil {
		l.waiting = linkBuffers.Get().(*[]byte)
	}
	*l.waiting = append(*l.waiting, p...)
	if !l.writing {
		l.writing = true
		go l.drain()
	}
	return len(p), nil
}

// drain sends until nothing waits any more.
func (l *link) drain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.waiting != nil {
		out := l.waiting
		l.waiting = nil
		if l.err == nil {
			l.changed.Broadcast()
			l.mu.Unlock()
			_, err := l.Conn.Write(*out)
			l.mu.Lock()
			if l.err == nil {
				l.err = err
			}
		}
		*out = (*out)[:0]
		linkBuffers.Put(out)
	}
	l.writing = false
	l.changed.Broadcast()
	if l.closed {
		l.Conn.Close()
		l.closing.Done()
	}
}

// SetWriteDeadline bounds the time of writes, what was taken before included. A deadline that has passed refuses further writes,
// as TLS does behind its last record, and leaves what was taken a moment.
func (l *link) SetWriteDeadline(t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	l.refusing = !t.IsZero() && !t.After(time.Now())
	if l.refusing {
		t = time.Now().Add(closeTimeout)
	}
	return l.Conn.SetWriteDeadline(t)
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (l *link) SetDeadline(t time.Time) error {
	return errors.Join(l.SetReadDeadline(t), l.SetWriteDeadline(t))
}

// Close ends reading and writing at once. What was taken before is sent in the background, if the peer takes it soon.
func (l *link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	l.closed = true
	l.changed.Broadcast()
	if !l.writing {
		return l.Conn.Close()
	}
	l.closing.Add(1)
	now := time.Now()
	return errors.Join(l.SetReadDeadline(now), l.Conn.SetWriteDeadline(now.Add(closeTimeout)))
}

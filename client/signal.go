package client

import "sync"

// signal tells those who wait for the next time that something happens. The zero value is ready.
type signal struct {
	mu   sync.Mutex
	done chan struct{}
}

// next returns a channel that is closed the next time.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done == nil {
		s.done = make(chan struct{})
	}
	return s.done
}

// tell says that it happens now.
func (s *signal) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done != nil {
		close(s.done)
		s.done = nil
	}
}

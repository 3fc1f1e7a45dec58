package apiserver

import (
	"context"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kebernetes/kebernetes/auth"
)

// Requests are limited per level, so that a flood from one kind of client leaves room for the others: nodes and the control
// plane, service accounts, everyone else; and reads apart from writes, which wait for the disk. Each level has seats for
// requests at work and a queue in front; who finds the queue full is told to come again (429). Watches and connections
// take none: they last, and work only while something happens.
const (
	readSeats  = 400 // upstream's --max-requests-inflight
	writeSeats = 200 // upstream's --max-mutating-requests-inflight
	queueSeats = 6400
	// retryAfter is when a refused client is to ask again, in seconds.
	retryAfter = 1
)

// limits are the seats of all levels.
type limits struct {
	system, workload, others level
}

type level struct{ reads, writes seats }

// seats bound how many requests work at once, and how many wait.
type seats struct {
	free  chan struct{}
	queue chan struct{}
}

func newSeats(n int) seats {
	return seats{free: make(chan struct{}, n), queue: make(chan struct{}, queueSeats)}
}

func newLimits() *limits {
	l := func() level { return level{reads: newSeats(readSeats), writes: newSeats(writeSeats)} }
	return &limits{system: l(), workload: l(), others: l()}
}

// take waits for a seat. It returns false when too many wait already, or ctx is done.
func (s *seats) take(ctx context.Context) bool {
	select {
	case s.free <- struct{}{}:
		return true
	default:
	}
	select {
	case s.queue <- struct{}{}:
	default:
		return false
	}
	defer func() { <-s.queue }()
	select {
	case s.free <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *seats) leave() { <-s.free }

// of returns the seats of a request, nil for those that are never limited: administrators, and probes of health.
func (l *limits) of(rq *request) *seats {
	if slices.Contains(rq.user.Groups, auth.GroupMasters) {
		return nil
	}
	if !rq.resourceRequest && healthPath(rq.path) {
		return nil
	}
	if !rq.resourceRequest && slices.Contains(rq.user.Groups, auth.GroupNodes) {
		return nil // connections, and questions that wait for other nodes: a few of each node
	}
	lv := &l.others
	switch {
	case slices.Contains(rq.user.Groups, auth.GroupNodes) || strings.HasPrefix(rq.user.Name, "system:kube-"):
		lv = &l.system
	case strings.HasPrefix(rq.user.Name, auth.ServiceAccountPrefix):
		lv = &l.workload
	}
	if rq.r.Method == http.MethodGet || rq.r.Method == http.MethodHead {
		return &lv.reads
	}
	return &lv.writes
}

// limit makes a request wait for a seat of its level.
func (s *Server) limit(next handler) handler {
	return func(rq *request) {
		seats := s.limits.of(rq)
		if seats == nil || rq.streams() {
			next(rq)
			return
		}
		if !seats.take(rq.r.Context()) {
			rq.fail(apierrors.NewTooManyRequests("Too many requests, please try again later.", retryAfter))
			return
		}
		defer seats.leave()
		next(rq)
	}
}

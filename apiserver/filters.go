package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kebernetes/kebernetes/auth"
)

const (
	// maxURI is the longest request URI that is looked at.
	maxURI = 64 << 10
	// requestTimeout bounds writes that do not ask for less; upstream's default.
	requestTimeout = 60 * time.Second
)

// panicText is what a client hears of a panic; upstream's.
const panicText = "This request caused apiserver to panic. Look in the logs for details."

// handler answers one request, or hands it on. Filters wrap handlers.
type (
	handler func(rq *request)
	filter  func(next handler) handler
)

// chain returns h behind the filters, the first being the outermost.
func chain(h handler, filters []filter) handler {
	for i := len(filters) - 1; i >= 0; i-- {
		h = filters[i](h)
	}
	return h
}

// filters is the way of a request to its verb.
func (s *Server) filters() []filter {
	return []filter{
		s.recoverPanics,
		s.parseRoute,
		s.authenticate,
		s.log,
		s.limit,
		s.authorise,
		s.deadline,
	}
}

// recoverPanics answers 500 to a request whose handler panicked, and keeps the server alive. A handler that cannot end a
// stream properly panics with http.ErrAbortHandler, which is net/http's to deal with.
func (s *Server) recoverPanics(next handler) handler {
	return func(rq *request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			s.Logger.Error("panic in a request", "method", rq.r.Method, "path", rq.r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			http.Error(rq.w, panicText, http.StatusInternalServerError)
		}()
		next(rq)
	}
}

// parseRoute finds out what the request asks for.
func (s *Server) parseRoute(next handler) handler {
	return func(rq *request) {
		if len(rq.r.RequestURI) > maxURI {
			rq.fail(apierrors.NewGenericServerResponse(http.StatusRequestURITooLong, "", noResource, "", "the request URI is too long", 0, false))
			return
		}
		rq.route = parseRoute(rq.r)
		if rq.resourceRequest {
			rq.find()
		}
		next(rq)
	}
}

// authenticate finds out who asks; no credentials make an anonymous user.
func (s *Server) authenticate(next handler) handler {
	anonymous := &auth.User{Name: auth.Anonymous, Groups: []string{auth.GroupUnauthenticated}}
	return func(rq *request) {
		user, err := s.Authenticator.Authenticate(rq.r)
		if err != nil {
			s.Logger.Debug("authentication failed", "path", rq.r.URL.Path, "remote", rq.r.RemoteAddr, "error", err)
			if status := apierrors.APIStatus(nil); !errors.As(err, &status) {
				err = unauthorized()
			}
			rq.fail(err)
			return
		}
		if user == nil {
			user = anonymous
		}
		rq.user = user
		next(rq)
	}
}

// log counts the request and, at debug level, writes one line about it.
func (s *Server) log(next handler) handler {
	return func(rq *request) {
		start := time.Now()
		done := s.metrics.begin(rq)
		defer func() {
			took := time.Since(start)
			done(took)
			if s.Logger.Enabled(rq.r.Context(), slog.LevelDebug) {
				s.Logger.Debug("request", "method", rq.r.Method, "uri", rq.r.RequestURI, "verb", rq.verb, "user", rq.user.Name,
					"agent", rq.r.UserAgent(), "code", rq.code, "took", took)
			}
		}()
		next(rq)
	}
}

// authorise asks whether the user may.
func (s *Server) authorise(next handler) handler {
	return func(rq *request) {
		a := rq.attributes(rq.user)
		if ok, reason := s.Authorizer.Authorize(&a); !ok {
			rq.fail(auth.Forbidden(&a, reason))
			return
		}
		next(rq)
	}
}

// deadline bounds the time of a request. Reads answer from memory at once, so only writes need a timer.
func (s *Server) deadline(next handler) handler {
	return func(rq *request) {
		timeout := requestTimeout
		if t := rq.values().Get("timeout"); t != "" {
			d, err := time.ParseDuration(t)
			if err != nil {
				rq.fail(apierrors.NewBadRequest(fmt.Sprintf("invalid timeout specified in the request URL - %v", err)))
				return
			}
			if d > 0 && d < timeout {
				timeout = d
			}
		}
		rq.ctx = auth.WithUser(rq.r.Context(), rq.user)
		if rq.r.Method == http.MethodGet || rq.streams() {
			next(rq)
			return
		}
		ctx, cancel := context.WithTimeout(rq.ctx, timeout)
		defer cancel()
		rq.ctx = ctx
		next(rq)
	}
}

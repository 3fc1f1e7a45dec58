package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	// headerTimeout bounds how long a client may take to send a request's head; idle connections are kept as long as upstream does.
	headerTimeout = 10 * time.Second
	idleTimeout   = 3 * time.Minute
	// shutdownTimeout is how long requests under way may take to finish once the server stops.
	shutdownTimeout = 5 * time.Second
	// streamsPerConnection is the least that RFC 9113 recommends. Clients with more watches open more connections, each with a
	// loop of its own, which looks at all its streams for each frame that comes or goes.
	streamsPerConnection = 100
)

// listener serves the API over HTTPS. It is bound before anything else starts, so that a taken port changes nothing.
type listener struct {
	socket  net.Listener
	handler http.Handler
	tls     *tls.Config
	log     *slog.Logger
}

func listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w; choose another --listen", address, errors.Unwrap(err))
	}
	return l, nil
}

func (l *listener) Name() string { return "listener" }

// Run serves until ctx is done, then lets requests under way finish for a moment.
func (l *listener) Run(ctx context.Context) error {
	server := &http.Server{
		Handler:           l.handler,
		TLSConfig:         l.tls,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: streamsPerConnection},
		// Clients that break off their handshakes are not worth a line each.
		ErrorLog: slog.NewLogLogger(l.log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	links := &links{Listener: l.socket}
	defer links.closing.Wait()
	go func() { done <- server.ServeTLS(links, "", "") }()
	select {
	case err := <-done:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(end); err != nil {
		server.Close()
	}
	<-done
	return nil
}

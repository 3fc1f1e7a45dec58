package ingress

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// headerTimeout bounds how long a client may take to send a request's head; bodies may take as long as they need.
	headerTimeout = 10 * time.Second
	// idleTimeout is how long a client's connection is kept between requests, as nginx does.
	idleTimeout = 75 * time.Second
	// maxHeader bounds a request's head, in bytes.
	maxHeader = 64 << 10
	// shutdownTimeout is how long requests under way may take to finish once the server stops.
	shutdownTimeout = 5 * time.Second
	// listenRetry is how long an address that is taken rests before it is tried again.
	listenRetry = 5 * time.Second
	// flushTime is how long a piece of an answer may wait for more: a short answer that is quick travels in one packet.
	flushTime = 2 * time.Millisecond
	// statusClientGone is what nginx writes to its log for a client that did not wait for the answer.
	statusClientGone = 499
)

// entrance is one address that clients connect to.
type entrance struct {
	server    *Server
	address   string
	encrypted bool
	bound     chan struct{} // closed once listening
	addr      net.Addr      // set by then
}

// run serves until ctx is done. Requests see requests as their context.
func (e *entrance) run(ctx, requests context.Context) {
	announce := sync.OnceFunc(func() { close(e.bound) })
	for ctx.Err() == nil {
		socket := e.listen(ctx)
		if socket == nil {
			return
		}
		e.addr = socket.Addr()
		e.server.logger.Info("ingress serves", "address", e.addr.String(), "tls", e.encrypted)
		announce()
		if err := e.serve(ctx, requests, socket); err != nil {
			e.server.logger.Error("ingress stopped serving and starts anew", "address", e.address, "error", err)
		}
	}
}

// serve serves on a socket until ctx is done or the socket fails.
func (e *entrance) serve(ctx, requests context.Context, socket net.Listener) error {
	s := e.server
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(e.encrypted)
	protocols.SetUnencryptedHTTP2(!e.encrypted)
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		Protocols:         protocols,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.certificate},
		BaseContext:       func(net.Listener) context.Context { return requests },
		// Clients that break off their handshakes are not worth a line each.
		ErrorLog: slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() {
		if e.encrypted {
			done <- server.ServeTLS(socket, "", "")
		} else {
			done <- server.Serve(socket)
		}
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(requests, shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(end); err != nil {
		server.Close()
	}
	<-done
	return nil
}

// listen opens the socket. While the address is taken, which is no reason for the node to do nothing else, it tries again.
func (e *entrance) listen(ctx context.Context) net.Listener {
	told := false
	for {
		socket, err := net.Listen("tcp", e.address)
		if err == nil {
			return socket
		}
		if !told {
			flag := "--ingress-http"
			if e.encrypted {
				flag = "--ingress-https"
			}
			e.server.logger.Error("ingress does not serve: free the address, choose another or switch it off with "+flag,
				"address", e.address, "error", err)
			told = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(listenRetry):
		}
	}
}

// certificate picks the certificate for a client's server name.
func (s *Server) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := s.table.Load().certificate(hello.ServerName); c != nil {
		return c, nil
	}
	return s.selfSigned, nil
}

// ServeHTTP sends a request where the table says.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	defer s.requests.Done()
	a := &answer{ResponseWriter: w, start: time.Now()}
	defer s.account(a, r)
	if r.Method == http.MethodConnect {
		http.Error(a, "CONNECT is not served here", http.StatusMethodNotAllowed)
		return
	}
	a.route = s.table.Load().match(r.Host, r.URL.Path)
	switch {
	case a.route == nil:
		http.Error(a, "no ingress for this host and path", http.StatusNotFound)
	case a.route.redirect && r.TLS == nil && s.opts.HTTPS != "":
		s.redirect(a, r)
	case a.route.backend == nil:
		s.fail(a, r, errUnsupported)
	default:
		a.route.backend.proxy.ServeHTTP(a, r)
	}
}

// redirect sends a client to the same place by HTTPS.
func (s *Server) redirect(w http.ResponseWriter, r *http.Request) {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
		if strings.Contains(name, ":") {
			host = "[" + name + "]"
		}
	}
	if _, port, _ := net.SplitHostPort(s.opts.HTTPS); port != "443" && port != "https" {
		host += ":" + port
	}
	w.Header().Set("Location", "https://"+host+r.URL.RequestURI())
	w.WriteHeader(http.StatusPermanentRedirect)
}

// reverseProxy is what a new backend's requests go through, but for its transport.
func (s *Server) reverseProxy() httputil.ReverseProxy {
	return httputil.ReverseProxy{
		Rewrite:       rewrite,
		FlushInterval: flushTime, // of answers that say how long they are; all others are passed on piece by piece
		BufferPool:    &s.buffers,
		ErrorHandler:  s.fail,
		ErrorLog:      slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
}

// rewrite tells the endpoint who the client is, whatever the client says of itself. The rest passes unchanged.
func rewrite(r *httputil.ProxyRequest) {
	for name := range r.Out.Header {
		if strings.HasPrefix(name, "X-Forwarded-") {
			delete(r.Out.Header, name)
		}
	}
	r.SetXForwarded()
	if at, ok := r.In.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		r.Out.Header["X-Forwarded-Port"] = []string{strconv.Itoa(at.Port)}
	}
	r.Out.Header["X-Real-Ip"] = r.Out.Header["X-Forwarded-For"]
	r.Out.URL.RawQuery = r.In.URL.RawQuery
}

// fail answers a request that no endpoint answered.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if a, ok := w.(*answer); ok {
		a.err = err
	}
	var timeout net.Error
	switch {
	case errors.Is(err, errNoEndpoint), errors.Is(err, errUnsupported):
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	case r.Context().Err() != nil:
		w.WriteHeader(statusClientGone)
	case errors.As(err, &timeout) && timeout.Timeout():
		http.Error(w, "the endpoint did not answer in time", http.StatusGatewayTimeout)
	default:
		http.Error(w, "the endpoint did not answer", http.StatusBadGateway)
	}
}

// account counts a request that is over, and writes it to the access log.
func (s *Server) account(a *answer, r *http.Request) {
	took := time.Since(a.start)
	if a.code == 0 {
		a.code = http.StatusOK
	}
	s.metrics.observe(a.code, took)
	if !s.logger.Enabled(r.Context(), slog.LevelDebug) {
		return
	}
	attrs := []slog.Attr{
		slog.String("client", r.RemoteAddr), slog.String("method", r.Method), slog.String("host", r.Host), slog.String("uri", r.RequestURI),
		slog.String("proto", r.Proto), slog.Int("code", a.code), slog.Int64("bytes", a.written), slog.Duration("took", took),
	}
	if a.route != nil {
		attrs = append(attrs, slog.String("ingress", a.route.ingress.String()))
	}
	if a.err != nil {
		attrs = append(attrs, slog.Any("error", a.err))
	}
	s.logger.LogAttrs(r.Context(), slog.LevelDebug, "request", attrs...)
}

// answer is a ResponseWriter that remembers what was written.
type answer struct {
	http.ResponseWriter
	start   time.Time
	route   *route
	code    int
	written int64
	err     error
}

// WriteHeader writes a status; those before the last are interim ones.
func (a *answer) WriteHeader(code int) {
	if code >= 200 || code == http.StatusSwitchingProtocols {
		a.code = code
	}
	a.ResponseWriter.WriteHeader(code)
}

// Write writes a part of the body.
func (a *answer) Write(p []byte) (int, error) {
	n, err := a.ResponseWriter.Write(p)
	a.written += int64(n)
	return n, err
}

// Hijack hands over the connection of a client that switches protocols.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(a.ResponseWriter).Hijack()
	if err == nil {
		a.code = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}

// Unwrap lets http.ResponseController find the methods that answer does not have.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

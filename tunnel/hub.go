package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ErrNotConnected says that no agent of a node is connected.
var ErrNotConnected = errors.New("not connected")

// Hub is the server's end of all agents' connections. It is an http.Handler for Path, behind the API's authentication and
// authorisation. Safe for concurrent use.
type Hub struct {
	// Identify returns the node that a request comes from, by its authenticated user, or a Status error.
	Identify func(*http.Request) (node string, err error)
	Logger   *slog.Logger

	mu     sync.Mutex
	ended  bool
	nodes  map[string]*session
	served sync.WaitGroup
}

// session is the connection of one node's agent.
type session struct {
	*yamux.Session
	node    string
	remote  string
	self    string
	expires *time.Timer
	api     http.Handler
	pods    *http.Transport
}

// Name is the component's name.
func (h *Hub) Name() string { return "tunnels" }

// Run waits for ctx, ends all connections and waits for what served them.
func (h *Hub) Run(ctx context.Context) error {
	<-ctx.Done()
	h.mu.Lock()
	h.ended = true
	for _, s := range h.nodes {
		_ = s.Close()
	}
	h.mu.Unlock()
	h.served.Wait()
	return nil
}

// Connected says whether the agent of a node is connected.
func (h *Hub) Connected(node string) bool { return h.find(node) != nil }

func (h *Hub) find(node string) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.nodes[node]; s != nil && !s.IsClosed() {
		return s
	}
	return nil
}

// Node returns the API of a node. The error is ErrNotConnected.
func (h *Hub) Node(node string) (http.Handler, error) {
	if s := h.find(node); s != nil {
		return s.api, nil
	}
	return nil, fmt.Errorf("node %s is %w", node, ErrNotConnected)
}

// Pods returns the way to the addresses of a node's pods, through its agent; nil when it is not connected.
func (h *Hub) Pods(node string) *http.Transport {
	if s := h.find(node); s != nil {
		return s.pods
	}
	return nil
}

// ServeHTTP takes an agent's connection.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := h.take(w, r); err != nil {
		refuse(w, err)
	}
}

func (h *Hub) take(w http.ResponseWriter, r *http.Request) error {
	node, err := h.Identify(r)
	if err != nil {
		return err
	}
	if r.ProtoMajor != 1 || !strings.EqualFold(r.Header.Get("Upgrade"), protocol) {
		return apierrors.NewBadRequest("this path is for agents, which upgrade it to " + protocol)
	}
	if old := h.find(node); old != nil {
		// A connection that broke without a word looks alive until it is asked; an agent that comes again need not wait for that.
		if self := r.Header.Get(selfHeader); self != "" && self == old.self {
			h.Logger.Info("node comes again", "node", node, "remote", r.RemoteAddr)
		} else if _, err := old.Ping(); err == nil {
			return &apierrors.StatusError{ErrStatus: metav1.Status{
				Status: metav1.StatusFailure, Code: http.StatusConflict, Reason: metav1.StatusReasonConflict,
				Message: fmt.Sprintf("node %s is connected from %s already: two machines cannot be one node", node, old.remote),
			}}
		}
		_ = old.Close()
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("take over the connection of node %s: %w", node, err)
	}
	_ = conn.SetDeadline(time.Time{})
	answer := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n\r\n"
	if _, err := conn.Write([]byte(answer)); err != nil {
		_ = conn.Close() // the agent is gone, and comes again
		return nil
	}
	mux, err := yamux.Client(&early{conn, buffered.Reader}, settings(false, h.Logger))
	if err != nil {
		_ = conn.Close()
		h.Logger.Error("tunnel", "node", node, "err", err)
		return nil
	}
	s := newSession(mux, node, r.RemoteAddr, h.Logger)
	s.self = r.Header.Get(selfHeader)
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		// The connection ends with the right to it; the agent comes again with a newer certificate.
		s.expires = time.AfterFunc(time.Until(r.TLS.PeerCertificates[0].NotAfter), func() { _ = s.Close() })
	}
	if !h.add(s) {
		s.end()
		return nil
	}
	h.Logger.Info("node connected", "node", node, "remote", r.RemoteAddr)
	return nil
}

// add lists a session and serves it until it ends.
func (h *Hub) add(s *session) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return false
	}
	if h.nodes == nil {
		h.nodes = map[string]*session{}
	}
	if old := h.nodes[s.node]; old != nil {
		_ = old.Close()
	}
	h.nodes[s.node] = s
	h.served.Go(func() {
		// Agents open no streams. Those of one that does are ended, before they can fill memory.
		for {
			stream, err := s.AcceptStream()
			if err != nil {
				break
			}
			_ = stream.Close()
		}
		s.end()
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.nodes[s.node] == s {
			delete(h.nodes, s.node)
			h.Logger.Info("node disconnected", "node", s.node, "remote", s.remote)
		}
	})
	return true
}

func newSession(mux *yamux.Session, node, remote string, log *slog.Logger) *session {
	s := &session{Session: mux, node: node, remote: remote}
	api := &http.Transport{
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return s.open() },
		DisableKeepAlives: true, // a stream costs nothing to open
	}
	s.api = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "node"
			r.Out.Host = "node"
		},
		Transport:     api,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				refuse(w, apierrors.NewServiceUnavailable(fmt.Sprintf("ask node %s: %v", node, err)))
			}
		},
	}
	s.pods = &http.Transport{
		DialContext:       func(ctx context.Context, _, address string) (net.Conn, error) { return s.dialPod(ctx, address) },
		DisableKeepAlives: true,
		// Pods have no certificate of the cluster's; who proxies to them was let by RBAC.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	return s
}

// end closes all that belongs to the session.
func (s *session) end() {
	_ = s.Close()
	if s.expires != nil {
		s.expires.Stop()
	}
}

func (s *session) open() (net.Conn, error) {
	conn, err := s.Open()
	if err != nil {
		return nil, fmt.Errorf("node %s is %w: %w", s.node, ErrNotConnected, err)
	}
	return conn, nil
}

// dialPod asks the agent for a connection to an address of one of its pods.
func (s *session) dialPod(ctx context.Context, address string) (net.Conn, error) {
	conn, err := s.open()
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", address, address); err != nil {
		_ = conn.Close()
		return nil, err
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, &http.Request{Method: http.MethodConnect})
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer conn.Close()
		return nil, readStatus(resp)
	}
	return &early{conn, in}, nil
}

// refuse answers with an error.
func refuse(w http.ResponseWriter, err error) {
	status := apierrors.NewInternalError(err).Status()
	if known := apierrors.APIStatus(nil); errors.As(err, &known) {
		status = known.Status()
	}
	status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(status.Code))
	_ = json.NewEncoder(w).Encode(status) // a client that went away needs no answer
}

// early is a connection whose first bytes were read already.
type early struct {
	net.Conn
	in *bufio.Reader
}

func (e *early) Read(p []byte) (int, error) {
	if e.in.Buffered() > 0 {
		return e.in.Read(p)
	}
	return e.Conn.Read(p)
}

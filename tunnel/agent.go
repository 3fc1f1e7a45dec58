package tunnel

import (
	"bufio"
	"context"
	crand "crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/hashicorp/yamux"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// The waits between attempts to connect, doubling, each shortened by a chance so that not all nodes come at once.
	firstWait = 200 * time.Millisecond
	lastWait  = 30 * time.Second
	// headTimeout bounds how long the server may take to send the head of a request.
	headTimeout = 10 * time.Second
	// connectTimeout bounds an attempt to connect: the server may have to try whether an earlier connection is alive.
	connectTimeout = 2 * answerTimeout
	// maxAnswer bounds what is read of a refusal.
	maxAnswer = 64 << 10
)

// AgentOptions say how an Agent connects. All but Dial are required.
type AgentOptions struct {
	Server  string       // URL
	TLS     *tls.Config  // verifies the server, and shows it the node's certificate
	Handler http.Handler // the node's API
	// Dial opens connections; nil means net.Dialer's.
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Logger *slog.Logger
}

// Agent keeps the connection of one node's agent to the server, and serves the node's API over it.
type Agent struct {
	o     AgentOptions
	self  string        // tells the server that it is this very process that comes again
	tried chan struct{} // closed once the first attempt to connect is over
}

// NewAgent returns an agent's end.
func NewAgent(o AgentOptions) *Agent {
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	return &Agent{o: o, self: crand.Text(), tried: make(chan struct{})}
}

// Name is the component's name.
func (a *Agent) Name() string { return "tunnel" }

// Started is closed once the server has taken this machine for the node, or could not be asked: what the node does in the
// cluster begins then.
func (a *Agent) Started() <-chan struct{} { return a.tried }

// Run keeps a connection until ctx is done, and begins it anew when it ends. It fails when another machine is connected as this
// node at the start.
func (a *Agent) Run(ctx context.Context) error {
	first, wait := true, firstWait
	for ctx.Err() == nil {
		session, err := a.connect(ctx)
		if first && ctx.Err() == nil {
			if apierrors.IsConflict(err) {
				return err
			}
			first = false
			close(a.tried)
		}
		if err == nil {
			a.o.Logger.Info("connected", "server", a.o.Server)
			wait = firstWait
			err = a.serve(ctx, session)
		}
		if ctx.Err() != nil {
			return nil
		}
		a.o.Logger.Warn("not connected to the server", "server", a.o.Server, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + rand.N(wait/2)):
		}
		wait = min(2*wait, lastWait)
	}
	return nil
}

// connect opens the connection.
func (a *Agent) connect(ctx context.Context) (*yamux.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	u, err := url.Parse(a.o.Server)
	if err != nil {
		return nil, fmt.Errorf("connect to server: %w", err)
	}
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), "443")
	}
	config := a.o.TLS.Clone()
	config.NextProtos = []string{"http/1.1"} // an upgrade is not to be had in HTTP/2
	if config.ServerName == "" {
		config.ServerName = u.Hostname()
	}
	link, err := a.o.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(link, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = link.Close()
		return nil, err
	}
	session, err := a.upgrade(ctx, conn, u.Host)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return session, nil
}

func (a *Agent) upgrade(ctx context.Context, conn net.Conn, host string) (*yamux.Session, error) {
	// Not of the context's deadline alone: a context that ends early ends the conversation, too.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %s\r\n\r\n", Path, host, protocol, selfHeader, a.self); err != nil {
		return nil, err
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		return nil, readStatus(resp)
	}
	if !stop() {
		return nil, ctx.Err()
	}
	return yamux.Server(&early{conn, in}, settings(true, a.o.Logger))
}

// serve serves the node's API until the connection ends.
func (a *Agent) serve(ctx context.Context, session *yamux.Session) error {
	server := &http.Server{
		Handler: a.o.Handler, ReadHeaderTimeout: headTimeout,
		ErrorLog: slog.NewLogLogger(a.o.Logger.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer stop()
	err := server.Serve(session)
	// Requests under way have lost whom they answer.
	_ = server.Close()
	_ = session.Close()
	if errors.Is(err, io.EOF) {
		err = errors.New("the connection ended")
	}
	return err
}

// readStatus is the error that an answer carries.
func readStatus(resp *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	var status metav1.Status
	if json.Unmarshal(data, &status) == nil && status.Status == metav1.StatusFailure {
		return &apierrors.StatusError{ErrStatus: status}
	}
	return errors.New(resp.Status)
}

package nodeapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	constants "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

const (
	// idleTimeout ends a stream on which nothing happened; it is upstream's streamingConnectionIdleTimeout.
	idleTimeout = 4 * time.Hour

	protocolV5       = constants.StreamProtocolV5Name
	protocolV4       = constants.StreamProtocolV4Name
	tunnelProtocol   = "SPDY/3.1+portforward.k8s.io" // KEP-4006
	portForwardV1    = "portforward.k8s.io"
	tunnelBufferSize = 32 << 10
)

func (a *API) exec(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	a.remoteCommand(w, r, func(id string, s streamSet) (string, error) {
		return a.Runtime.Exec(r.Context(), &rt.ExecRequest{
			ContainerId: id, Cmd: q["command"], Tty: s.tty, Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr,
		})
	})
}

func (a *API) attach(w http.ResponseWriter, r *http.Request) {
	a.remoteCommand(w, r, func(id string, s streamSet) (string, error) {
		return a.Runtime.Attach(r.Context(), &rt.AttachRequest{
			ContainerId: id, Tty: s.tty, Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr,
		})
	})
}

// streamSet says which streams a remote command has.
type streamSet struct{ stdin, stdout, stderr, tty bool }

// remoteCommand serves exec and attach: the runtime gives a URL that speaks SPDY; SPDY clients are passed through to it, and
// WebSocket clients are translated.
func (a *API) remoteCommand(w http.ResponseWriter, r *http.Request, ask func(id string, s streamSet) (string, error)) {
	s := streamSet{stdin: flag(r, "input"), stdout: flag(r, "output"), stderr: flag(r, "error"), tty: flag(r, "tty")}
	s.stderr = s.stderr && !s.tty // a terminal has only one output
	if !s.stdin && !s.stdout && !s.stderr {
		fail(w, apierrors.NewBadRequest("you must specify at least one of stdin, stdout, stderr"))
		return
	}
	c, err := a.container(r.Context(), r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid"), r.PathValue("container"), false)
	if err != nil {
		fail(w, err)
		return
	}
	if c.State != rt.ContainerState_CONTAINER_RUNNING {
		fail(w, apierrors.NewInternalError(fmt.Errorf("container not found (%q)", r.PathValue("container"))))
		return
	}
	target, err := parseTarget(ask(c.Id, s))
	if err != nil {
		fail(w, err)
		return
	}
	if wsstream.IsWebSocketRequest(r) {
		translate(w, r, target, s)
		return
	}
	passThrough(w, r, target)
}

func parseTarget(raw string, err error) (*url.URL, error) {
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return nil, apierrors.NewInternalError(fmt.Errorf("the runtime's streaming address %q is no URL", raw))
	}
	return u, nil
}

// passThrough hands an upgraded connection to the runtime's streaming server, byte by byte.
func passThrough(w http.ResponseWriter, r *http.Request, target *url.URL) {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL, p.Out.Host = target, target.Host
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			fail(w, apierrors.NewInternalError(fmt.Errorf("runtime's streaming server: %w", err)))
		},
	}
	proxy.ServeHTTP(w, r)
}

// The channels of a WebSocket remote command, by number.
const (
	channelStdin = iota
	channelStdout
	channelStderr
	channelStatus
	channelResize
	channelCount
)

// translate serves a WebSocket client by running the command over SPDY against the runtime.
func translate(w http.ResponseWriter, r *http.Request, target *url.URL, s streamSet) {
	conn, protocol, streams, err := openWebSocket(w, r, s)
	if err != nil {
		return // the handshake answered the client
	}
	defer conn.Close()
	o := remotecommand.StreamOptions{Tty: s.tty}
	if s.stdin {
		o.Stdin = streams[channelStdin]
	}
	if s.stdout {
		o.Stdout = streams[channelStdout]
	}
	if s.stderr {
		o.Stderr = streams[channelStderr]
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if s.tty {
		o.TerminalSizeQueue = newSizes(ctx, streams[channelResize])
	}
	executor, err := remotecommand.NewSPDYExecutor(&rest.Config{Host: target.Host}, http.MethodPost, target)
	if err == nil {
		err = executor.StreamWithContext(ctx, o)
	}
	writeStatus(streams[channelStatus], protocol, err)
}

// openWebSocket accepts the client and tells it, with an empty message, that the connection stands.
func openWebSocket(w http.ResponseWriter, r *http.Request, s streamSet) (*wsstream.Conn, string, []io.ReadWriteCloser, error) {
	use := func(wanted bool, t wsstream.ChannelType) wsstream.ChannelType {
		if wanted {
			return t
		}
		return wsstream.IgnoreChannel
	}
	channels := make([]wsstream.ChannelType, channelCount)
	channels[channelStdin] = use(s.stdin, wsstream.ReadChannel)
	channels[channelStdout] = use(s.stdout, wsstream.WriteChannel)
	channels[channelStderr] = use(s.stderr, wsstream.WriteChannel)
	channels[channelStatus] = wsstream.WriteChannel
	channels[channelResize] = wsstream.ReadChannel
	binary := wsstream.ChannelProtocolConfig{Binary: true, Channels: channels}
	text := wsstream.ChannelProtocolConfig{Channels: channels}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
		"": binary, wsstream.ChannelWebSocketProtocol: binary, protocolV4: binary, protocolV5: binary,
		wsstream.Base64ChannelWebSocketProtocol: text, "v4." + wsstream.Base64ChannelWebSocketProtocol: text,
	})
	conn.SetIdleTimeout(idleTimeout)
	protocol, streams, err := conn.Open(w, r)
	if err != nil {
		return nil, "", nil, err
	}
	hello := channelStatus
	switch {
	case s.stdout:
		hello = channelStdout
	case s.stderr:
		hello = channelStderr
	}
	_, err = streams[hello].Write(nil)
	return conn, protocol, streams, err
}

// writeStatus tells how a command ended: from version 4 of the protocol on as a Status object, before that as bare text.
func writeStatus(w io.Writer, protocol string, err error) {
	status := metav1.Status{TypeMeta: metav1.TypeMeta{}, Status: metav1.StatusSuccess}
	var exit exec.CodeExitError
	switch {
	case errors.As(err, &exit):
		status = metav1.Status{
			Status: metav1.StatusFailure, Reason: constants.NonZeroExitCodeReason, Message: err.Error(),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: constants.ExitCodeCauseType, Message: strconv.Itoa(exit.Code)}}},
		}
	case err != nil:
		status = apierrors.NewInternalError(err).Status()
	}
	if protocol != protocolV4 && protocol != protocolV5 && protocol != "v4."+wsstream.Base64ChannelWebSocketProtocol {
		if err != nil {
			_, _ = io.WriteString(w, err.Error())
		}
		return
	}
	if data, err := json.Marshal(status); err == nil {
		_, _ = w.Write(data)
	}
}

// sizes feeds a terminal's sizes, as the client sends them, to the command.
type sizes struct {
	ctx context.Context
	in  chan remotecommand.TerminalSize
}

func newSizes(ctx context.Context, r io.Reader) *sizes {
	s := &sizes{ctx: ctx, in: make(chan remotecommand.TerminalSize)}
	go func() {
		defer close(s.in)
		for d := json.NewDecoder(r); ; {
			var size remotecommand.TerminalSize
			if err := d.Decode(&size); err != nil {
				return
			}
			select {
			case s.in <- size:
			case <-ctx.Done():
				return
			}
		}
	}()
	return s
}

// Next waits for the next size; nil ends it.
func (s *sizes) Next() *remotecommand.TerminalSize {
	select {
	case size, ok := <-s.in:
		if !ok {
			return nil
		}
		return &size
	case <-s.ctx.Done():
		return nil
	}
}

func (a *API) portForward(w http.ResponseWriter, r *http.Request) {
	id, err := a.sandbox(r.Context(), r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid"))
	if err != nil {
		fail(w, err)
		return
	}
	ports, err := wantedPorts(r.URL.Query()["port"])
	if err != nil {
		fail(w, err)
		return
	}
	target, err := parseTarget(a.Runtime.PortForward(r.Context(), &rt.PortForwardRequest{PodSandboxId: id, Port: ports}))
	if err != nil {
		fail(w, err)
		return
	}
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		tunnel(w, r, target)
		return
	}
	passThrough(w, r, target)
}

func wantedPorts(values []string) ([]int32, error) {
	var ports []int32
	for _, v := range values {
		n, err := strconv.ParseUint(v, 10, 16)
		if err != nil || n == 0 {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("port %q is no port number", v))
		}
		ports = append(ports, int32(n))
	}
	return ports, nil
}

// tunnel carries a SPDY connection inside WebSocket messages (KEP-4006).
func tunnel(w http.ResponseWriter, r *http.Request, target *url.URL) {
	backend, err := dialSPDY(r.Context(), target)
	if err != nil {
		fail(w, apierrors.NewInternalError(fmt.Errorf("runtime's streaming server: %w", err)))
		return
	}
	defer backend.Close()
	up := websocket.Upgrader{
		Subprotocols: []string{tunnelProtocol}, ReadBufferSize: tunnelBufferSize, WriteBufferSize: tunnelBufferSize,
		// The browser's same-origin rule is not what guards this: the API server authorised the request.
		CheckOrigin: func(*http.Request) bool { return true },
	}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		return // the upgrader answered
	}
	defer ws.Close()
	var both sync.WaitGroup
	both.Go(func() {
		defer backend.Close()
		for {
			kind, message, err := ws.NextReader()
			if err != nil || kind != websocket.BinaryMessage {
				return
			}
			if _, err := io.Copy(backend, message); err != nil {
				return
			}
		}
	})
	both.Go(func() {
		defer ws.Close()
		buf := make([]byte, tunnelBufferSize)
		for {
			n, err := backend.Read(buf)
			if n > 0 && ws.WriteMessage(websocket.BinaryMessage, buf[:n]) != nil {
				return
			}
			if err != nil {
				deadline := time.Now().Add(time.Second)
				_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), deadline)
				return
			}
		}
	})
	both.Wait()
}

// bufferedConn reads first what the response's reader had taken in beyond the response.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// dialSPDY opens a connection to the runtime's streaming server and upgrades it to SPDY for port-forwarding.
func dialSPDY(ctx context.Context, target *url.URL) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", target.Host)
	if err != nil {
		return nil, err
	}
	req := &http.Request{Method: http.MethodPost, URL: target, Host: target.Host, Header: http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {portForwardV1},
	}}
	if err := req.Write(conn); err != nil {
		conn.Close()
		return nil, err
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, req)
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		err = fmt.Errorf("answered %s", resp.Status)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &bufferedConn{Conn: conn, r: r}, nil
}

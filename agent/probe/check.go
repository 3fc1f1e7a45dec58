// Package probe asks containers how they are, by HTTP, TCP, gRPC or a command, and counts the answers into results; its HTTP
// requests also serve lifecycle hooks. Only agent imports it.
package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/cri"
)

// Result of one check.
type Result uint8

// The results. A Warning counts as success and is told to the user.
const (
	Success Result = iota
	Warning
	Failure
)

// maxBody is how much of an answer is looked at and shown.
const maxBody = 10 << 10

// Target is a running container.
type Target struct {
	Container *corev1.Container
	ID        string
	// IP of the pod: the default host of requests.
	IP string
}

// Checker makes checks. Safe for concurrent use.
type Checker struct {
	Runtime cri.Streams
	// UserAgent of HTTP and gRPC requests: "kube-probe/1.37".
	UserAgent string
}

// Check asks once. err means that the question could not be asked, which counts neither way.
func (c *Checker) Check(ctx context.Context, h *corev1.ProbeHandler, t Target, timeout time.Duration) (Result, string, error) {
	switch {
	case h.Exec != nil:
		return c.exec(ctx, h.Exec.Command, t, timeout)
	case h.HTTPGet != nil:
		return c.http(ctx, h.HTTPGet, t, timeout)
	case h.TCPSocket != nil:
		port, err := Port(h.TCPSocket.Port.String(), t.Container)
		if err != nil {
			return Failure, "", err
		}
		return tcp(ctx, net.JoinHostPort(host(h.TCPSocket.Host, t.IP), strconv.Itoa(port)), timeout)
	case h.GRPC != nil:
		service := ""
		if h.GRPC.Service != nil {
			service = *h.GRPC.Service
		}
		return c.grpc(ctx, net.JoinHostPort(t.IP, strconv.Itoa(int(h.GRPC.Port))), service, timeout)
	}
	return Failure, "", fmt.Errorf("missing probe handler for container %s", t.Container.Name)
}

func host(given, pod string) string {
	if given != "" {
		return given
	}
	return pod
}

// Port resolves a port's number or name.
func Port(port string, c *corev1.Container) (int, error) {
	n, err := strconv.Atoi(port)
	if err != nil {
		for _, p := range c.Ports {
			if p.Name == port {
				return int(p.ContainerPort), nil
			}
		}
		return 0, fmt.Errorf("couldn't find port: %v in container %s", port, c.Name)
	}
	if n <= 0 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", n)
	}
	return n, nil
}

func (c *Checker) exec(ctx context.Context, cmd []string, t Target, timeout time.Duration) (Result, string, error) {
	resp, err := c.Runtime.ExecSync(ctx, t.ID, cmd, timeout)
	if err != nil {
		if cri.IsDeadline(err) {
			return Failure, fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(cmd, " "), timeout), nil
		}
		return Failure, "", err
	}
	out := append(append([]byte{}, resp.Stdout...), resp.Stderr...)
	if len(out) > maxBody {
		out = out[:maxBody]
	}
	if resp.ExitCode != 0 {
		return Failure, string(out), nil
	}
	return Success, string(out), nil
}

func tcp(ctx context.Context, address string, timeout time.Duration) (Result, string, error) {
	d := net.Dialer{Timeout: timeout}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		// A refused connection is an answer.
		return Failure, err.Error(), nil
	}
	_ = conn.Close()
	return Success, "", nil
}

// Request makes the request of an HTTP action. Defaults are those of upstream's prober.
func Request(ctx context.Context, a *corev1.HTTPGetAction, t Target, userAgent string) (*http.Request, error) {
	port, err := Port(a.Port.String(), t.Container)
	if err != nil {
		return nil, err
	}
	scheme := strings.ToLower(string(a.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	u, err := url.Parse(a.Path)
	if err != nil {
		u = &url.URL{Path: a.Path}
	}
	u.Scheme, u.Host = scheme, net.JoinHostPort(host(a.Host, t.IP), strconv.Itoa(port))
	if !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header = http.Header{}
	for _, h := range a.HTTPHeaders {
		req.Header.Add(h.Name, h.Value)
	}
	if v, ok := req.Header["Accept"]; !ok {
		req.Header.Set("Accept", "*/*")
	} else if v[0] == "" {
		req.Header.Del("Accept")
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header.Set("User-Agent", userAgent)
	}
	if h := req.Header.Get("Host"); h != "" {
		req.Host = h
	}
	return req, nil
}

// Client returns a client for one request: no connection is kept, no certificate checked, no proxy asked.
func Client(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			TLSClientConfig:    &tls.Config{InsecureSkipVerify: true},
			DisableKeepAlives:  true,
			DisableCompression: true,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if req.URL.Hostname() != via[0].URL.Hostname() {
				return http.ErrUseLastResponse
			}
			if len(via) >= 10 {
				return errors.New("stopped after 10 redirects")
			}
			return nil
		},
	}
}

func (c *Checker) http(ctx context.Context, a *corev1.HTTPGetAction, t Target, timeout time.Duration) (Result, string, error) {
	req, err := Request(ctx, a, t, c.UserAgent)
	if err != nil {
		return Failure, "", err
	}
	client := Client(timeout)
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return Failure, "", err
		}
		return Failure, err.Error(), nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return Failure, "", err
	}
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return Warning, fmt.Sprintf("Probe terminated redirects, Response body: %v", string(body)), nil
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return Success, string(body), nil
	}
	return Failure, fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode), nil
}

func (c *Checker) grpc(ctx context.Context, address, service string, timeout time.Duration) (Result, string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent(c.UserAgent), grpc.WithNoProxy())
	if err != nil {
		return Failure, fmt.Sprintf("error: failed to connect service at %q: %+v", address, err), nil
	}
	defer conn.Close()
	resp, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		switch status.Code(err) {
		case codes.Unimplemented:
			return Failure, fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message()), nil
		case codes.DeadlineExceeded:
			return Failure, fmt.Sprintf("timeout: health rpc did not complete within %v", timeout), nil
		case codes.Unavailable:
			return Failure, fmt.Sprintf("error: failed to connect service at %q: %+v", address, err), nil
		}
		return Failure, fmt.Sprintf("error: health rpc probe failed: %+v", err), nil
	}
	if resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return Failure, fmt.Sprintf("service unhealthy (responded with %q)", resp.GetStatus().String()), nil
	}
	return Success, "service healthy", nil
}

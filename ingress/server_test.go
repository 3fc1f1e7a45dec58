package ingress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// endpointOf runs a pod's server, and returns its address.
func endpointOf(t testing.TB, handler http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func says(what string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, what) }
}

// browser is a client that finds all hosts at one address, and trusts every certificate.
func browser(t testing.TB, at string) *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", at)
		},
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 100,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// get returns a status and what was said.
func get(t testing.TB, c *http.Client, url string) (int, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestFollowsTheCluster(t *testing.T) {
	m := newMemory()
	m.load(t, strings.TrimSpace(class))
	_, plain, _ := start(t, m)
	c := browser(t, plain)
	expect := func(what, url string, code int, body string) {
		t.Helper()
		eventually(t, what, func() bool {
			gotCode, gotBody := get(t, c, url)
			return gotCode == code && strings.Contains(gotBody, body)
		})
	}
	expect("nothing is there", "http://a.example/", 404, "no ingress")
	m.ingress(t, "a", "a.example", "one", "")
	expect("its service is not there", "http://a.example/", 503, "no ready endpoint")
	m.service("one", "", endpointOf(t, says("one")))
	m.service("two", "", endpointOf(t, says("two")))
	expect("its service is there", "http://a.example/", 200, "one")
	m.ingress(t, "a", "a.example", "two", "")
	expect("it names another service", "http://a.example/", 200, "two")
	m.endpoints("two", endpointOf(t, says("new")))
	expect("endpoints change", "http://a.example/", 200, "new")
	m.endpoints("two")
	expect("endpoints go", "http://a.example/", 503, "")
	m.load(t, "kind: IngressClass\nmetadata: {name: keb}\nspec: {controller: keb.dev/ingress}")
	expect("the class is no default any more", "http://a.example/", 404, "")
}

func TestForwardedHeaders(t *testing.T) {
	m := newMemory()
	m.load(t, strings.TrimSpace(class))
	m.ingress(t, "a", "a.example", "echo", "")
	m.service("echo", "", endpointOf(t, func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix", "X-Forwarded-Port", "X-Real-Ip", "User-Agent", "X-Own"} {
			fmt.Fprintf(w, "%s=%s\n", name, strings.Join(r.Header.Values(name), "|"))
		}
		fmt.Fprintf(w, "%s %s %s\n", r.Method, r.Host, r.RequestURI)
	}))
	_, plain, encrypted := start(t, m)
	for scheme, at := range map[string]string{"http": plain, "https": encrypted} {
		req, err := http.NewRequest("GET", scheme+"://a.example:1234/a%2Fb/../c?x=1;y=%zz", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix", "X-Real-IP"} {
			req.Header.Set(name, "spoofed")
		}
		if scheme == "http" {
			req.Header.Set("Connection", "X-Forwarded-For, X-Real-IP")
		}
		req.Header.Set("X-Own", "kept")
		req.Header.Set("User-Agent", "")
		resp, err := browser(t, at).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got, _ := io.ReadAll(resp.Body)
		_, port, _ := net.SplitHostPort(at)
		want := "Forwarded=\nX-Forwarded-For=127.0.0.1\nX-Forwarded-Host=a.example:1234\nX-Forwarded-Proto=" + scheme +
			"\nX-Forwarded-Prefix=\nX-Forwarded-Port=" + port + "\nX-Real-Ip=127.0.0.1\nUser-Agent=\nX-Own=kept\nGET a.example:1234 /a%2Fb/../c?x=1;y=%zz\n"
		if string(got) != want {
			t.Errorf("%s: got\n%s\nwant\n%s", scheme, got, want)
		}
	}
}

func TestTLS(t *testing.T) {
	m := newMemory()
	m.load(t, strings.TrimSpace(class))
	m.service("web", "", endpointOf(t, says("web")))
	m.ingress(t, "a", "a.example", "web", "  tls: [{hosts: [a.example], secretName: a}]")
	m.ingress(t, "b", "*.b.example", "web", `  tls: [{hosts: ["*.b.example"], secretName: b}]`)
	certA, keyA := makeCertificate(t, 1, "a.example")
	certB, keyB := makeCertificate(t, 2, "*.b.example")
	m.secret("a", certA, keyA)
	m.secret("b", certB, keyB)
	_, _, encrypted := start(t, m)
	serial := func(name string) int64 {
		conn, err := tls.Dial("tcp", encrypted, &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		state := conn.ConnectionState()
		if state.NegotiatedProtocol != "h2" {
			t.Errorf("%s: protocol %q", name, state.NegotiatedProtocol)
		}
		if n := state.PeerCertificates[0].SerialNumber; n.IsInt64() {
			return n.Int64()
		}
		return 0 // the default certificate has a long one
	}
	for name, want := range map[string]int64{"a.example": 1, "x.b.example": 2, "other.example": 0, "": 0} {
		if got := serial(name); got != want {
			t.Errorf("server name %q got certificate %d, want %d", name, got, want)
		}
	}
	rotated, rotatedKey := makeCertificate(t, 3, "a.example")
	m.secret("a", rotated, rotatedKey)
	eventually(t, "the new certificate is served", func() bool { return serial("a.example") == 3 })
	m.secret("a", certA, keyB) // does not match
	m.secret("b", rotated, rotatedKey)
	eventually(t, "the other one is served", func() bool { return serial("x.b.example") == 3 })
	if got := serial("a.example"); got != 3 {
		t.Errorf("after a key that does not match, certificate %d is served, want the one before, 3", got)
	}
	secret := &corev1.Secret{}
	secret.Namespace, secret.Name = "default", "a"
	m.remove(secret)
	eventually(t, "the default certificate is served", func() bool { return serial("a.example") == 0 })
	if code, body := get(t, browser(t, encrypted), "https://a.example/"); code != 200 || body != "web" {
		t.Errorf("got %d %q", code, body)
	}
}

func TestRedirect(t *testing.T) {
	m := newMemory()
	m.load(t, strings.TrimSpace(class))
	m.service("web", "", endpointOf(t, says("web")))
	m.load(t, `
kind: Ingress
metadata: {name: a, annotations: {keb.dev/ssl-redirect: "true"}}
spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}`)
	free := dead(t)
	_, plain, encrypted := start(t, m, func(o *Options) { o.HTTPS = free })
	_, port, _ := net.SplitHostPort(free)
	resp, err := browser(t, plain).Post("http://a.example:81/x?y=z", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if want := "https://a.example:" + port + "/x?y=z"; resp.StatusCode != http.StatusPermanentRedirect || resp.Header.Get("Location") != want {
		t.Errorf("got %d to %q, want 308 to %q", resp.StatusCode, resp.Header.Get("Location"), want)
	}
	if code, _ := get(t, browser(t, encrypted), "https://a.example/"); code != 200 {
		t.Errorf("by HTTPS: %d", code)
	}
}

func TestWebSocket(t *testing.T) {
	for _, protocol := range []string{"", "kubernetes.io/h2c"} { // HTTP/2 has no upgrades: version 1.1 is spoken
		m := newMemory()
		m.load(t, strings.TrimSpace(class))
		m.ingress(t, "a", "a.example", "ws", "")
		gone := make(chan struct{})
		m.service("ws", protocol, endpointOf(t, func(w http.ResponseWriter, r *http.Request) {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer close(gone)
			defer conn.Close()
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\n\r\n")
			io.Copy(conn, rw)
		}))
		_, plain, _ := start(t, m)
		conn, err := net.Dial("tcp", plain)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" {
			t.Fatal(resp, err)
		}
		for range 3 {
			io.WriteString(conn, "ping\n")
			if line, err := r.ReadString('\n'); line != "ping\n" {
				t.Fatal(line, err)
			}
		}
		conn.Close()
		<-gone
	}
}

// What gRPC needs: HTTP/2 without TLS to the endpoint, both directions at once, trailers.
func TestStreamsBothWays(t *testing.T) {
	for _, protocol := range []string{"kubernetes.io/h2c", "grpc"} {
		m := newMemory()
		m.load(t, strings.TrimSpace(class))
		m.ingress(t, "a", "a.example", "grpc", "")
		pod := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "Grpc-Status")
			w.Header().Set("X-Proto", r.Proto+" "+r.Header.Get("Te"))
			http.NewResponseController(w).Flush()
			lines := bufio.NewReader(r.Body)
			for {
				line, err := lines.ReadString('\n')
				if err != nil {
					break
				}
				io.WriteString(w, "echo "+line)
				http.NewResponseController(w).Flush()
			}
			w.Header().Set("Grpc-Status", "0")
		}))
		pod.Config.Protocols = new(http.Protocols)
		pod.Config.Protocols.SetUnencryptedHTTP2(true)
		pod.Start()
		t.Cleanup(pod.Close)
		m.service("grpc", protocol, pod.Listener.Addr().String())
		_, plain, encrypted := start(t, m)
		prior := browser(t, plain)
		prior.Transport.(*http.Transport).Protocols = new(http.Protocols)
		prior.Transport.(*http.Transport).Protocols.SetUnencryptedHTTP2(true)
		for scheme, c := range map[string]*http.Client{"https": browser(t, encrypted), "http": prior} {
			body, write := io.Pipe()
			req, err := http.NewRequest("POST", scheme+"://a.example/svc/Method", body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Te", "trailers")
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if got := resp.Header.Get("X-Proto"); got != "HTTP/2.0 trailers" {
				t.Errorf("the endpoint was asked by %q", got)
			}
			lines := bufio.NewReader(resp.Body)
			for range 3 {
				io.WriteString(write, "hello\n")
				if line, err := lines.ReadString('\n'); line != "echo hello\n" {
					t.Fatal(line, err)
				}
			}
			write.Close()
			io.Copy(io.Discard, lines)
			resp.Body.Close()
			if got := resp.Trailer.Get("Grpc-Status"); got != "0" {
				t.Errorf("trailer %q", got)
			}
		}
	}
}

func TestHTTPSEndpoint(t *testing.T) {
	m := newMemory()
	m.load(t, strings.TrimSpace(class))
	m.ingress(t, "a", "a.example", "web", "")
	pod := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.TLS != nil, r.Host) }))
	t.Cleanup(pod.Close)
	m.service("web", "https", pod.Listener.Addr().String())
	_, plain, _ := start(t, m)
	if code, body := get(t, browser(t, plain), "http://a.example/"); code != 200 || body != "truea.example" {
		t.Errorf("got %d %q", code, body)
	}
}

func TestLargeBodiesPassThrough(t *testing.T) {
	const size = 64 << 20
	m := newMemory()
	m.load(t, strings.TrimSpace(class))
	m.ingress(t, "a", "a.example", "web", "")
	m.service("web", "", endpointOf(t, func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, _ := io.Copy(sum, r.Body)
		w.Header().Set("X-Sum", fmt.Sprintf("%d %x", n, sum.Sum(nil)))
		io.Copy(w, io.LimitReader(zeros{}, size))
	}))
	_, plain, _ := start(t, m)
	resp, err := browser(t, plain).Post("http://a.example/", "", io.LimitReader(zeros{}, size))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, resp.Body)
	if got := fmt.Sprintf("%d %x", n, sum.Sum(nil)); err != nil || n != size || got != resp.Header.Get("X-Sum") {
		t.Errorf("got %s, the endpoint %s: %v", got, resp.Header.Get("X-Sum"), err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// An answer of known length still arrives as it is said.
func TestAnswersAreNotHeldBack(t *testing.T) {
	m := newMemory()
	m.load(t, strings.TrimSpace(class))
	m.ingress(t, "a", "a.example", "web", "")
	more := make(chan struct{})
	m.service("web", "", endpointOf(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "6")
		io.WriteString(w, "one")
		http.NewResponseController(w).Flush()
		<-more
		io.WriteString(w, "two")
	}))
	_, plain, _ := start(t, m)
	resp, err := browser(t, plain).Get("http://a.example/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := make([]byte, 6)
	io.ReadFull(resp.Body, got[:3])
	close(more)
	io.ReadFull(resp.Body, got[3:])
	if string(got) != "onetwo" {
		t.Errorf("got %q", got)
	}
}

func TestRetriesElsewhere(t *testing.T) {
	m := newMemory()
	m.load(t, strings.TrimSpace(class))
	m.ingress(t, "a", "a.example", "web", "")
	m.service("web", "", endpointOf(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }), dead(t))
	s, plain, _ := start(t, m)
	c := browser(t, plain)
	for range 20 {
		resp, err := c.Post("http://a.example/", "", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || string(body) != "body" {
			t.Fatalf("got %d %q", resp.StatusCode, body)
		}
	}
	if n := s.transports.retries.Load(); n == 0 || n > 2 {
		t.Errorf("%d retries; want the dead endpoint to be passed over once it is known", n)
	}
	m.endpoints("web", dead(t))
	eventually(t, "the only endpoint refuses", func() bool { code, _ := get(t, c, "http://a.example/"); return code == http.StatusBadGateway })
}

func TestBalancesEvenly(t *testing.T) {
	m := newMemory()
	m.load(t, strings.TrimSpace(class))
	m.ingress(t, "a", "a.example", "web", "")
	counts := make([]atomic.Int64, 4)
	var endpoints []string
	for i := range counts {
		endpoints = append(endpoints, endpointOf(t, func(http.ResponseWriter, *http.Request) { counts[i].Add(1) }))
	}
	m.service("web", "", endpoints...)
	_, plain, _ := start(t, m)
	c := browser(t, plain)
	for range 100 {
		get(t, c, "http://a.example/")
	}
	for i := range counts {
		if n := counts[i].Load(); n != 25 {
			t.Errorf("endpoint %d got %d of 100 requests", i, n)
		}
	}
}

// A pod that is replaced: its endpoint terminates, WaitWithdrawn returns, its server closes at once. No request may fail.
func TestNoErrorsWhileEndpointsTurnOver(t *testing.T) {
	m := newMemory()
	m.load(t, strings.TrimSpace(class))
	m.ingress(t, "a", "a.example", "web", "")
	pod := func() *httptest.Server { return httptest.NewServer(says("ok")) }
	addr := func(s *httptest.Server) string { return s.Listener.Addr().String() }
	first, second := pod(), pod()
	m.service("web", "", addr(first), addr(second))
	s, plain, _ := start(t, m)
	ctx, cancel := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	var requests atomic.Int64
	c := browser(t, plain)
	for i := range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				req, _ := http.NewRequest("POST", "http://a.example/", strings.NewReader("x"))
				if i%2 == 0 {
					req, _ = http.NewRequest("GET", "http://a.example/", nil)
				}
				resp, err := c.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 200 || err != nil {
					t.Errorf("%d %q %v", resp.StatusCode, body, err)
					return
				}
				requests.Add(1)
			}
		})
	}
	for range 30 {
		third := pod()
		m.endpoints("web", addr(first), addr(second), addr(third))
		m.endpoints("web", "!"+addr(first), addr(second), addr(third))
		// All pods of this test have one address, so that WaitWithdrawn would wait for them all.
		at := netip.MustParseAddrPort(addr(first))
		eventually(t, "the endpoint is withdrawn", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			p := s.peers[at]
			return p == nil || p.chosen == 0 && p.asked.Load() == 0
		})
		first.Close()
		first, second = second, third
		for n := requests.Load(); requests.Load() < n+20 && !t.Failed(); {
			_, _ = get(t, c, "http://a.example/")
		}
	}
	cancel()
	clients.Wait()
	first.Close()
	second.Close()
	t.Logf("%d requests", requests.Load())
}

func TestWaitWithdrawn(t *testing.T) {
	m := newMemory()
	m.load(t, strings.TrimSpace(class))
	m.ingress(t, "a", "a.example", "web", "")
	asked, answer := make(chan struct{}), make(chan struct{})
	at := endpointOf(t, func(http.ResponseWriter, *http.Request) { asked <- struct{}{}; <-answer })
	m.service("web", "", at)
	s, plain, _ := start(t, m)
	addr := netip.MustParseAddrPort(at).Addr()
	soon, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := s.WaitWithdrawn(soon, addr); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while the endpoint is chosen: %v", err)
	}
	got := make(chan int, 1)
	go func() {
		code, _ := get(t, browser(t, plain), "http://a.example/")
		got <- code
	}()
	<-asked
	m.endpoints("web", "!"+at)
	done := make(chan error, 2)
	for range 2 {
		go func() { done <- s.WaitWithdrawn(context.Background(), addr) }()
	}
	select {
	case <-done:
		t.Error("did not wait for the answer")
	case <-time.After(50 * time.Millisecond):
	}
	close(answer)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if code := <-got; code != 200 {
		t.Errorf("the request got %d", code)
	}
	if err := s.WaitWithdrawn(context.Background(), netip.MustParseAddr("192.0.2.1")); err != nil {
		t.Error(err)
	}
}

func TestHostileRequests(t *testing.T) {
	m := newMemory()
	m.load(t, strings.TrimSpace(class))
	m.ingress(t, "a", "a.example", "web", "")
	m.service("web", "", endpointOf(t, says("web")))
	_, plain, _ := start(t, m)
	for request, want := range map[string]int{
		"CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n": 405,
		"GET / HTTP/1.1\r\n\r\n": 400,
		"GET / HTTP/1.1\r\nHost: a.example\r\nX: " + strings.Repeat("x", 2*maxHeader) + "\r\n\r\n":   431,
		"GET " + strings.Repeat("/", maxHeader/2) + " HTTP/1.1\r\nHost: a.example\r\n\r\n":           200,
		"GET / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: x\r\nContent-Length: 1\r\n\r\n":     501,
		"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n":                                              200,
		"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: \x01\r\n\r\n":          400,
		"GET http://a.example/ HTTP/1.1\r\nHost: b.example\r\nConnection: close\r\n\r\n":             200,
		"GET / HTTP/1.1\r\nHost: " + strings.Repeat("a", 1000) + ".example\r\nConnection: x\r\n\r\n": 404,
	} {
		conn, err := net.Dial("tcp", plain)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, request)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != want {
			t.Errorf("%.60q: got %v %v, want %d", request, resp, err, want)
		}
		conn.Close()
	}
}

func TestMetricsAndAccessLog(t *testing.T) {
	m := newMemory()
	m.load(t, strings.TrimSpace(class))
	m.ingress(t, "a", "a.example", "web", "")
	m.service("web", "", endpointOf(t, says("hello")))
	registry := prometheus.NewRegistry()
	var log syncBuffer
	_, plain, _ := start(t, m, func(o *Options) {
		o.Registerer = registry
		o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	get(t, browser(t, plain), "http://a.example/x")
	get(t, browser(t, plain), "http://b.example/")
	eventually(t, "both are counted", func() bool {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				if f.GetName() == "keb_ingress_requests_total" {
					got[m.Label[0].GetValue()] = m.Counter.GetValue()
				}
			}
		}
		return got["200"] == 1 && got["404"] == 1
	})
	eventually(t, "the log has the request", func() bool {
		return strings.Contains(log.String(), `method=GET host=a.example uri=/x proto=HTTP/1.1 code=200 bytes=5`) &&
			strings.Contains(log.String(), "ingress="+types.NamespacedName{Namespace: "default", Name: "a"}.String())
	})
}

// syncBuffer is a log that may be read while it is written.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// A connection that is there to be reused may be gone by the time that a request is written to it: one whose body was not
// touched goes elsewhere, one whose body was is not sent twice.
func TestRepeatsOnlyWhatIsWhole(t *testing.T) {
	for _, touched := range []bool{false, true} {
		b := newBackend(newTransports(), httputil.ReverseProxy{})
		at := netip.MustParseAddrPort(endpointOf(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
		p := &peer{idle: make(chan struct{}, 1)}
		b.pool.Store(&pool{addresses: []address{{at, false}, {at, false}}, endpoints: []endpoint{{at.String(), p}, {at.String(), p}}})
		attempts := 0
		b.transports.plain.RegisterProtocol("http", roundTripper(func(r *http.Request) (*http.Response, error) {
			if attempts++; attempts == 1 {
				if touched {
					r.Body.Read(make([]byte, 1))
				}
				r.Body.Close()
				return nil, errors.New("connection is gone")
			}
			return http.DefaultTransport.RoundTrip(r)
		}))
		req := httptest.NewRequest("POST", "http://a.example/", strings.NewReader("body"))
		req.RequestURI = ""
		resp, err := b.RoundTrip(req)
		switch {
		case touched && (err == nil || attempts != 1):
			t.Errorf("a body that was read was sent again: %d attempts, %v", attempts, err)
		case !touched && err != nil:
			t.Error(err)
		case !touched:
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(body) != "body" {
				t.Errorf("got %q", body)
			}
		}
		if n := p.asked.Load(); n != 0 {
			t.Errorf("%d requests are still counted", n)
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

package ingress

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func BenchmarkMatch(b *testing.B) {
	table := exampleTable(1000)
	b.ReportAllocs()
	for b.Loop() {
		if table.match("ha.example.com:443", "/api/v1/things/of/somebody") == nil {
			b.Fatal("no route")
		}
	}
}

// BenchmarkCompile makes the table of so many Ingresses with four paths each.
func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{100, 10000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			m := newMemory()
			m.load(b, strings.TrimSpace(class))
			prefix := networkingv1.PathTypePrefix
			for i := range n {
				ing := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("i%05d", i)}}
				rule := networkingv1.IngressRule{Host: fmt.Sprintf("h%05d.example", i)}
				rule.HTTP = &networkingv1.HTTPIngressRuleValue{}
				for _, p := range []string{"/", "/api", "/static", "/admin"} {
					rule.HTTP.Paths = append(rule.HTTP.Paths, networkingv1.HTTPIngressPath{Path: p, PathType: &prefix, Backend: networkingv1.IngressBackend{
						Service: &networkingv1.IngressServiceBackend{Name: "s", Port: networkingv1.ServiceBackendPort{Number: 80}}}})
				}
				ing.Spec.Rules = []networkingv1.IngressRule{rule}
				m.put(ing)
			}
			one := &backend{}
			b.ReportAllocs()
			for b.Loop() {
				compile(worldOf(m.client, m.Snapshot(), certificates{}, func(backendKey) *backend { return one }))
			}
		})
	}
}

// BenchmarkRequests sends requests for 1 kB over 64 kept connections on loopback to the ingress in front of four endpoints. Beside it stand
// one of these endpoints, a bare net/http server: what a machine can do at most, and net/http/httputil's reverse proxy as it comes.
// Clients, endpoints and ingress share the processors.
func BenchmarkRequests(b *testing.B) {
	m := newMemory()
	m.load(b, strings.TrimSpace(class))
	m.ingress(b, "a", "a.example", "web", "")
	body := bytes.Repeat([]byte("x"), 1024)
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(body) })
	var pods []string
	for range 4 {
		pods = append(pods, endpointOf(b, answer))
	}
	m.service("web", "", pods...)
	_, plain, encrypted := start(b, m)
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: pods[0]})
			r.SetXForwarded()
		},
		Transport: &http.Transport{MaxIdleConnsPerHost: 512},
	}
	b.Run("http/bare", func(b *testing.B) { hammer(b, pods[0], false) })
	b.Run("http/httputil", func(b *testing.B) { hammer(b, endpointOf(b, forward.ServeHTTP), false) })
	b.Run("http/ingress", func(b *testing.B) { hammer(b, plain, false) })
	b.Run("https/bare", func(b *testing.B) { hammer(b, encryptedEndpoint(b, answer), true) })
	b.Run("https/httputil", func(b *testing.B) { hammer(b, encryptedEndpoint(b, forward), true) })
	b.Run("https/ingress", func(b *testing.B) { hammer(b, encrypted, true) })
	b.Run("http2/bare", func(b *testing.B) { browse(b, encryptedEndpoint(b, answer)) })
	b.Run("http2/httputil", func(b *testing.B) { browse(b, encryptedEndpoint(b, forward)) })
	b.Run("http2/ingress", func(b *testing.B) { browse(b, encrypted) })
}

func encryptedEndpoint(b *testing.B, handler http.Handler) string {
	s := httptest.NewUnstartedServer(handler)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	b.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// browse asks one server with net/http's client, over HTTP/2.
func browse(b *testing.B, at string) {
	c := browser(b, at)
	defer perRequest(b)()
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			resp, err := c.Get("https://a.example/")
			if err != nil {
				b.Error(err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
}

// hammer asks one server over as many connections as there are goroutines, with a client that costs next to nothing.
func hammer(b *testing.B, at string, encrypted bool) {
	defer perRequest(b)()
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		conn, err := net.Dial("tcp", at)
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		if encrypted {
			conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: "a.example", NextProtos: []string{"http/1.1"}})
		}
		r := bufio.NewReader(conn)
		for p.Next() {
			io.WriteString(conn, "GET /index.html HTTP/1.1\r\nHost: a.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
			if err := readAnswer(r); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// perRequest reports, when what it returns is called, what the requests took: of time, and of processors, which counts where
// others use the machine too.
func perRequest(b *testing.B) func() {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func() {
		b.ReportMetric(float64(used()-before)/1e3/float64(b.N), "cpu-µs/request")
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
	}
}

func readAnswer(r *bufio.Reader) error {
	length := 0
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		switch {
		case err != nil:
			return err
		case first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")):
			return fmt.Errorf("got %q", line)
		case len(line) == 2:
			_, err := r.Discard(length)
			return err
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil {
				return err
			}
		}
	}
}

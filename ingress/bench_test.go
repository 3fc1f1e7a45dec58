package ingress

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
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

// BenchmarkRequests sends requests for 1 kB over kept connections on loopback: to the ingress in front of four endpoints, and to
// one of these endpoints, a bare net/http server, itself: what a machine can do at most. Clients, endpoints and ingress share the
// processors.
func BenchmarkRequests(b *testing.B) {
	m := newMemory()
	m.load(b, strings.TrimSpace(class))
	m.ingress(b, "a", "a.example", "web", "")
	body := bytes.Repeat([]byte("x"), 1024)
	var pods []string
	for range 4 {
		pods = append(pods, endpointOf(b, func(w http.ResponseWriter, _ *http.Request) { w.Write(body) }))
	}
	m.service("web", "", pods...)
	_, plain, encrypted := start(b, m)
	b.Run("bare", func(b *testing.B) { hammer(b, pods[0]) })
	b.Run("ingress", func(b *testing.B) { hammer(b, plain) })
	b.Run("ingress-tls-h2", func(b *testing.B) {
		defer perRequest(b)()
		c := browser(b, encrypted)
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
	})
}

// hammer asks one server over as many connections as there are goroutines, with a client that costs next to nothing.
func hammer(b *testing.B, at string) {
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

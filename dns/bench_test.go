package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/client"
)

// benchCluster has so many services, and a headless one with 10 endpoints.
func benchCluster(services int) (memory, *client.Client) {
	m, c := newMemory()
	m.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	for i := range services {
		ip := netip.AddrFrom4([4]byte{10, 43, byte(i >> 8), byte(i)}).String()
		m.put(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("s%05d", i)},
			Spec: corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}, Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}}}})
	}
	svc, slice := headless("db", 10)
	m.put(svc)
	m.put(slice)
	return m, c
}

var benchQueries = []struct {
	what, name string
	qtype      uint16
}{
	{"service", "s00042.default.svc.cluster.local.", miekg.TypeA},
	{"search-path", "www.example.org.default.svc.cluster.local.", miekg.TypeA},
	{"headless", "db.default.svc.cluster.local.", miekg.TypeA},
	{"srv", "_http._tcp.s00042.default.svc.cluster.local.", miekg.TypeSRV},
	{"outside", "www.example.org.", miekg.TypeA},
}

// BenchmarkRespond answers queries without a network.
func BenchmarkRespond(b *testing.B) {
	_, c := benchCluster(10000)
	s := start(b, c, exampleOrg)
	for _, q := range benchQueries {
		s.ask(b, "udp", q.name, q.qtype) // from now on it is in the cache
		b.Run(q.what, func(b *testing.B) {
			packet, err := new(miekg.Msg).SetQuestion(q.name, q.qtype).Pack()
			if err != nil {
				b.Fatal(err)
			}
			out := make([]byte, 0, maxUDP)
			var parsed query
			b.ReportAllocs()
			for b.Loop() {
				if answer, done := s.respond(out, packet, &parsed, maxUDP); !done || len(answer) < len(packet) {
					b.Fatal("no answer")
				}
			}
		})
	}
}

// BenchmarkUDP asks over loopback sockets, beside a server that sends every packet back: what a machine can do at most. Clients and
// server share the processors.
func BenchmarkUDP(b *testing.B) {
	_, c := benchCluster(10000)
	s := start(b, c, exampleOrg)
	s.ask(b, "udp", "www.example.org.", miekg.TypeA)
	b.Run("echo", func(b *testing.B) {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetReadBuffer(udpBuffer); err != nil {
			b.Fatal(err)
		}
		for range runtime.GOMAXPROCS(0) {
			go func() {
				buf := make([]byte, 1500)
				for {
					n, from, err := conn.ReadFromUDPAddrPort(buf)
					if err != nil {
						return
					}
					conn.WriteToUDPAddrPort(buf[:n], from)
				}
			}()
		}
		flood(b, conn.LocalAddr().String(), "s00042.default.svc.cluster.local.", miekg.TypeA)
	})
	for _, q := range benchQueries {
		b.Run(q.what, func(b *testing.B) { flood(b, s.Addr().String(), q.name, q.qtype) })
	}
}

// flood keeps 16 queries under way on each of 8 sockets.
func flood(b *testing.B, address, name string, qtype uint16) {
	packet, err := new(miekg.Msg).SetQuestion(name, qtype).Pack()
	if err != nil {
		b.Fatal(err)
	}
	var left atomic.Int64
	left.Store(int64(b.N))
	var clients sync.WaitGroup
	start, used := time.Now(), processorTime(b)
	for range 8 {
		clients.Go(func() {
			conn, err := net.Dial("udp", address)
			if err != nil {
				b.Error(err)
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(time.Minute))
			buf := make([]byte, 1500)
			inFlight := 0
			for left.Add(-1) >= 0 {
				if _, err := conn.Write(packet); err != nil {
					b.Error(err)
					return
				}
				if inFlight++; inFlight < 16 {
					continue
				}
				if _, err := conn.Read(buf); err != nil {
					b.Error(err)
					return
				}
				inFlight--
			}
			for range inFlight {
				if _, err := conn.Read(buf); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	clients.Wait()
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "queries/s")
	// Of clients and server together: what a busy machine does not distort.
	b.ReportMetric(float64((processorTime(b)-used).Nanoseconds())/float64(b.N), "cpu-ns/query")
}

func processorTime(b *testing.B) time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkVisible measures from a change of a headless service's slice to the answer that has it.
func BenchmarkVisible(b *testing.B) {
	m, c := benchCluster(10000)
	s := start(b, c, nil)
	svc, slice := headless("new", 2)
	m.put(svc)
	packet, err := new(miekg.Msg).SetQuestion("new.default.svc.cluster.local.", miekg.TypeA).Pack()
	if err != nil {
		b.Fatal(err)
	}
	var parsed query
	out := make([]byte, 0, maxUDP)
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	for i := 0; b.Loop(); i++ {
		next := slice.DeepCopy()
		next.Endpoints = next.Endpoints[:1+i%2]
		m.put(next)
		for {
			answer, _ := s.respond(out, packet, &parsed, maxUDP)
			if int(answer[7]) == 1+i%2 {
				break
			}
			if ctx.Err() != nil {
				b.Fatal("the change is not seen")
			}
			runtime.Gosched()
		}
	}
}

package dns

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
	"golang.org/x/net/ipv4"
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

// BenchmarkUDP asks over loopback sockets, beside servers that send every packet back: one packet at a time, as most servers do, and in
// batches, what a machine can do at most. Clients and server share the processors.
func BenchmarkUDP(b *testing.B) {
	_, c := benchCluster(10000)
	s := start(b, c, exampleOrg)
	for _, q := range benchQueries {
		s.ask(b, "udp", q.name, q.qtype) // from now on it is in the cache
	}
	echoed := pack(b, miekg.TypeA, "s00042.default.svc.cluster.local.")
	b.Run("echo", func(b *testing.B) { flood(b, echo(b, 1), echoed) })
	b.Run("echo-batches", func(b *testing.B) { flood(b, echo(b, udpBatch), echoed) })
	for _, q := range benchQueries {
		b.Run(q.what, func(b *testing.B) { flood(b, s.Addr(), pack(b, q.qtype, q.name)) })
	}
	// What a resolver in a pod asks for www.example.org: the search list comes first, as the name has fewer than five dots.
	const name = "www.example.org."
	b.Run("search-list", func(b *testing.B) {
		flood(b, s.Addr(), pack(b, miekg.TypeA, name+"default.svc.cluster.local.", name+"svc.cluster.local.", name+"cluster.local.", name))
	})
}

// pack makes the packets of one question for each of the names.
func pack(b *testing.B, qtype uint16, names ...string) [][]byte {
	var out [][]byte
	for _, name := range names {
		packet, err := new(miekg.Msg).SetQuestion(name, qtype).Pack()
		if err != nil {
			b.Fatal(err)
		}
		out = append(out, packet)
	}
	return out
}

// echo starts a server that sends back what it gets, so many packets at a time, over as many sockets as ours has.
func echo(b *testing.B, batch int) netip.AddrPort {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
	}}
	at := netip.MustParseAddrPort("127.0.0.1:0")
	for range min(runtime.GOMAXPROCS(0), maxSockets) {
		packets, err := config.ListenPacket(b.Context(), "udp", at.String())
		if err != nil {
			b.Fatal(err)
		}
		conn := packets.(*net.UDPConn)
		b.Cleanup(func() { conn.Close() })
		if err := conn.SetReadBuffer(udpBuffer); err != nil {
			b.Fatal(err)
		}
		at = conn.LocalAddr().(*net.UDPAddr).AddrPort()
		go func() {
			messages, many := messagesOf(batch), ipv4.NewPacketConn(conn)
			buf := messages[0].Buffers[0]
			for {
				if batch == 1 {
					n, from, err := conn.ReadFromUDPAddrPort(buf)
					if err != nil {
						return
					}
					conn.WriteToUDPAddrPort(buf[:n], from)
					continue
				}
				n, err := many.ReadBatch(messages, 0)
				if err != nil {
					return
				}
				for i := range messages[:n] {
					messages[i].Buffers[0] = messages[i].Buffers[0][:messages[i].N]
				}
				for left := messages[:n]; len(left) > 0; {
					sent, _ := many.WriteBatch(left, 0)
					left = left[max(sent, 1):]
				}
				for i := range messages[:n] {
					messages[i].Buffers[0] = messages[i].Buffers[0][:maxQuery]
				}
			}
		}()
	}
	return at
}

func messagesOf(n int) []ipv4.Message {
	out := make([]ipv4.Message, n)
	for i := range out {
		out[i].Buffers = [][]byte{make([]byte, maxQuery)}
	}
	return out
}

// flood sends packets by turns from each of 8 sockets, 16 at a time, and then waits for the answers.
func flood(b *testing.B, address netip.AddrPort, packets [][]byte) {
	const sockets, burst = 8, 16
	var left atomic.Int64
	left.Store(int64(b.N))
	var clients sync.WaitGroup
	b.ReportAllocs()
	start, used := time.Now(), processorTime(b)
	for range sockets {
		clients.Go(func() {
			conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(address))
			if err != nil {
				b.Error(err)
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(time.Minute))
			many, in, out := ipv4.NewPacketConn(conn), messagesOf(burst), make([]ipv4.Message, burst)
			for i := range out {
				out[i].Buffers = [][]byte{packets[i%len(packets)]}
			}
			for left.Add(-burst) > -burst {
				for sent := 0; sent < burst; {
					n, err := many.WriteBatch(out[sent:], 0)
					if err != nil {
						b.Error(err)
						return
					}
					sent += n
				}
				for got := 0; got < burst; {
					n, err := many.ReadBatch(in, 0)
					if err != nil {
						b.Error(err)
						return
					}
					got += n
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

// BenchmarkVisible measures from a change of a headless service's slice, one of 10,000 services, to the answer by UDP that has it.
func BenchmarkVisible(b *testing.B) {
	m, c := benchCluster(10000)
	s := start(b, c, nil)
	svc, slice := headless("new", 2)
	m.put(svc)
	packet := pack(b, miekg.TypeA, "new.default.svc.cluster.local.")[0]
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(s.Addr()))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	var took []time.Duration
	answer := make([]byte, maxUDP)
	for i := 0; b.Loop(); i++ {
		next := slice.DeepCopy()
		next.Endpoints = next.Endpoints[:1+i%2]
		start := time.Now()
		m.put(next)
		for answer[7] = 0; int(answer[7]) != 1+i%2; {
			if _, err := conn.Write(packet); err != nil {
				b.Fatal(err)
			}
			if _, err := conn.Read(answer); err != nil {
				b.Fatal(err)
			}
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
}

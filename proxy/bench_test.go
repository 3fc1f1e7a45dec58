package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/kebernetes/kebernetes/network"
	"github.com/kebernetes/kebernetes/network/networktest"
)

// fill puts so many services of one TCP port with two endpoints each.
func fill(m memory, services int) {
	for i := range services {
		name := fmt.Sprintf("s%05d", i)
		svc := service(name, netip.AddrFrom4([4]byte{10, 43, byte(i >> 8), byte(i)}).String())
		svc.Spec.Ports = svc.Spec.Ports[:1]
		m.put(svc, benchSlice(i, 0))
	}
}

// benchSlice is the slice of service i; step turns its endpoints over.
func benchSlice(i, step int) *discoveryv1.EndpointSlice {
	s := slice(fmt.Sprintf("s%05d", i), []netip.Addr{
		netip.AddrFrom4([4]byte{10, 42, byte(i >> 7), byte(i << 1)}), netip.AddrFrom4([4]byte{10, 44, byte(step >> 8), byte(step)}),
	}, elsewhere)
	s.Ports = s.Ports[:1]
	return s
}

func benchProxy(b *testing.B, services int) (memory, *Proxy) {
	m, c := newMemory()
	fill(m, services)
	p, err := New(Options{Client: c, NodeName: "node", ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}, Bridge: network.DefaultBridge,
		NetNS: networktest.New(b).Path, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	return m, p
}

// BenchmarkLoad programs all services from nothing. held is what the proxy's own state of them takes, in MB.
func BenchmarkLoad(b *testing.B) {
	for _, services := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			m, p := benchProxy(b, services)
			defer p.kernel.Close()
			before := heap()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.start(); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := p.kernel.Remove(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(heap()-before)/1e6, "held-MB")
			runtime.KeepAlive(m)
			runtime.KeepAlive(p)
		})
	}
}

// heap is how many bytes are alive.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkChange changes one service of many: one endpoint for another, or one more and one less (another chain).
func BenchmarkChange(b *testing.B) {
	for _, services := range []int{10, 10000} {
		for _, kind := range []string{"replace", "scale"} {
			b.Run(fmt.Sprintf("%s/%d", kind, services), func(b *testing.B) {
				m, p := benchProxy(b, services)
				ctx, cancel := context.WithCancel(b.Context())
				ended := make(chan error)
				go func() { ended <- p.Run(ctx) }()
				defer func() { cancel(); <-ended }()
				if err := p.WaitRevision(ctx, m.Snapshot().Revision()); err != nil {
					b.Fatal(err)
				}
				var took []time.Duration
				step := 0
				for b.Loop() {
					step++
					s := benchSlice(step%services, step)
					if kind == "scale" && step/services%2 == 0 {
						s.Endpoints = s.Endpoints[:1]
					}
					start := time.Now()
					m.put(s)
					if err := p.WaitRevision(ctx, m.Snapshot().Revision()); err != nil {
						b.Fatal(err)
					}
					took = append(took, time.Since(start))
				}
				reportPercentiles(b, took)
			})
		}
	}
}

// BenchmarkFirstPacket opens connections from pod to pod by way of a cluster IP, one among so many services, and, for 0, by the pod's own
// address: a TCP handshake, or a question and its answer by UDP from a new socket. Each walks through all rules.
func BenchmarkFirstPacket(b *testing.B) {
	for _, protocol := range []string{"tcp", "udp"} {
		for _, services := range []int{0, 10, 1000, 10000} {
			b.Run(fmt.Sprintf("%s/%d", protocol, services), func(b *testing.B) {
				w := newWorld(b)
				from, _ := w.pod()
				_, addr := w.pod()
				to := netip.AddrPortFrom(addr, 8080)
				if services > 0 {
					fill(w.memory, services-1)
					w.apply(service("web", "10.43.255.80"), slice("web", []netip.Addr{addr}))
					to = netip.MustParseAddrPort("10.43.255.80:80")
				}
				var took []time.Duration
				if err := from.Do(func() error {
					for b.Loop() {
						t, err := firstPacket(protocol, to)
						if err != nil {
							return err
						}
						took = append(took, t)
					}
					return nil
				}); err != nil {
					b.Fatal(err)
				}
				reportPercentiles(b, took)
			})
		}
	}
}

// firstPacket returns how long a new connection's first answer took.
func firstPacket(protocol string, to netip.AddrPort) (time.Duration, error) {
	kind := unix.SOCK_STREAM
	if protocol == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	limit := unix.Timeval{Sec: 5}
	if err := errors.Join(
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}), // leaves no port waiting
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)); err != nil {
		return 0, err
	}
	start := time.Now()
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	if err == nil && protocol == "udp" {
		var buf [64]byte
		if _, err = unix.Write(fd, buf[:1]); err == nil {
			_, err = unix.Read(fd, buf[:])
		}
	}
	return time.Since(start), err
}

func reportPercentiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
}

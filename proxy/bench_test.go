package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

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

// BenchmarkLoad programs all services from nothing.
func BenchmarkLoad(b *testing.B) {
	for _, services := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			_, p := benchProxy(b, services)
			defer p.close()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.start(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
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
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
				b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
			})
		}
	}
}

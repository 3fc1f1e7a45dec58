package routes

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// String shows a plan as a person would write it down, one line per fact.
func (p *plan) String() string {
	var out []string
	for dst, r := range p.routes {
		line := fmt.Sprintf("%s via %s", dst, r.via)
		switch r.kind {
		case unreachable:
			line = fmt.Sprintf("%s unreachable", dst)
		case direct:
			line += fmt.Sprintf(" link %d", r.link)
		case tunnelled:
			line += fmt.Sprintf(" tunnel from %s", r.local)
		}
		out = append(out, line)
	}
	if t := p.tunnel; t != nil {
		out = append(out, fmt.Sprintf("tunnel %x %v ipv6=%t", t.hardware, t.addresses, t.v6))
		for hardware, at := range t.stations {
			out = append(out, fmt.Sprintf("tunnel peer %x at %s", hardware, at))
		}
		for addr, hardware := range t.neighbour {
			out = append(out, fmt.Sprintf("tunnel neighbour %s is %x", addr, hardware))
		}
	}
	for _, f := range p.faults {
		out = append(out, "fault: "+f)
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// nodeOf reads "name range[,range] address[,address]".
func nodeOf(s string) node {
	f := strings.Fields(s)
	n := node{name: f[0]}
	for _, r := range strings.Split(f[1], ",") {
		if r != "-" {
			n.ranges = append(n.ranges, netip.MustParsePrefix(r))
		}
	}
	for _, a := range strings.Split(f[2], ",") {
		if a != "-" {
			n.addresses = append(n.addresses, netip.MustParseAddr(a))
		}
	}
	return n
}

func TestPlan(t *testing.T) {
	for _, test := range []struct {
		name   string
		self   string // "n1 10.42.1.0/24 192.0.2.1" where empty
		locals string // prefix@link
		peers  []string
		want   string
	}{
		{"alone", "", "192.0.2.1/24@2", nil, `
10.42.0.0/16 unreachable
fd00:42::/48 unreachable`},
		{"one link", "", "192.0.2.1/24@2 10.42.1.1/24@3", []string{"n2 10.42.2.0/24 192.0.2.2"}, `
10.42.0.0/16 unreachable
10.42.2.0/24 via 192.0.2.2 link 2
fd00:42::/48 unreachable`},
		{"the link of the node's address counts, not any", "", "192.0.2.1/24@2 198.51.100.1/24@3", []string{"n2 10.42.2.0/24 198.51.100.2"}, `
10.42.0.0/16 unreachable
10.42.2.0/24 via 10.42.2.1 tunnel from 10.42.1.1
fd00:42::/48 unreachable
tunnel 02760a2a0100 [10.42.1.1] ipv6=false
tunnel neighbour 10.42.2.1 is 02760a2a0200
tunnel peer 02760a2a0200 at 198.51.100.2`},
		{"a node that is on no link of its own is reached by the tunnel from everywhere", "", "10.0.0.1/24@2", []string{"n2 10.42.2.0/24 192.0.2.2"}, `
10.42.0.0/16 unreachable
10.42.2.0/24 via 10.42.2.1 tunnel from 10.42.1.1
fd00:42::/48 unreachable
tunnel 02760a2a0100 [10.42.1.1] ipv6=false
tunnel neighbour 10.42.2.1 is 02760a2a0200
tunnel peer 02760a2a0200 at 192.0.2.2`},
		{"a second address on the link does", "", "192.0.2.1/24@2", []string{"n2 10.42.2.0/24 203.0.113.9,192.0.2.2"}, `
10.42.0.0/16 unreachable
10.42.2.0/24 via 192.0.2.2 link 2
fd00:42::/48 unreachable`},
		{"both families, one on the link, the other carried by IPv4", "n1 10.42.1.0/24,fd00:42:0:1::/64 192.0.2.1", "192.0.2.1/24@2",
			[]string{"n2 10.42.2.0/24,fd00:42:0:2::/64 192.0.2.2,2001:db8::2"}, `
10.42.0.0/16 unreachable
10.42.2.0/24 via 192.0.2.2 link 2
fd00:42:0:2::/64 via fd00:42:0:2::1 tunnel from fd00:42:0:1::1
fd00:42::/48 unreachable
tunnel 02760a2a0100 [10.42.1.1 fd00:42:0:1::1] ipv6=false
tunnel neighbour fd00:42:0:2::1 is 02760a2a0200
tunnel peer 02760a2a0200 at 192.0.2.2`},
		{"IPv6 alone", "n1 fd00:42:0:1::/64 2001:db8::1", "2001:db8::1/64@2", []string{"n2 fd00:42:0:2::/64 2001:db8::2", "n3 fd00:42:0:3::/64 2001:db8:1::3"}, `
10.42.0.0/16 unreachable
fd00:42:0:2::/64 via 2001:db8::2 link 2
fd00:42:0:3::/64 via fd00:42:0:3::1 tunnel from fd00:42:0:1::1
fd00:42::/48 unreachable
tunnel 027600000001 [fd00:42:0:1::1] ipv6=true
tunnel neighbour fd00:42:0:3::1 is 027600000003
tunnel peer 027600000003 at 2001:db8:1::3`},
		{"a node that has reported no address, or no range, waits", "", "192.0.2.1/24@2", []string{"n2 10.42.2.0/24 -", "n3 - 192.0.2.3"}, `
10.42.0.0/16 unreachable
fd00:42::/48 unreachable`},
		{"this node has no address yet", "n1 10.42.1.0/24 -", "192.0.2.1/24@2", []string{"n2 10.42.2.0/24 192.0.2.2"}, `
10.42.0.0/16 unreachable
fd00:42::/48 unreachable`},
		{"ranges that are not the node's to have", "", "192.0.2.1/24@2", []string{
			"n2 0.0.0.0/0 192.0.2.2", "n3 10.42.1.128/25 192.0.2.3", "n4 10.42.4.0/23 192.0.2.4", "n5 10.42.5.0/24 192.0.2.5", "n6 10.43.0.0/24 192.0.2.6",
			"n0 10.42.8.0/24 192.0.2.10", "n7 10.42.8.0/22 192.0.2.7"}, `
10.42.0.0/16 unreachable
10.42.4.0/23 via 192.0.2.4 link 2
10.42.8.0/24 via 192.0.2.10 link 2
fault: range 0.0.0.0/0 of node n2 is none of the cluster's
fault: range 10.42.1.128/25 of node n3 overlaps that of node n1
fault: range 10.42.5.0/24 of node n5 overlaps that of node n4
fault: range 10.42.8.0/22 of node n7 overlaps that of node n0
fault: range 10.43.0.0/24 of node n6 is none of the cluster's
fd00:42::/48 unreachable`},
		{"addresses where no other node can be", "", "192.0.2.1/24@2 127.0.0.1/8@1", []string{
			"n2 10.42.2.0/24 127.0.0.1", "n3 10.42.3.0/24 192.0.2.1", "n4 10.42.4.0/24 224.0.0.1", "n5 10.42.5.0/24 2001:db8::5"}, `
10.42.0.0/16 unreachable
fault: node n2 has no address of the kind of 192.0.2.1 that is its own
fault: node n3 has no address of the kind of 192.0.2.1 that is its own
fault: node n4 has no address of the kind of 192.0.2.1 that is its own
fault: node n5 has no address of the kind of 192.0.2.1 that is its own
fd00:42::/48 unreachable`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.self == "" {
				test.self = "n1 10.42.1.0/24 192.0.2.1"
			}
			var locals []local
			for _, l := range strings.Fields(test.locals) {
				var link int
				prefix, number, _ := strings.Cut(l, "@")
				fmt.Sscan(number, &link)
				locals = append(locals, local{netip.MustParsePrefix(prefix), link})
			}
			var peers []node
			for _, p := range test.peers {
				peers = append(peers, nodeOf(p))
			}
			p := makePlan(nodeOf(test.self), peers, locals, clusterCIDRs())
			if diff := cmp.Diff(strings.TrimPrefix(test.want, "\n"), p.String()); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func clusterCIDRs() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00:42::/48")}
}

func BenchmarkPlan(b *testing.B) {
	self, locals := nodeOf("n 10.42.0.0/24 192.0.2.1"), []local{{netip.MustParsePrefix("192.0.0.0/16"), 2}}
	cluster := []netip.Prefix{netip.MustParsePrefix("10.32.0.0/11")}
	var peers []node
	for i := range 5000 {
		peers = append(peers, nodeOf(fmt.Sprintf("n%d 10.%d.%d.0/24 192.%d.%d.2", i, 43+i/256, i%256, i%2, i%256)))
	}
	for b.Loop() {
		makePlan(self, peers, locals, cluster)
	}
}

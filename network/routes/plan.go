package routes

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/network"
)

// node is what routes depend on of a node.
type node struct {
	name      string
	ranges    []netip.Prefix // of its pods, at most one per address family
	addresses []netip.Addr   // its InternalIPs
}

// newNode reads a node. What is no range or address is left out.
func newNode(n *corev1.Node) node {
	out := node{name: n.Name}
	ranges := n.Spec.PodCIDRs
	if len(ranges) == 0 && n.Spec.PodCIDR != "" {
		ranges = []string{n.Spec.PodCIDR}
	}
	for _, s := range ranges {
		if p, err := netip.ParsePrefix(s); err == nil {
			out.ranges = append(out.ranges, p.Masked())
		}
	}
	for _, a := range n.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			out.addresses = append(out.addresses, addr.Unmap())
		}
	}
	return out
}

func (n *node) equal(o *node) bool {
	return n.name == o.name && slices.Equal(n.ranges, o.ranges) && slices.Equal(n.addresses, o.addresses)
}

// address is the node's first address of a family.
func (n *node) address(v6 bool) netip.Addr {
	for _, a := range n.addresses {
		if a.Is6() == v6 {
			return a
		}
	}
	return netip.Addr{}
}

// local is an address that a link of this node has.
type local struct {
	prefix netip.Prefix // the address and the network that it is in
	link   int
}

// route is the way to a range of pods.
type route struct {
	kind  routeKind
	via   netip.Addr
	link  int        // of a direct route
	local netip.Addr // the node's own address on this way; the kernel chooses where it is none
}

type routeKind uint8

const (
	direct      routeKind = iota // by a link that both nodes have
	tunnelled                    // through the tunnel
	unreachable                  // to no node at all
)

// tunnel is the VXLAN device, its address among the pods' and its peers.
type tunnel struct {
	v6        bool // the family of the packets that carry others
	hardware  [6]byte
	addresses []netip.Addr
	stations  map[[6]byte]netip.Addr // where the device of a hardware address is
	neighbour map[netip.Addr][6]byte // the hardware address of a gateway
}

// overhead is how much smaller packets must be that go through the tunnel.
func (t *tunnel) overhead() int {
	switch {
	case t == nil:
		return 0
	case t.v6:
		return network.TunnelOverhead6
	}
	return network.TunnelOverhead4
}

// plan is what a node's kernel shall hold.
type plan struct {
	routes map[netip.Prefix]route
	tunnel *tunnel // nil when all nodes share a link with this one
	faults []string
}

// makePlan computes the ways from a node to the pods of all others. cluster are the ranges of all pods: a node that claims more
// gets nothing.
func makePlan(self node, peers []node, locals []local, cluster []netip.Prefix) plan {
	p := plan{routes: map[netip.Prefix]route{}}
	for _, c := range cluster {
		// Or else packets to pods that are nowhere would leave by the default route, in the open.
		p.routes[c.Masked()] = route{kind: unreachable}
	}
	// The oldest claim cannot be known here; in the order of names all nodes at least agree.
	slices.SortFunc(peers, func(a, b node) int { return cmp.Compare(a.name, b.name) })
	c := claims{cluster: cluster, taken: map[netip.Prefix]string{}, above: map[netip.Prefix]string{}}
	for _, r := range self.ranges {
		c.claim(r, self.name)
	}
	for _, peer := range peers {
		for _, r := range peer.ranges {
			if fault := c.claim(r, peer.name); fault != "" {
				p.faults = append(p.faults, fmt.Sprintf("range %s of node %s %s", r, peer.name, fault))
				continue
			}
			p.add(&self, &peer, r, locals)
		}
	}
	return p
}

// claims finds ranges that two nodes claim.
type claims struct {
	cluster []netip.Prefix
	taken   map[netip.Prefix]string // a range's node
	above   map[netip.Prefix]string // of each range around a taken one, the node of that
}

// claim gives a range to a node, or says why not.
func (c *claims) claim(r netip.Prefix, name string) string {
	i := slices.IndexFunc(c.cluster, func(c netip.Prefix) bool { return c.Bits() <= r.Bits() && c.Contains(r.Addr()) })
	if i < 0 {
		return "is none of the cluster's"
	}
	if other, ok := c.above[r]; ok {
		return "overlaps that of node " + other
	}
	for bits := c.cluster[i].Bits(); bits <= r.Bits(); bits++ {
		if other, ok := c.taken[netip.PrefixFrom(r.Addr(), bits).Masked()]; ok {
			return "overlaps that of node " + other
		}
	}
	c.taken[r] = name
	for bits := c.cluster[i].Bits(); bits < r.Bits(); bits++ {
		c.above[netip.PrefixFrom(r.Addr(), bits).Masked()] = name
	}
	return ""
}

// add adds the way to one range of a peer.
func (p *plan) add(self, peer *node, r netip.Prefix, locals []local) {
	v6 := r.Addr().Is6()
	if via, link, ok := shared(self, peer, v6, locals); ok {
		p.routes[r] = route{kind: direct, via: via, link: link}
		return
	}
	if len(self.addresses) == 0 {
		return // this node has not told anybody where it is
	}
	outer6 := self.addresses[0].Is6()
	at := peer.address(outer6)
	if !at.IsValid() || !usable(at) || slices.Contains(self.addresses, at) {
		if len(peer.addresses) > 0 { // without one it has not reported yet
			p.faults = append(p.faults, fmt.Sprintf("node %s has no address of the kind of %s that is its own", peer.name, self.addresses[0]))
		}
		return
	}
	if p.tunnel == nil {
		p.tunnel = &tunnel{v6: outer6, stations: map[[6]byte]netip.Addr{}, neighbour: map[netip.Addr][6]byte{}}
		if len(self.ranges) > 0 {
			p.tunnel.hardware = hardwareAddr(self.ranges[0])
		}
		for _, own := range self.ranges {
			p.tunnel.addresses = append(p.tunnel.addresses, network.Gateway(own))
		}
	}
	hardware := hardwareAddr(peer.ranges[0])
	p.tunnel.stations[hardware] = at
	p.tunnel.neighbour[network.Gateway(r)] = hardware
	way := route{kind: tunnelled, via: network.Gateway(r)}
	for _, own := range self.ranges {
		if own.Addr().Is6() == v6 {
			way.local = network.Gateway(own)
		}
	}
	p.routes[r] = way
}

// shared returns the peer's address and the link by which it is reached without a router: the network of one of our own node
// addresses holds it. Both nodes come to the same answer, as long as they agree on how large that network is.
func shared(self, peer *node, v6 bool, locals []local) (via netip.Addr, link int, ok bool) {
	for _, at := range peer.addresses {
		if at.Is6() != v6 || !usable(at) || slices.Contains(self.addresses, at) {
			continue
		}
		for _, l := range locals {
			if slices.Contains(self.addresses, l.prefix.Addr()) && l.prefix.Contains(at) {
				return at, l.link, true
			}
		}
	}
	return netip.Addr{}, 0, false
}

// usable says whether another node can be at an address at all.
func usable(a netip.Addr) bool {
	return !a.IsLoopback() && !a.IsMulticast() && !a.IsUnspecified() && !a.IsLinkLocalUnicast()
}

// hardwareAddr is the hardware address of the tunnel of a node, by the node's first range of pods: nobody has to publish it, it
// stays when the node's address changes, and it is as unique as the range. The first byte marks it as locally administered. Of
// an IPv6 range it holds the last four bytes of the network's number, which tell apart the ranges of a cluster of /32 or less.
func hardwareAddr(r netip.Prefix) [6]byte {
	b := r.Masked().Addr().AsSlice()
	end := max(4, (r.Bits()+7)/8)
	return [6]byte(append(net.HardwareAddr{0x02, 'v'}, b[end-4:end]...))
}

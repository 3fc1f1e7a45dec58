package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Link is what Attach made.
type Link struct {
	// Name and HardwareAddr are those of the node's end; PodHardwareAddr is that of the pod's.
	Name            string
	HardwareAddr    net.HardwareAddr
	PodHardwareAddr net.HardwareAddr
	MTU             int
	Addresses       []LinkAddress
}

// LinkAddress is an address of a pod and the way out of it.
type LinkAddress struct {
	Address netip.Addr
	Gateway netip.Addr
}

// Attach links a sandbox: a veth pair from its namespace to the bridge, an address of each family and a default route through
// the node. An attachment that exists is made anew. On an error nothing is left behind.
func (n *Network) Attach(ctx context.Context, a Attachment) (*Link, error) {
	if err := a.validate(); err != nil {
		return nil, err
	}
	if err := n.Detach(ctx, a); err != nil {
		return nil, err
	}
	s, link, err := n.reserve(a)
	if err != nil {
		return nil, err
	}
	if err := n.guard(ctx, s); err != nil {
		return nil, errors.Join(err, n.Detach(ctx, a))
	}
	if err := n.link(s, link); err != nil {
		return nil, errors.Join(fmt.Errorf("link sandbox %s: %w", a.ContainerID, err), n.Detach(ctx, a))
	}
	return link, nil
}

// reserve takes addresses for an attachment and writes its file.
func (n *Network) reserve(a Attachment) (*sandbox, *Link, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := &sandbox{Attachment: a, Link: a.linkName()}
	link := &Link{Name: s.Link, MTU: n.mtu}
	for _, p := range n.pools {
		addr, err := p.take()
		if err != nil {
			n.release(s)
			return nil, nil, err
		}
		s.Addresses = append(s.Addresses, addr)
		link.Addresses = append(link.Addresses, LinkAddress{Address: addr, Gateway: p.gateway})
	}
	link.PodHardwareAddr = hardwareAddr(s.Addresses[0])
	if err := n.saveSandbox(s); err != nil {
		n.release(s)
		return nil, nil, err
	}
	n.sandboxes[s.id()] = s
	return s, link, nil
}

// release gives the addresses of a sandbox back. n.mu is held.
func (n *Network) release(s *sandbox) {
	for _, addr := range s.Addresses {
		for _, p := range n.pools {
			p.release(addr)
		}
	}
}

// link makes the veth pair and sets both ends up.
func (n *Network) link(s *sandbox, link *Link) error {
	ns, err := netns.GetFromPath(s.NetNS)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", s.NetNS, err)
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex, attrs.Flags = s.Link, link.MTU, n.bridge, net.FlagUp
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace, veth.PeerHardwareAddr = s.IfName, netlink.NsFd(ns), link.PodHardwareAddr
	if err := n.node.LinkAdd(veth); err != nil {
		return fmt.Errorf("add link %s: %w", s.Link, err)
	}
	made, err := n.node.LinkByName(s.Link)
	if err != nil {
		return fmt.Errorf("find link %s: %w", s.Link, err)
	}
	link.HardwareAddr = made.Attrs().HardwareAddr
	// Where bridge netfilter is on, the kernel turns packets that a pod sends to itself by way of a service around on the port.
	if err := n.node.LinkSetHairpin(made, true); err != nil {
		return fmt.Errorf("set hairpin mode of link %s: %w", s.Link, err)
	}
	// The node's end needs no IPv6 address, and none of the traffic that comes with one. It may be that the kernel has no IPv6.
	if err := n.node.LinkSetIP6AddrGenMode(made, nl.IN6_ADDR_GEN_MODE_NONE); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("switch addresses of link %s off: %w", s.Link, err)
	}
	pod, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink in %s: %w", s.NetNS, err)
	}
	defer pod.Close()
	eth, err := setUpPod(pod, s.IfName, link.Addresses)
	if err != nil {
		return err
	}
	if err := errors.Join(waitForCarrier(pod, eth), waitForCarrier(n.node, made.Attrs().Index), waitForCarrier(n.node, n.bridge)); err != nil {
		return err
	}
	if err := n.introduce(pod, eth, link); err != nil {
		return err
	}
	if !slices.ContainsFunc(s.Addresses, netip.Addr.Is6) {
		return nil
	}
	// The node cannot be told to send no redirects here, so pods are told to take none: they would pass its rules by.
	return InNamespace(s.NetNS, func() error { return writeSysctl("ipv6/conf/"+s.IfName+"/accept_redirects", "0") })
}

// introduce tells the node and the pod each other's hardware address, so that neither has to ask. An IPv6 address is not ready to be
// asked for as soon as it is there, and a question that is lost costs a second.
func (n *Network) introduce(pod *netlink.Handle, eth int, link *Link) error {
	for _, a := range link.Addresses {
		if err := n.node.NeighSet(neighbour(n.bridge, a.Address, link.PodHardwareAddr)); err != nil {
			return fmt.Errorf("add neighbour %s: %w", a.Address, err)
		}
		if err := pod.NeighSet(neighbour(eth, a.Gateway, hardwareAddr(n.pools[0].gateway))); err != nil {
			return fmt.Errorf("add neighbour %s: %w", a.Gateway, err)
		}
	}
	return nil
}

func neighbour(link int, addr netip.Addr, hardware net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: link, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: hardware}
}

// waitForCarrier waits until a link that was set up carries packets, a tenth of a second at most. The kernel makes that known
// (to the bridge, that it may forward) some time after; until then packets are lost, and a pod's first connection would
// take a second. Since Linux 6.8 the question alone makes it so.
func waitForCarrier(h *netlink.Handle, index int) error {
	for range 100 {
		link, err := h.LinkByIndex(index)
		if err != nil {
			return fmt.Errorf("find link: %w", err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// setUpPod brings the pod's links up, gives it addresses and routes, and returns the index of its end.
func setUpPod(pod *netlink.Handle, ifName string, addresses []LinkAddress) (int, error) {
	const loopback = 1 // the interface index, in every namespace
	if err := pod.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: loopback}}); err != nil {
		return 0, fmt.Errorf("set lo up: %w", err)
	}
	eth, err := pod.LinkByName(ifName)
	if err != nil {
		return 0, fmt.Errorf("find the pod's end %s: %w", ifName, err)
	}
	if err := pod.LinkSetUp(eth); err != nil {
		return 0, fmt.Errorf("set %s up: %w", ifName, err)
	}
	for _, a := range addresses {
		host := netip.PrefixFrom(a.Address, a.Address.BitLen())
		if err := pod.AddrAdd(eth, &netlink.Addr{IPNet: toIPNet(host), Flags: noDAD(a.Address)}); err != nil {
			return 0, fmt.Errorf("add address %s: %w", a.Address, err)
		}
		gateway := netip.PrefixFrom(a.Gateway, a.Gateway.BitLen())
		anywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if a.Address.Is6() {
			anywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		for _, route := range []*netlink.Route{
			{LinkIndex: eth.Attrs().Index, Dst: toIPNet(gateway), Scope: netlink.SCOPE_LINK},
			{LinkIndex: eth.Attrs().Index, Dst: toIPNet(anywhere), Gw: a.Gateway.AsSlice()},
		} {
			if err := pod.RouteAdd(route); err != nil {
				return 0, fmt.Errorf("add route %s: %w", route.Dst, err)
			}
		}
	}
	return eth.Attrs().Index, nil
}

// Detach removes the link of a sandbox and frees its addresses. What is gone already is no error.
func (n *Network) Detach(_ context.Context, a Attachment) error {
	if err := a.validate(); err != nil {
		return err
	}
	n.mu.Lock()
	s := n.sandboxes[a.id()]
	n.mu.Unlock()
	if s == nil {
		return nil
	}
	link, err := n.node.LinkByName(s.Link)
	if err == nil {
		err = n.node.LinkDel(link)
	}
	if err := ignoreMissingLink(err); err != nil {
		return fmt.Errorf("remove link %s: %w", s.Link, err)
	}
	if err := n.forget(s.Addresses); err != nil {
		return err
	}
	if err := os.Remove(n.sandboxFile(s.id())); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("network state: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	// Two callers may have come this far; only one of them may give the addresses back.
	if n.sandboxes[a.id()] == s {
		delete(n.sandboxes, a.id())
		n.release(s)
	}
	return nil
}

// forget removes the node's neighbours of these addresses.
func (n *Network) forget(addrs []netip.Addr) error {
	for _, addr := range addrs {
		if err := n.node.NeighDel(neighbour(n.bridge, addr, nil)); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove neighbour %s: %w", addr, err)
		}
	}
	return nil
}

// Check says what is wrong with the link of a sandbox, nil when it is whole.
func (n *Network) Check(_ context.Context, a Attachment) error {
	n.mu.Lock()
	s := n.sandboxes[a.id()]
	n.mu.Unlock()
	if s == nil {
		return fmt.Errorf("sandbox %s has no link %s", a.ContainerID, a.IfName)
	}
	if _, err := n.node.LinkByName(s.Link); err != nil {
		return fmt.Errorf("find link %s: %w", s.Link, err)
	}
	pod, err := handleAt(s.NetNS)
	if err != nil {
		return err
	}
	defer pod.Close()
	eth, err := pod.LinkByName(s.IfName)
	if err != nil {
		return fmt.Errorf("find the pod's end %s: %w", s.IfName, err)
	}
	addrs, err := pod.AddrList(eth, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", s.IfName, err)
	}
	have := map[netip.Addr]bool{}
	for _, addr := range addrs {
		have[toPrefix(addr.IPNet).Addr()] = true
	}
	for _, addr := range s.Addresses {
		if !have[addr] {
			return fmt.Errorf("%s lacks address %s", s.IfName, addr)
		}
	}
	return nil
}

// DetachExcept removes the links of all sandboxes but those that valid lists; only their container ids and interface names
// count.
func (n *Network) DetachExcept(ctx context.Context, valid []Attachment) error {
	keep := map[string]bool{}
	for _, a := range valid {
		keep[a.id()] = true
	}
	n.mu.Lock()
	var gone []Attachment
	for id, s := range n.sandboxes {
		if !keep[id] {
			gone = append(gone, s.Attachment)
		}
	}
	n.mu.Unlock()
	var errs []error
	for _, a := range gone {
		errs = append(errs, n.Detach(ctx, a))
	}
	return errors.Join(errs...)
}

package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net"

	"github.com/vishvananda/netlink"
)

// TunnelDevice is the link to nodes that share none with this one (package routes).
const TunnelDevice = "kebvx0"

// Headers that a tunnel puts around a packet: the outer IP header, UDP, VXLAN and the inner Ethernet header (RFC 7348).
const (
	TunnelOverhead4 = 20 + 8 + 8 + 14
	TunnelOverhead6 = 40 + 8 + 8 + 14
)

// SetOverhead makes pods' links, those that there are and those to come, smaller than the node's uplink by so many bytes, and
// returns their MTU. Where it is that already, nothing changes. It works once the network is Ready.
func (n *Network) SetOverhead(overhead int) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	uplink, err := n.uplinkMTU()
	if err != nil {
		return 0, err
	}
	mtu := uplink - overhead
	if mtu == n.mtu {
		return mtu, nil
	}
	bridge := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: n.bridge}}
	if err := n.node.LinkSetMTU(bridge, mtu); err != nil {
		return 0, fmt.Errorf("set the MTU of bridge %s: %w", n.opts.Bridge, err)
	}
	// A link that is being made at this moment keeps the MTU that it has; the kernel tells that pod of smaller paths by ICMP.
	n.mtu = mtu
	var errs []error
	for _, s := range n.sandboxes {
		errs = append(errs, n.resize(s, mtu))
	}
	return mtu, errors.Join(errs...)
}

// resize sets the MTU of both ends of a link. A pod that is gone meanwhile is no error.
func (n *Network) resize(s *sandbox, mtu int) error {
	link, err := n.node.LinkByName(s.Link)
	if err == nil {
		err = n.node.LinkSetMTU(link, mtu)
	}
	if err := ignoreMissingLink(err); err != nil {
		return fmt.Errorf("set the MTU of link %s: %w", s.Link, err)
	}
	pod, err := handleAt(s.NetNS)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer pod.Close()
	eth, err := pod.LinkByName(s.IfName)
	if err == nil {
		err = pod.LinkSetMTU(eth, mtu)
	}
	if err := ignoreMissingLink(err); err != nil {
		return fmt.Errorf("set the MTU of %s in a pod: %w", s.IfName, err)
	}
	return nil
}

// podMTU is the MTU of pods' links from the start: with a tunnel that an earlier run left there is less room already.
func (n *Network) podMTU() (int, error) {
	mtu, err := n.uplinkMTU()
	if err != nil {
		return 0, err
	}
	link, err := n.node.LinkByName(TunnelDevice)
	if ignored := ignoreMissingLink(err); err != nil {
		return mtu, ignored
	}
	if tunnel, ok := link.(*netlink.Vxlan); ok {
		if tunnel.SrcAddr != nil && tunnel.SrcAddr.To4() == nil {
			return mtu - TunnelOverhead6, nil
		}
		return mtu - TunnelOverhead4, nil
	}
	return mtu, nil
}

// uplinkMTU is the MTU of the link that the default route uses; without such a route, the smallest one of the links that are
// up, and without any link 1500.
func (n *Network) uplinkMTU() (int, error) {
	routes, err := n.node.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return 0, fmt.Errorf("list routes: %w", err)
	}
	links, err := n.node.LinkList()
	if err != nil {
		return 0, fmt.Errorf("list links: %w", err)
	}
	uplinks := map[int]bool{}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() && isZeroMask(r.Dst.Mask) {
			uplinks[r.LinkIndex] = true
		}
	}
	mtu := 0
	for _, link := range links {
		a := link.Attrs()
		ours := a.Name == n.opts.Bridge || a.Name == TunnelDevice || a.MasterIndex != 0
		if len(uplinks) > 0 && !uplinks[a.Index] || ours || a.Flags&net.FlagUp == 0 || a.Flags&net.FlagLoopback != 0 {
			continue
		}
		if mtu == 0 || a.MTU < mtu {
			mtu = a.MTU
		}
	}
	if mtu == 0 {
		mtu = 1500
	}
	return mtu, nil
}

func isZeroMask(mask net.IPMask) bool {
	ones, _ := mask.Size()
	return ones == 0
}

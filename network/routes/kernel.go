package routes

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/kebernetes/kebernetes/network"
)

const (
	// protocol marks our routes in the kernel's table. No routing software of the kernel's list (rtnetlink.h) has it.
	protocol = 107
	// Metrics of routes to nodes, and of what is left of the cluster's range, which any other route shall win over.
	metric, metricUnreachable = 64, 1 << 30
	// tunnelID ("keb") and the port that Linux itself chooses for VXLAN, and that firewalls were opened for; hypervisors keep the
	// port that IANA assigned, 4789, for themselves.
	tunnelID, tunnelPort = 0x6b6562, 8472
)

// kernel brings routes, the tunnel and what it needs to know of its peers to the wanted state. For one goroutine at a time.
type kernel struct{ handle *netlink.Handle }

func newKernel(path string) (*kernel, error) {
	at := netns.None()
	if path != "" {
		var err error
		if at, err = netns.GetFromPath(path); err != nil {
			return nil, fmt.Errorf("open network namespace %s: %w", path, err)
		}
		defer at.Close()
	}
	h, err := netlink.NewHandleAt(at, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &kernel{h}, nil
}

func (k *kernel) close() { k.handle.Close() }

// locals lists the addresses of all links that are up.
func (k *kernel) locals() ([]local, error) {
	links, err := k.handle.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	up := map[int]bool{}
	for _, l := range links {
		up[l.Attrs().Index] = l.Attrs().Flags&net.FlagUp != 0 && l.Attrs().Flags&net.FlagLoopback == 0
	}
	addrs, err := k.handle.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []local
	for _, a := range addrs {
		if up[a.LinkIndex] {
			out = append(out, local{prefixOf(a.IPNet), a.LinkIndex})
		}
	}
	return out, nil
}

// apply makes the kernel hold the plan and nothing else of ours. mtu is the tunnel's. What fails is told; the rest is done.
func (k *kernel) apply(p plan, mtu int) error {
	link, err := k.tunnel(p.tunnel, mtu)
	errs := []error{err}
	if link != nil {
		errs = append(errs, k.addresses(link, p.tunnel), k.neighbours(link.Attrs().Index, p.tunnel))
	}
	errs = append(errs, k.routes(p.routes, link))
	return errors.Join(errs...)
}

// tunnel makes or mends the tunnel, or removes it when none is wanted: then its routes and addresses go with it.
func (k *kernel) tunnel(want *tunnel, mtu int) (netlink.Link, error) {
	have, err := k.handle.LinkByName(network.TunnelDevice)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); err != nil && !missing {
		return nil, fmt.Errorf("find tunnel: %w", err)
	}
	if err == nil {
		if want != nil && like(have, want) {
			return have, k.mend(have, want, mtu)
		}
		if err := k.handle.LinkDel(have); err != nil {
			return nil, fmt.Errorf("remove tunnel: %w", err)
		}
	}
	if want == nil {
		return nil, nil
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = network.TunnelDevice, want.hardware[:], mtu
	device := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: tunnelID, Port: tunnelPort}
	if want.v6 {
		// Of no address in particular: the node's own may change. With IPv4 the kernel takes that to be so.
		device.SrcAddr = net.IPv6unspecified
	}
	if err := k.handle.LinkAdd(device); err != nil {
		return nil, fmt.Errorf("add tunnel (the kernel must have VXLAN): %w", err)
	}
	made, err := k.handle.LinkByName(network.TunnelDevice)
	if err != nil {
		return nil, fmt.Errorf("find tunnel: %w", err)
	}
	return made, k.mend(made, want, mtu)
}

// like says whether a link is a tunnel that only needs mending.
func like(link netlink.Link, want *tunnel) bool {
	v, ok := link.(*netlink.Vxlan)
	return ok && v.VxlanId == tunnelID && v.Port == tunnelPort && !v.Learning && (v.SrcAddr != nil && v.SrcAddr.To4() == nil) == want.v6
}

// mend sets what of a tunnel can be set while it runs.
func (k *kernel) mend(link netlink.Link, want *tunnel, mtu int) error {
	a := link.Attrs()
	if !bytes.Equal(a.HardwareAddr, want.hardware[:]) {
		if err := k.handle.LinkSetHardwareAddr(link, want.hardware[:]); err != nil {
			return fmt.Errorf("set the tunnel's hardware address: %w", err)
		}
	}
	if a.MTU != mtu {
		if err := k.handle.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set the tunnel's MTU: %w", err)
		}
	}
	if a.Flags&net.FlagUp == 0 {
		if err := k.handle.LinkSetUp(link); err != nil {
			return fmt.Errorf("set tunnel up: %w", err)
		}
	}
	return nil
}

// addresses gives the tunnel the node's addresses among the pods, and takes all others away.
func (k *kernel) addresses(link netlink.Link, want *tunnel) error {
	have, err := k.handle.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses of the tunnel: %w", err)
	}
	missing := map[netip.Prefix]bool{}
	for _, a := range want.addresses {
		missing[netip.PrefixFrom(a, a.BitLen())] = true
	}
	for _, a := range have {
		switch p := prefixOf(a.IPNet); {
		case missing[p]:
			delete(missing, p)
		case p.Addr().IsLinkLocalUnicast(): // the kernel's own
		default:
			if err := k.handle.AddrDel(link, &a); err != nil {
				return fmt.Errorf("remove address %s of the tunnel: %w", p, err)
			}
		}
	}
	for p := range missing {
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := k.handle.AddrAdd(link, a); err != nil {
			return fmt.Errorf("add address %s to the tunnel: %w", p, err)
		}
	}
	return nil
}

// neighbours tells the tunnel where its peers are, and the hardware addresses of their gateways.
func (k *kernel) neighbours(link int, want *tunnel) error {
	stations, err := k.handle.NeighListExecute(netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(link)})
	if err != nil {
		return fmt.Errorf("list peers of the tunnel: %w", err)
	}
	gateways, err := k.handle.NeighListExecute(netlink.Ndmsg{Family: unix.AF_UNSPEC, Index: uint32(link)})
	if err != nil {
		return fmt.Errorf("list neighbours of the tunnel: %w", err)
	}
	var errs []error
	told := map[[6]byte]bool{}
	for _, s := range stations {
		hardware, addr := hardwareOf(s.HardwareAddr), addrOf(s.IP)
		if at, ok := want.stations[hardware]; ok && at == addr {
			told[hardware] = true
		} else if s.LinkIndex == link {
			errs = append(errs, ignoreGone(k.handle.NeighDel(&s), "remove peer %s of the tunnel", addr))
		}
	}
	for hardware, at := range want.stations {
		if !told[hardware] {
			if err := k.handle.NeighSet(&netlink.Neigh{LinkIndex: link, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT | netlink.NUD_NOARP,
				Flags: netlink.NTF_SELF, IP: at.AsSlice(), HardwareAddr: hardware[:]}); err != nil {
				errs = append(errs, fmt.Errorf("add peer %s to the tunnel: %w", at, err))
			}
		}
	}
	missing := maps.Clone(want.neighbour)
	for _, g := range gateways {
		if g.LinkIndex != link || g.State&netlink.NUD_PERMANENT == 0 {
			continue // the kernel's own, as of multicast
		}
		addr := addrOf(g.IP)
		if hardware, ok := want.neighbour[addr]; ok && hardware == hardwareOf(g.HardwareAddr) {
			delete(missing, addr)
		} else if !ok {
			errs = append(errs, ignoreGone(k.handle.NeighDel(&g), "remove neighbour %s of the tunnel", addr))
		}
	}
	for addr, hardware := range missing {
		if err := k.handle.NeighSet(&netlink.Neigh{LinkIndex: link, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: hardware[:]}); err != nil {
			errs = append(errs, fmt.Errorf("add neighbour %s to the tunnel: %w", addr, err))
		}
	}
	return errors.Join(errs...)
}

// routes brings our routes to the wanted state. Those through a tunnel that could not be made are left out.
func (k *kernel) routes(want map[netip.Prefix]route, tunnel netlink.Link) error {
	have, err := k.handle.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	var errs []error
	there := map[netip.Prefix]bool{}
	for _, h := range have {
		dst := netip.Prefix{}
		if h.Dst != nil {
			dst = prefixOf(h.Dst)
		}
		r, ok := want[dst]
		if wanted := wireRoute(dst, r, tunnel); ok && wanted != nil && same(&h, wanted) {
			there[dst] = true
			continue
		}
		// A route that changes is replaced below, without a moment between, but for one of another metric.
		if !ok || h.Priority != metricOf(r) {
			errs = append(errs, ignoreGone(k.handle.RouteDel(&h), "remove route to %s", dst))
		}
	}
	for dst, r := range want {
		if there[dst] {
			continue
		}
		if wanted := wireRoute(dst, r, tunnel); wanted != nil {
			if err := k.handle.RouteReplace(wanted); err != nil {
				errs = append(errs, fmt.Errorf("add route to %s: %w", dst, err))
			}
		}
	}
	return errors.Join(errs...)
}

func metricOf(r route) int {
	if r.kind == unreachable {
		return metricUnreachable
	}
	return metric
}

// wireRoute is a route in the kernel's form, nil where the tunnel that it needs is missing.
func wireRoute(dst netip.Prefix, r route, tunnel netlink.Link) *netlink.Route {
	out := &netlink.Route{Dst: ipNet(dst), Protocol: protocol, Priority: metricOf(r), Type: unix.RTN_UNICAST}
	switch r.kind {
	case unreachable:
		out.Type = unix.RTN_UNREACHABLE
		return out
	case direct:
		out.LinkIndex = r.link
	case tunnelled:
		if tunnel == nil {
			return nil
		}
		out.LinkIndex, out.Flags = tunnel.Attrs().Index, int(netlink.FLAG_ONLINK)
	}
	out.Gw = r.via.AsSlice()
	if r.local.IsValid() {
		out.Src = r.local.AsSlice()
	}
	return out
}

// same says whether the kernel's route does what the wanted one does.
func same(have, want *netlink.Route) bool {
	if have.Type != want.Type || have.Priority != want.Priority {
		return false
	}
	if want.Type == unix.RTN_UNREACHABLE {
		return true
	}
	return have.LinkIndex == want.LinkIndex && have.Gw.Equal(want.Gw) && have.Src.Equal(want.Src) && len(have.MultiPath) == 0
}

// ignoreGone words an error; that something to remove is gone already is none.
func ignoreGone(err error, format string, args ...any) error {
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
}

func hardwareOf(h net.HardwareAddr) (out [6]byte) {
	copy(out[:], h)
	return out
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func prefixOf(n *net.IPNet) netip.Prefix {
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addrOf(n.IP), ones)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

package proxy

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// staleFlows matches the kernel's memory of UDP traffic to endpoints that are gone. TCP needs no help: such
// connections end by themselves, while a UDP client that keeps on sending keeps its entry alive.
type staleFlows map[flow]bool

var _ netlink.CustomConntrackFilter = staleFlows(nil)

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s staleFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	dst, ok1 := netip.AddrFromSlice(f.Forward.DstIP)
	to, ok2 := netip.AddrFromSlice(f.Reverse.SrcIP)
	if !ok1 || !ok2 {
		return false
	}
	dst, to = dst.Unmap(), to.Unmap()
	endpoint := netip.AddrPortFrom(to, f.Reverse.SrcPort)
	key := frontendKey{v6: dst.Is6(), addr: dst, proto: unix.IPPROTO_UDP, port: f.Forward.DstPort}
	if s[flow{key, endpoint}] {
		return true
	}
	key.addr = netip.Addr{} // a port of any address
	return s[flow{key, endpoint}]
}

// flush makes the kernel forget the flows. It reads the whole table of connections, so it is called only where UDP endpoints
// went.
func (k *kernel) flush(gone map[flow]bool) error {
	h, err := k.routeHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	for _, f := range k.families {
		inet := netlink.InetFamily(unix.AF_INET)
		if f.v6 {
			inet = unix.AF_INET6
		}
		if _, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, inet, staleFlows(gone)); err != nil {
			return fmt.Errorf("forget connections to endpoints that are gone: %w", err)
		}
	}
	return nil
}

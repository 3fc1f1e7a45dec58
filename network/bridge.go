package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// setUpBridge makes the bridge, its addresses and routes, and the sysctls, or mends those that differ.
func (n *Network) setUpBridge() error {
	mtu, err := n.podMTU()
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = n.opts.Bridge, mtu
	// A bridge without an address of its own takes that of its lowest port, and so would change it under the pods.
	attrs.HardwareAddr = hardwareAddr(n.pools[0].gateway)
	link, err := n.node.LinkByName(n.opts.Bridge)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		if err := n.node.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("add bridge %s: %w", attrs.Name, err)
		}
		link, err = n.node.LinkByName(n.opts.Bridge)
	}
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", n.opts.Bridge, err)
	}
	if link.Type() != "bridge" {
		return fmt.Errorf("link %s is a %s, not a bridge: remove it or choose another bridge name", n.opts.Bridge, link.Type())
	}
	n.bridge, n.mtu = link.Attrs().Index, mtu
	if err := n.setSysctls(); err != nil {
		return err
	}
	for _, set := range []func() error{
		func() error { return n.node.LinkSetHardwareAddr(link, attrs.HardwareAddr) },
		func() error { return n.node.LinkSetMTU(link, mtu) },
		func() error { return n.node.LinkSetUp(link) },
		func() error { return n.setAddresses(link) },
		func() error { return n.setRoutes() },
	} {
		if err := set(); err != nil {
			return fmt.Errorf("set up bridge %s: %w", n.opts.Bridge, err)
		}
	}
	return nil
}

// setAddresses gives the bridge its gateways and the node's own service addresses, and takes all others away.
func (n *Network) setAddresses(link netlink.Link) error {
	want := map[netip.Prefix]bool{}
	for _, p := range n.pools {
		want[netip.PrefixFrom(p.gateway, p.prefix.Bits())] = true
		if p.gateway.Is6() {
			// The node asks for its pods from a link-local address. The one that the kernel makes takes seconds to be fit for use.
			want[netip.MustParsePrefix("fe80::1/64")] = true
		}
	}
	for _, addr := range n.opts.LocalAddresses {
		want[netip.PrefixFrom(addr, addr.BitLen())] = true
	}
	have, err := n.node.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range have {
		prefix := toPrefix(a.IPNet)
		if want[prefix] {
			delete(want, prefix)
		} else if err := n.node.AddrDel(link, &a); err != nil {
			return fmt.Errorf("remove address %s: %w", prefix, err)
		}
	}
	for prefix := range want {
		if err := n.node.AddrAdd(link, &netlink.Addr{IPNet: toIPNet(prefix), Flags: noDAD(prefix.Addr())}); err != nil {
			return fmt.Errorf("add address %s: %w", prefix, err)
		}
	}
	return nil
}

// setRoutes sends the service ranges to the bridge. Services that exist never get that far: their packets are redirected
// before. The route only makes the kernel send such packets at all, from an address that every pod can answer.
func (n *Network) setRoutes() error {
	for _, cidr := range n.opts.ServiceCIDRs {
		for _, p := range n.pools {
			if p.prefix.Addr().Is4() != cidr.Addr().Is4() {
				continue
			}
			route := &netlink.Route{LinkIndex: n.bridge, Dst: toIPNet(cidr.Masked()), Src: p.gateway.AsSlice(), Scope: netlink.SCOPE_LINK}
			if err := n.node.RouteReplace(route); err != nil {
				return fmt.Errorf("add route %s: %w", cidr, err)
			}
		}
	}
	return nil
}

// setSysctls makes the node a router for its pods.
func (n *Network) setSysctls() error {
	has6 := slices.ContainsFunc(n.pools, func(p *pool) bool { return p.prefix.Addr().Is6() })
	bridge := n.opts.Bridge
	settings := [][2]string{
		{"ipv4/ip_forward", "1"},
		// Pods reach each other through the node on purpose, so it must not tell them a shorter way. The kernel asks both
		// switches and takes either; other links keep their own.
		{"ipv4/conf/all/send_redirects", "0"},
		{"ipv4/conf/" + bridge + "/send_redirects", "0"},
		// Host ports on 127.0.0.1 lead to pods. The proxy's rules drop what pods themselves send to or from that range.
		{"ipv4/conf/" + bridge + "/route_localnet", "1"},
	}
	if has6 {
		settings = append(settings, [2]string{"ipv6/conf/all/forwarding", "1"}, [2]string{"ipv6/conf/" + bridge + "/addr_gen_mode", "1"})
	} else {
		settings = append(settings, [2]string{"ipv6/conf/" + bridge + "/disable_ipv6", "1"})
	}
	return InNamespace(n.opts.NetNS, func() error {
		for _, s := range settings {
			if err := writeSysctl(s[0], s[1]); err != nil {
				// A kernel without IPv6 has none of its sysctls, and needs none as long as no pod has such an address.
				if errors.Is(err, os.ErrNotExist) && !has6 && strings.HasPrefix(s[0], "ipv6/") {
					continue
				}
				return err
			}
		}
		return nil
	})
}

// writeSysctl sets net/<name> in the namespace of the calling thread. It writes nothing when the value is right already,
// since /proc/sys is read-only in some containers whose host is set up well.
func writeSysctl(name, value string) error {
	path := filepath.Join("/proc/sys/net", name)
	have, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read sysctl: %w", err)
	}
	if len(have) > 0 && string(have[:len(have)-1]) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("write sysctl: %w", err)
	}
	return nil
}

// InNamespace calls f in the network namespace at path, "" being the process's own. Sockets that f opens stay there.
func InNamespace(path string, f func() error) error {
	if path == "" {
		return f()
	}
	done := make(chan error)
	go func() {
		// The thread is never unlocked, so that it ends with this goroutine instead of serving others in that namespace.
		runtime.LockOSThread()
		ns, err := netns.GetFromPath(path)
		if err == nil {
			defer ns.Close()
			if err = netns.Set(ns); err == nil {
				err = f()
			}
		}
		done <- err
	}()
	return <-done
}

// hardwareAddr derives a link's address from an IP address: a new pod with the address of an old one has its hardware address
// as well, so that no neighbour table is ever wrong. The first byte marks it as locally administered.
func hardwareAddr(addr netip.Addr) net.HardwareAddr {
	b := addr.AsSlice()
	return append(net.HardwareAddr{0x02, 'k'}, b[len(b)-4:]...)
}

// noDAD switches duplicate address detection off: addresses are ours to give, and pods shall not wait for it.
func noDAD(addr netip.Addr) int {
	if addr.Is6() {
		return unix.IFA_F_NODAD
	}
	return 0
}

func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func toPrefix(n *net.IPNet) netip.Prefix {
	addr, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones)
}

// Package lan is the network of nodes that share one machine: each has a network namespace of its own, all are on one bridge
// of the machine, and the machine is their way out. daemon imports it; it imports nothing of ours.
package lan

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// MaxNodes is how many nodes a LAN holds.
const MaxNodes = 99

const (
	// uplink is a node's link to the bridge, by the name that a machine's first one commonly has.
	uplink = "eth0"
	// namespaces is where the tools of the system look for named network namespaces (ip-netns(8)).
	namespaces = "/run/netns"
	// firstNode is the host part of the first node's address. Those before it are for the machine itself and for what is to come.
	firstNode = 11
)

// LAN says what there is to be. Its methods bring that about in the kernel, or take it away; they may be repeated, also after a
// process that was in the midst of them was killed. Nothing here is safe for concurrent use on one Name.
type LAN struct {
	// Name begins the names of links, namespaces and rules; up to 12 characters.
	Name string
	// Subnet is a /24 that is nobody else's: see FreeSubnet. The machine has its first address.
	Subnet netip.Prefix
	// Nodes is how many nodes there are, numbered from 0.
	Nodes int
	// Forward is the machine's link to the outside where that must be told to forward: see Uplink. Empty otherwise.
	Forward string
	// Names is how nodes ask for names of the outside.
	Names Names
}

// Address is a node's.
func (l LAN) Address(node int) netip.Addr {
	a := l.Subnet.Addr().As4()
	a[3] = byte(firstNode + node)
	return netip.AddrFrom4(a)
}

// gateway is the machine's address.
func (l LAN) gateway() netip.Addr { return l.Subnet.Addr().Next() }

func (l LAN) bridge() string { return l.Name + "-up" }

func (l LAN) port(node int) string { return l.Name + "-" + strconv.Itoa(node+1) }

// Namespace is the path of a node's network namespace.
func (l LAN) Namespace(node int) string {
	return filepath.Join(namespaces, l.Name+"-node-"+strconv.Itoa(node+1))
}

// Set makes the bridge, the rules, and each node's namespace and link, or mends them. It returns the nodes whose namespaces are
// new: what ran in an earlier one has no network any more.
func (l LAN) Set() (fresh []int, err error) {
	mtu, err := machineMTU()
	if err != nil {
		return nil, err
	}
	bridge, err := l.setBridge(mtu)
	if err != nil {
		return nil, fmt.Errorf("set up bridge %s: %w", l.bridge(), err)
	}
	if err := l.setForwarding(); err != nil {
		return nil, err
	}
	if err := l.setRules(); err != nil {
		return nil, fmt.Errorf("set rules: %w", err)
	}
	for node := range l.Nodes {
		made, err := openNamespace(l.Namespace(node))
		if err != nil {
			return nil, fmt.Errorf("make network namespace %s: %w", l.Namespace(node), err)
		}
		if made {
			fresh = append(fresh, node)
		}
		if err := l.setLink(node, bridge, mtu); err != nil {
			return nil, fmt.Errorf("link %s to %s: %w", l.Namespace(node), l.bridge(), err)
		}
		if err := l.setNames(node); err != nil {
			return nil, fmt.Errorf("lead questions for names out of %s: %w", l.Namespace(node), err)
		}
	}
	return fresh, nil
}

// Remove takes away all that Set made. What is not there is no error.
func (l LAN) Remove() error {
	var errs []error
	for node := range l.Nodes {
		errs = append(errs, removeLink(l.port(node)), removeNamespace(l.Namespace(node)))
	}
	// A directory that the first namespace made, unless others have theirs in it.
	_ = os.Remove(namespaces)
	return errors.Join(append(errs, removeLink(l.bridge()), l.removeRules(), l.unsetForwarding())...)
}

// Start starts a program in a node's namespace.
func (l LAN) Start(node int, cmd *exec.Cmd) error {
	ns, err := netns.GetFromPath(l.Namespace(node))
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", l.Namespace(node), err)
	}
	defer ns.Close()
	return apart(func() error {
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", l.Namespace(node), err)
		}
		return cmd.Start()
	})
}

func (l LAN) setBridge(mtu int) (index int, err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = l.bridge(), mtu
	// Without an address of its own a bridge takes that of its lowest port, and so changes it when nodes come and go.
	attrs.HardwareAddr = hardwareAddr(l.gateway())
	link, err := netlink.LinkByName(attrs.Name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return 0, err
		}
		link, err = netlink.LinkByName(attrs.Name)
	}
	if err != nil {
		return 0, err
	}
	if err := errors.Join(
		netlink.LinkSetMTU(link, mtu),
		netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(l.gateway(), l.Subnet.Bits()))}),
		netlink.LinkSetUp(link),
	); err != nil {
		return 0, err
	}
	return link.Attrs().Index, nil
}

// setLink joins a node's namespace to the bridge and gives it its address and the way out.
func (l LAN) setLink(node, bridge, mtu int) error {
	ns, err := netns.GetFromPath(l.Namespace(node))
	if err != nil {
		return err
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer inside.Close()
	eth, err := inside.LinkByName(uplink)
	if _, portErr := netlink.LinkByName(l.port(node)); err != nil || portErr != nil {
		// The ends of a pair go together; what is there is of another one.
		if err := removeLink(l.port(node)); err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = l.port(node), mtu
		pair := netlink.NewVeth(attrs)
		pair.PeerName, pair.PeerNamespace, pair.PeerMTU = uplink, netlink.NsFd(ns), uint32(mtu)
		pair.PeerHardwareAddr = hardwareAddr(l.Address(node))
		if err := netlink.LinkAdd(pair); err != nil {
			return err
		}
		if eth, err = inside.LinkByName(uplink); err != nil {
			return err
		}
	}
	port, err := netlink.LinkByName(l.port(node))
	if err != nil {
		return err
	}
	lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}
	if err := errors.Join(
		netlink.LinkSetMasterByIndex(port, bridge),
		netlink.LinkSetUp(port),
		inside.LinkSetUp(lo),
		inside.AddrReplace(eth, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(l.Address(node), l.Subnet.Bits()))}),
		inside.LinkSetUp(eth),
	); err != nil {
		return err
	}
	return inside.RouteReplace(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: l.gateway().AsSlice()})
}

// removeLink removes one of the machine's links.
func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); err != nil && !missing {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

// hardwareAddr is a locally administered one that follows from the address.
func hardwareAddr(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return append(net.HardwareAddr{0x0a, 0x58}, b[:]...)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

package lan

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// FreeSubnet returns the first /24 of 10.44.0.0/16 that no address or route of the machine overlaps. It lies beside the default
// ranges of pods and Services.
func FreeSubnet() (netip.Prefix, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("list routes: %w", err)
	}
	var taken []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		if ip, ok := netip.AddrFromSlice(r.Dst.IP); ok {
			if ones, _ := r.Dst.Mask.Size(); ones > 0 {
				taken = append(taken, netip.PrefixFrom(ip.Unmap(), ones))
			}
		}
	}
	for third := range 256 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 44, byte(third), 0}), 24)
		if !overlaps(p, taken) {
			return p, nil
		}
	}
	return netip.Prefix{}, errors.New("routes of this machine take all of 10.44.0.0/16: no addresses are left for nodes")
}

func overlaps(p netip.Prefix, taken []netip.Prefix) bool {
	for _, t := range taken {
		if t.Overlaps(p) {
			return true
		}
	}
	return false
}

// Uplink returns the machine's link to the outside, or "" when there is none or the machine forwards on all its links: what LAN's
// Forward is to be. With forwarding on its uplink alone, the machine becomes no router for anybody but the nodes.
func Uplink() (string, error) {
	if on, err := os.ReadFile(forwarding("all")); err != nil || strings.TrimSpace(string(on)) == "1" {
		return "", err
	}
	link, err := defaultLink()
	if err != nil || link == nil {
		return "", err
	}
	return link.Attrs().Name, nil
}

// defaultLink is that of the default route, or nil.
func defaultLink() (netlink.Link, error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.LinkIndex == 0 {
			continue
		}
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			return netlink.LinkByIndex(r.LinkIndex)
		}
	}
	return nil, nil
}

// machineMTU is that of the way out, which packets of nodes must fit.
func machineMTU() (int, error) {
	const ethernet = 1500
	link, err := defaultLink()
	if err != nil || link == nil {
		return ethernet, err
	}
	return min(ethernet, link.Attrs().MTU), nil
}

func forwarding(link string) string { return "/proc/sys/net/ipv4/conf/" + link + "/forwarding" }

// setForwarding lets packets of nodes out, and the answers in.
func (l LAN) setForwarding() error {
	for _, link := range []string{l.bridge(), l.Forward} {
		if link == "" {
			continue
		}
		if err := os.WriteFile(forwarding(link), []byte("1"), 0); ignoreMissing(err) != nil {
			return fmt.Errorf("forward packets of nodes: %w", err)
		}
	}
	return nil
}

// unsetForwarding leaves the uplink as it was, unless somebody made the machine a router meanwhile.
func (l LAN) unsetForwarding() error {
	if l.Forward == "" {
		return nil
	}
	if on, err := os.ReadFile(forwarding("all")); err != nil || strings.TrimSpace(string(on)) == "1" {
		return err
	}
	return ignoreMissing(os.WriteFile(forwarding(l.Forward), []byte("0"), 0))
}

func (l LAN) table() *nftables.Table {
	return &nftables.Table{Name: l.bridge(), Family: nftables.TableFamilyIPv4}
}

// setRules replaces the rules: nodes get out under the machine's address, and nobody but the machine gets in.
func (l LAN) setRules() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(l.table())
	conn.DelTable(table)
	conn.AddTable(table)
	forward := conn.AddChain(&nftables.Chain{Name: "forward", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
	drop := []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	rule := func(chain *nftables.Chain, parts ...[]expr.Any) {
		var all []expr.Any
		for _, p := range parts {
			all = append(all, p...)
		}
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: all})
	}
	rule(forward, onLink(expr.MetaKeyIIFNAME, expr.CmpOpNeq, l.bridge()), onLink(expr.MetaKeyOIFNAME, expr.CmpOpEq, l.bridge()), unasked(), drop)
	if l.Forward != "" {
		// What others arranged with rules of their own (a port of a container, say) is theirs to let through.
		rule(forward, onLink(expr.MetaKeyIIFNAME, expr.CmpOpEq, l.Forward), onLink(expr.MetaKeyOIFNAME, expr.CmpOpNeq, l.bridge()), unasked(), notRedirected(), drop)
	}
	out := conn.AddChain(&nftables.Chain{Name: "out", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	rule(out, l.fromNodes(), onLink(expr.MetaKeyOIFNAME, expr.CmpOpNeq, l.bridge()), []expr.Any{&expr.Masq{}})
	return conn.Flush()
}

func (l LAN) removeRules() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	// Adding what may be missing makes the removal of it one that always succeeds.
	conn.DelTable(conn.AddTable(l.table()))
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove rules: %w", err)
	}
	return nil
}

// onLink matches the link that a packet came in by, or goes out by.
func onLink(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: padded}}
}

// unasked matches what belongs to no connection that was let through.
func unasked() []expr.Any {
	return without(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

// redirected is the bit IPS_DST_NAT of a connection's status (linux/netfilter/nf_conntrack_common.h).
const redirected = 1 << 5

func notRedirected() []expr.Any { return without(expr.CtKeySTATUS, redirected) }

// without matches connections with none of the bits.
func without(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)},
	}
}

// fromNodes matches the source addresses of nodes.
func (l LAN) fromNodes() []expr.Any {
	subnet := l.Subnet.Addr().As4()
	const sourceOffset, length = 12, 3 // of the IPv4 header; the bytes of a /24
	return []expr.Any{
		&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: sourceOffset, Len: length, DestRegister: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: subnet[:length]},
	}
}

package lan

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Names says how nodes ask for names of the outside when the machine's own name servers listen on its loopback alone, as that of
// systemd-resolved does, where no node reaches them: what nodes send to those goes to another server.
type Names struct {
	// Local are the machine's name servers, if all of them are on loopback.
	Local []netip.Addr
	// Upstream is the server that is asked instead. It is not valid where none is known.
	Upstream netip.Addr
}

// MachineNames reads the machine's resolv.conf, and that of the servers which systemd-resolved itself asks.
func MachineNames() (Names, error) {
	return readNames("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
}

func readNames(file, upstream string) (Names, error) {
	var n Names
	servers, err := nameServers(file)
	if err != nil {
		return n, err
	}
	for _, s := range servers {
		if !s.IsLoopback() {
			return Names{}, nil
		}
		if s.Is4() {
			n.Local = append(n.Local, s)
		}
	}
	servers, err = nameServers(upstream)
	for _, s := range servers {
		if s.Is4() && !s.IsLoopback() {
			n.Upstream = s
			break
		}
	}
	return n, err
}

// nameServers are those of a resolv.conf(5); none when it is not there.
func nameServers(file string) ([]netip.Addr, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find name servers: %w", err)
	}
	var out []netip.Addr
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "nameserver" {
			if a, err := netip.ParseAddr(fields[1]); err == nil {
				out = append(out, a)
			}
		}
	}
	return out, nil
}

// namesTable is the table of a node's namespace that redirects questions.
func namesTable() *nftables.Table {
	return &nftables.Table{Name: "keb-up", Family: nftables.TableFamilyIPv4}
}

// setNames redirects a node's questions, or no longer does.
func (l LAN) setNames(node int) error {
	ns, err := netns.GetFromPath(l.Namespace(node))
	if err != nil {
		return err
	}
	defer ns.Close()
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns)))
	if err != nil {
		return err
	}
	table := conn.AddTable(namesTable())
	conn.DelTable(table)
	if !l.Names.Upstream.IsValid() || len(l.Names.Local) == 0 {
		return conn.Flush()
	}
	conn.AddTable(table)
	l.addNames(conn, table)
	if err := conn.Flush(); err != nil {
		return err
	}
	// Packets from loopback may leave, and answers to it come in. What else comes for it is dropped.
	return apart(func() error {
		if err := netns.Set(ns); err != nil {
			return err
		}
		return os.WriteFile("/proc/sys/net/ipv4/conf/"+uplink+"/route_localnet", []byte("1"), 0)
	})
}

func (l LAN) addNames(conn *nftables.Conn, table *nftables.Table) {
	guard := conn.AddChain(&nftables.Chain{Name: "guard", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw})
	const source, destination = 12, 16 // offsets in the IPv4 header
	address := func(offset, length uint32, want []byte) []expr.Any {
		return []expr.Any{
			&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length, DestRegister: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want},
		}
	}
	add := func(chain *nftables.Chain, parts ...[]expr.Any) {
		var all []expr.Any
		for _, p := range parts {
			all = append(all, p...)
		}
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: all})
	}
	loopback := []byte{127}
	add(guard, onLink(expr.MetaKeyIIFNAME, expr.CmpOpEq, uplink), address(destination, 1, loopback), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})
	out := conn.AddChain(&nftables.Chain{Name: "out", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest})
	to := []expr.Any{
		&expr.Immediate{Register: 1, Data: l.Names.Upstream.AsSlice()},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
	}
	for _, server := range l.Names.Local {
		for _, protocol := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			add(out, address(destination, 4, server.AsSlice()), []expr.Any{
				&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
				&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2, DestRegister: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0, 53}},
			}, to)
		}
	}
	masquerade := conn.AddChain(&nftables.Chain{Name: "source", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	add(masquerade, onLink(expr.MetaKeyOIFNAME, expr.CmpOpEq, uplink), address(source, 1, loopback), []expr.Any{&expr.Masq{}})
}

package lan

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/kebernetes/kebernetes/network/networktest"
)

// machine is one with a neighbour, who is all of the outside.
type machine struct {
	*networktest.Namespace
	neighbour *networktest.Namespace
}

func newMachine(t *testing.T) machine {
	m := machine{networktest.New(t), networktest.New(t)}
	networktest.Join(t, m.Namespace, "up0", "192.0.2.1/24", m.neighbour, "down0", "192.0.2.254/24")
	must(t, m.Do(func() error {
		link, err := netlink.LinkByName("up0")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP("192.0.2.254")})
	}))
	return m
}

// state is what a LAN leaves on the machine: links, tables, forwarding.
func (m machine) state(t *testing.T) []string {
	t.Helper()
	var out []string
	must(t, m.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			out = append(out, "link "+l.Attrs().Name)
		}
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := conn.ListTables()
		for _, table := range tables {
			out = append(out, "table "+table.Name)
		}
		if err != nil {
			return err
		}
		on, err := os.ReadFile(forwarding("up0"))
		out = append(out, "forwarding "+strings.TrimSpace(string(on)))
		return err
	}))
	slices.Sort(out)
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Nodes are on one link, which Set mends and Remove takes away; they get out under the machine's address, and find the names of
// the outside although the machine's name server listens on its loopback.
func TestLAN(t *testing.T) {
	m := newMachine(t)
	before := m.state(t)
	l := LAN{Name: fmt.Sprintf("klt%d", os.Getpid()), Nodes: 2, Names: Names{Local: []netip.Addr{netip.MustParseAddr("127.0.0.53")}, Upstream: netip.MustParseAddr("192.0.2.254")}}
	do := func(f func() error) {
		t.Helper()
		must(t, m.Do(f))
	}
	do(func() (err error) {
		if l.Forward, err = Uplink(); err == nil {
			l.Subnet, err = FreeSubnet()
		}
		return err
	})
	if l.Forward != "up0" || l.Subnet.String() != "10.44.0.0/24" {
		t.Fatalf("uplink %q, subnet %s", l.Forward, l.Subnet)
	}
	t.Cleanup(func() { _ = m.Do(l.Remove) })
	set := func(want ...int) {
		t.Helper()
		do(func() error {
			fresh, err := l.Set()
			if err == nil && !slices.Equal(fresh, want) {
				t.Errorf("new namespaces %v, want %v", fresh, want)
			}
			return err
		})
	}
	set(0, 1)
	first := m.state(t)
	// What was taken away, also in part, comes back.
	do(func() error { return removeLink(l.port(1)) })
	do(func() error { return removeNamespace(l.Namespace(0)) })
	set(0)
	set()
	if again := m.state(t); !slices.Equal(first, again) {
		t.Errorf("mended:\n%s\nat first:\n%s", strings.Join(again, "\n"), strings.Join(first, "\n"))
	}

	m.neighbour.ServeName(t, 53, "names")
	m.ServeName(t, 7, "machine")
	nodes := make([]*networktest.Namespace, l.Nodes)
	for i := range nodes {
		nodes[i] = networktest.Open(t, l.Namespace(i))
	}
	nodes[1].ServeName(t, 7, "node")
	for _, way := range []struct{ network, to, name, seen string }{
		{"tcp", "10.44.0.12:7", "node", "10.44.0.11"},
		{"tcp", "10.44.0.1:7", "machine", "10.44.0.11"},
		{"tcp", "192.0.2.254:53", "names", "192.0.2.1"},
		{"udp", "127.0.0.53:53", "names", "192.0.2.1"},
		{"tcp", "127.0.0.53:53", "names", "192.0.2.1"},
	} {
		if name, seen, err := nodes[0].Ask(way.network, "", way.to); err != nil || name != way.name || seen.Addr().String() != way.seen {
			t.Errorf("%s %s answers %q to %s, %v", way.network, way.to, name, seen, err)
		}
	}
	if name, _, err := m.Ask("tcp", "", "10.44.0.12:7"); err != nil || name != "node" {
		t.Errorf("the machine reaches %q, %v", name, err)
	}
	must(t, m.neighbour.Do(func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(l.Subnet), Gw: net.ParseIP("192.0.2.1")})
	}))
	if name, _, err := m.neighbour.Ask("tcp", "", "10.44.0.12:7"); err == nil {
		t.Errorf("the neighbour reaches %q", name)
	}

	do(l.Remove)
	do(l.Remove)
	if after := m.state(t); !slices.Equal(before, after) {
		t.Errorf("removed:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
	for i := range l.Nodes {
		if _, err := os.Lstat(l.Namespace(i)); !os.IsNotExist(err) {
			t.Errorf("namespace %s: %v", l.Namespace(i), err)
		}
	}
}

// The second cluster takes the next addresses, and a machine that forwards on all its links needs to be told nothing.
func TestNeighbours(t *testing.T) {
	m := newMachine(t)
	must(t, m.Do(func() error {
		link, err := netlink.LinkByName("up0")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("10.44.1.7/23"))}); err != nil {
			return err
		}
		return os.WriteFile(forwarding("all"), []byte("1"), 0)
	}))
	must(t, m.Do(func() error {
		subnet, err := FreeSubnet()
		if err == nil && subnet.String() != "10.44.2.0/24" {
			t.Errorf("subnet %s", subnet)
		}
		return err
	}))
	must(t, m.Do(func() error {
		link, err := Uplink()
		if err == nil && link != "" {
			t.Errorf("%s is to be told to forward, which it does", link)
		}
		return err
	}))
}

func TestNames(t *testing.T) {
	for _, tc := range []struct{ name, file, upstream, want string }{
		{"a server of the network", "nameserver 192.0.2.53\nnameserver 127.0.0.53\n", "", "[] invalid IP"},
		{"systemd-resolved", "# stub\nnameserver 127.0.0.53\noptions edns0\n", "nameserver fe80::1%eth0\nnameserver 192.0.2.53\n", "[127.0.0.53] 192.0.2.53"},
		{"loopback alone", "nameserver ::1\nnameserver 127.0.0.1\n", "", "[127.0.0.1] invalid IP"},
		{"none", "", "", "[] invalid IP"},
	} {
		file, upstream := filepath.Join(t.TempDir(), "file"), filepath.Join(t.TempDir(), "upstream")
		must(t, os.WriteFile(file, []byte(tc.file), 0o600))
		if tc.upstream != "" {
			must(t, os.WriteFile(upstream, []byte(tc.upstream), 0o600))
		}
		got, err := readNames(file, upstream)
		if s := fmt.Sprint(got.Local, " ", got.Upstream); err != nil || s != tc.want {
			t.Errorf("%s: %s, %v, want %s", tc.name, s, err, tc.want)
		}
	}
}

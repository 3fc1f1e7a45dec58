package routes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/client/clienttest"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/network"
	"github.com/kebernetes/kebernetes/network/networktest"
)

// world is a cluster of nodes, each a namespace, on switches of one namespace that has no way out.
type world struct {
	*clienttest.Memory
	t        *testing.T
	client   *client.Client
	fabric   *networktest.Namespace
	switches map[string]*networktest.Switch
	machines []*machine
	dual     bool // nodes to come have IPv6 ranges too
}

// machine is a node of the world, with one pod.
type machine struct {
	*corev1.Node
	w      *world
	ns     *networktest.Namespace
	dir    string
	net    *network.Network
	pod    *networktest.Namespace
	addr   netip.Addr
	stop   func()
	logged bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	w := &world{t: t, fabric: networktest.New(t), switches: map[string]*networktest.Switch{}}
	w.Memory, w.client = clienttest.NewMemory(&kinds.Kind{Kind: "Node", Resource: "nodes", Versions: []kinds.Version{kinds.V[corev1.Node, corev1.NodeList]("v1")}})
	return w
}

// add adds a node at an address ("192.0.2.1/24"); its switch is that of the network, whose last address routes to the others.
func (w *world) add(address string) *machine {
	w.t.Helper()
	i := len(w.machines) + 1
	m := &machine{w: w, ns: networktest.New(w.t), dir: w.t.TempDir()}
	w.machines = append(w.machines, m)
	w.plug(m, fmt.Sprintf("port%d", i), "up0", address)
	m.Node = &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i)},
		Spec:       corev1.NodeSpec{PodCIDRs: []string{fmt.Sprintf("10.42.%d.0/24", i)}},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: netip.MustParsePrefix(address).Addr().String()}}},
	}
	if w.dual {
		m.Spec.PodCIDRs = append(m.Spec.PodCIDRs, fmt.Sprintf("fd00:42:0:%d::/64", i))
	}
	w.Put(m.Node)
	m.start()
	m.pod = networktest.New(w.t)
	link, err := m.net.Attach(w.t.Context(), network.Attachment{ContainerID: m.Name, IfName: "eth0", NetNS: m.pod.Path})
	if err != nil {
		w.t.Fatal(err)
	}
	m.addr = link.Addresses[len(link.Addresses)-1].Address
	m.pod.ServeName(w.t, 8080, m.Name)
	return m
}

// plug gives a node an address on the switch of its network, and a default route.
func (w *world) plug(m *machine, port, link, address string) {
	w.t.Helper()
	prefix := netip.MustParsePrefix(address)
	masked := prefix.Masked()
	b := masked.Addr().As4()
	b[3] = 254
	router := netip.AddrFrom4(b)
	s := w.switches[masked.String()]
	if s == nil {
		s = networktest.NewSwitch(w.t, w.fabric, fmt.Sprintf("sw%d", len(w.switches)), fmt.Sprintf("%s/%d", router, prefix.Bits()))
		w.switches[masked.String()] = s
	}
	s.Plug(w.t, port, m.ns, link, address)
	if err := m.ns.Do(func() error {
		return netlink.RouteReplace(&netlink.Route{Gw: router.AsSlice(), Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}})
	}); err != nil {
		w.t.Fatal(err)
	}
}

// start starts the node's network and routes.
func (m *machine) start() {
	t := m.w.t
	t.Helper()
	log := slog.New(slog.NewTextHandler(&m.logged, nil))
	var err error
	m.net, err = network.New(network.Options{
		PodCIDRs: func(context.Context) ([]netip.Prefix, error) { n := newNode(m.Node); return n.ranges, nil },
		Dir:      filepath.Join(m.dir, "links"), Socket: filepath.Join(m.dir, "s"), NetNS: m.ns.Path, Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	routes, err := New(Options{Client: m.w.client, NodeName: m.Name, ClusterCIDRs: clusterCIDRs(), Network: m.net, NetNS: m.ns.Path, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	var stops []func() // routes first, for which the network must be there
	for _, c := range []interface{ Run(context.Context) error }{routes, m.net} {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		stops = append(stops, func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	m.stop = func() {
		for _, stop := range stops {
			stop()
		}
		m.stop = func() {}
	}
	t.Cleanup(func() { m.stop() })
	<-m.net.Ready()
}

// move gives the node another address in the API.
func (m *machine) move(address string) {
	m.Node = m.DeepCopy()
	m.Status.Addresses[0].Address = address
	m.w.Put(m.Node)
}

// reaches waits until a pod gets the answer of another machine's pod, over TCP and UDP, from the pod's own address.
func (m *machine) reaches(other *machine) {
	t := m.w.t
	t.Helper()
	for _, proto := range []string{"tcp", "udp"} {
		var err error
		var name string
		var seen netip.AddrPort
		again(10*time.Second, func() bool {
			name, seen, err = m.pod.Ask(proto, "", netip.AddrPortFrom(other.addr, 8080).String())
			return err == nil
		})
		if err != nil || name != other.Name || seen.Addr() != m.addr {
			t.Errorf("%s from %s to %s: answered by %q, seen as %s (%v), want as %s\n%s%s", proto, m.Name, other.Name, name, seen, err, m.addr, m.state(), other.state())
		}
	}
}

// state is the routing of a machine, for those who look for a fault.
func (m *machine) state() string {
	var out strings.Builder
	m.ns.Do(func() error {
		routes, _ := netlink.RouteList(nil, netlink.FAMILY_ALL)
		for _, r := range routes {
			fmt.Fprintln(&out, " ", m.Name, r)
		}
		return nil
	})
	return out.String() + m.logged.String()
}

// look returns the kernel's error for packets to an address.
func (m *machine) look(address string) error {
	return m.ns.Do(func() error {
		_, err := netlink.RouteGet(net.ParseIP(address))
		return err
	})
}

// tunnel returns the machine's tunnel, nil when it has none.
func (m *machine) tunnel() *netlink.Vxlan {
	var out *netlink.Vxlan
	m.ns.Do(func() error {
		if l, err := netlink.LinkByName(network.TunnelDevice); err == nil {
			out = l.(*netlink.Vxlan)
		}
		return nil
	})
	return out
}

// await asks the kernel until ok holds.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if !again(30*time.Second, ok) {
		t.Fatalf("%s: not within 30 s", what)
	}
}

// again asks until ok holds, for as long as patience: nothing tells that the kernel's state is what it shall be.
func again(patience time.Duration, ok func() bool) bool {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(patience); !ok(); <-ticker.C {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

func (m *machine) podMTU() (mtu int) {
	m.pod.Do(func() error {
		if l, err := netlink.LinkByName("eth0"); err == nil {
			mtu = l.Attrs().MTU
		}
		return nil
	})
	return mtu
}

// needsVXLAN skips a test where the kernel has none.
func needsVXLAN(t *testing.T) {
	t.Helper()
	ns := networktest.New(t)
	defer ns.Close()
	if err := ns.Do(func() error {
		return netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "probe"}, VxlanId: 1, Port: 4789})
	}); err != nil {
		t.Skipf("the kernel has no VXLAN: %v", err)
	}
}

func TestOneLink(t *testing.T) {
	w := newWorld(t)
	a, b := w.add("192.0.2.1/24"), w.add("192.0.2.2/24")
	a.reaches(b)
	b.reaches(a)
	if a.tunnel() != nil || a.podMTU() != 1500 {
		t.Errorf("nodes on one link have a tunnel, or packets of %d bytes", a.podMTU())
	}

	// A pod on a node that does not exist is refused, rather than sent out by the default route.
	if err := a.look("10.42.77.2"); !errors.Is(err, unix.EHOSTUNREACH) {
		t.Errorf("the way to a pod on no node: %v", err)
	}

	// A third node joins, a node leaves.
	c := w.add("192.0.2.3/24")
	c.reaches(a)
	b.reaches(c)
	w.Remove(b.Node)
	b.stop()
	await(t, "the route to a node that is gone to go", func() bool { return errors.Is(a.look(b.addr.String()), unix.EHOSTUNREACH) })
	a.reaches(c)

	// The link of a node goes down and comes again, which makes the kernel forget routes.
	if err := a.ns.Do(func() error {
		up, err := netlink.LinkByName("up0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetDown(up); err != nil {
			return err
		}
		return netlink.LinkSetUp(up)
	}); err != nil {
		t.Fatal(err)
	}
	a.reaches(c)
	c.reaches(a)
}

func TestTunnel(t *testing.T) {
	needsVXLAN(t)
	w := newWorld(t)
	a, b := w.add("192.0.2.1/24"), w.add("192.0.2.2/24")
	a.reaches(b)
	c := w.add("198.51.100.1/24")
	a.reaches(c)
	c.reaches(a)
	c.reaches(b)
	a.reaches(b)
	for _, m := range w.machines {
		if v := m.tunnel(); v == nil || v.MTU != 1450 || v.Learning {
			t.Errorf("tunnel of %s: %+v", m.Name, v)
		}
		if mtu := m.podMTU(); mtu != 1450 {
			t.Errorf("pod on %s sends packets of %d bytes", m.Name, mtu)
		}
	}
	// Whole packets of the pod's size, and longer ones in pieces, arrive.
	for _, size := range []int{1400, 1422, 4000} {
		if err := echo(a, c, size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	// The node itself reaches pods, and they it.
	if _, seen, err := a.ns.Ask("tcp", "", netip.AddrPortFrom(c.addr, 8080).String()); err != nil || seen.Addr().String() != "10.42.1.1" {
		t.Errorf("from node n1 to the pod on n3: seen as %s, %v", seen, err)
	}

	// What a restart finds is right already: connections stay.
	before := a.tunnel().Attrs().Index
	conn, err := a.pod.Dial("udp", "", netip.AddrPortFrom(c.addr, 8080).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	a.stop()
	a.start()
	a.reaches(c)
	if name, _, err := networktest.AskOn(conn); err != nil || name != c.Name {
		t.Errorf("connection over a restart: %q, %v", name, err)
	}
	if after := a.tunnel().Attrs().Index; after != before || a.podMTU() != 1450 {
		t.Errorf("restart made tunnel %d of %d, packets of %d bytes", after, before, a.podMTU())
	}

	// The far node goes: the tunnel goes, packets grow again.
	w.Remove(c.Node)
	c.stop()
	await(t, "the tunnel to go", func() bool { return a.tunnel() == nil && a.podMTU() == 1500 && b.tunnel() == nil })
	a.reaches(b)
	if err := Reset(Options{NetNS: a.ns.Path}); err != nil {
		t.Fatal(err)
	}
	a.ns.Do(func() error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
		if err != nil || len(routes) != 0 {
			t.Errorf("reset leaves %v, %v", routes, err)
		}
		return nil
	})
}

// echo sends so many bytes by UDP from pod to pod and back.
func echo(from, to *machine, size int) error {
	var server, conn net.PacketConn
	if err := to.pod.Do(func() (err error) {
		server, err = new(net.ListenConfig).ListenPacket(context.Background(), "udp", ":9")
		return err
	}); err != nil {
		return err
	}
	defer server.Close()
	if err := from.pod.Do(func() (err error) {
		conn, err = new(net.ListenConfig).ListenPacket(context.Background(), "udp", ":0")
		return err
	}); err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.WriteTo(make([]byte, size), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.addr, 9))); err != nil {
		return err
	}
	for _, c := range []net.PacketConn{server, conn} {
		c.SetReadDeadline(time.Now().Add(time.Second))
		buf := make([]byte, 1<<16)
		n, peer, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		if n != size {
			return fmt.Errorf("%d bytes arrived", n)
		}
		if c == server {
			server.WriteTo(buf[:n], peer)
		}
	}
	return nil
}

// A node gets another address, on its link and then in another network altogether; pods notice nothing but a pause.
func TestAddressChanges(t *testing.T) {
	needsVXLAN(t)
	w := newWorld(t)
	a, b := w.add("192.0.2.1/24"), w.add("192.0.2.2/24")
	a.reaches(b)
	change := func(from, to string) {
		t.Helper()
		if err := b.ns.Do(func() error {
			up, err := netlink.LinkByName("up0")
			if err != nil {
				return err
			}
			old, new := parseAddr(from), parseAddr(to)
			if err := netlink.AddrDel(up, old); err != nil {
				return err
			}
			return netlink.AddrAdd(up, new)
		}); err != nil {
			t.Fatal(err)
		}
	}
	change("192.0.2.2/24", "192.0.2.22/24")
	b.move("192.0.2.22")
	a.reaches(b)
	b.reaches(a)
	if a.tunnel() != nil || b.tunnel() != nil {
		t.Error("a change of address on one link made a tunnel")
	}

	if err := b.ns.Do(func() error {
		up, err := netlink.LinkByName("up0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(up)
	}); err != nil {
		t.Fatal(err)
	}
	w.plug(b, "elsewhere", "up1", "198.51.100.2/24")
	b.move("198.51.100.2")
	b.reaches(a)
	a.reaches(b)
	if a.tunnel() == nil {
		t.Error("nodes in two networks have no tunnel")
	}
}

// Nodes that have only IPv4 addresses carry their pods' IPv6 packets through the tunnel.
func TestIPv6OverIPv4(t *testing.T) {
	needsVXLAN(t)
	w := newWorld(t)
	w.dual = true
	a, b := w.add("192.0.2.1/24"), w.add("192.0.2.2/24")
	if !a.addr.Is6() {
		t.Fatalf("pod has address %s", a.addr)
	}
	a.reaches(b)
	b.reaches(a)
}

func parseAddr(s string) *netlink.Addr {
	a, err := netlink.ParseAddr(s)
	if err != nil {
		panic(err)
	}
	return a
}

// What others did to the tunnel and the routes is mended at the next look.
func TestMends(t *testing.T) {
	needsVXLAN(t)
	w := newWorld(t)
	a, c := w.add("192.0.2.1/24"), w.add("198.51.100.1/24")
	a.reaches(c)
	if err := a.ns.Do(func() error {
		tunnel, err := netlink.LinkByName(network.TunnelDevice)
		if err != nil {
			return err
		}
		// A stray peer and a stray route of ours; the right peer at a wrong place.
		station := &netlink.Neigh{LinkIndex: tunnel.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF,
			IP: net.IPv4(203, 0, 113, 1), HardwareAddr: net.HardwareAddr{2, 'v', 10, 42, 9, 0}}
		if err := netlink.NeighSet(station); err != nil {
			return err
		}
		station.HardwareAddr[4] = 2
		if err := netlink.NeighSet(station); err != nil {
			return err
		}
		stray := &net.IPNet{IP: net.IPv4(10, 42, 9, 0), Mask: net.CIDRMask(24, 32)}
		if err := netlink.RouteAdd(&netlink.Route{Dst: stray, LinkIndex: tunnel.Attrs().Index, Protocol: protocol, Scope: netlink.SCOPE_LINK}); err != nil {
			return err
		}
		return netlink.LinkSetDown(tunnel) // which is also what is noticed
	}); err != nil {
		t.Fatal(err)
	}
	a.reaches(c)
	a.ns.Do(func() error {
		tunnel, _ := netlink.LinkByName(network.TunnelDevice)
		stations, err := netlink.NeighListExecute(netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(tunnel.Attrs().Index)})
		if err != nil || len(stations) != 1 || !stations[0].IP.Equal(net.IPv4(198, 51, 100, 1)) {
			t.Errorf("peers %v, %v", stations, err)
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
		if err != nil || len(routes) != 2 {
			t.Errorf("routes %v, %v", routes, err)
		}
		return nil
	})
}

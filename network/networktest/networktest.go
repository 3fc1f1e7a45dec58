// Package networktest makes network namespaces for tests: empty ones, with no way out, that are gone when the test is. Only
// tests may import it.
package networktest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace that lives as long as its test.
type Namespace struct {
	// Path opens the namespace. It is of this process: children of it can use it too.
	Path string
	fd   int
}

// New makes a namespace with lo up. It skips the test where the process may not make one.
func New(t testing.TB) *Namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make network namespaces")
	}
	type made struct {
		fd  int
		err error
	}
	done := make(chan made)
	go func() {
		// Never unlocked: the thread dies with the goroutine, the descriptor keeps the namespace.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- made{err: fmt.Errorf("unshare: %w", err)}
			return
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}})
		}
		done <- made{fd, err}
	}()
	m := <-done
	if m.err != nil {
		t.Fatalf("make a network namespace: %v", m.err)
	}
	ns := &Namespace{Path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), m.fd), fd: m.fd}
	t.Cleanup(ns.Close)
	return ns
}

// Of opens the namespace that a process is in.
func Of(t testing.TB, pid string) *Namespace {
	t.Helper()
	fd, err := unix.Open("/proc/"+pid+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open the network namespace of process %s: %v", pid, err)
	}
	ns := &Namespace{Path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), fd: fd}
	t.Cleanup(ns.Close)
	return ns
}

// Open opens a namespace that somebody else made.
func Open(t testing.TB, path string) *Namespace {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open network namespace %s: %v", path, err)
	}
	ns := &Namespace{Path: path, fd: fd}
	t.Cleanup(ns.Close)
	return ns
}

// Close lets the namespace go before the test ends.
func (ns *Namespace) Close() {
	if ns.fd >= 0 {
		unix.Close(ns.fd)
		ns.fd = -1
	}
}

// Do calls f on a thread inside of the namespace. Sockets that f opens stay there.
func (ns *Namespace) Do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(netns.NsHandle(ns.fd)); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// Dial connects from inside of the namespace, from a local address unless it is "". It waits a second at most.
func (ns *Namespace) Dial(network, local, address string) (net.Conn, error) {
	var conn net.Conn
	err := ns.Do(func() error {
		// No resolver and no racing of addresses: another goroutine would dial from another namespace.
		remote, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		d := net.Dialer{Timeout: time.Second}
		if local != "" {
			ip := net.ParseIP(local)
			d.LocalAddr = &net.TCPAddr{IP: ip}
			if network == "udp" {
				d.LocalAddr = &net.UDPAddr{IP: ip}
			}
		}
		conn, err = d.Dial(network, remote.String())
		return err
	})
	return conn, err
}

// ServeName answers every TCP connection and UDP packet at port (of all addresses) with name and the address of the caller,
// "name 10.0.0.1:1234", until the test ends.
func (ns *Namespace) ServeName(t testing.TB, port int, name string) {
	t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	err := ns.Do(func() (err error) {
		ctx := context.Background()
		if tcp, err = new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf(":%d", port)); err != nil {
			return err
		}
		udp, err = new(net.ListenConfig).ListenPacket(ctx, "udp", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		t.Fatalf("serve %s: %v", name, err)
	}
	t.Cleanup(func() { tcp.Close(); udp.Close() })
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "%s %s", name, conn.RemoteAddr())
			conn.Close()
		}
	}()
	go func() {
		buf := make([]byte, 1500)
		for {
			_, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			udp.WriteTo(fmt.Appendf(nil, "%s %s", name, from), from)
		}
	}()
}

// Ask calls a server made by ServeName from inside of the namespace and returns its name and the address that it saw.
func (ns *Namespace) Ask(network, local, address string) (name string, seen netip.AddrPort, err error) {
	conn, err := ns.Dial(network, local, address)
	if err != nil {
		return "", seen, err
	}
	defer conn.Close()
	return AskOn(conn)
}

// AskOn is Ask on a connection that exists.
func AskOn(conn net.Conn) (name string, seen netip.AddrPort, err error) {
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return "", seen, err
	}
	if conn.LocalAddr().Network() == "udp" {
		if _, err := conn.Write([]byte("?")); err != nil {
			return "", seen, err
		}
	}
	buf := make([]byte, 200)
	n, err := conn.Read(buf)
	if err != nil {
		return "", seen, err
	}
	var from string
	if _, err := fmt.Sscanf(string(buf[:n]), "%s %s", &name, &from); err != nil {
		return "", seen, err
	}
	seen, err = netip.ParseAddrPort(from)
	return name, netip.AddrPortFrom(seen.Addr().Unmap(), seen.Port()), err
}

// Join links two namespaces by a veth pair with an address on either end.
func Join(t testing.TB, a *Namespace, nameA, addrA string, b *Namespace, nameB, addrB string) {
	t.Helper()
	err := a.Do(func() error {
		veth := netlink.NewVeth(netlink.LinkAttrs{Name: nameA, TxQLen: -1})
		veth.PeerName, veth.PeerNamespace = nameB, netlink.NsFd(b.fd)
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return setUp(nameA, addrA)
	})
	if err == nil {
		err = b.Do(func() error { return setUp(nameB, addrB) })
	}
	if err != nil {
		t.Fatalf("join namespaces: %v", err)
	}
}

func setUp(name, addr string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	parsed, err := netlink.ParseAddr(addr)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, parsed); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// Switch is a link between namespaces: a bridge in a namespace of its own, which may also route between switches of that
// namespace.
type Switch struct {
	ns   *Namespace
	name string
}

// NewSwitch makes a switch in a namespace. With an address ("192.0.2.254/24") the namespace routes for those on the switch.
func NewSwitch(t testing.TB, ns *Namespace, name, address string) *Switch {
	t.Helper()
	err := ns.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return err
		}
		if address == "" {
			return netlink.LinkSetUp(&netlink.Bridge{LinkAttrs: attrs})
		}
		if err := setUp(name, address); err != nil {
			return err
		}
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
	})
	if err != nil {
		t.Fatalf("make switch %s: %v", name, err)
	}
	return &Switch{ns, name}
}

// Plug links a namespace to the switch: there the link has the name and address given. port names the switch's end.
func (s *Switch) Plug(t testing.TB, port string, to *Namespace, name, address string) {
	t.Helper()
	err := s.ns.Do(func() error {
		bridge, err := netlink.LinkByName(s.name)
		if err != nil {
			return err
		}
		veth := netlink.NewVeth(netlink.LinkAttrs{Name: port, TxQLen: -1, MasterIndex: bridge.Attrs().Index, Flags: net.FlagUp})
		veth.PeerName, veth.PeerNamespace = name, netlink.NsFd(to.fd)
		return netlink.LinkAdd(veth)
	})
	if err == nil {
		err = to.Do(func() error { return setUp(name, address) })
	}
	if err != nil {
		t.Fatalf("plug %s: %v", port, err)
	}
}

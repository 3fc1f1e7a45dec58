package proxy

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/network/networktest"
	"github.com/kebernetes/kebernetes/network/nft"
)

// asked is one question to a service and who may answer it, seeing which source; "" means that it is refused.
type asked struct {
	what    string
	from    *networktest.Namespace
	network string
	to      string
	name    string
	seen    string
}

func (w *world) check(tests ...asked) {
	w.t.Helper()
	for _, test := range tests {
		networks := []string{"tcp", "udp"}
		if test.network != "" {
			networks = []string{test.network}
		}
		for _, n := range networks {
			name, seen, err := test.from.Ask(n, "", test.to)
			switch {
			// A UDP socket of the node itself learns of a refusal as it sends.
			case test.name == "" && !errors.Is(err, syscall.ECONNREFUSED) && !(n == "udp" && errors.Is(err, syscall.EPERM)):
				w.t.Errorf("%s, %s %s: %s, %v; want connection refused", test.what, n, test.to, name, err)
			case test.name == "drop" && !isTimeout(err):
				w.t.Errorf("%s, %s %s: %s, %v; want no answer", test.what, n, test.to, name, err)
			case test.name != "" && test.name != "drop" && (err != nil || name != test.name || seen.Addr().String() != test.seen):
				w.t.Errorf("%s, %s %s: %s saw %s, %v; want %s to see %s", test.what, n, test.to, name, seen.Addr(), err, test.name, test.seen)
			}
		}
	}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// TestServices reaches one endpoint in every way there is.
func TestServices(t *testing.T) {
	for _, bridgeNF := range []string{"0", "1"} {
		t.Run("bridge-nf="+bridgeNF, func(t *testing.T) {
			w := newWorld(t)
			if err := w.node.Do(func() error {
				return os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte(bridgeNF), 0)
			}); errors.Is(err, os.ErrNotExist) {
				t.Skip("kernel without bridge netfilter")
			} else if err != nil {
				t.Fatal(err)
			}
			testServices(t, w)
		})
	}
}

func testServices(t *testing.T, w *world) {
	p0, a0 := w.pod()
	p1, a1 := w.pod()
	w.apply(
		service("web", "10.43.0.80", nodePort(30080), func(svc *corev1.Service) {
			svc.Spec.ExternalIPs = []string{"203.0.113.1"}
		}),
		slice("web", []netip.Addr{a0}),
		service("balanced", "10.43.0.81", nodePort(30081), func(svc *corev1.Service) {
			svc.Spec.Type = corev1.ServiceTypeLoadBalancer
			svc.Spec.LoadBalancerSourceRanges = []string{"10.42.0.0/16", "198.51.100.0/24"}
			svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.2"}, {IP: "192.0.2.1"}, {IP: "203.0.113.3", IPMode: new(corev1.LoadBalancerIPModeProxy)}}
		}),
		slice("balanced", []netip.Addr{a0}),
		service("local", "10.43.0.82", nodePort(30082), localPolicy), slice("local", []netip.Addr{a0}),
		service("empty", "10.43.0.83", nodePort(30083)),
		service("remote", "10.43.0.84", nodePort(30084), localPolicy), slice("remote", []netip.Addr{a0}, elsewhere),
		service("internal", "10.43.0.85", func(svc *corev1.Service) {
			svc.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal)
		}), slice("internal", []netip.Addr{a0}, elsewhere),
		service("dns", "10.43.0.10"),
	)
	w.node.ServeName(t, 30099, "node")
	pod0, pod1 := a0.String(), a1.String()
	w.check(
		asked{"pod to cluster IP", p1, "", "10.43.0.80:80", "p0", pod1},
		asked{"pod to itself", p0, "", "10.43.0.80:80", "p0", "10.42.0.1"},
		asked{"node to cluster IP", w.node, "", "10.43.0.80:80", "p0", "10.42.0.1"},
		asked{"outside to cluster IP", w.outside, "", "10.43.0.80:80", "p0", "10.42.0.1"},
		asked{"outside to node port", w.outside, "", "192.0.2.1:30080", "p0", "10.42.0.1"},
		asked{"node to node port", w.node, "", "192.0.2.1:30080", "p0", "10.42.0.1"},
		asked{"pod to node port", p1, "", "192.0.2.1:30080", "p0", "10.42.0.1"},
		asked{"pod to itself by node port", p0, "", "10.42.0.1:30080", "p0", "10.42.0.1"},
		asked{"node port on loopback", w.node, "", "127.0.0.1:30080", "", ""},
		asked{"external IP", w.outside, "", "203.0.113.1:80", "p0", "10.42.0.1"},
		asked{"pod to external IP", p1, "", "203.0.113.1:80", "p0", "10.42.0.1"},
		asked{"balancer within source ranges", p1, "", "203.0.113.2:80", "p0", "10.42.0.1"},
		asked{"balancer outside of source ranges", w.outside, "tcp", "203.0.113.2:80", "drop", ""},
		asked{"node's address as balancer", p1, "", "192.0.2.1:80", "p0", "10.42.0.1"},
		asked{"local policy, outside", w.outside, "", "192.0.2.1:30082", "p0", "192.0.2.2"},
		asked{"local policy, pod", p1, "", "192.0.2.1:30082", "p0", pod1},
		asked{"no endpoints", p1, "", "10.43.0.83:80", "", ""},
		asked{"no endpoints, node", w.node, "", "10.43.0.83:80", "", ""},
		asked{"no endpoints, node port", w.outside, "", "192.0.2.1:30083", "", ""},
		asked{"no endpoints, node port, pod", p1, "", "192.0.2.1:30083", "", ""},
		asked{"no endpoints, node port, node", w.node, "", "192.0.2.1:30083", "", ""},
		asked{"no local endpoints, outside", w.outside, "tcp", "192.0.2.1:30084", "drop", ""},
		asked{"no local endpoints, pod", p1, "", "192.0.2.1:30084", "p0", pod1},
		asked{"internal policy without local endpoints", p1, "tcp", "10.43.0.85:80", "drop", ""},
		asked{"port that no service has", p1, "", "10.43.0.80:81", "", ""},
		asked{"cluster IP that no service has", p1, "tcp", "10.43.9.9:80", "drop", ""},
		asked{"cluster IP that the node serves", p1, "tcp", "10.43.0.10:30099", "node", pod1},
		asked{"own port of the node", p1, "tcp", "192.0.2.1:30099", "node", pod1},
		asked{"pod to pod", p1, "", pod0 + ":8080", "p0", pod1},
	)
	w.outside.ServeName(t, 53, "outside")
	w.check(asked{"pod to outside", p0, "", "192.0.2.2:53", "outside", "192.0.2.1"})
}

// TestIPv6 reaches a service of both families by the second one.
func TestIPv6(t *testing.T) {
	w := newWorld(t)
	p0, _ := w.pod()
	p1, _ := w.pod()
	v6 := func(name, ip string, edits ...func(*corev1.Service)) *corev1.Service {
		return service(name, ip, append(edits, func(svc *corev1.Service) { svc.Spec.ClusterIPs = []string{ip} })...)
	}
	s := func(name string) *discoveryv1.EndpointSlice {
		s := slice(name, []netip.Addr{netip.MustParseAddr("fd00:42::2")})
		s.AddressType = discoveryv1.AddressTypeIPv6
		return s
	}
	w.apply(v6("web", "fd00:43::80", nodePort(30080)), s("web"), v6("sticky", "fd00:43::81", affinity), s("sticky"),
		v6("local", "fd00:43::82", nodePort(30082), localPolicy), s("local"), v6("empty", "fd00:43::83"))
	// The kernel may lose the first IPv6 packet over a link this new; what is tested here are the rules.
	for range 3 {
		if _, _, err := p1.Ask("tcp", "", "[fd00:43::80]:80"); err == nil {
			break
		}
	}
	w.check(
		asked{"pod to cluster IP", p1, "", "[fd00:43::80]:80", "p0", "fd00:42::3"},
		asked{"pod to itself", p0, "", "[fd00:43::80]:80", "p0", "fd00:42::1"},
		asked{"node to cluster IP", w.node, "", "[fd00:43::80]:80", "p0", "fd00:42::1"},
		asked{"with affinity", p1, "", "[fd00:43::81]:80", "p0", "fd00:42::3"},
		asked{"with affinity again", p1, "", "[fd00:43::81]:80", "p0", "fd00:42::3"},
		asked{"node port", w.outside, "", "[2001:db8::1]:30080", "p0", "fd00:42::1"},
		asked{"local policy", w.outside, "", "[2001:db8::1]:30082", "p0", "2001:db8::2"},
		// The kernel limits how often it tells a host by ICMP, and the redirects that it sends to pods count.
		asked{"no endpoints", p1, "tcp", "[fd00:43::83]:80", "", ""},
		asked{"cluster IP that no service has", p1, "tcp", "[fd00:43::99]:80", "drop", ""},
	)
}

// TestNothingIsLost turns the endpoints of a service over as fast as it goes while a client connects: no connection fails
// that has an endpoint to go to.
func TestNothingIsLost(t *testing.T) {
	w := newWorld(t)
	client, _ := w.pod()
	var addrs []netip.Addr
	for range 4 {
		_, addr := w.pod()
		addrs = append(addrs, addr)
	}
	w.apply(service("web", "10.43.0.80"), slice("web", addrs))
	done := make(chan struct{})
	var turns int
	go func() {
		defer close(done)
		rng := rand.New(rand.NewPCG(1, 2))
		for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); turns++ {
			rng.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
			w.put(slice("web", addrs[:1+rng.IntN(len(addrs))]))
			if err := w.proxy.WaitRevision(t.Context(), w.Snapshot().Revision()); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	connections := 0
	for {
		select {
		case <-done:
			t.Logf("%d connections, %d changes", connections, turns)
			return
		default:
		}
		if _, _, err := client.Ask("tcp", "", "10.43.0.80:80"); err != nil {
			t.Fatalf("connection %d: %v", connections, err)
		}
		connections++
	}
}

// TestBalance sends many connections and sees every endpoint about equally often, also while endpoints come and go.
func TestBalance(t *testing.T) {
	w := newWorld(t)
	client, _ := w.pod()
	var addrs []netip.Addr
	for range 3 {
		_, addr := w.pod()
		addrs = append(addrs, addr)
	}
	w.apply(service("web", "10.43.0.80"))
	for n := 1; n <= len(addrs); n++ {
		w.apply(slice("web", addrs[:n]))
		const rounds = 300
		seen := map[string]int{}
		for range rounds {
			name, _, err := client.Ask("tcp", "", "10.43.0.80:80")
			if err != nil {
				t.Fatal(err)
			}
			seen[name]++
		}
		for name, count := range seen {
			if len(seen) != n || count < rounds/n/2 {
				t.Errorf("%d endpoints: %s answered %d of %d times, all: %v", n, name, count, rounds, seen)
			}
		}
	}
	w.apply(slice("web", addrs[2:]))
	for range 20 {
		w.check(asked{"the one endpoint left", client, "", "10.43.0.80:80", "p3", "10.42.0.2"})
	}
	w.remove(service("web", "10.43.0.80"))
	w.settle()
	w.check(asked{"after removal", client, "tcp", "10.43.0.80:80", "drop", ""})
}

// TestAffinity keeps a client at one endpoint until that goes, whatever way it comes, and over a restart.
func TestAffinity(t *testing.T) {
	w := newWorld(t)
	client, _ := w.pod()
	var addrs []netip.Addr
	for range 4 {
		_, addr := w.pod()
		addrs = append(addrs, addr)
	}
	svc := service("web", "10.43.0.80", nodePort(30080), affinity)
	w.apply(svc, slice("web", addrs))
	same := func(to string, from *networktest.Namespace, want string) string {
		t.Helper()
		for range 20 {
			name, _, err := from.Ask("tcp", "", to)
			if err != nil || want != "" && name != want {
				t.Fatalf("%s: %s, %v; want %s", to, name, err, want)
			}
			want = name
		}
		return want
	}
	first := same("10.43.0.80:80", client, "")
	byNodePort := same("192.0.2.1:30080", w.outside, "")
	w.stop()
	w.start()
	same("10.43.0.80:80", client, first)
	same("192.0.2.1:30080", w.outside, byNodePort)

	i := slices.Index([]string{"p1", "p2", "p3", "p4"}, first)
	fewer := slices.Delete(slices.Clone(addrs), i, i+1)
	w.apply(slice("web", fewer))
	second := same("10.43.0.80:80", client, "")
	if second == first {
		t.Errorf("the client is still sent to %s", first)
	}
	w.apply(slice("web", addrs)) // the endpoint that was gone has no claim to its client
	same("10.43.0.80:80", client, second)

	w.apply(service("web", "10.43.0.80"))
	seen := map[string]bool{}
	for range 100 {
		name, _, err := client.Ask("tcp", "", "10.43.0.80:80")
		if err != nil {
			t.Fatal(err)
		}
		seen[name] = true
	}
	if len(seen) != len(addrs) {
		t.Errorf("without affinity only %v answer", seen)
	}
}

// TestUDPClientsMoveOn keeps one UDP socket sending while its endpoint goes away.
func TestUDPClientsMoveOn(t *testing.T) {
	w := newWorld(t)
	client, _ := w.pod()
	_, a1 := w.pod()
	_, a2 := w.pod()
	w.apply(service("web", "10.43.0.80", nodePort(30080)), slice("web", []netip.Addr{a1}))
	for _, test := range []struct {
		from *networktest.Namespace
		to   string
	}{{client, "10.43.0.80:80"}, {w.outside, "192.0.2.1:30080"}} {
		w.apply(slice("web", []netip.Addr{a1}))
		conn, err := test.from.Dial("udp", "", test.to)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if name, _, err := networktest.AskOn(conn); err != nil || name != "p1" {
			t.Fatalf("first answer: %s, %v", name, err)
		}
		w.apply(slice("web", []netip.Addr{a2}))
		for name := "p1"; name != "p2"; { // the flush follows the rules, and may meet an answer on its way
			if name, _, err = networktest.AskOn(conn); err != nil && !isTimeout(err) {
				t.Fatalf("answer after the endpoint went: %v", err)
			}
		}
	}
}

// TestHostPorts opens the ports of pods on the node: for all addresses, for one, and on loopback.
func TestHostPorts(t *testing.T) {
	w := newWorld(t)
	p0, a0 := w.pod()
	p1, a1 := w.pod()
	_, a2 := w.pod()
	pod := func(name string, ip netip.Addr, ports ...corev1.ContainerPort) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Spec:   corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Ports: ports}}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: ip.String()}}}}
	}
	any := pod("any", a0, corev1.ContainerPort{ContainerPort: 8080, HostPort: 8000, Protocol: corev1.ProtocolTCP}, corev1.ContainerPort{ContainerPort: 8080, HostPort: 8000, Protocol: corev1.ProtocolUDP})
	w.apply(any,
		pod("loopback", a1, corev1.ContainerPort{ContainerPort: 8080, HostPort: 54323, HostIP: "127.0.0.1", Protocol: corev1.ProtocolTCP}),
		pod("address", a2, corev1.ContainerPort{ContainerPort: 8080, HostPort: 54323, HostIP: "192.0.2.1", Protocol: corev1.ProtocolTCP},
			corev1.ContainerPort{ContainerPort: 8080, HostPort: 54323, HostIP: "192.0.2.1", Protocol: corev1.ProtocolUDP}))
	w.check(
		asked{"outside", w.outside, "", "192.0.2.1:8000", "p0", "192.0.2.2"},
		asked{"pod", p1, "", "192.0.2.1:8000", "p0", a1.String()},
		asked{"itself", p0, "", "192.0.2.1:8000", "p0", "10.42.0.1"},
		asked{"node", w.node, "", "192.0.2.1:8000", "p0", "192.0.2.1"},
		asked{"loopback", w.node, "", "127.0.0.1:8000", "p0", "10.42.0.1"},
		asked{"loopback alone", w.node, "tcp", "127.0.0.1:54323", "p1", "10.42.0.1"},
		asked{"one address", w.outside, "", "192.0.2.1:54323", "p2", "192.0.2.2"},
		asked{"not the other address", p1, "tcp", "10.42.0.1:54323", "", ""},
	)
	if name, _, err := w.node.Ask("tcp", "192.0.2.1", "127.0.0.1:54323"); err != nil || name != "p1" {
		t.Errorf("loopback from the node's address: %s, %v", name, err)
	}
	done := any.DeepCopy()
	done.Status.Phase = corev1.PodSucceeded
	w.apply(done)
	w.check(asked{"after the pod ended", w.outside, "tcp", "192.0.2.1:8000", "", ""})
}

// TestHealthChecks asks at the health-check node port as endpoints on this node come and go.
func TestHealthChecks(t *testing.T) {
	w := newWorld(t)
	balancer := func(port int32) *corev1.Service {
		return service("web", "10.43.0.80", localPolicy, func(svc *corev1.Service) {
			svc.Spec.Type, svc.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, port
		})
	}
	ask := func(port int) (string, error) {
		conn, err := w.outside.Dial("tcp", "", fmt.Sprintf("192.0.2.1:%d", port))
		if err != nil {
			return "", err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Second))
		fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
		answer, err := io.ReadAll(conn)
		head, body, _ := strings.Cut(string(answer), "\r\n\r\n")
		status, _, _ := strings.Cut(head, "\r\n")
		return status + " " + strings.TrimSpace(body), err
	}
	const body = `{"service":{"namespace":"default","name":"web"},"localEndpoints":%d,"serviceProxyHealthy":true}`
	a, b := netip.MustParseAddr("10.42.0.5"), netip.MustParseAddr("10.42.0.6")
	for _, test := range []struct {
		slice *discoveryv1.EndpointSlice
		want  string
	}{
		{slice("web", []netip.Addr{a, b}), "HTTP/1.0 200 OK " + fmt.Sprintf(body, 2)},
		{slice("web", []netip.Addr{a}, terminating), "HTTP/1.0 503 Service Unavailable " + fmt.Sprintf(body, 0)},
		{slice("web", []netip.Addr{a, b}, elsewhere), "HTTP/1.0 503 Service Unavailable " + fmt.Sprintf(body, 0)},
	} {
		w.apply(balancer(32000), test.slice)
		if got, err := ask(32000); err != nil || got != test.want {
			t.Errorf("got %s, %v; want %s", got, err, test.want)
		}
	}
	w.apply(balancer(32001))
	if got, err := ask(32001); err != nil {
		t.Errorf("at the new port: %s, %v", got, err)
	}
	w.remove(balancer(32001))
	w.settle()
	for _, port := range []int{32000, 32001} {
		if got, err := ask(port); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("after removal: %s, %v", got, err)
		}
	}
}

// TestPodsMayNotUseLoopback sends packets from a pod to the node's loopback, by way of the route that host ports need.
func TestPodsMayNotUseLoopback(t *testing.T) {
	w := newWorld(t)
	p0, _ := w.pod()
	w.node.ServeName(t, 10248, "node")
	if err := p0.Do(func() error { return routeLoopbackToNode() }); err != nil {
		t.Fatal(err)
	}
	w.check(asked{"pod to the node's loopback", p0, "tcp", "127.0.0.1:10248", "drop", ""})
}

// TestTermination takes a terminating endpoint out as long as another is ready, and falls back to it when none is.
func TestTermination(t *testing.T) {
	w := newWorld(t)
	client, _ := w.pod()
	_, a1 := w.pod()
	_, a2 := w.pod()
	svc := service("web", "10.43.0.80")
	both := slice("web", []netip.Addr{a1, a2})
	w.apply(svc, both)
	waited := make(chan error)
	go func() { waited <- w.proxy.WaitWithdrawn(t.Context(), a1) }()
	select {
	case <-waited:
		t.Fatal("endpoint was withdrawn before it terminates")
	default:
	}
	one := both.DeepCopy()
	terminating(&one.Endpoints[0])
	w.put(one)
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
	for range 20 {
		w.check(asked{"beside a terminating endpoint", client, "", "10.43.0.80:80", "p2", "10.42.0.2"})
	}
	w.apply(slice("web", []netip.Addr{a1}, terminating))
	w.check(asked{"terminating endpoint alone", client, "", "10.43.0.80:80", "p1", "10.42.0.2"})
	if err := w.proxy.WaitWithdrawn(t.Context(), a1, a2); err != nil {
		t.Fatal(err)
	}
}

// TestRecovery starts over a table that a crashed or older proxy left, and over none; Reset removes it.
func TestRecovery(t *testing.T) {
	w := newWorld(t)
	client, _ := w.pod()
	_, a1 := w.pod()
	_, a2 := w.pod()
	w.apply(service("web", "10.43.0.80"), slice("web", []netip.Addr{a1}), service("old", "10.43.0.90"), slice("old", []netip.Addr{a1}))
	w.stop()
	w.remove(service("old", "10.43.0.90"))
	w.put(slice("web", []netip.Addr{a2}))
	w.check(asked{"while no proxy runs", client, "", "10.43.0.80:80", "p1", "10.42.0.2"})
	w.start()
	w.check(
		asked{"after the restart", client, "", "10.43.0.80:80", "p2", "10.42.0.2"},
		asked{"what went meanwhile", client, "tcp", "10.43.0.90:80", "drop", ""})
	w.stop()
	for range 2 {
		if err := Reset(Options{NetNS: w.node.Path}); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := w.proxy.kernelConn(w)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := conn.ListTables()
	if err != nil || len(tables) != 0 {
		t.Errorf("tables after reset: %v, %v", tables, err)
	}
	w.start()
	w.check(asked{"after a reset", client, "", "10.43.0.80:80", "p2", "10.42.0.2"})
}

// kernelConn opens nftables in the world's node.
func (p *Proxy) kernelConn(w *world) (*nftables.Conn, error) {
	q, err := New(w.options())
	if err != nil {
		return nil, err
	}
	w.t.Cleanup(q.kernel.Close)
	return q.kernel.Connect(0, 0)
}

// TestManyClients restarts over more remembered clients than a message to the kernel holds.
func TestManyClients(t *testing.T) {
	const clients = 20000
	w := newWorld(t)
	_, addr := w.pod()
	w.apply(service("web", "10.43.0.80", affinity), slice("web", []netip.Addr{addr}))
	conn, err := w.proxy.kernelConn(w)
	if err != nil {
		t.Fatal(err)
	}
	known := w.proxy.kernel.families[0].newSet(&nftables.Table{Name: DefaultTable, Family: unix.NFPROTO_INET}, setAffinity)
	for first := 0; first < clients; first += nft.Chunk {
		var part []nftables.SetElement
		for i := first; i < first+nft.Chunk; i++ {
			key := addrKey(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})) + string(make([]byte, 12))
			part = append(part, nftables.SetElement{Key: []byte(key), Val: nft.Native32(1), Timeout: time.Hour})
		}
		if err := conn.SetAddElements(known, part); err != nil {
			t.Fatal(err)
		}
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	w.stop()
	w.start()
	if elements, err := conn.GetSetElements(known); err != nil || len(elements) != clients {
		t.Errorf("%d clients are remembered, %v; want %d", len(elements), err, clients)
	}
}

// TestCanBeListed shows the table to the nft command, which people use to see what a node does.
func TestCanBeListed(t *testing.T) {
	command, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("no nft command")
	}
	w := newWorld(t)
	addrs := []netip.Addr{netip.MustParseAddr("10.42.0.5"), netip.MustParseAddr("10.42.0.6")}
	w.apply(service("web", "10.43.0.80", nodePort(30080), affinity, localPolicy, func(svc *corev1.Service) {
		svc.Spec.Type = corev1.ServiceTypeLoadBalancer
		svc.Spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24"}
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.2"}}
	}), slice("web", addrs), service("empty", "10.43.0.81"))
	client, _ := w.pod()
	client.Dial("udp", "", "10.43.0.80:80") // leaves a client to remember
	var listed []byte
	if err := w.node.Do(func() (err error) {
		listed, err = exec.Command(command, "list", "ruleset").CombinedOutput()
		return err
	}); err != nil {
		t.Fatalf("nft list ruleset: %v\n%s", err, listed)
	}
	for _, want := range []string{
		"table inet keb {",
		"10.43.0.80 . tcp . 80 . 0:1 : 10.42.0.6 . 8080",
		": goto one-of-2-masq-offcluster-affinity-10800s",
		"203.0.113.2 . tcp . 80 . 198.51.100.0/24",
		"numgen random mod 2",
	} {
		if !strings.Contains(string(listed), want) {
			t.Errorf("nft list ruleset does not show %q:\n%s", want, listed)
		}
	}
}

// TestConstantObjects counts chains and rules with one service and with many.
func TestConstantObjects(t *testing.T) {
	w := newWorld(t)
	conn, err := w.proxy.kernelConn(w)
	if err != nil {
		t.Fatal(err)
	}
	count := func() (chains, rules int) {
		all, err := conn.ListChains()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range all {
			r, err := conn.GetRules(c.Table, c)
			if err != nil {
				t.Fatal(err)
			}
			rules += len(r)
		}
		return len(all), rules
	}
	emptyChains, emptyRules := count()
	addr := netip.MustParseAddr("10.42.0.99")
	w.apply(service("first", "10.43.1.1"), slice("first", []netip.Addr{addr}))
	oneChains, oneRules := count()
	for i := range 100 {
		name, ip := "s"+strings.Repeat("x", i), netip.AddrFrom4([4]byte{10, 43, 2, byte(i)}).String()
		w.put(service(name, ip), slice(name, []netip.Addr{addr}))
	}
	w.settle()
	if chains, rules := count(); chains != oneChains || rules != oneRules {
		t.Errorf("101 services: %d chains, %d rules; one service: %d, %d", chains, rules, oneChains, oneRules)
	}
	for item := range w.Snapshot().List("services", "") {
		w.remove(item.Object.(*corev1.Service))
	}
	w.settle()
	if chains, rules := count(); chains != emptyChains || rules != emptyRules {
		t.Errorf("no services: %d chains, %d rules; before: %d, %d", chains, rules, emptyChains, emptyRules)
	}
}

package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/network"
	"github.com/kebernetes/kebernetes/network/networktest"
	"github.com/kebernetes/kebernetes/store"
)

// memory is a client's transport over a bare store: what is put there is seen by the proxy.
type memory struct {
	client.Transport
	*store.Memory
}

func (m memory) Snapshot() store.Snapshot { return m.Memory.Snapshot() }

func (m memory) Watch(resource string, after int64) (*store.Watch, error) {
	return m.Memory.Watch(resource, after)
}

func newMemory() (memory, *client.Client) {
	m := memory{Memory: store.NewMemory(1)}
	return m, client.New(m, kinds.NewTable(
		&kinds.Kind{Kind: "Service", Resource: "services", Namespaced: true, Versions: []kinds.Version{kinds.V[corev1.Service, corev1.ServiceList]("v1")}},
		&kinds.Kind{Kind: "Pod", Resource: "pods", Namespaced: true, Versions: []kinds.Version{kinds.V[corev1.Pod, corev1.PodList]("v1")}},
		&kinds.Kind{Kind: "Node", Resource: "nodes", Versions: []kinds.Version{kinds.V[corev1.Node, corev1.NodeList]("v1")}},
		&kinds.Kind{Group: "discovery.k8s.io", Kind: "EndpointSlice", Resource: "endpointslices", Namespaced: true,
			Versions: []kinds.Version{kinds.V[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList]("v1")}},
	))
}

func keyOf(obj client.Object) store.Key {
	k := store.Key{Namespace: obj.GetNamespace(), Name: obj.GetName()}
	switch obj.(type) {
	case *corev1.Service:
		k.Resource = "services"
	case *corev1.Pod:
		k.Resource = "pods"
	case *corev1.Node:
		k.Resource = "nodes"
	case *discoveryv1.EndpointSlice:
		k.Resource = "endpointslices.discovery.k8s.io"
	}
	return k
}

func (m memory) put(objs ...client.Object) {
	for _, obj := range objs {
		m.Mirror(store.Put, keyOf(obj), obj, 0)
	}
}

func (m memory) remove(obj client.Object) { m.Mirror(store.Delete, keyOf(obj), obj, 0) }

// service returns a ClusterIP service of port 80 in namespace default, which the edits change.
func service(name, ip string, edits ...func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip},
			Ports: []corev1.ServicePort{{Name: "tcp", Protocol: corev1.ProtocolTCP, Port: 80}, {Name: "udp", Protocol: corev1.ProtocolUDP, Port: 80}}},
	}
	for _, edit := range edits {
		edit(svc)
	}
	return svc
}

func nodePort(port int32) func(*corev1.Service) {
	return func(svc *corev1.Service) {
		svc.Spec.Type = corev1.ServiceTypeNodePort
		for i := range svc.Spec.Ports {
			svc.Spec.Ports[i].NodePort = port
		}
	}
}

func affinity(svc *corev1.Service) { svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }

func localPolicy(svc *corev1.Service) {
	svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

// slice returns the EndpointSlice of a service with endpoints on port 8080 of this node, ready unless edits say else.
func slice(name string, addrs []netip.Addr, edits ...func(*discoveryv1.Endpoint)) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name + "-x", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, port := range []struct {
		name  string
		proto corev1.Protocol
	}{{"tcp", corev1.ProtocolTCP}, {"udp", corev1.ProtocolUDP}} {
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &port.name, Protocol: &port.proto, Port: new(int32(8080))})
	}
	for _, addr := range addrs {
		e := discoveryv1.Endpoint{Addresses: []string{addr.String()}, NodeName: new("node")}
		for _, edit := range edits {
			edit(&e)
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func elsewhere(e *discoveryv1.Endpoint) { e.NodeName = new("other") }

func terminating(e *discoveryv1.Endpoint) {
	e.Conditions = discoveryv1.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)}
}

// world is a node with pods on it and a machine outside, 192.0.2.2, whose only neighbour is the node, 192.0.2.1.
type world struct {
	memory
	t             testing.TB
	node, outside *networktest.Namespace
	network       *network.Network
	client        *client.Client
	proxy         *Proxy
	stop          func()
	pods          int
}

func newWorld(t testing.TB) *world {
	t.Helper()
	if t, ok := t.(*testing.T); ok {
		t.Parallel() // worlds do not meet, and waiting for answers that must not come takes time
	}
	w := &world{t: t, node: networktest.New(t), outside: networktest.New(t)}
	networktest.Join(t, w.node, "up0", "192.0.2.1/24", w.outside, "up0", "192.0.2.2/24")
	if err := w.outside.Do(func() error { // a way to pods and services, so that only rules keep it from them
		up, err := netlink.LinkByName("up0")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: up.Attrs().Index, Gw: netip.MustParseAddr("192.0.2.1").AsSlice()})
	}); err != nil {
		t.Fatal(err)
	}
	addIPv6(t, w.node, "2001:db8::1/64")
	addIPv6(t, w.outside, "2001:db8::2/64")
	dir := t.TempDir()
	var err error
	w.network, err = network.New(network.Options{
		PodCIDRs: func(context.Context) ([]netip.Prefix, error) {
			return []netip.Prefix{netip.MustParsePrefix("10.42.0.0/24"), netip.MustParsePrefix("fd00:42::/64")}, nil
		},
		ServiceCIDRs:   serviceCIDRs(),
		LocalAddresses: []netip.Addr{netip.MustParseAddr("10.43.0.10")},
		Dir:            filepath.Join(dir, "links"), Socket: filepath.Join(dir, "s"), NetNS: w.node.Path, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.background(w.network)
	<-w.network.Ready()
	w.memory, w.client = newMemory()
	w.start()
	return w
}

func serviceCIDRs() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd00:43::/112")}
}

// addIPv6 gives a namespace's up0 an address that is fit for use at once.
func addIPv6(t testing.TB, ns *networktest.Namespace, address string) {
	t.Helper()
	if err := ns.Do(func() error {
		up, err := netlink.LinkByName("up0")
		if err != nil {
			return err
		}
		prefix := netip.MustParsePrefix(address)
		return netlink.AddrAdd(up, &netlink.Addr{Flags: unix.IFA_F_NODAD,
			IPNet: &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), 128)}})
	}); err != nil {
		t.Fatal(err)
	}
}

// background runs a component until the test ends or the function that it returns is called.
func (w *world) background(c interface {
	Run(context.Context) error
}) func() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := c.Run(ctx); err != nil {
			w.t.Error(err)
		}
	}()
	stop := func() { cancel(); <-ended }
	w.t.Cleanup(stop)
	return stop
}

func (w *world) options() Options {
	return Options{Client: w.client, NodeName: "node",
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00:42::/56")},
		ServiceCIDRs: serviceCIDRs(),
		Bridge:       network.DefaultBridge, NetNS: w.node.Path, Logger: slog.New(slog.NewTextHandler(w.t.Output(), nil))}
}

// start starts a proxy over what there is.
func (w *world) start() {
	w.t.Helper()
	var err error
	if w.proxy, err = New(w.options()); err != nil {
		w.t.Fatal(err)
	}
	w.stop = w.background(w.proxy)
	w.settle()
}

// settle waits until the kernel is where the store is.
func (w *world) settle() {
	w.t.Helper()
	if err := w.proxy.WaitRevision(w.t.Context(), w.Snapshot().Revision()); err != nil {
		w.t.Fatal(err)
	}
}

// apply puts objects and waits for the kernel.
func (w *world) apply(objs ...client.Object) {
	w.t.Helper()
	w.put(objs...)
	w.settle()
}

// pod makes a pod that answers on port 8080 with its name, "p0" and so on.
func (w *world) pod() (*networktest.Namespace, netip.Addr) {
	w.t.Helper()
	ns := networktest.New(w.t)
	name := fmt.Sprintf("p%d", w.pods)
	w.pods++
	link, err := w.network.Attach(w.t.Context(), network.Attachment{ContainerID: name, IfName: "eth0", NetNS: ns.Path})
	if err != nil {
		w.t.Fatal(err)
	}
	ns.ServeName(w.t, 8080, name)
	return ns, link.Addresses[0].Address
}

// routeLoopbackToNode makes the calling namespace send packets to 127.0.0.1 to its gateway.
func routeLoopbackToNode() error {
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/eth0/route_localnet", []byte("1"), 0); err != nil {
		return err
	}
	eth, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	loopback := &net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)}
	if err := netlink.AddrDel(lo, &netlink.Addr{IPNet: loopback}); err != nil { // and its routes with it
		return err
	}
	loopback.IP = net.IPv4(127, 0, 0, 0)
	return netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: loopback, Gw: net.IPv4(10, 42, 0, 1)})
}

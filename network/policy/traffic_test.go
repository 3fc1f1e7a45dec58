package policy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/client/clienttest"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/network"
	"github.com/kebernetes/kebernetes/network/networktest"
	"github.com/kebernetes/kebernetes/network/routes"
	"github.com/kebernetes/kebernetes/proxy"
)

func newMemory() (*clienttest.Memory, *client.Client) {
	return clienttest.NewMemory(
		&kinds.Kind{Kind: "Node", Resource: "nodes", Versions: []kinds.Version{kinds.V[corev1.Node, corev1.NodeList]("v1")}},
		&kinds.Kind{Kind: "Pod", Resource: "pods", Namespaced: true, Versions: []kinds.Version{kinds.V[corev1.Pod, corev1.PodList]("v1")}},
		&kinds.Kind{Kind: "Namespace", Resource: "namespaces", Versions: []kinds.Version{kinds.V[corev1.Namespace, corev1.NamespaceList]("v1")}},
		&kinds.Kind{Kind: "Service", Resource: "services", Namespaced: true, Versions: []kinds.Version{kinds.V[corev1.Service, corev1.ServiceList]("v1")}},
		&kinds.Kind{Group: "discovery.k8s.io", Kind: "EndpointSlice", Resource: "endpointslices", Namespaced: true,
			Versions: []kinds.Version{kinds.V[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList]("v1")}},
		&kinds.Kind{Group: "networking.k8s.io", Kind: "NetworkPolicy", Resource: "networkpolicies", Namespaced: true,
			Versions: []kinds.Version{kinds.V[networkingv1.NetworkPolicy, networkingv1.NetworkPolicyList]("v1")}},
	)
}

// world is two nodes on one link with a machine that is no node, 192.0.2.99.
type world struct {
	*clienttest.Memory
	t       *testing.T
	client  *client.Client
	nodes   [2]*machine
	outside *networktest.Namespace
}

type machine struct {
	name     string
	ns       *networktest.Namespace
	net      *network.Network
	policies *Policies
	proxy    *proxy.Proxy
}

// place is a pod of the world; it answers with its name on ports 80 and 81.
type place struct {
	*corev1.Pod
	ns   *networktest.Namespace
	addr netip.Addr
}

var clusterCIDRs = []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}

func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	fabric := networktest.New(t)
	w := &world{t: t, outside: networktest.New(t)}
	w.Memory, w.client = newMemory()
	link := networktest.NewSwitch(t, fabric, "sw", "")
	link.Plug(t, "outside", w.outside, "up0", "192.0.2.99/24")
	for i := range w.nodes {
		m := &machine{name: fmt.Sprintf("n%d", i+1), ns: networktest.New(t)}
		w.nodes[i] = m
		address := fmt.Sprintf("192.0.2.%d", i+1)
		link.Plug(t, m.name, m.ns, "up0", address+"/24")
		cidr := fmt.Sprintf("10.42.%d.0/24", i+1)
		w.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: m.name}, Spec: corev1.NodeSpec{PodCIDRs: []string{cidr}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}}})
		w.start(m, netip.MustParsePrefix(cidr))
		// The machine outside knows the way to pods, so that only rules keep it from them.
		if err := w.outside.Do(func() error {
			return netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4(10, 42, byte(i+1), 0), Mask: net.CIDRMask(24, 32)}, Gw: net.ParseIP(address)})
		}); err != nil {
			t.Fatal(err)
		}
	}
	w.outside.ServeName(t, 80, "outside")
	return w
}

// start runs a node's network, routes, services and policies.
func (w *world) start(m *machine, cidr netip.Prefix) {
	w.t.Helper()
	dir, log := w.t.TempDir(), slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	must := func(err error) {
		if err != nil {
			w.t.Helper()
			w.t.Fatal(err)
		}
	}
	var err error
	m.policies, err = New(Options{Client: w.client, NodeName: m.name, ClusterCIDRs: clusterCIDRs, NetNS: m.ns.Path, Logger: log})
	must(err)
	m.net, err = network.New(network.Options{
		PodCIDRs:     func(context.Context) ([]netip.Prefix, error) { return []netip.Prefix{cidr}, nil },
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		Guard:        m.policies.Guard,
		Dir:          filepath.Join(dir, "links"), Socket: filepath.Join(dir, "s"), NetNS: m.ns.Path, Logger: log,
	})
	must(err)
	ways, err := routes.New(routes.Options{Client: w.client, NodeName: m.name, ClusterCIDRs: clusterCIDRs, Network: m.net, NetNS: m.ns.Path, Logger: log})
	must(err)
	m.proxy, err = proxy.New(proxy.Options{Client: w.client, NodeName: m.name, ClusterCIDRs: clusterCIDRs,
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}, Bridge: network.DefaultBridge, NetNS: m.ns.Path, Logger: log})
	must(err)
	for _, c := range []interface{ Run(context.Context) error }{m.policies, m.net, ways, m.proxy} {
		ctx, cancel := context.WithCancel(context.Background())
		var ended sync.WaitGroup
		ended.Go(func() {
			if err := c.Run(ctx); err != nil {
				w.t.Error(err)
			}
		})
		w.t.Cleanup(func() { cancel(); ended.Wait() })
	}
	<-m.net.Ready()
	<-m.policies.loaded
}

// pod starts a pod on a node; its status, with the address, comes to the API only with report.
func (w *world) pod(node int, name, labels string) *place {
	w.t.Helper()
	p := &place{ns: networktest.New(w.t)}
	p.Pod = parsePod(fmt.Sprintf("%s %s - %s port=web:TCP:80,alt:TCP:81", name, w.nodes[node].name, labels))
	p.Status = corev1.PodStatus{}
	w.Put(p.Pod)
	link, err := w.nodes[node].net.Attach(w.t.Context(), network.Attachment{ContainerID: strings.ReplaceAll(name, "/", "."), IfName: "eth0",
		NetNS: p.ns.Path, PodNamespace: p.Namespace, PodName: p.Name})
	if err != nil {
		w.t.Fatal(err)
	}
	p.addr = link.Addresses[0].Address
	p.ns.ServeName(w.t, 80, p.Name)
	p.ns.ServeName(w.t, 81, p.Name)
	return p
}

// report writes a pod's address into its status, as the agent does.
func (w *world) report(pods ...*place) {
	for _, p := range pods {
		p.Pod = p.DeepCopy()
		p.Status.PodIPs = []corev1.PodIP{{IP: p.addr.String()}}
		w.Put(p.Pod)
	}
}

// relabel replaces the pod's labels, given as names and values.
func (p *place) relabel(words ...string) {
	p.Pod = p.DeepCopy()
	p.Labels = map[string]string{}
	for i := 0; i < len(words); i += 2 {
		p.Labels[words[i]] = words[i+1]
	}
}

// settle brings both nodes to the present state, whatever they were told of it.
func (w *world) settle() {
	w.t.Helper()
	d := newDirty()
	s := w.Snapshot()
	for _, p := range client.List[*corev1.Pod](w.client, s, "", nil) {
		d.pods[keyOf(p)] = true
	}
	for _, n := range client.List[*corev1.Namespace](w.client, s, "", nil) {
		d.namespaces[n.Name] = true
	}
	for _, m := range w.nodes {
		m.policies.mu.Lock()
		for _, pods := range m.policies.model.pods {
			for key := range pods {
				d.pods[key] = true
			}
		}
		for ns, policies := range m.policies.model.policies {
			for name := range policies {
				d.policies[types.NamespacedName{Namespace: ns, Name: name}] = true
			}
		}
		m.policies.mu.Unlock()
	}
	for _, np := range client.List[*networkingv1.NetworkPolicy](w.client, s, "", nil) {
		d.policies[keyOf(np)] = true
	}
	for _, m := range w.nodes {
		if err := m.policies.refresh(d); err != nil {
			w.t.Fatal(err)
		}
	}
}

// policies replaces all policies.
func (w *world) policies(policies ...string) {
	w.t.Helper()
	for _, old := range client.List[*networkingv1.NetworkPolicy](w.client, w.Snapshot(), "", nil) {
		w.Remove(old)
	}
	for _, text := range policies {
		name, spec, _ := strings.Cut(text, ": ")
		w.Put(parsePolicy(name, spec))
	}
	w.settle()
}

// How long an answer may take that must come, and how long one is waited for that must not.
const (
	patience = 5 * time.Second
	quick    = 150 * time.Millisecond
)

// asks says who answers, "" for nobody.
func asks(from *networktest.Namespace, proto, address string, wait time.Duration) string {
	var name string
	from.Do(func() error {
		conn, err := net.DialTimeout(proto, address, wait)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(wait))
		if proto == "udp" {
			if _, err := conn.Write([]byte("?")); err != nil {
				return err
			}
		}
		buf := make([]byte, 100)
		n, err := conn.Read(buf)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		name, _, _ = strings.Cut(string(buf[:n]), " ")
		return nil
	})
	return name
}

func TestTraffic(t *testing.T) {
	w := newWorld(t)
	for _, ns := range []string{"shop", "ops"} {
		w.Put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: map[string]string{"team": ns}}})
	}
	web, near, far, ops := w.pod(0, "shop/web", "app=web"), w.pod(0, "shop/near", "app=client"), w.pod(1, "shop/far", "app=client"), w.pod(1, "ops/ops", "app=ops")
	w.report(web, near, far, ops)
	w.service("10.43.0.80", web)
	callers := map[string]*networktest.Namespace{"near": near.ns, "far": far.ns, "ops": ops.ns, "outside": w.outside, "node": w.nodes[0].ns, "node2": w.nodes[1].ns, "itself": web.ns}
	for _, test := range []struct {
		name     string
		policies []string
		may      string // who reaches web: "caller[/port[/udp]]"; the node and the pod itself always do
		mayNot   string
	}{
		{"no policy", nil, "near far ops outside node2 near/80/udp far/81", ""},
		{"default deny", []string{`shop/p: {podSelector: {}}`}, "", "near far ops outside node2 near/80/udp"},
		{"a policy of another namespace", []string{`ops/p: {podSelector: {}}`}, "near far ops outside", ""},
		{"a policy that selects others", []string{`shop/p: {podSelector: {matchLabels: {app: client}}}`}, "near far ops outside", ""},
		{"pods", []string{`shop/p: {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]}`},
			"near far near/80/udp far/80/udp far/81", "ops outside node2"},
		{"namespaces", []string{`shop/p: {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}}]}]}`},
			"ops ops/80/udp", "near far outside"},
		{"port and protocol", []string{`shop/p: {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80}, {port: 81, protocol: UDP}]}]}`},
			"near far ops outside near/81/udp", "near/81 far/81 near/80/udp far/80/udp"},
		{"a range of ports", []string{`shop/p: {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 81, endPort: 90}]}]}`}, "near/81 far/81", "near far"},
		{"a named port", []string{`shop/p: {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: alt}]}]}`}, "near/81 far/81 outside/81", "near far near/81/udp"},
		{"a block", []string{`shop/p: {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.2/32]}}]}]}`},
			"outside", "near far ops node2"},
		{"everywhere but one range", []string{`shop/p: {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.42.2.0/24]}}]}]}`},
			"outside near", "far ops"},
		{"two policies", []string{`shop/p: {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]}`,
			`shop/q: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}}], ports: [{port: 81}]}]}`},
			"near far ops/81", "ops near/81"},
		{"egress of the callers", []string{`shop/p: {podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: web}]}]}`},
			"near far ops/81", "near/81 far/81 near/80/udp"},
		{"egress denied", []string{`shop/p: {podSelector: {matchLabels: {app: client}}, policyTypes: [Egress]}`}, "ops outside", "near far near/80/udp"},
		{"one side allows, the other does not", []string{`shop/p: {podSelector: {matchLabels: {app: web}}, ingress: [{}]}`, `ops/p: {podSelector: {}, policyTypes: [Egress]}`},
			"near far outside", "ops"},
	} {
		w.policies(test.policies...)
		var asked sync.WaitGroup
		check := func(list string, wait time.Duration) {
			for _, entry := range strings.Fields(list) {
				part := append(strings.Split(entry, "/"), "80", "tcp")
				proto, port := "tcp", part[1]
				if strings.HasSuffix(entry, "/udp") {
					proto = "udp"
				}
				targets := []string{web.addr.String()}
				if port == "80" && part[0] != "outside" {
					targets = append(targets, "10.43.0.80") // the service, before which no rule may be passed
				}
				for _, target := range targets {
					asked.Go(func() {
						got := asks(callers[part[0]], proto, net.JoinHostPort(target, port), wait)
						if may := wait == patience; (got == "web") != may {
							t.Errorf("%s: %s to %s: answered by %q, may reach it: %t", test.name, entry, target, got, may)
						}
					})
				}
			}
		}
		check(test.may+" node itself node/80/udp", patience)
		check(test.mayNot, quick)
		asked.Wait()
	}
}

// service makes port 80 of an address a service of one pod, on all nodes.
func (w *world) service(ip string, to *place) {
	w.t.Helper()
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-x", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{to.addr.String()}}}}
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}}}
	for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
		name := strings.ToLower(string(protocol))
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: new(int32(80))})
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: name, Protocol: protocol, Port: 80})
	}
	w.Put(svc, slice)
	for _, m := range w.nodes {
		if err := m.proxy.WaitRevision(w.t.Context(), w.Snapshot().Revision()); err != nil {
			w.t.Fatal(err)
		}
	}
}

// What an isolated pod may reach, and what becomes of it and its connections as it, its peers and its policies change.
func TestChanges(t *testing.T) {
	w := newWorld(t)
	w.Put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	a, b := w.pod(0, "shop/a", "app=a"), w.pod(1, "shop/b", "app=b")
	w.report(a, b)
	reach := func(why string, from *place, to string, want bool) {
		t.Helper()
		wait := quick
		if want {
			wait = patience
		}
		if got := asks(from.ns, "tcp", to, wait); (got != "") != want {
			t.Errorf("%s: %s to %s: answered by %q", why, from.Name, to, got)
		}
	}
	toB := netip.AddrPortFrom(b.addr, 80).String()
	conn, err := a.ns.Dial("udp", "", toB)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, _, err := networktest.AskOn(conn); err != nil {
		t.Fatal(err)
	}

	w.policies(`shop/p: {podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 192.0.2.96/29}}]}]}`)
	reach("a block", a, "192.0.2.99:80", true)
	reach("not in the block", a, toB, false)
	reach("others are free", b, netip.AddrPortFrom(a.addr, 80).String(), true)
	if _, _, err := networktest.AskOn(conn); err != nil {
		t.Errorf("a connection that was there before the policy: %v", err)
	}
	// Its own node is always within reach.
	w.nodes[0].ns.ServeName(t, 8080, "node")
	reach("the node", a, "192.0.2.1:8080", true)

	w.policies(`shop/p: {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}]}]}`)
	reach("no friend", a, toB, false)
	a.relabel("app", "a", "role", "friend")
	w.report(a)
	w.settle()
	reach("a friend", a, toB, true)
	a.relabel("app", "a")
	w.report(a)
	w.settle()
	reach("no friend any more", a, toB, false)
	b.relabel("app", "c")
	w.report(b)
	w.settle()
	reach("isolated no longer", a, toB, true)

	// A restart keeps what holds; a table that somebody changed is made right.
	w.policies(`shop/p: {podSelector: {}}`)
	if err := Reset(Options{NetNS: w.nodes[1].ns.Path}); err != nil {
		t.Fatal(err)
	}
	reach("the table is gone", a, toB, true)
	p, err := New(Options{Client: w.client, NodeName: "n2", ClusterCIDRs: clusterCIDRs, NetNS: w.nodes[1].ns.Path, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer p.kernel.Close()
	if _, err := p.start(); err != nil {
		t.Fatal(err)
	}
	reach("a new start", a, toB, false)
}

// An isolated pod is isolated from its first packet on, though the API learns its address later; and so is a pod that takes the
// place of another of its name.
func TestGuard(t *testing.T) {
	w := newWorld(t)
	w.Put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	a := w.pod(0, "shop/a", "app=a")
	w.report(a)
	// The policy comes with no time for its event.
	w.Put(parsePolicy("shop/p", `{podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress, Egress]}`))
	b := w.pod(0, "shop/b", "app=b")
	if got := asks(a.ns, "tcp", netip.AddrPortFrom(b.addr, 80).String(), quick); got != "" {
		t.Errorf("a pod that only just started was reached")
	}
	if got := asks(b.ns, "tcp", netip.AddrPortFrom(a.addr, 80).String(), quick); got != "" {
		t.Errorf("a pod that only just started reaches %s", got)
	}
	w.Remove(b.Pod)
	w.settle()
	w.nodes[0].policies.mu.Lock()
	if n := len(w.nodes[0].policies.guarded); n != 1 {
		t.Errorf("%d pods are remembered, want shop/a alone", n)
	}
	w.nodes[0].policies.mu.Unlock()

	// The API does not know the pod: it gets no link.
	ns := networktest.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := w.nodes[0].net.Attach(ctx, network.Attachment{ContainerID: "x", IfName: "eth0", NetNS: ns.Path, PodNamespace: "shop", PodName: "nobody"})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("link of a pod that is not known: %v", err)
	}
	if _, err := os.Stat(ns.Path); err != nil {
		t.Fatal(err)
	}
}

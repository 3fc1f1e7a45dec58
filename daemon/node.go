package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/agent"
	"github.com/kebernetes/kebernetes/agent/node"
	"github.com/kebernetes/kebernetes/agent/nodeapi"
	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/config"
	"github.com/kebernetes/kebernetes/cri"
	"github.com/kebernetes/kebernetes/dns"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/network"
	"github.com/kebernetes/kebernetes/network/policy"
	"github.com/kebernetes/kebernetes/network/routes"
	"github.com/kebernetes/kebernetes/proxy"
	"github.com/kebernetes/kebernetes/tunnel"
	"github.com/kebernetes/kebernetes/volume"
	"github.com/kebernetes/kebernetes/withdraw"
)

// nodes finds the kubelet API of each node: in this process, or behind the connection that the node's agent keeps. Safe for
// concurrent use.
type nodes struct {
	hub      *tunnel.Hub
	mu       sync.RWMutex
	handlers map[string]http.Handler
}

// Node returns the API of a node.
func (n *nodes) Node(name string) (http.Handler, error) {
	if h := n.own(name); h != nil {
		return h, nil
	}
	return n.hub.Node(name)
}

// Pods returns the way to a node's pods through its agent, nil when there is none but the network.
func (n *nodes) Pods(name string) http.RoundTripper {
	if t := n.hub.Pods(name); t != nil && n.own(name) == nil {
		return t
	}
	return nil
}

func (n *nodes) own(name string) http.Handler {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.handlers[name]
}

func (n *nodes) set(name string, h http.Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.handlers == nil {
		n.handlers = map[string]http.Handler{}
	}
	n.handlers[name] = h
}

// addNode adds the node on this machine: its runtime, network, services, names and agent.
func (s *System) addNode(ctx context.Context) error {
	user := &auth.User{Name: auth.NodeUserPrefix + s.config.NodeName, Groups: []string{auth.GroupNodes, auth.GroupAuthenticated}}
	m := machine{
		config: s.config, log: s.log, registry: s.registry,
		agent: s.As(user), proxy: s.As(component("kube-proxy")), dns: s.As(component("kube-dns")), ingress: s.As(auth.Controller(ingressIdentity)),
		policy: s.As(component("keb-policy")), moved: s.readvertise(),
	}
	runtime, endpoint := m.runtime()
	m.others = s.leaving.Withdraw
	m.seen = func(context.Context, int64) error { return nil } // this process's copy is the server's own
	s.components = append(s.components, runtime...)
	api, parts, err := m.parts(ctx, endpoint)
	if err != nil {
		return err
	}
	s.AddNode(s.config.NodeName, api, parts...)
	return nil
}

// machine is what the parts of a node are made of, on the server's machine and on others.
type machine struct {
	config   config.Config
	log      *slog.Logger
	registry *prometheus.Registry
	// others waits until no other node sends new connections to a pod; seen until proxy's copy is at a revision of the server's
	// EndpointSlices.
	others func(ctx context.Context, pod *corev1.Pod) error
	seen   func(ctx context.Context, revision int64) error
	// agent, proxy, dns, ingress and policy are who these parts act as. policy sees all pods, of which other machines' copies hold
	// only what policies depend on.
	agent, proxy, dns, ingress, policy *client.Client
	// follower brings the ConfigMaps and Secrets that are needed here into the copy; nil where that has all.
	follower client.Follower
	// lost and moved are told, beside the node's own parts, what addresses.lost and addresses.moved are.
	lost  []func(here func(netip.Addr) bool)
	moved []func(ctx context.Context, to netip.Addr) error
}

// runtime returns the bundled container runtime, unless another one is configured, and where it answers.
func (m machine) runtime() (parts []Component, endpoint string) {
	if m.config.RuntimeEndpoint != "" {
		return nil, m.config.RuntimeEndpoint
	}
	runtime := newContainerd(m.config.DataDir, m.log)
	return []Component{runtime}, runtime.Endpoint()
}

// parts returns the node's API and its parts, in the order in which they start: network, services, names, ingress, volumes, agent.
func (m machine) parts(ctx context.Context, endpoint string) (http.Handler, []Component, error) {
	c := m.config
	// Before anything starts: the parts put their sockets there.
	if err := dropStateOfEarlierBoot(filepath.Join(c.DataDir, "run")); err != nil {
		return nil, nil, err
	}
	runtime, err := cri.Connect(ctx, endpoint)
	if err != nil {
		return nil, nil, err
	}
	pods, serviceRange := netip.MustParsePrefix(c.ClusterCIDR), netip.MustParsePrefix(c.ServiceCIDR)
	policies, err := policy.New(policy.Options{
		Client: m.policy, NodeName: c.NodeName, ClusterCIDRs: []netip.Prefix{pods}, Logger: m.log,
	})
	if err != nil {
		return nil, nil, err
	}
	links, err := network.New(network.Options{
		PodCIDRs:       func(ctx context.Context) ([]netip.Prefix, error) { return podCIDRs(ctx, m.agent, c.NodeName) },
		ServiceCIDRs:   []netip.Prefix{serviceRange},
		LocalAddresses: []netip.Addr{c.DNSAddress()},
		Guard:          policies.Guard,
		Dir:            filepath.Join(c.DataDir, "network"),
		Socket:         filepath.Join(c.DataDir, "run", "cni.sock"),
		ConfDir:        filepath.Join(c.DataDir, "cni"),
		Logger:         m.log,
	})
	if err != nil {
		return nil, nil, err
	}
	ways, err := routes.New(routes.Options{
		Client: m.agent, NodeName: c.NodeName, ClusterCIDRs: []netip.Prefix{pods}, Network: links, Logger: m.log,
	})
	if err != nil {
		return nil, nil, err
	}
	rules, err := proxy.New(proxy.Options{
		Client: m.proxy, NodeName: c.NodeName,
		ClusterCIDRs: []netip.Prefix{pods}, ServiceCIDRs: []netip.Prefix{serviceRange},
		Bridge: network.DefaultBridge, Logger: m.log,
	})
	if err != nil {
		return nil, nil, err
	}
	names, err := dns.New(dns.Options{
		Client: m.dns, Listen: netip.AddrPortFrom(c.DNSAddress(), 53), Domain: c.ClusterDomain,
		Ranges: []netip.Prefix{pods, serviceRange}, Forward: c.NameServers(), Logger: m.log,
	})
	if err != nil {
		return nil, nil, err
	}
	front, err := m.newIngress()
	if err != nil {
		return nil, nil, err
	}
	drivers, err := m.volumeDrivers()
	if err != nil {
		return nil, nil, err
	}
	parts := []withdraw.Part{rules, front}
	ends := &withdraw.Agent{Client: m.proxy, Parts: parts, Others: m.others, Logger: m.log}
	kubelet, err := agent.New(agent.Options{
		Client: m.agent, Runtime: runtime, NodeName: c.NodeName, NodeIPs: []string{c.NodeIP},
		Recorder: client.NewRecorder(m.agent, "kubelet", m.log).OnHost(c.NodeName), Logger: m.log,
		Dir: filepath.Join(c.DataDir, "pods"), LogDir: filepath.Join(c.DataDir, "logs"), SeccompDir: filepath.Join(c.DataDir, "seccomp"),
		CgroupRoot: "/" + cgroupRoot(c.DataDir) + "/kubepods",
		ClusterDNS: []string{c.DNSAddress().String()}, ClusterDomain: c.ClusterDomain,
		Withdraw: ends.Withdraw, Version: config.KubernetesVersion,
		Plugins: []volume.Plugin{drivers}, VolumesInUse: drivers.InUse, Follower: m.follower,
		NodeAnnotations: map[string]string{kinds.IngressAnnotation: ingressSetting(c)},
	})
	if err != nil {
		return nil, nil, err
	}
	drivers.Status = kubelet.Status()
	api := nodeapi.New(nodeapi.Options{
		Client: m.agent, Runtime: runtime, NodeName: c.NodeName, Metrics: promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}),
		Machine: node.Used, Logger: m.log,
	})
	at := newAddresses(c, m.log)
	at.lost = m.lost
	if c.NodeIPFound {
		at.moved = append(at.moved, func(_ context.Context, to netip.Addr) error { kubelet.SetNodeIPs(to.String()); return nil })
	}
	at.moved = append(at.moved, m.moved...)
	answer := &withdraw.Node{Parts: parts, Next: withRelay(api, drivers), CatchUp: func(ctx context.Context, revision int64) error {
		if err := m.seen(ctx, revision); err != nil {
			return err
		}
		return rules.WaitRevision(ctx, m.proxy.Snapshot().Revision())
	}}
	return answer, []Component{policies, links, ways, rules, names, front, drivers, kubelet, at}, nil
}

// podCIDRs waits until the node has its range of pod addresses, and returns it.
func podCIDRs(ctx context.Context, c *client.Client, node string) ([]netip.Prefix, error) {
	for {
		snapshot := c.Snapshot()
		if n, ok := client.From[*corev1.Node](c, snapshot, "", node); ok && len(n.Spec.PodCIDRs) > 0 {
			var out []netip.Prefix
			for _, s := range n.Spec.PodCIDRs {
				p, err := netip.ParsePrefix(s)
				if err != nil {
					return nil, fmt.Errorf("pod range of node %s: %w", node, err)
				}
				out = append(out, p)
			}
			return out, nil
		}
		watch, err := c.Watch("nodes", snapshot.Revision())
		if err != nil {
			return nil, fmt.Errorf("wait for the pod range of node %s: %w", node, err)
		}
		if _, _, err := watch.Next(ctx); err != nil {
			return nil, fmt.Errorf("wait for the pod range of node %s: %w", node, err)
		}
	}
}

// resetNetwork removes the links and rules of this machine's node.
func resetNetwork(dataDir string) error {
	return errors.Join(
		proxy.Reset(proxy.Options{}),
		policy.Reset(policy.Options{}),
		routes.Reset(routes.Options{}),
		network.Reset(network.Options{Dir: filepath.Join(dataDir, "network"), ConfDir: filepath.Join(dataDir, "cni")}),
	)
}

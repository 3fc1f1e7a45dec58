package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/agent"
	"github.com/kebernetes/kebernetes/agent/nodeapi"
	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/config"
	"github.com/kebernetes/kebernetes/cri"
	"github.com/kebernetes/kebernetes/dns"
	"github.com/kebernetes/kebernetes/network"
	"github.com/kebernetes/kebernetes/network/routes"
	"github.com/kebernetes/kebernetes/proxy"
)

// nodes finds the kubelet API of each node that this process can reach. Safe for concurrent use.
type nodes struct {
	mu       sync.RWMutex
	handlers map[string]http.Handler
}

// Node returns the API of a node.
func (n *nodes) Node(name string) (http.Handler, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if h := n.handlers[name]; h != nil {
		return h, nil
	}
	return nil, fmt.Errorf("no agent of node %s is connected", name)
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
	c := s.config
	endpoint := c.RuntimeEndpoint
	if endpoint == "" {
		runtime := newContainerd(c.DataDir, s.log)
		endpoint = runtime.Endpoint()
		s.Add(runtime)
	}
	runtime, err := cri.Connect(ctx, endpoint)
	if err != nil {
		return err
	}
	user := &auth.User{Name: auth.NodeUserPrefix + c.NodeName, Groups: []string{auth.GroupNodes, auth.GroupAuthenticated}}
	own := s.As(user)
	pods, serviceRange := netip.MustParsePrefix(c.ClusterCIDR), netip.MustParsePrefix(c.ServiceCIDR)
	links, err := network.New(network.Options{
		PodCIDRs:       func(ctx context.Context) ([]netip.Prefix, error) { return podCIDRs(ctx, own, c.NodeName) },
		ServiceCIDRs:   []netip.Prefix{serviceRange},
		LocalAddresses: []netip.Addr{c.DNSAddress()},
		Dir:            filepath.Join(c.DataDir, "network"),
		Socket:         filepath.Join(c.DataDir, "run", "cni.sock"),
		ConfDir:        filepath.Join(c.DataDir, "cni"),
		Logger:         s.log,
	})
	if err != nil {
		return err
	}
	ways, err := routes.New(routes.Options{
		Client: own, NodeName: c.NodeName, ClusterCIDRs: []netip.Prefix{pods}, Network: links, Logger: s.log,
	})
	if err != nil {
		return err
	}
	rules, err := proxy.New(proxy.Options{
		Client: s.As(component("kube-proxy")), NodeName: c.NodeName,
		ClusterCIDRs: []netip.Prefix{pods}, ServiceCIDRs: []netip.Prefix{serviceRange},
		Bridge: network.DefaultBridge, Logger: s.log,
	})
	if err != nil {
		return err
	}
	names, err := dns.New(dns.Options{
		Client: s.As(component("kube-dns")), Listen: netip.AddrPortFrom(c.DNSAddress(), 53), Domain: c.ClusterDomain,
		Ranges: []netip.Prefix{pods, serviceRange}, Logger: s.log,
	})
	if err != nil {
		return err
	}
	front, err := s.newIngress()
	if err != nil {
		return err
	}
	kubelet, err := agent.New(agent.Options{
		Client: own, Runtime: runtime, NodeName: c.NodeName, NodeIPs: []string{c.NodeIP},
		Recorder: client.NewRecorder(own, "kubelet", s.log).OnHost(c.NodeName), Logger: s.log,
		Dir: filepath.Join(c.DataDir, "pods"), LogDir: filepath.Join(c.DataDir, "logs"), SeccompDir: filepath.Join(c.DataDir, "seccomp"),
		PauseSeccomp: pauseSeccomp(c),
		CgroupRoot:   "/" + cgroupRoot(c.DataDir) + "/kubepods",
		ClusterDNS:   []string{c.DNSAddress().String()}, ClusterDomain: c.ClusterDomain,
		Withdraw: withdraw(rules, front), Version: config.KubernetesVersion,
	})
	if err != nil {
		return err
	}
	api := nodeapi.New(nodeapi.Options{Client: own, Runtime: runtime, NodeName: c.NodeName, Logger: s.log})
	s.AddNode(c.NodeName, api, links, ways, rules, names, front, kubelet)
	return nil
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
		routes.Reset(routes.Options{}),
		network.Reset(network.Options{Dir: filepath.Join(dataDir, "network"), ConfDir: filepath.Join(dataDir, "cni")}),
	)
}

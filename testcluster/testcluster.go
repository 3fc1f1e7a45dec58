// Package testcluster starts a whole cluster inside a test process: the real API server, store, controllers and scheduler,
// and nodes whose container runtime is the fake. Under testing/synctest hours of cluster time pass in milliseconds.
// Only tests import it.
package testcluster

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kebernetes/kebernetes/agent"
	"github.com/kebernetes/kebernetes/agent/nodeapi"
	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/config"
	"github.com/kebernetes/kebernetes/cri/fake"
	"github.com/kebernetes/kebernetes/daemon"
	"github.com/kebernetes/kebernetes/kinds"
)

// Options say what to start. The zero value is an API server with controllers and scheduler and no node.
type Options struct {
	// Nodes are the names of the nodes.
	Nodes []string
	// Listen serves HTTPS on loopback, for clients outside the test process; not under synctest.
	Listen bool
	// Runtime programs the nodes' runtimes.
	Runtime fake.Options
	// Dir is the data directory; default: one that goes with the test. Another cluster may be started on it afterwards.
	Dir string
	// Log gets the cluster's log; default: none.
	Log *slog.Logger
}

// Cluster is a running cluster.
type Cluster struct {
	*client.Client // as the administrator
	System         *daemon.System
	// Kubeconfig is the administrator's, when the cluster listens.
	Kubeconfig string
	// Runtimes are the nodes' fake runtimes, by node.
	Runtimes map[string]*fake.Runtime

	t     testing.TB
	nodes map[string]*node
	stop  context.CancelFunc
	done  chan error
}

// Start starts a cluster, which ends with the test.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c, err := config.Default(config.Config{
		DataDir: o.Dir, NoAgent: true, NodeName: "server", NodeIP: "127.0.0.1", Listen: "127.0.0.1:0",
		WriteKubeconfig: filepath.Join(o.Dir, "kubeconfig"),
	})
	if err != nil {
		t.Fatal(err)
	}
	var socket net.Listener
	if o.Listen {
		if socket, err = net.Listen("tcp", c.Listen); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	system, err := daemon.New(ctx, c, socket, o.Log)
	if err != nil {
		stop()
		t.Fatal(err)
	}
	out := &Cluster{System: system, Kubeconfig: c.WriteKubeconfig, Runtimes: map[string]*fake.Runtime{}, nodes: map[string]*node{}, t: t, stop: stop, done: make(chan error, 1)}
	out.Client = system.As(&auth.User{Name: "admin", Groups: []string{auth.GroupMasters, auth.GroupAuthenticated}})
	for i, name := range o.Nodes {
		out.addNode(ctx, name, i, o)
	}
	go func() { out.done <- system.Run(ctx) }()
	t.Cleanup(out.Stop)
	select {
	case <-system.Started():
	case err := <-out.done:
		out.done <- err // for Stop
	}
	return out
}

// AwaitReady waits until pods can be made in the namespace default and all nodes are ready for them.
func (c *Cluster) AwaitReady(ctx context.Context) {
	c.t.Helper()
	c.Await(ctx, "serviceaccounts", "the service account default", func(s client.Snapshot) bool {
		_, ok := client.From[*corev1.ServiceAccount](c.Client, s, corev1.NamespaceDefault, "default")
		return ok
	})
	c.Await(ctx, "nodes", "ready nodes", func(s client.Snapshot) bool {
		ready := 0
		for _, n := range client.List[*corev1.Node](c.Client, s, "", nil) {
			if len(n.Spec.Taints) == 0 && len(n.Status.Addresses) > 0 {
				ready++
			}
		}
		return ready == len(c.Runtimes)
	})
}

// Stop ends the cluster and waits for all of it. It may be called before the test's end, once or more.
func (c *Cluster) Stop() {
	c.stop()
	if err, ok := <-c.done; ok && err != nil {
		c.t.Errorf("cluster: %v", err)
	}
	select {
	case <-c.done:
	default:
		close(c.done)
	}
}

func (c *Cluster) addNode(ctx context.Context, name string, i int, o Options) {
	c.t.Helper()
	o.Runtime.PodCIDR = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 88, byte(i), 0}), 24)
	runtime := fake.New(o.Runtime)
	c.Runtimes[name] = runtime
	own := c.System.As(&auth.User{Name: auth.NodeUserPrefix + name, Groups: []string{auth.GroupNodes, auth.GroupAuthenticated}})
	// TEST-NET-1 of RFC 5737: addresses that nobody has.
	ip := netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}).String()
	kubelet, err := agent.New(agent.Options{
		Client: own, Runtime: runtime, NodeName: name, NodeIPs: []string{ip},
		Recorder: client.NewRecorder(own, "kubelet", o.Log).OnHost(name), Logger: o.Log, LogDir: filepath.Join(o.Dir, "logs", name),
		NodeAnnotations: map[string]string{kinds.IngressAnnotation: kinds.IngressOn},
		Capacity: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"),
			corev1.ResourcePods: resource.MustParse("110"), corev1.ResourceEphemeralStorage: resource.MustParse("100Gi"),
		},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.nodes[name] = &node{Agent: kubelet, die: make(chan struct{})}
	c.System.AddNode(name, nodeapi.New(nodeapi.Options{Client: own, Runtime: runtime, NodeName: name, Machine: halfBusy(time.Now()), Logger: o.Log}), c.nodes[name])
}

// halfBusy is a machine of which half a processor and a gibibyte have been in use since it began.
func halfBusy(began time.Time) func() (time.Duration, int64, error) {
	return func() (time.Duration, int64, error) { return time.Since(began) / 2, 1 << 30, nil }
}

// node is an agent that can die while the cluster goes on.
type node struct {
	*agent.Agent
	die chan struct{}
}

// Run runs the agent until ctx is done or the node dies.
func (n *node) Run(ctx context.Context) error {
	alive, end := context.WithCancel(ctx)
	defer end()
	go func() {
		select {
		case <-n.die:
			end()
		case <-alive.Done():
		}
	}()
	err := n.Agent.Run(alive)
	<-ctx.Done() // a dead node is no reason for the others to stop
	return err
}

// KillNode makes a node fall silent: its agent stops at once and for good, its object stays.
func (c *Cluster) KillNode(name string) { close(c.nodes[name].die) }

// Await waits until ok holds, looking again whenever an object of the resource changes ("pods", "deployments.apps"), and
// fails the test when the test's deadline passes first. what says what is awaited.
func (c *Cluster) Await(ctx context.Context, resource, what string, ok func(s client.Snapshot) bool) {
	c.t.Helper()
	for {
		snapshot := c.Snapshot()
		if ok(snapshot) {
			return
		}
		watch, err := c.Watch(resource, snapshot.Revision())
		if err != nil {
			c.t.Fatalf("await %s: %v", what, err)
		}
		if _, _, err := watch.Next(ctx); err != nil {
			c.t.Fatalf("await %s: %v", what, err)
		}
	}
}

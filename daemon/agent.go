package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/config"
	"github.com/kebernetes/kebernetes/join"
	"github.com/kebernetes/kebernetes/kinds/builtin"
	"github.com/kebernetes/kebernetes/network/policy"
	"github.com/kebernetes/kebernetes/tunnel"
	"github.com/kebernetes/kebernetes/withdraw"
)

// identityDir is where a node keeps what makes it one.
func identityDir(dataDir string) string { return filepath.Join(dataDir, "agent") }

// Agent runs a node of a cluster whose server is on another machine, until ctx is done. c is what the user set; the rest comes
// from the identity of an earlier run, the defaults and the server.
func Agent(ctx context.Context, c config.Config, log *slog.Logger) error {
	if c.DataDir == "" {
		c.DataDir = config.DefaultDataDir
	}
	had, err := join.Open(identityDir(c.DataDir))
	if err != nil && !errors.Is(err, join.ErrNotJoined) {
		return err
	}
	if had != nil {
		if c.Server == "" {
			c.Server = had.Server
		}
		if c.NodeName == "" {
			c.NodeName = had.Node
		}
	}
	if c, err = config.Default(c); err != nil {
		return err
	}
	if err := c.Validate(); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(c.DataDir, "pki")); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("data directory %s is that of a server, whose own node runs with it; choose another --data-dir", c.DataDir)
	}
	held, err := takeLock(c.DataDir)
	if err != nil {
		return err
	}
	defer held.release()
	identity, err := enter(ctx, c, had)
	if err != nil {
		return err
	}
	c.ClusterCIDR, c.ServiceCIDR, c.ClusterDomain = identity.Cluster.ClusterCIDR, identity.Cluster.ServiceCIDR, identity.Cluster.Domain
	if err := c.Validate(); err != nil {
		return err
	}
	parts, err := agentParts(ctx, c, identity, log)
	if err != nil {
		return err
	}
	log.Info("keb serves as a node", "node", identity.Node, "server", identity.Server, "data", c.DataDir)
	return supervise(ctx, log, parts)
}

// enter returns the identity that the machine has, or joins the cluster.
func enter(ctx context.Context, c config.Config, had *join.Identity) (*join.Identity, error) {
	if had != nil {
		if had.Node != c.NodeName {
			return nil, fmt.Errorf("this machine joined as node %s, not %s; to give it another name, delete the node and run `keb reset` here", had.Node, c.NodeName)
		}
		if time.Now().Before(had.NotAfter()) {
			had.Server = c.Server
			return had, nil
		}
		if c.Token == "" {
			return nil, fmt.Errorf("the certificate of node %s expired on %s; join again with --token", had.Node, had.NotAfter().Format(time.DateOnly))
		}
	}
	if c.Server == "" || c.Token == "" {
		return nil, errors.New("this machine has not joined a cluster yet: want --server and --token (`keb token create` on the server's machine prints both)")
	}
	token, err := auth.ParseJoinToken(c.Token)
	if err != nil {
		return nil, err
	}
	return join.Join(ctx, join.Options{Dir: identityDir(c.DataDir), Server: c.Server, Token: token, Node: c.NodeName})
}

// agentParts are the parts of a node without a server, in the order in which they start.
func agentParts(ctx context.Context, c config.Config, identity *join.Identity, log *slog.Logger) ([]Component, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	dialed, tunnelled := newConnections(), newConnections()
	connect := func(mirror ...client.MirrorSpec) *client.Remote {
		return client.NewRemote(client.RemoteOptions{
			Server: identity.Server, TLS: identity.TLS(), Dial: dialed.dial, Agent: "kubelet", Table: builtin.Table(), Logger: log, Mirror: mirror,
		})
	}
	mirror := []client.MirrorSpec{
		{Resource: schema.GroupResource{Resource: "pods"}, FieldSelector: "spec.nodeName=" + identity.Node},
		{Resource: schema.GroupResource{Resource: "nodes"}},
		{Resource: schema.GroupResource{Resource: "services"}},
		{Resource: schema.GroupResource{Group: "discovery.k8s.io", Resource: "endpointslices"}},
	}
	if ingressOn(c) {
		mirror = append(mirror,
			client.MirrorSpec{Resource: schema.GroupResource{Group: "networking.k8s.io", Resource: "ingresses"}},
			client.MirrorSpec{Resource: schema.GroupResource{Group: "networking.k8s.io", Resource: "ingressclasses"}})
	}
	remote := connect(mirror...)
	everywhere := connect(
		client.MirrorSpec{Resource: schema.GroupResource{Resource: "pods"}, Strip: policy.Strip},
		client.MirrorSpec{Resource: schema.GroupResource{Resource: "namespaces"}},
		client.MirrorSpec{Resource: schema.GroupResource{Group: "networking.k8s.io", Resource: "networkpolicies"}},
	)
	own := client.New(remote, remote.Table())
	m := machine{config: c, log: log, registry: registry, agent: own, proxy: own, dns: own, ingress: own, policy: client.New(everywhere, everywhere.Table()),
		follower: remote, lost: []func(func(netip.Addr) bool){dialed.endLost, tunnelled.endLost}}
	parts, endpoint := m.runtime()
	m.others = withdraw.Ask(remote.PostPath)
	m.seen = func(ctx context.Context, revision int64) error {
		return remote.WaitSeen(ctx, client.ResourceOf[*discoveryv1.EndpointSlice](own), revision)
	}
	api, rest, err := m.parts(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	parts = append(parts,
		tunnel.NewAgent(tunnel.AgentOptions{Server: identity.Server, TLS: identity.TLS(), Handler: api, Dial: tunnelled.dial, Logger: log}),
		&mirrored{Remote: remote, server: identity.Server, log: log, synced: make(chan struct{})},
		&mirrored{Remote: everywhere, server: identity.Server, log: log, synced: make(chan struct{})},
		&join.Renewer{Identity: identity, Renewed: dialed.end, Logger: log},
	)
	return append(append(parts, rest...), trimmer{log}), nil
}

// mirrored lets the parts that read the cluster start once its state was read.
type mirrored struct {
	*client.Remote
	server string
	log    *slog.Logger
	synced chan struct{}
}

// impatience is how long the first reading may take before a line says that it is waited for.
const impatience = 5 * time.Second

// Started is closed once the present state was read.
func (m *mirrored) Started() <-chan struct{} { return m.synced }

// Run keeps the mirrored resources fresh until ctx is done.
func (m *mirrored) Run(ctx context.Context) error {
	var wait sync.WaitGroup
	defer wait.Wait()
	wait.Go(func() {
		late := time.AfterFunc(impatience, func() { m.log.Warn("waiting for the server; containers go on meanwhile", "server", m.server) })
		defer late.Stop()
		if m.WaitSynced(ctx) == nil {
			close(m.synced)
		}
	})
	return m.Remote.Run(ctx)
}

// dialTimeout bounds how long a server may take to take a connection: what is sent to one that is not there would wait for minutes.
const dialTimeout = 10 * time.Second

// connections are those that a transport has open, so that they can be ended with the certificate that they were made with.
type connections struct {
	mu   sync.Mutex
	open map[net.Conn]struct{}
}

// tracked is a connection that is listed while it is open.
type tracked struct {
	net.Conn
	list *connections
}

func newConnections() *connections { return &connections{open: map[net.Conn]struct{}{}} }

func (c *connections) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	t := &tracked{conn, c}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[t] = struct{}{}
	return t, nil
}

// Close closes the connection.
func (t *tracked) Close() error {
	t.list.mu.Lock()
	delete(t.list.open, t)
	t.list.mu.Unlock()
	return t.Conn.Close()
}

// end closes all that are open now.
func (c *connections) end() { c.endLost(func(netip.Addr) bool { return false }) }

// endLost closes those whose own address has gone from the machine: nothing comes to them any more, and nobody would notice for long.
func (c *connections) endLost(here func(netip.Addr) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for t := range c.open {
		if at, ok := t.LocalAddr().(*net.TCPAddr); !ok || !here(at.AddrPort().Addr().Unmap()) {
			_ = t.(*tracked).Conn.Close()
		}
	}
}

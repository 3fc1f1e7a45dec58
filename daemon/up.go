package daemon

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/auth/pki"
	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/config"
	"github.com/kebernetes/kebernetes/kinds/builtin"
	"github.com/kebernetes/kebernetes/network/lan"
)

const (
	// upPatience is how long the nodes of a local cluster may take until all are ready.
	upPatience = 2 * time.Minute
	// localPort is where the API of a local cluster listens, at its first node's address.
	localPort = "6443"
	// maxNodeLog is how long a node's log may have grown when the node is started: then it becomes the one before.
	maxNodeLog = 10 << 20
)

// UpOptions say what local cluster there is to be.
type UpOptions struct {
	DataDir string
	// Nodes is how many; 0 for as many as there are, or one. Nodes are added to a cluster that has fewer, never taken away.
	Nodes int
	// Kubeconfig is a file to write the administrator's kubeconfig to, beside that in the data directory; may be empty.
	Kubeconfig string
	Logger     *slog.Logger
}

// Up makes a local cluster, or starts what does not run of the one that there is, and waits until its nodes are ready. The
// processes of the nodes stay when this one ends. It may be repeated, also after it was killed.
func Up(ctx context.Context, o UpOptions) error {
	if err := os.MkdirAll(o.DataDir, 0o711); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	held, err := claimLocal(o.DataDir)
	if err != nil {
		return err
	}
	defer held.release()
	l, err := planLocal(o)
	if err != nil {
		return err
	}
	if err := l.write(); err != nil {
		return err
	}
	network := l.lan()
	if network.Names, err = lan.MachineNames(); err != nil {
		return err
	}
	if len(network.Names.Local) > 0 && !network.Names.Upstream.IsValid() {
		o.Logger.Warn("nodes find no names of the outside: /etc/resolv.conf has name servers on loopback only", "servers", network.Names.Local)
	}
	fresh, err := network.Set()
	if err != nil {
		return err
	}
	nodes := l.nodes()
	for _, n := range fresh {
		if _, err := os.Stat(lockPath(nodes[n].DataDir)); err == nil {
			// Its containers are in a network that is gone, as after the machine was started anew.
			if err := l.stop(o.Logger); err != nil {
				return err
			}
			break
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, upPatience, fmt.Errorf("not all nodes are ready after %s (their logs: %s)", upPatience, filepath.Join(l.dir, "{,nodes/*/}"+nodeLog)))
	defer cancel()
	err = l.run(ctx, o)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

// planLocal is the cluster that is wanted.
func planLocal(o UpOptions) (*localCluster, error) {
	l, err := openLocal(o.DataDir)
	if err != nil {
		return nil, err
	}
	if l == nil {
		l = &localCluster{dir: o.DataDir, Nodes: 1}
		if err := mayBecomeLocal(o.DataDir); err != nil {
			return nil, err
		}
		if l.Subnet, err = lan.FreeSubnet(); err != nil {
			return nil, err
		}
	} else if o.Nodes > 0 && o.Nodes < l.Nodes {
		return nil, fmt.Errorf("the cluster in %s has %d nodes, and keeps them; `keb down` removes it as a whole", o.DataDir, l.Nodes)
	}
	l.Nodes = max(l.Nodes, o.Nodes)
	if l.Forward == "" { // once it was told, the link's own setting says nothing
		if l.Forward, err = lan.Uplink(); err != nil {
			return nil, fmt.Errorf("find the machine's way out: %w", err)
		}
	}
	return l, nil
}

// run starts the nodes that do not run, and waits for all.
func (l *localCluster) run(ctx context.Context, o UpOptions) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	began := time.Now()
	nodes := l.nodes()
	server := config.Config{
		Listen: net.JoinHostPort(nodes[0].Address.String(), localPort), WriteKubeconfig: o.Kubeconfig,
	}
	started := map[string]time.Time{}
	start := func(i int, c config.Config) error {
		running, err := l.start(i, c, cancel)
		if !running {
			started[nodes[i].Name] = began
		}
		return err
	}
	if err := start(0, server); err != nil {
		return err
	}
	api, err := l.connect(ctx)
	if err != nil {
		return causeOf(ctx, err)
	}
	done := make(chan error, 1)
	go func() { done <- api.Run(ctx) }()
	defer func() { cancel(nil); <-done }()
	if err := api.WaitSynced(ctx); err != nil {
		return causeOf(ctx, err)
	}
	c := client.New(api, api.Table())
	token, err := l.token(ctx, c)
	if err != nil {
		return causeOf(ctx, err)
	}
	for i := 1; i < l.Nodes; i++ {
		if err := start(i, config.Config{Server: "https://" + server.Listen, Token: token.String()}); err != nil {
			return err
		}
	}
	if err := awaitNodes(ctx, c, nodes, started); err != nil {
		return causeOf(ctx, err)
	}
	if err := client.Remove[*corev1.Secret](ctx, c, metav1.NamespaceSystem, auth.JoinTokenSecretName(token.ID), metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("revoke the nodes' join token: %w", err)
	}
	return nil
}

// causeOf is why ctx ended, where it did; otherwise err.
func causeOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// nodeLog is a node's log, in its data directory.
const nodeLog = "keb.log"

// start starts a node's process, unless it runs. When the process ends while it is waited for, failed gets the reason.
func (l *localCluster) start(i int, c config.Config, failed context.CancelCauseFunc) (running bool, err error) {
	n := l.nodes()[i]
	verb := "agent"
	if i == 0 {
		verb = "server"
	}
	c.APIVersion, c.DataDir, c.NodeName, c.NodeIP = config.APIVersion, n.DataDir, n.Name, n.Address.String()
	if pid, err := Holder(n.DataDir); err != nil || pid != 0 {
		return true, err
	}
	if err := os.MkdirAll(n.DataDir, 0o711); err != nil {
		return false, fmt.Errorf("make data directory: %w", err)
	}
	file, path := filepath.Join(n.DataDir, "keb.yaml"), filepath.Join(n.DataDir, nodeLog)
	text, err := yaml.Marshal(c)
	if err != nil {
		return false, err
	}
	if err := writeFile(file, text); err != nil {
		return false, err
	}
	log, err := openNodeLog(path)
	if err != nil {
		return false, err
	}
	defer log.Close()
	end, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	program, err := os.Executable()
	if err != nil {
		return false, fmt.Errorf("find keb's own executable: %w", err)
	}
	cmd := &exec.Cmd{
		Path: program, Args: []string{"keb", verb, "--config", file}, Dir: "/", Stdout: log, Stderr: log,
		// A session of its own: what ends that of the user does not end the cluster.
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := l.lan().Start(i, cmd); err != nil {
		return false, fmt.Errorf("start %s: %w", n.Name, err)
	}
	go func() {
		_ = cmd.Wait()
		failed(fmt.Errorf("%s ended: %s (its log: %s)", n.Name, lastLine(path, end), path))
	}()
	return false, nil
}

// openNodeLog opens a node's log for more, of which two files are kept.
func openNodeLog(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxNodeLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// lastLine is the last line that a process wrote to a log, behind an offset.
func lastLine(path string, offset int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		const most = 4096
		offset = max(offset, size-most)
	}
	text, err := io.ReadAll(io.NewSectionReader(f, offset, 1<<20))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(bytes.TrimSpace(text)), "\n")
	return strings.TrimPrefix(lines[len(lines)-1], "keb: ")
}

// connect returns an administrator's connection to the server once that is ready. It sees the nodes and their signs of life.
func (l *localCluster) connect(ctx context.Context) (*client.Remote, error) {
	var c *rest.Config
	var tls *tls.Config
	for {
		var err error
		// The server writes the file once it listens, and a moment later has the roles that nodes join by.
		if c, err = clientcmd.BuildConfigFromFlags("", AdminKubeconfig(l.dir)); err == nil {
			if tls, err = rest.TLSConfigFor(c); err != nil {
				return nil, fmt.Errorf("read kubeconfig: %w", err)
			}
			if err = ready(ctx, c.Host, tls); err == nil {
				break
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond): // only while starting
		}
	}
	return client.NewRemote(client.RemoteOptions{
		Server: c.Host, TLS: tls, Agent: "keb", Table: builtin.Table(), Logger: slog.New(slog.DiscardHandler),
		Mirror: []client.MirrorSpec{
			{Resource: schema.GroupResource{Resource: "nodes"}},
			{Resource: schema.GroupResource{Group: coordinationv1.GroupName, Resource: "leases"}},
		},
	}), nil
}

// ready asks a server whether it is.
func ready(ctx context.Context, server string, tls *tls.Config) error {
	transport := &http.Transport{TLSClientConfig: tls, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// token makes a token for the nodes to join with, good for as long as they are waited for.
func (l *localCluster) token(ctx context.Context, c *client.Client) (auth.JoinToken, error) {
	authority, err := pki.Open(filepath.Join(l.dir, "pki"))
	if err != nil {
		return auth.JoinToken{}, err
	}
	token := auth.NewJoinToken(authority.Hash())
	if _, err := client.Create(ctx, c, token.Secret(time.Now().Add(upPatience), "keb up")); err != nil {
		return auth.JoinToken{}, fmt.Errorf("make the nodes' join token: %w", err)
	}
	return token, nil
}

// awaitNodes waits until all nodes are ready. What is known of those that were just started counts only when it is younger than that.
func awaitNodes(ctx context.Context, c *client.Client, nodes []LocalNode, started map[string]time.Time) error {
	for {
		snapshot := c.Snapshot()
		ready := 0
		for _, n := range nodes {
			if node, ok := client.From[*corev1.Node](c, snapshot, "", n.Name); !ok || !NodeReady(node) {
				continue
			}
			lease, ok := client.From[*coordinationv1.Lease](c, snapshot, corev1.NamespaceNodeLease, n.Name)
			if ok && lease.Spec.RenewTime != nil && lease.Spec.RenewTime.After(started[n.Name]) {
				ready++
			}
		}
		if ready == len(nodes) {
			return nil
		}
		// Each renewal of a lease and each change of a node is a revision of the one store.
		if err := snapshotAfter(ctx, c, snapshot.Revision()); err != nil {
			return err
		}
	}
}

// snapshotAfter waits for a change of a lease or a node.
func snapshotAfter(ctx context.Context, c *client.Client, revision int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := make(chan error, 2)
	for _, resource := range []string{"nodes", "leases.coordination.k8s.io"} {
		watch, err := c.Watch(resource, revision)
		if err != nil {
			return err
		}
		go func() {
			_, _, err := watch.Next(ctx)
			changed <- err
		}()
	}
	err := <-changed
	cancel()
	return errors.Join(err, ignoreCanceled(<-changed))
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// NodeReady says whether a node reports that it is ready.
func NodeReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

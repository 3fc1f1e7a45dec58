package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/utils/keymutex"

	"github.com/kebernetes/kebernetes/client"
)

// Options of a Node. All but InProcess are needed.
type Options struct {
	// Client acts as the node.
	Client   *client.Client
	NodeName string
	// Root is the node agent's directory as drivers know it, a kubelet's /var/lib/kubelet: sockets register in Root/plugins_registry,
	// volumes are staged below Root/plugins, and pods lie in Root/pods.
	Root string
	// InProcess are drivers of this process, which have a controller service and nothing else.
	InProcess map[string]grpc.ClientConnInterface
	Logger    *slog.Logger
	// Status, when set, is told when InUse changes.
	Status Status
}

// Status is the node's status in the API, by which the control plane knows what it must not detach.
type Status interface {
	// Report has the volumes in use told soon.
	Report()
	// Reported returns once they are told as they are now.
	Reported(ctx context.Context) error
}

// Node is the node's side of all drivers: the component that registers them, and the plugin that mounts their volumes. Safe for
// concurrent use.
type Node struct {
	Options
	volumes keymutex.KeyMutex // by driver and handle: staging is shared by pods

	mu      sync.Mutex
	drivers map[string]*driver
	sockets map[string]context.CancelFunc // registration sockets that are looked after
	wait    sync.WaitGroup
}

// driver is a registered driver.
type driver struct {
	name   string
	socket string // of its registration
	conn   *grpc.ClientConn
	nodeID string
	most   int64 // volumes per node; 0: no bound
	// topology is where the node is, in the driver's eyes.
	topology map[string]string
	// What its node service can do.
	stages, groups, expands bool
}

// New returns a Node.
func New(o Options) *Node {
	return &Node{Options: o, volumes: keymutex.NewHashed(0), drivers: map[string]*driver{}, sockets: map[string]context.CancelFunc{}}
}

// Name implements the component.
func (n *Node) Name() string { return "csi" }

// Run registers the drivers whose sockets appear in the registry, and takes off those whose sockets go, until ctx ends.
func (n *Node) Run(ctx context.Context) error {
	registry := filepath.Join(n.Root, "plugins_registry")
	for _, dir := range []string{registry, filepath.Join(n.Root, "plugins")} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return fmt.Errorf("csi: %w", err)
		}
	}
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("csi: watch %s: %w", registry, err)
	}
	defer watch.Close()
	if err := watch.Add(registry); err != nil {
		return fmt.Errorf("csi: watch %s: %w", registry, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer n.closeAll()
	defer n.wait.Wait()
	defer cancel()
	n.wait.Go(func() { n.announce(ctx) })
	entries, err := os.ReadDir(registry)
	if err != nil {
		return fmt.Errorf("csi: %w", err)
	}
	for _, e := range entries {
		n.appeared(ctx, filepath.Join(registry, e.Name()))
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-watch.Errors:
			return fmt.Errorf("csi: watch %s: %w", registry, err)
		case ev := <-watch.Events:
			switch {
			case ev.Has(fsnotify.Create):
				n.appeared(ctx, ev.Name)
			case ev.Has(fsnotify.Remove), ev.Has(fsnotify.Rename):
				n.vanished(ctx, ev.Name)
			}
		}
	}
}

func (n *Node) closeAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range n.drivers {
		d.conn.Close()
	}
	clear(n.drivers)
}

// appeared begins to register what listens on a socket, and tries until that succeeds or the socket goes.
func (n *Node) appeared(ctx context.Context, socket string) {
	info, err := os.Lstat(socket)
	if err != nil || info.Mode()&fs.ModeSocket == 0 {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	n.mu.Lock()
	if old := n.sockets[socket]; old != nil {
		old() // the driver was started anew
	}
	n.sockets[socket] = cancel
	n.mu.Unlock()
	n.wait.Go(func() {
		defer cancel()
		for delay := 500 * time.Millisecond; ; delay = min(2*delay, 2*time.Minute) {
			err := n.register(ctx, socket)
			if err == nil || ctx.Err() != nil {
				return
			}
			n.Logger.Warn("volume driver is not registered", "socket", socket, "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(delay):
			}
		}
	})
}

// vanished takes a driver off whose socket is gone.
func (n *Node) vanished(ctx context.Context, socket string) {
	n.mu.Lock()
	if cancel := n.sockets[socket]; cancel != nil {
		cancel()
		delete(n.sockets, socket)
	}
	gone := ""
	for name, d := range n.drivers {
		if d.socket == socket {
			d.conn.Close()
			delete(n.drivers, name)
			gone = name
		}
	}
	n.mu.Unlock()
	if gone == "" {
		return
	}
	n.Logger.Info("volume driver is gone", "driver", gone)
	n.wait.Go(func() { n.announce(ctx) })
}

// dial connects to a driver's socket; the connection is made when it is first used.
func dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

const registerTimeout = 30 * time.Second

// register asks what listens on a socket who it is, makes it known, and tells it how that went.
func (n *Node) register(ctx context.Context, socket string) error {
	conn, err := dial(socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	registrar := registerapi.NewRegistrationClient(conn)
	call, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	info, err := registrar.GetInfo(call, &registerapi.InfoRequest{})
	if err != nil {
		return fmt.Errorf("ask plugin for its name: %w", err)
	}
	if info.Type != registerapi.CSIPlugin {
		n.Logger.Info("plugin is left alone: it is no volume driver", "type", info.Type, "name", info.Name)
		return nil
	}
	d, err := n.connect(call, info, socket)
	said := &registerapi.RegistrationStatus{PluginRegistered: err == nil}
	if err != nil {
		said.Error = "RegisterPlugin error -- " + err.Error()
	} else {
		n.Logger.Info("volume driver is registered", "driver", d.name)
		n.unstageLost(ctx, d)
	}
	notify, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	if _, notifyErr := registrar.NotifyRegistrationStatus(notify, said); err == nil && notifyErr != nil {
		n.Logger.Warn("volume driver was not told that it is registered", "driver", info.Name, "err", notifyErr)
	}
	return err
}

// connect makes a driver usable and shows it in the CSINode.
func (n *Node) connect(ctx context.Context, info *registerapi.PluginInfo, socket string) (*driver, error) {
	if !slices.ContainsFunc(info.SupportedVersions, func(v string) bool { return v == "1" || len(v) > 1 && (v[:2] == "1." || v[:2] == "v1") }) {
		return nil, fmt.Errorf("driver %s speaks CSI %v, not 1", info.Name, info.SupportedVersions)
	}
	endpoint := info.Endpoint
	if endpoint == "" {
		endpoint = socket
	}
	conn, err := dial(endpoint)
	if err != nil {
		return nil, err
	}
	d := &driver{name: info.Name, socket: socket, conn: conn}
	if err := d.describe(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	n.mu.Lock()
	if old := n.drivers[d.name]; old != nil {
		old.conn.Close()
	}
	n.drivers[d.name] = d
	n.mu.Unlock()
	return d, n.show(ctx)
}

// describe asks a driver what it is and can.
func (d *driver) describe(ctx context.Context) error {
	service := spec.NewNodeClient(d.conn)
	info, err := service.NodeGetInfo(ctx, &spec.NodeGetInfoRequest{})
	if err != nil {
		return fmt.Errorf("error during CSI NodeGetInfo() call: %w", err)
	}
	d.nodeID, d.most, d.topology = info.NodeId, info.MaxVolumesPerNode, info.GetAccessibleTopology().GetSegments()
	if d.nodeID == "" {
		return fmt.Errorf("driver %s gives the node no id", d.name)
	}
	can, err := service.NodeGetCapabilities(ctx, &spec.NodeGetCapabilitiesRequest{})
	if err != nil && status.Code(err) != codes.Unimplemented {
		return fmt.Errorf("ask driver %s for its capabilities: %w", d.name, err)
	}
	for _, c := range can.GetCapabilities() {
		switch c.GetRpc().GetType() {
		case spec.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME:
			d.stages = true
		case spec.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP:
			d.groups = true
		case spec.NodeServiceCapability_RPC_EXPAND_VOLUME:
			d.expands = true
		}
	}
	return nil
}

// driver finds a registered driver.
func (n *Node) driver(name string) (*driver, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if d := n.drivers[name]; d != nil {
		return d, nil
	}
	return nil, fmt.Errorf("driver name %s not found in the list of registered CSI drivers", name)
}

// Driver returns a connection to a driver's controller service, for a Relay.
func (n *Node) Driver(name string) (grpc.ClientConnInterface, error) {
	if conn := n.InProcess[name]; conn != nil {
		return conn, nil
	}
	d, err := n.driver(name)
	if err != nil {
		return nil, err
	}
	return d.conn, nil
}

// token is what a driver is told of a pod's service account, by audience.
type token struct {
	Token               string `json:"token"`
	ExpirationTimestamp string `json:"expirationTimestamp"`
}

// token asks for one that dies with the pod.
func (n *Node) token(ctx context.Context, pod *corev1.Pod, audience string, seconds *int64) (*authenticationv1.TokenRequestStatus, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if audience != "" {
		request.Spec.Audiences = []string{audience}
	}
	k := client.KindOf[*corev1.ServiceAccount](n.Client)
	answer, err := n.Client.Post(ctx, k, pod.Namespace, pod.Spec.ServiceAccountName, "token", request)
	if err != nil {
		return nil, err
	}
	issued, ok := answer.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, fmt.Errorf("token request of %s/%s: answered with %T", pod.Namespace, pod.Spec.ServiceAccountName, answer)
	}
	return &issued.Status, nil
}

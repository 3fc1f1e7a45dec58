// Package agent runs the pods that are bound to one node. One worker per pod asks lifecycle.Next what to do, carries it out
// over the runtime and its helpers, and reports lifecycle.Status. What happens comes in as events: pods from the shared
// snapshot's feed, containers from the runtime. Containers outlive the agent and are adopted at its next start.
// daemon and testcluster import it.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/agent/cgroup"
	"github.com/kebernetes/kebernetes/agent/image"
	"github.com/kebernetes/kebernetes/agent/lifecycle"
	"github.com/kebernetes/kebernetes/agent/logs"
	"github.com/kebernetes/kebernetes/agent/node"
	"github.com/kebernetes/kebernetes/agent/probe"
	"github.com/kebernetes/kebernetes/agent/spec"
	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/cri"
	"github.com/kebernetes/kebernetes/volume"
)

// Recorder writes events; see client.Recorder.
type Recorder interface {
	EventAt(obj client.Object, fieldPath, eventType, reason, messageFmt string, args ...any)
}

// Volumes mounts what pods want; see volume.Mounter.
type Volumes interface {
	Mount(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (volume.Mounted, error)
	Unmount(ctx context.Context, pod types.UID) error
	SubPath(pod types.UID, volume, container string, index int, root, sub string, readOnly bool) (string, error)
	Pods() ([]types.UID, error)
}

// Options are what an agent is made of. Client, Runtime, NodeName, Recorder and Logger are needed.
type Options struct {
	// Client acts as system:node:NodeName. Its snapshot must be complete: a pod that it does not show is killed.
	Client   *client.Client
	Runtime  cri.Runtime
	NodeName string
	// NodeIPs are the node's addresses, the primary one first, until SetNodeIPs.
	NodeIPs  []string
	Recorder Recorder
	Logger   *slog.Logger

	// Dir holds a directory per pod. Empty: the node is simulated; nothing is written to disk and no control group made.
	Dir string
	// LogDir holds the containers' logs; default Dir/../logs, and for a simulated node none.
	LogDir string
	// SeccompDir holds profiles of type Localhost; default Dir/../seccomp.
	SeccompDir string
	// Volumes; nil means a volume.Mounter on Dir, and for a simulated node none at all.
	Volumes Volumes
	// Plugins mount volumes from outside of the node.
	Plugins []volume.Plugin
	// VolumesInUse, when set, names the attached volumes that the plugins hold here, which may not be detached.
	VolumesInUse func() ([]corev1.UniqueVolumeName, error)
	// CgroupRoot is the control group of all pods; default "/kubepods".
	CgroupRoot string

	ClusterDNS []string
	// ClusterDomain; default "cluster.local".
	ClusterDomain string
	// ResolvConf is the node's; default /etc/resolv.conf, or what systemd-resolved itself asks when that names only its stub.
	ResolvConf string

	// Follower brings the ConfigMaps and Secrets that pods refer to into the Client's copy, where that does not mirror them all. Nil with
	// such a Client: contents are looked at every minute.
	Follower client.Follower

	// Withdraw, when set, is called as a pod's end begins, before its containers get SIGTERM, and returns once no proxy sends
	// it new connections. ctx ends with the pod's grace.
	Withdraw func(ctx context.Context, pod *corev1.Pod)

	// Version is the kubelet version that the node reports; default "v1.37.2".
	Version string
	// Port of the node's HTTP API; 0: none of its own.
	Port int32
	// MaxPods; default 110.
	MaxPods int64
	// Capacity overrides what the machine has, for simulated nodes.
	Capacity corev1.ResourceList
	// Signals tells what the node has left; nil asks the machine, and a simulated node is never short of anything.
	Signals func() node.Signals
	// NodeLabels and NodeTaints are set at registration.
	NodeLabels map[string]string
	NodeTaints []corev1.Taint
	// NodeAnnotations are set at registration, and when the agent starts again.
	NodeAnnotations map[string]string
}

// Agent is one node's agent.
type Agent struct {
	Options
	groups  *cgroup.Tree // nil: none
	puller  *image.Puller
	images  *image.Collector
	checker *probe.Checker
	rotator logs.Rotator
	keeper  *node.Keeper
	oom     spec.OOM
	host    atomic.Pointer[lifecycle.Host]
	turns   *turns // nil: a simulated node, which has no work
	// readOnlyMounts: the runtime can make mounts read-only with all below them.
	readOnlyMounts atomic.Bool

	mu      sync.Mutex
	workers map[types.UID]*worker
	wait    sync.WaitGroup
}

// New checks the options and returns an agent.
func New(o Options) (*Agent, error) {
	if o.Client == nil || o.Runtime == nil || o.NodeName == "" || o.Recorder == nil || o.Logger == nil {
		return nil, errors.New("agent: Client, Runtime, NodeName, Recorder and Logger are needed")
	}
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&o.ClusterDomain, "cluster.local")
	set(&o.ResolvConf, resolvConf())
	set(&o.Version, "v1.37.2")
	if o.MaxPods == 0 {
		o.MaxPods = 110
	}
	if o.Dir != "" {
		set(&o.LogDir, filepath.Join(filepath.Dir(o.Dir), "logs"))
		set(&o.SeccompDir, filepath.Join(filepath.Dir(o.Dir), "seccomp"))
	}
	a := &Agent{
		Options: o,
		puller:  &image.Puller{Runtime: o.Runtime},
		checker: &probe.Checker{Runtime: o.Runtime, UserAgent: "kube-probe/" + minor(o.Version)},
		oom:     spec.OOM{Least: leastOOM()},
		workers: map[types.UID]*worker{},
	}
	a.images = &image.Collector{Runtime: o.Runtime, Logger: o.Logger, Mounted: a.mountedImages}
	a.host.Store(&lifecycle.Host{IPs: o.NodeIPs})
	if o.Dir != "" {
		a.turns = newTurns()
	}
	a.describe()
	switch {
	case a.Volumes != nil:
	case o.Dir != "":
		a.Volumes = volume.New(volume.Options{Dir: o.Dir, Objects: objects{a}, Plugins: o.Plugins})
	default:
		a.Volumes = noVolumes{}
	}
	return a, nil
}

// resolvConf finds the servers that pods can reach: systemd-resolved's stub listens on the node's loopback only.
func resolvConf() string {
	const file, resolved = "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), "nameserver 127.0.0.53") {
		return file
	}
	if _, err := os.Stat(resolved); err != nil {
		return file
	}
	return resolved
}

// minor is the "1.37" of "v1.37.2".
func minor(version string) string {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 2 {
		return version
	}
	return parts[0] + "." + parts[1]
}

// leastOOM is the lowest oom_score_adj that may be set from here: without CAP_SYS_RESOURCE the kernel lets nobody go below the
// value that the process itself started with.
func leastOOM() int64 {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		return math.MinInt64
	}
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	var n int64
	if _, err := fmt.Sscan(string(text), &n); err != nil {
		return 0
	}
	return n
}

// describe prepares what the node says of itself.
func (a *Agent) describe() {
	k := &node.Keeper{
		Client: a.Client, Runtime: a.Runtime, Logger: a.Logger, Name: a.NodeName, IPs: a.NodeIPs, Hostname: a.NodeName,
		Labels: a.NodeLabels, Annotations: a.NodeAnnotations, Taints: a.NodeTaints, Port: a.Port, VolumesInUse: a.VolumesInUse,
		Event: func(n *corev1.Node, eventType, reason, message string) {
			a.Recorder.EventAt(n, "", eventType, reason, "%s", message)
		},
	}
	machine := node.Read(filepath.Dir(a.Dir))
	k.Info = machine.Info
	k.Info.KubeletVersion = a.Version
	k.Capacity, k.Allocatable = machine.Capacity(a.MaxPods)
	if a.Capacity != nil {
		k.Capacity, k.Allocatable = a.Capacity, a.Capacity
	}
	memory := k.Capacity[corev1.ResourceMemory]
	a.oom.Capacity = memory.Value()
	a.keeper = k
}

// Name implements the component.
func (a *Agent) Name() string { return "agent" }

// Status is the keeper of the node's status, for those who have something to say in it.
func (a *Agent) Status() *node.Keeper { return a.keeper }

// SetNodeIPs gives the node other addresses, the primary one first. Node and pods tell them at once.
func (a *Agent) SetNodeIPs(ips ...string) {
	a.setHost(func(h *lifecycle.Host) { h.IPs = ips })
	a.keeper.SetIPs(ips)
	for _, w := range a.all() {
		w.poke()
	}
}

// setHost changes what pods' statuses say of the node.
func (a *Agent) setHost(change func(*lifecycle.Host)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := *a.host.Load()
	change(&next)
	a.host.Store(&next)
}

// Run runs the node until ctx ends. Containers go on running.
func (a *Agent) Run(ctx context.Context) error {
	version, err := a.Runtime.Version(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("container runtime: %w", err)
	}
	a.setHost(func(h *lifecycle.Host) { h.Runtime = version.RuntimeName })
	a.keeper.Info.ContainerRuntimeVersion = version.RuntimeName + "://" + version.RuntimeVersion
	if err := a.prepare(); err != nil {
		return err
	}
	if status, err := a.Runtime.Status(ctx); err == nil {
		for _, h := range status.GetRuntimeHandlers() {
			if h.GetName() == "" && h.GetFeatures().GetRecursiveReadOnlyMounts() {
				a.readOnlyMounts.Store(true)
			}
		}
	}
	defer a.wait.Wait()
	registered := make(chan struct{})
	a.wait.Go(func() { a.keeper.Run(ctx, func() { close(registered) }) })
	select {
	case <-registered:
	case <-ctx.Done():
		return nil
	}
	listening := make(chan struct{})
	a.wait.Go(func() { a.listen(ctx, func() { close(listening) }) })
	select {
	case <-listening:
	case <-ctx.Done():
		return nil
	}
	a.wait.Go(func() { a.follow(ctx, configMaps, "ConfigMap") })
	a.wait.Go(func() { a.follow(ctx, secrets, "Secret") })
	a.wait.Go(func() { a.collect(ctx) })
	a.wait.Go(func() { a.guard(ctx) })
	if a.LogDir != "" {
		a.wait.Go(func() { a.rotate(ctx) })
	}
	return a.feed(ctx)
}

// prepare makes the directories and the top control groups.
func (a *Agent) prepare() error {
	for _, dir := range []string{a.Dir, a.LogDir} {
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("prepare node: %w", err)
		}
	}
	if a.Dir == "" {
		return nil
	}
	tree, err := cgroup.Detect(a.CgroupRoot)
	if err != nil {
		return err
	}
	cpu, memory := a.keeper.Allocatable[corev1.ResourceCPU], a.keeper.Allocatable[corev1.ResourceMemory]
	if err := tree.Setup(spec.Shares(&cpu), memory.Value()); err != nil {
		return err
	}
	a.groups = tree
	return nil
}

// The rhythm of housekeeping, upstream's numbers.
const (
	collectEvery = 5 * time.Minute
	rotateEvery  = 10 * time.Second
)

// collect removes unused images when the disk is full.
func (a *Agent) collect(ctx context.Context) {
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if err := a.images.Collect(ctx, now); err != nil && ctx.Err() == nil {
				a.Logger.Warn("image garbage collection", "err", err)
			}
			a.keeper.ImagesChanged()
		}
	}
}

// rotate looks after the logs of running containers.
func (a *Agent) rotate(ctx context.Context) {
	tick := time.NewTicker(rotateEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, w := range a.all() {
				for id, path := range w.openLogs() {
					err := a.rotator.Rotate(ctx, path, now, func(ctx context.Context) error { return a.Runtime.ReopenContainerLog(ctx, id) })
					if err != nil && ctx.Err() == nil && !cri.IsNotFound(err) {
						a.Logger.Warn("container log", "container", id, "err", err)
					}
				}
			}
		}
	}
}

// all returns the workers of the moment.
func (a *Agent) all() []*worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]*worker, 0, len(a.workers))
	for _, w := range a.workers {
		out = append(out, w)
	}
	return out
}

func (a *Agent) worker(uid types.UID) *worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.workers[uid]
}

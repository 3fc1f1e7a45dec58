// Package volume gives pods their volumes: one file per source, each with what it writes, mounts and refreshes. Everything of
// a pod lies under Dir/<uid>, so that Unmount, also after a crash, needs nothing but the uid. agent and daemon import it; it
// imports only volume/downward of this module.
package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/keymutex"
)

// Objects is where volumes read the cluster's objects. Errors are API errors; what is returned is not changed.
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	// Token issues a token of the pod's service account, bound to the pod.
	Token(ctx context.Context, pod *corev1.Pod, audiences []string, seconds int64) (*authenticationv1.TokenRequestStatus, error)
	Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error)
	PersistentVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error)
	// Node is this node's own object.
	Node(ctx context.Context) (*corev1.Node, error)
	// Allocatable is what the node offers, the default of downward API limits.
	Allocatable() corev1.ResourceList
}

// Plugin mounts what drivers outside of this program bring: volumes of CSI.
type Plugin interface {
	// Kind names the directory of the plugin's volumes below a pod's: "kubernetes.io~csi".
	Kind() string
	// Supports says whether the plugin is for this source.
	Supports(r *Request) bool
	// Mount makes the volume reachable below r.Dir and returns where. Repeatable.
	Mount(ctx context.Context, r *Request) (Mounted, error)
	// Unmount undoes Mount by what it finds at dir, which is r.Dir of then. Repeatable.
	Unmount(ctx context.Context, pod types.UID, dir string) error
}

// Options of a Mounter.
type Options struct {
	// Dir holds one directory per pod, named by uid.
	Dir     string
	Objects Objects
	// Mounts makes the kernel's mounts; nil means Kernel.
	Mounts Mounts
	// Plugins for sources beyond the built-in ones, asked in order.
	Plugins []Plugin
}

// Mounter mounts and refreshes the volumes of all pods of a node. Safe for concurrent use; calls about one pod must not
// overlap.
type Mounter struct {
	Options

	dirs keymutex.KeyMutex // volumes outside of the pod, by their directory

	mu     sync.Mutex
	tokens map[tokenKey]*token
}

// New returns a Mounter.
func New(o Options) *Mounter {
	if o.Mounts == nil {
		o.Mounts = Kernel{}
	}
	return &Mounter{Options: o, dirs: keymutex.NewHashed(0), tokens: map[tokenKey]*token{}}
}

// Mounted is a volume that is ready for containers.
type Mounted struct {
	// Path on the host; empty for images, which the runtime mounts itself.
	Path string
	// ReadOnly: containers may not write, whatever their mounts say.
	ReadOnly bool
	// Device: Path is a raw block device, not a directory.
	Device bool
	// Refresh is when the contents must be written anew (a token grows old); zero: only when an object changes.
	Refresh time.Time
}

// content is the file tree of a source that is written rather than mounted.
type content struct {
	files   map[string]file
	refresh time.Time
}

// live says whether the source's contents follow the cluster's objects, and how to compute them.
func (m *Mounter) live(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (*content, error) {
	switch {
	case v.ConfigMap != nil:
		return m.configMap(ctx, pod, v.ConfigMap)
	case v.Secret != nil:
		return m.secret(ctx, pod, v.Secret)
	case v.DownwardAPI != nil:
		return m.downwardAPI(pod, v.DownwardAPI)
	default:
		return m.projected(ctx, pod, v.Name, v.Projected)
	}
}

// kindOf names the directory of a source of the pod's own, as upstream's kubelet does, and whether it is live and whether it lies in
// memory.
func kindOf(v *corev1.Volume) (dir string, live, memory bool) {
	switch {
	case v.EmptyDir != nil:
		return "kubernetes.io~empty-dir", false, v.EmptyDir.Medium == corev1.StorageMediumMemory
	case v.ConfigMap != nil:
		return "kubernetes.io~configmap", true, false
	case v.Secret != nil:
		return "kubernetes.io~secret", true, true
	case v.DownwardAPI != nil:
		return "kubernetes.io~downward-api", true, false
	case v.Projected != nil:
		return "kubernetes.io~projected", true, true
	}
	return "", false, false
}

// Live says whether a volume's contents follow objects of the cluster, so that Refresh is worth calling.
func Live(v *corev1.Volume) bool {
	_, live, _ := kindOf(v)
	return live
}

// PodDir is where everything of a pod lies.
func (m *Mounter) PodDir(uid types.UID) string { return filepath.Join(m.Dir, string(uid)) }

func (m *Mounter) path(uid types.UID, v *corev1.Volume) string {
	kind, _, _ := kindOf(v)
	return filepath.Join(m.PodDir(uid), "volumes", kind, v.Name)
}

// Mount makes a volume ready. Repeatable: what is there is kept, contents are brought up to date. pod's status must hold the
// addresses that the downward API may ask for.
func (m *Mounter) Mount(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (Mounted, error) {
	switch {
	case v.HostPath != nil:
		mounted, err := m.hostPath(v.HostPath)
		if err != nil {
			return Mounted{}, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err)
		}
		return mounted, nil
	case v.Image != nil:
		return Mounted{ReadOnly: true}, nil
	case v.EmptyDir != nil:
		return m.emptyDir(pod, v)
	}
	if Live(v) {
		return m.mountLive(ctx, pod, v)
	}
	return m.mountOutside(ctx, pod, v)
}

// mountLive writes a live source's files.
func (m *Mounter) mountLive(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (Mounted, error) {
	fail := func(err error) (Mounted, error) {
		return Mounted{}, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err)
	}
	c, err := m.live(ctx, pod, v)
	if err != nil {
		return fail(err)
	}
	dir := m.path(pod.UID, v)
	if _, _, memory := kindOf(v); memory {
		if err := m.tmpfs(dir, 0); err != nil {
			return fail(err)
		}
	} else if err := makeDir(dir, 0o777); err != nil {
		return fail(err)
	}
	if err := writeAtomic(dir, c.files, fsGroup(pod)); err != nil {
		return fail(err)
	}
	return Mounted{Path: dir, ReadOnly: true, Refresh: c.refresh}, nil
}

// tmpfs mounts one at dir unless it is there; size 0 means the kernel's default, half of the memory.
func (m *Mounter) tmpfs(dir string, size int64) error {
	if err := makeDir(dir, 0o777); err != nil {
		return err
	}
	if there, err := m.Mounts.IsMount(dir); err != nil || there {
		return err
	}
	options := "mode=0777"
	if size > 0 {
		options += fmt.Sprintf(",size=%d", size)
	}
	return m.Mounts.Tmpfs(dir, options)
}

// makeDir makes a directory of exactly this mode, whatever the umask.
func makeDir(dir string, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return err
	}
	if err := os.Mkdir(dir, mode); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	return os.Chmod(dir, mode)
}

// fsGroup is the group that a pod's volumes belong to, or nil.
func fsGroup(pod *corev1.Pod) *int64 {
	if sc := pod.Spec.SecurityContext; sc != nil {
		return sc.FSGroup
	}
	return nil
}

// Unmount takes all volumes of a pod away, and its directory. Repeatable, and by the uid alone: it finds the mounts in the kernel's table.
// Nothing below a mount that could not be undone is deleted.
func (m *Mounter) Unmount(ctx context.Context, uid types.UID) error {
	dir := m.PodDir(uid)
	if string(uid) == "" || strings.ContainsAny(string(uid), "/\x00") || uid == ".." || uid == "." {
		return fmt.Errorf("unmount volumes of pod %q: not a uid", uid)
	}
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := m.unmountPlugins(ctx, uid); err != nil {
		return err
	}
	mounts, err := m.Mounts.Below(dir)
	if err != nil {
		return fmt.Errorf("unmount volumes of pod %s: %w", uid, err)
	}
	// The table is in order of mounting, so the last comes off first.
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := m.Mounts.Unmount(mounts[i]); err != nil {
			return fmt.Errorf("unmount %s: %w", mounts[i], err)
		}
	}
	m.mu.Lock()
	for k := range m.tokens {
		if k.pod == uid {
			delete(m.tokens, k)
		}
	}
	m.mu.Unlock()
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove files of pod %s: %w", uid, err)
	}
	return nil
}

func (m *Mounter) unmountPlugins(ctx context.Context, uid types.UID) error {
	for _, p := range m.Plugins {
		dir := filepath.Join(m.PodDir(uid), "volumes", p.Kind())
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if err := p.Unmount(ctx, uid, filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("UnmountVolume.TearDown failed for volume %q : %w", e.Name(), err)
			}
		}
	}
	return nil
}

// Pods lists the uids of all pods that have anything on disk.
func (m *Mounter) Pods() ([]types.UID, error) {
	entries, err := os.ReadDir(m.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pods' files: %w", err)
	}
	out := make([]types.UID, 0, len(entries))
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, types.UID(e.Name()))
		}
	}
	return out, nil
}

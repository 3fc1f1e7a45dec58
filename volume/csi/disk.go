package csi

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
)

// data is what is kept of a mounted volume beside it, so that it can be unmounted after a restart, when neither its pod nor its
// PV may be there any more. The keys are a kubelet's.
type data struct {
	SpecVolID    string `json:"specVolID"`
	VolumeHandle string `json:"volumeHandle"`
	DriverName   string `json:"driverName"`
	NodeName     string `json:"nodeName"`
	// AttachmentID names the VolumeAttachment; empty: the volume is not attached.
	AttachmentID        string `json:"attachmentID"`
	VolumeLifecycleMode string `json:"volumeLifecycleMode"`

	dir string // where it lies
}

const (
	kind     = "kubernetes.io~csi"
	dataFile = "vol_data.json"
)

// stagingDir is where a volume is staged for all pods of the node.
func (n *Node) stagingDir(driver, handle string) string {
	return filepath.Join(n.Root, "plugins", "kubernetes.io", "csi", driver, fmt.Sprintf("%x", sha256.Sum256([]byte(handle))))
}

// save writes the data beside a volume, durably, before the volume is mounted.
func (d *data) save(dir string) error {
	text, err := json.Marshal(d)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	at := filepath.Join(dir, dataFile)
	if have, err := os.ReadFile(at); err == nil && string(have) == string(text) {
		return nil
	}
	f, err := os.OpenFile(at+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(at+".new", at)
}

// load reads the data beside a volume; nil when there is none.
func load(dir string) (*data, error) {
	text, err := os.ReadFile(filepath.Join(dir, dataFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	d := &data{dir: dir}
	if err := json.Unmarshal(text, d); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, dataFile), err)
	}
	return d, nil
}

// discard removes what save and the mount left at dir. Nothing that is not empty goes but the data: the rest is a volume's.
func discard(dir string, below ...string) error {
	var errs []error
	for _, name := range append(below, dataFile, dataFile+".new", ".") {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// published lists the data of all volumes that pods have.
func (n *Node) published() ([]*data, error) {
	dirs, err := filepath.Glob(filepath.Join(n.Root, "pods", "*", "volumes", kind, "*"))
	if err != nil {
		return nil, err
	}
	return loadAll(dirs)
}

// staged lists the data of all volumes that are staged, of one driver or, with "", of all.
func (n *Node) staged(driver string) ([]*data, error) {
	if driver == "" {
		driver = "*"
	}
	dirs, err := filepath.Glob(filepath.Join(n.Root, "plugins", "kubernetes.io", "csi", driver, "*"))
	if err != nil {
		return nil, err
	}
	return loadAll(dirs)
}

func loadAll(dirs []string) ([]*data, error) {
	var out []*data
	for _, dir := range dirs {
		d, err := load(dir)
		if err != nil {
			return nil, err
		}
		if d != nil {
			out = append(out, d)
		}
	}
	return out, nil
}

// InUse names the attached volumes that this node has staged or mounted, for its status: they may not be detached.
func (n *Node) InUse() ([]corev1.UniqueVolumeName, error) {
	mounted, err := n.published()
	if err != nil {
		return nil, err
	}
	staged, err := n.staged("")
	if err != nil {
		return nil, err
	}
	var out []corev1.UniqueVolumeName
	for _, d := range append(mounted, staged...) {
		if d.AttachmentID != "" {
			out = append(out, corev1.UniqueVolumeName("kubernetes.io/csi/"+d.DriverName+"^"+d.VolumeHandle))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// unstage undoes the staging of a volume that no pod has any more, but for what lies at leaving. The caller holds its lock.
func (n *Node) unstage(ctx context.Context, d *driver, handle, leaving string) error {
	dir := n.stagingDir(d.name, handle)
	staged, err := load(dir)
	if err != nil || staged == nil {
		return err
	}
	mounted, err := n.published()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(mounted, func(o *data) bool { return o.DriverName == d.name && o.VolumeHandle == handle && o.dir != leaving }) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = spec.NewNodeClient(d.conn).NodeUnstageVolume(ctx, &spec.NodeUnstageVolumeRequest{VolumeId: handle, StagingTargetPath: filepath.Join(dir, "globalmount")})
	if err != nil {
		return err
	}
	return discard(dir, "globalmount")
}

// unstageLost undoes the staging of volumes whose last pod went when the node's process could not do that.
func (n *Node) unstageLost(ctx context.Context, d *driver) {
	staged, err := n.staged(d.name)
	if err != nil {
		n.Logger.Warn("staged volumes are not looked at", "driver", d.name, "err", err)
	}
	for _, s := range staged {
		unlock := n.lock(d.name, s.VolumeHandle)
		if err := n.unstage(ctx, d, s.VolumeHandle, ""); err != nil {
			n.Logger.Warn("volume stays staged", "driver", d.name, "volume", s.VolumeHandle, "err", err)
		}
		unlock()
	}
}

// lock keeps others from staging, mounting or unmounting a volume.
func (n *Node) lock(driver, handle string) (unlock func()) {
	id := driver + "^" + handle
	n.volumes.LockKey(id)
	return func() { _ = n.volumes.UnlockKey(id) } // a hashed lock's UnlockKey has no errors
}

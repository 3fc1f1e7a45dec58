// Package local makes the folders of dynamically provisioned local volumes, one directory per volume below one that only root
// may enter. It is a driver in CSI's terms, whose controller service lives in the node's own process: what asks for folders
// asks it as it would ask any driver. Only daemon imports it.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Driver is the provisioner's name in storage classes.
const Driver = "keb.dev/local"

// Keys of a volume's context.
const (
	// PathKey is where the folder is.
	PathKey = "path"
	// BoundedKey is "true" for a folder that the file system keeps within its size.
	BoundedKey = "bounded"
	// EmptyKey is "true" in ListVolumes for a folder that nobody has written to.
	EmptyKey = "empty"
)

// Folders is the driver. Safe for concurrent use. Errors are gRPC's.
type Folders struct {
	csi.UnimplementedControllerServer
	dir  string
	root *os.Root
	mu   sync.Mutex // quota projects are chosen and set by one at a time
}

var _ csi.ControllerServer = (*Folders)(nil)

// Open makes the directory, or takes the one that is there. It stays open for the life of the process.
func Open(dir string) (*Folders, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folders of volumes: %w", err)
	}
	// Volumes may be written by any user; the way to them is root's alone.
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folders of volumes: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("folders of volumes: %w", err)
	}
	return &Folders{dir: dir, root: root}, nil
}

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,200}$`)

func checkName(name string) error {
	if !validName.MatchString(name) {
		return status.Errorf(codes.InvalidArgument, "%q cannot be the name of a volume", name)
	}
	return nil
}

// CreateVolume makes a folder and bounds its size where the file system has project quotas. Repeatable.
func (f *Folders) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if err := checkName(r.Name); err != nil {
		return nil, err
	}
	for _, c := range r.VolumeCapabilities {
		if c.GetBlock() != nil {
			return nil, status.Error(codes.InvalidArgument, "a folder is no raw block device: only volumeMode Filesystem is supported")
		}
		switch c.GetAccessMode().GetMode() {
		case csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
			csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER, csi.VolumeCapability_AccessMode_UNKNOWN:
		default:
			return nil, status.Error(codes.InvalidArgument, "a folder lies on one node: only the access modes ReadWriteOnce and ReadWriteOncePod are supported")
		}
	}
	if r.VolumeContentSource != nil {
		return nil, status.Error(codes.InvalidArgument, "data sources are not supported")
	}
	if err := f.make(r.Name); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	size := r.GetCapacityRange().GetRequiredBytes()
	bounded, err := f.limit(r.Name, size)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId: r.Name, CapacityBytes: size,
		VolumeContext: map[string]string{PathKey: filepath.Join(f.dir, r.Name), BoundedKey: strconv.FormatBool(bounded)},
	}}, nil
}

// make creates a folder that any user may write to, durably.
func (f *Folders) make(name string) error {
	if err := f.root.Mkdir(name, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := f.root.Lstat(name)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is no directory", filepath.Join(f.dir, name))
	}
	if info.Mode().Perm() != 0o777 && info.Mode()&fs.ModeSetgid == 0 { // the umask's doing, not an owner's
		if err := f.root.Chmod(name, 0o777); err != nil {
			return err
		}
	}
	parent, err := f.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}

// DeleteVolume removes a folder and all that is in it. One that is mounted anywhere stays. Repeatable.
func (f *Folders) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if err := checkName(r.VolumeId); err != nil {
		return nil, err
	}
	if _, err := f.root.Lstat(r.VolumeId); errors.Is(err, fs.ErrNotExist) {
		return &csi.DeleteVolumeResponse{}, nil
	}
	at, err := mounted(filepath.Join(f.dir, r.VolumeId))
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if at != "" {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is still in use: mounted at %s", r.VolumeId, at)
	}
	if err := f.unlimit(r.VolumeId); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if err := f.root.RemoveAll(r.VolumeId); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &csi.DeleteVolumeResponse{}, nil
}

// mounted says where a directory, or something in it, is mounted, or what is mounted in it; "" for nowhere.
func mounted(dir string) (string, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	all, err := mountinfo.GetMounts(nil)
	if err != nil {
		return "", err
	}
	// The mount that dir lies on is the one with the longest path above it; the last of equals covers the others.
	var on *mountinfo.Info
	for _, m := range all {
		if below(m.Mountpoint, dir) {
			return m.Mountpoint, nil
		}
		if below(dir, m.Mountpoint) && (on == nil || len(m.Mountpoint) >= len(on.Mountpoint)) {
			on = m
		}
	}
	if on == nil {
		return "", fmt.Errorf("%s lies on no mount", dir)
	}
	inside, err := filepath.Rel(on.Mountpoint, dir)
	if err != nil {
		return "", err
	}
	origin := filepath.Join(on.Root, inside)
	for _, m := range all {
		if m.Major == on.Major && m.Minor == on.Minor && below(m.Root, origin) {
			return m.Mountpoint, nil
		}
	}
	return "", nil
}

// below says whether path is dir or lies in it.
func below(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// ControllerExpandVolume raises a folder's bound.
func (f *Folders) ControllerExpandVolume(_ context.Context, r *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	if err := checkName(r.VolumeId); err != nil {
		return nil, err
	}
	if _, err := f.root.Lstat(r.VolumeId); err != nil {
		return nil, status.Error(codes.NotFound, err.Error())
	}
	size := r.GetCapacityRange().GetRequiredBytes()
	if _, err := f.limit(r.VolumeId, size); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: size}, nil
}

// ListVolumes lists the folders, and which of them are empty.
func (f *Folders) ListVolumes(context.Context, *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	entries, err := fs.ReadDir(f.root.FS(), ".")
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	out := &csi.ListVolumesResponse{}
	for _, e := range entries {
		if !e.IsDir() || checkName(e.Name()) != nil {
			continue
		}
		v := &csi.Volume{VolumeId: e.Name(), VolumeContext: map[string]string{PathKey: filepath.Join(f.dir, e.Name())}}
		if f.empty(e.Name()) {
			v.VolumeContext[EmptyKey] = "true"
		}
		out.Entries = append(out.Entries, &csi.ListVolumesResponse_Entry{Volume: v})
	}
	return out, nil
}

func (f *Folders) empty(name string) bool {
	dir, err := f.root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer dir.Close()
	_, err = dir.Readdirnames(1)
	return errors.Is(err, io.EOF)
}

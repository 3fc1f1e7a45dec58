// Package csitest is a small CSI driver of folders, with all three services over real sockets and real mounts. Tests import it.
package csitest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Driver is one node's instance of the driver. Volumes are folders in Dir, which the instances of several nodes may share.
type Driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer

	Name, NodeID string
	// Dir holds the volumes; it must be there.
	Dir string
	// Topology is where the node is; may be empty.
	Topology map[string]string
	// NoStage leaves staging out.
	NoStage bool

	mu     sync.Mutex
	calls  []string
	fail   map[string]error
	status chan *registerapi.RegistrationStatus
}

var (
	_ csi.IdentityServer   = (*Driver)(nil)
	_ csi.ControllerServer = (*Driver)(nil)
	_ csi.NodeServer       = (*Driver)(nil)
)

// Serve answers on a socket below dir/plugins and registers in dir/plugins_registry, until the test ends or stop is called. The
// channel gets what the node agent says of each registration.
func (d *Driver) Serve(t testing.TB, dir string) (registered <-chan *registerapi.RegistrationStatus, stop func()) {
	t.Helper()
	d.status = make(chan *registerapi.RegistrationStatus, 16)
	endpoint := filepath.Join(dir, "plugins", d.Name+".sock")
	services, registrar := grpc.NewServer(), grpc.NewServer()
	csi.RegisterIdentityServer(services, d)
	csi.RegisterControllerServer(services, d)
	csi.RegisterNodeServer(services, d)
	registerapi.RegisterRegistrationServer(registrar, &registration{driver: d, endpoint: endpoint})
	var wait sync.WaitGroup
	serve := func(s *grpc.Server, socket string) {
		if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		wait.Go(func() { _ = s.Serve(l) }) // ends by Stop
	}
	serve(services, endpoint)
	serve(registrar, filepath.Join(dir, "plugins_registry", d.Name+"-reg.sock"))
	var once sync.Once
	stop = func() {
		once.Do(func() {
			registrar.Stop()
			services.Stop()
			wait.Wait()
		})
	}
	t.Cleanup(stop)
	return d.status, stop
}

type registration struct {
	registerapi.UnimplementedRegistrationServer
	driver   *Driver
	endpoint string
}

// GetInfo implements the registration.
func (r *registration) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{Type: registerapi.CSIPlugin, Name: r.driver.Name, Endpoint: r.endpoint, SupportedVersions: []string{"1.0.0"}}, nil
}

// NotifyRegistrationStatus implements the registration.
func (r *registration) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	r.driver.status <- s
	return &registerapi.RegistrationStatusResponse{}, nil
}

// Fail makes calls of a method fail ("NodePublishVolume"); nil mends it.
func (d *Driver) Fail(method string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail == nil {
		d.fail = map[string]error{}
	}
	d.fail[method] = err
}

// Calls returns what was called since the last time: "NodePublishVolume v1", with what else matters.
func (d *Driver) Calls() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := d.calls
	d.calls = nil
	return out
}

func (d *Driver) note(method string, args ...any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, strings.TrimSuffix(method+" "+fmt.Sprintln(args...), "\n"))
	return d.fail[method]
}

func (d *Driver) folder(id string) (string, error) {
	if id == "" || id != filepath.Base(id) {
		return "", status.Errorf(codes.InvalidArgument, "volume id %q", id)
	}
	return filepath.Join(d.Dir, id), nil
}

// GetPluginInfo implements the identity service.
func (d *Driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: d.Name, VendorVersion: "1"}, nil
}

// Probe implements the identity service.
func (d *Driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

// ControllerGetCapabilities implements the controller service.
func (d *Driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	out := &csi.ControllerGetCapabilitiesResponse{}
	for _, c := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME, csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
	} {
		out.Capabilities = append(out.Capabilities, &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: c}}})
	}
	return out, nil
}

// CreateVolume makes a folder.
func (d *Driver) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if err := d.note("CreateVolume", r.Name); err != nil {
		return nil, err
	}
	dir, err := d.folder(r.Name)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId: r.Name, CapacityBytes: r.GetCapacityRange().GetRequiredBytes(), VolumeContext: r.Parameters, AccessibleTopology: r.GetAccessibilityRequirements().GetPreferred(),
	}}, nil
}

// DeleteVolume removes a folder.
func (d *Driver) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if err := d.note("DeleteVolume", r.VolumeId); err != nil {
		return nil, err
	}
	dir, err := d.folder(r.VolumeId)
	if err != nil {
		return nil, err
	}
	return &csi.DeleteVolumeResponse{}, os.RemoveAll(dir)
}

// ControllerPublishVolume pretends to attach.
func (d *Driver) ControllerPublishVolume(_ context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	return &csi.ControllerPublishVolumeResponse{PublishContext: map[string]string{"port": "p-" + r.NodeId}}, d.note("ControllerPublishVolume", r.VolumeId, r.NodeId)
}

// ControllerUnpublishVolume pretends to detach.
func (d *Driver) ControllerUnpublishVolume(_ context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	return &csi.ControllerUnpublishVolumeResponse{}, d.note("ControllerUnpublishVolume", r.VolumeId, r.NodeId)
}

// ControllerExpandVolume leaves the rest to the node.
func (d *Driver) ControllerExpandVolume(_ context.Context, r *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: r.GetCapacityRange().GetRequiredBytes(), NodeExpansionRequired: true}, d.note("ControllerExpandVolume", r.VolumeId)
}

// NodeGetInfo implements the node service.
func (d *Driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	out := &csi.NodeGetInfoResponse{NodeId: d.NodeID, MaxVolumesPerNode: 8}
	if len(d.Topology) > 0 {
		out.AccessibleTopology = &csi.Topology{Segments: d.Topology}
	}
	return out, d.note("NodeGetInfo")
}

// NodeGetCapabilities implements the node service.
func (d *Driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	types := []csi.NodeServiceCapability_RPC_Type{csi.NodeServiceCapability_RPC_EXPAND_VOLUME}
	if !d.NoStage {
		types = append(types, csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME)
	}
	out := &csi.NodeGetCapabilitiesResponse{}
	for _, t := range types {
		out.Capabilities = append(out.Capabilities, &csi.NodeServiceCapability{Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}}})
	}
	return out, nil
}

// bind mounts source at target, unless that is done.
func bind(source, target string, readOnly bool) error {
	if err := os.MkdirAll(target, 0o750); err != nil {
		return err
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, target, 0, unix.STATX_BASIC_STATS, &st); err != nil {
		return err
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return nil
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil || !readOnly {
		return err
	}
	return unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// unbind undoes bind, the directory included.
func unbind(target string) error {
	if err := unix.Unmount(target, 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// NodeStageVolume binds the folder to where all pods share it.
func (d *Driver) NodeStageVolume(_ context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	if err := d.note("NodeStageVolume", r.VolumeId, r.PublishContext["port"], r.Secrets["key"]); err != nil {
		return nil, err
	}
	dir, err := d.folder(r.VolumeId)
	if err != nil {
		return nil, err
	}
	return &csi.NodeStageVolumeResponse{}, bind(dir, r.StagingTargetPath, false)
}

// NodeUnstageVolume undoes it.
func (d *Driver) NodeUnstageVolume(_ context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	if err := d.note("NodeUnstageVolume", r.VolumeId); err != nil {
		return nil, err
	}
	return &csi.NodeUnstageVolumeResponse{}, unbind(r.StagingTargetPath)
}

// NodePublishVolume binds what is staged, or a new folder for an inline volume, to the pod's place.
func (d *Driver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	var told []string
	for k, v := range r.VolumeContext {
		if name, ok := strings.CutPrefix(k, "csi.storage.k8s.io/"); ok && !strings.HasSuffix(k, "tokens") {
			told = append(told, name+"="+v)
		}
	}
	slices.Sort(told)
	if err := d.note("NodePublishVolume", r.VolumeId, r.Readonly, r.GetVolumeCapability().GetAccessMode().GetMode(), told); err != nil {
		return nil, err
	}
	source, err := d.folder(r.VolumeId)
	if err != nil {
		return nil, err
	}
	if r.VolumeContext["csi.storage.k8s.io/ephemeral"] == "true" {
		if err := os.MkdirAll(source, 0o777); err != nil {
			return nil, err
		}
	} else if r.StagingTargetPath != "" {
		source = r.StagingTargetPath
	}
	return &csi.NodePublishVolumeResponse{}, bind(source, r.TargetPath, r.Readonly)
}

// NodeUnpublishVolume undoes it. An inline volume's folder goes with it.
func (d *Driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if err := d.note("NodeUnpublishVolume", r.VolumeId); err != nil {
		return nil, err
	}
	if err := unbind(r.TargetPath); err != nil {
		return nil, err
	}
	if strings.HasPrefix(r.VolumeId, "csi-") {
		return &csi.NodeUnpublishVolumeResponse{}, os.RemoveAll(filepath.Join(d.Dir, filepath.Base(r.VolumeId)))
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// NodeExpandVolume has nothing to do for folders.
func (d *Driver) NodeExpandVolume(_ context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	return &csi.NodeExpandVolumeResponse{CapacityBytes: r.GetCapacityRange().GetRequiredBytes()}, d.note("NodeExpandVolume", r.VolumeId)
}

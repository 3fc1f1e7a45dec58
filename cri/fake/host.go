package fake

import (
	"context"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Version implements cri.Host.
func (r *Runtime) Version(context.Context) (*rt.VersionResponse, error) {
	return &rt.VersionResponse{Version: "0.1.0", RuntimeName: "fake", RuntimeVersion: "v1.0.0", RuntimeApiVersion: "v1"}, nil
}

// Status implements cri.Host.
func (r *Runtime) Status(context.Context) (*rt.StatusResponse, error) {
	return &rt.StatusResponse{
		Status:          &rt.RuntimeStatus{Conditions: []*rt.RuntimeCondition{{Type: "RuntimeReady", Status: true}, {Type: "NetworkReady", Status: true}}},
		RuntimeHandlers: []*rt.RuntimeHandler{{Features: &rt.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: true}}},
		Features:        &rt.RuntimeFeatures{SupplementalGroupsPolicy: true},
	}, nil
}

// RuntimeConfig implements cri.Host.
func (r *Runtime) RuntimeConfig(context.Context) (*rt.RuntimeConfigResponse, error) {
	return &rt.RuntimeConfigResponse{Linux: &rt.LinuxRuntimeConfiguration{CgroupDriver: rt.CgroupDriver_CGROUPFS}}, nil
}

// UpdateRuntimeConfig implements cri.Host.
func (r *Runtime) UpdateRuntimeConfig(context.Context, *rt.RuntimeConfig) error { return nil }

func (r *Runtime) measure(id string, c *container) *rt.ContainerStats {
	now := time.Now().UnixNano()
	used := uint64(1e6)
	if started := c.status.StartedAt; started > 0 {
		used += uint64((now - started) / 1000 * c.behaviour.MilliCores)
	}
	return &rt.ContainerStats{
		Attributes: &rt.ContainerAttributes{Id: id, Metadata: c.status.Metadata, Labels: c.status.Labels, Annotations: c.status.Annotations},
		Cpu:        &rt.CpuUsage{Timestamp: now, UsageCoreNanoSeconds: &rt.UInt64Value{Value: used}, UsageNanoCores: &rt.UInt64Value{}},
		Memory:     &rt.MemoryUsage{Timestamp: now, WorkingSetBytes: &rt.UInt64Value{Value: 1 << 20}, RssBytes: &rt.UInt64Value{Value: 1 << 20}},
		WritableLayer: &rt.FilesystemUsage{Timestamp: now, FsId: &rt.FilesystemIdentifier{Mountpoint: "/"},
			UsedBytes: &rt.UInt64Value{Value: 4096}, InodesUsed: &rt.UInt64Value{Value: 1}},
	}
}

// ContainerStats implements cri.Stats.
func (r *Runtime) ContainerStats(_ context.Context, id string) (*rt.ContainerStats, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil, notFound("container", id)
	}
	return r.measure(id, c), nil
}

// ListContainerStats implements cri.Stats.
func (r *Runtime) ListContainerStats(_ context.Context, filter *rt.ContainerStatsFilter) ([]*rt.ContainerStats, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*rt.ContainerStats
	for id, c := range r.containers {
		if f := filter; f != nil && (f.Id != "" && f.Id != id || f.PodSandboxId != "" && f.PodSandboxId != c.sandbox || !matches(f.LabelSelector, c.status.Labels)) {
			continue
		}
		if c.status.State == rt.ContainerState_CONTAINER_RUNNING {
			out = append(out, r.measure(id, c))
		}
	}
	return out, nil
}

func (r *Runtime) measureSandbox(id string, s *sandbox) *rt.PodSandboxStats {
	linux := &rt.LinuxPodSandboxStats{
		Cpu:    &rt.CpuUsage{Timestamp: time.Now().UnixNano(), UsageCoreNanoSeconds: &rt.UInt64Value{}},
		Memory: &rt.MemoryUsage{Timestamp: time.Now().UnixNano(), WorkingSetBytes: &rt.UInt64Value{}},
	}
	for cid, c := range r.containers {
		if c.sandbox == id && c.status.State == rt.ContainerState_CONTAINER_RUNNING {
			one := r.measure(cid, c)
			linux.Containers = append(linux.Containers, one)
			linux.Cpu.UsageCoreNanoSeconds.Value += one.Cpu.UsageCoreNanoSeconds.Value
			linux.Memory.WorkingSetBytes.Value += one.Memory.WorkingSetBytes.Value
		}
	}
	return &rt.PodSandboxStats{
		Attributes: &rt.PodSandboxAttributes{Id: id, Metadata: s.status.Metadata, Labels: s.status.Labels, Annotations: s.status.Annotations},
		Linux:      linux,
	}
}

// PodSandboxStats implements cri.Stats.
func (r *Runtime) PodSandboxStats(_ context.Context, id string) (*rt.PodSandboxStats, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[id]
	if s == nil {
		return nil, notFound("sandbox", id)
	}
	return r.measureSandbox(id, s), nil
}

// ListPodSandboxStats implements cri.Stats.
func (r *Runtime) ListPodSandboxStats(_ context.Context, filter *rt.PodSandboxStatsFilter) ([]*rt.PodSandboxStats, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*rt.PodSandboxStats
	for id, s := range r.sandboxes {
		if f := filter; f != nil && (f.Id != "" && f.Id != id || !matches(f.LabelSelector, s.status.Labels)) {
			continue
		}
		if s.status.State == rt.PodSandboxState_SANDBOX_READY {
			out = append(out, r.measureSandbox(id, s))
		}
	}
	return out, nil
}

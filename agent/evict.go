package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"github.com/kebernetes/kebernetes/agent/lifecycle"
	"github.com/kebernetes/kebernetes/agent/node"
	"github.com/kebernetes/kebernetes/agent/spec"
	"github.com/kebernetes/kebernetes/volume"
)

const (
	// guardEvery is how often the node and its limited pods are looked at, as upstream's eviction manager does.
	guardEvery = 10 * time.Second
	// measureShare bounds what measuring costs: a pod whose files take a second to count is counted every 20 seconds at most.
	measureShare = 20
	// evictionPatience is how long an evicted pod has to give back what it held, before the next one goes.
	evictionPatience = 30 * time.Second
)

// guard evicts pods that take more than they may, and when the node runs short, others, until ctx ends. Only pods with limits of disk
// are measured, unless the node is short.
func (a *Agent) guard(ctx context.Context) {
	if a.Signals == nil {
		if a.Dir == "" {
			return
		}
		images := ""
		a.Signals = func() node.Signals {
			if images == "" {
				images = a.imageDir(ctx)
			}
			return node.ReadSignals(a.Dir, images)
		}
	}
	tick := time.NewTicker(guardEvery)
	defer tick.Stop()
	r := relief{Agent: a}
	for now := time.Now(); ; {
		for _, w := range a.all() {
			w.checkLimits(ctx, now)
		}
		if short := a.keeper.Observe(a.Signals(), now); len(short) > 0 {
			r.relieve(ctx, short[0], now)
		}
		select {
		case <-ctx.Done():
			return
		case now = <-tick.C:
		}
	}
}

// imageDir is where the runtime keeps what it unpacks; empty when it does not say.
func (a *Agent) imageDir(ctx context.Context) string {
	info, err := a.Runtime.ImageFsInfo(ctx)
	if err != nil || len(info.GetImageFilesystems()) == 0 {
		return ""
	}
	return info.ImageFilesystems[0].GetFsId().GetMountpoint()
}

// mountedImages names the images that pods have as volumes.
func (a *Agent) mountedImages() (out []string) {
	for _, w := range a.all() {
		w.mu.Lock()
		for _, ref := range w.images {
			out = append(out, ref)
		}
		w.mu.Unlock()
	}
	return out
}

// checkLimits evicts the pod if it uses more of the disk than its limits allow.
func (w *worker) checkLimits(ctx context.Context, now time.Time) {
	w.mu.Lock()
	volumes, storage := lifecycle.DiskLimits(w.pod)
	due := (volumes || storage) && w.a.Dir != "" && !now.Before(w.measureAt)
	w.mu.Unlock()
	if !due {
		return
	}
	pod, usage, err := w.measure(ctx, parts{volumes: true, layers: storage, logs: storage})
	w.mu.Lock()
	w.measureAt = now.Add(max(guardEvery, measureShare*time.Since(now)) - guardEvery/2) // at the tick that comes nearest
	w.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, fs.ErrNotExist) { // what is gone is being taken away
			w.a.Logger.Warn("pod is not measured", "pod", pod.Namespace+"/"+pod.Name, "err", err)
		}
		return
	}
	if v := lifecycle.OverLimit(pod, usage); v != nil {
		w.evict(v)
	}
}

// evict begins the pod's end, and says whether that was not under way already.
func (w *worker) evict(v *lifecycle.Verdict) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state.Verdict != nil || w.state.Kill != nil || w.done {
		return false
	}
	w.state.Verdict = v
	w.event(corev1.EventTypeWarning, v.Reason, v.Message)
	w.poke()
	return true
}

// places are where a pod's files lie.
type places struct {
	pod        *corev1.Pod
	volumes    map[string]string // emptyDirs and files written for the pod, on disk
	containers map[string]string // ids of those that run, by name
}

func (w *worker) places() places {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := places{pod: w.pod, volumes: map[string]string{}, containers: map[string]string{}}
	for i := range w.pod.Spec.Volumes {
		v := &w.pod.Spec.Volumes[i]
		onDisk := v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault || v.ConfigMap != nil || v.DownwardAPI != nil
		if path := w.mounts[v.Name].Path; onDisk && path != "" {
			p.volumes[v.Name] = path
		}
	}
	for name, records := range w.state.Containers {
		if len(records) > 0 && records[0].Phase == lifecycle.Running {
			p.containers[name] = records[0].ID
		}
	}
	return p
}

// parts are what of a pod is measured: its volumes, what its containers wrote over their images, their logs.
type parts struct{ volumes, layers, logs bool }

// measure looks at the files of a pod.
func (w *worker) measure(ctx context.Context, of parts) (*corev1.Pod, *lifecycle.Usage, error) {
	p := w.places()
	u := &lifecycle.Usage{Volumes: map[string]int64{}, Containers: map[string]lifecycle.ContainerUsage{}}
	if !of.volumes {
		p.volumes = nil
	}
	for name, path := range p.volumes {
		used, err := volume.Measure(ctx, path)
		if err != nil {
			return p.pod, nil, err
		}
		u.Volumes[name] = used.Bytes
		u.Inodes += used.Inodes
	}
	var layers map[string]string
	if of.layers && len(p.containers) > 0 {
		var err error
		if layers, err = upperDirs(); err != nil {
			return p.pod, nil, err
		}
	}
	for name, id := range p.containers {
		var used volume.Used
		if of.layers {
			var err error
			if used, err = w.a.writable(ctx, id, layers[id]); err != nil {
				return p.pod, nil, err
			}
		}
		if of.logs && w.a.LogDir != "" {
			logs, err := volume.Measure(ctx, filepath.Join(w.a.logDir(p.pod), name))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return p.pod, nil, err
			}
			used = used.Add(logs)
		}
		u.Containers[name] = lifecycle.ContainerUsage{Disk: used.Bytes}
		u.Inodes += used.Inodes
	}
	return p.pod, u, nil
}

// writable measures what a container wrote over its image: upper, when it is known where that lies, else by the runtime's word.
func (a *Agent) writable(ctx context.Context, id, upper string) (volume.Used, error) {
	if upper != "" {
		return volume.Measure(ctx, upper)
	}
	s, err := a.Runtime.ContainerStats(ctx, id)
	if err != nil {
		return volume.Used{}, fmt.Errorf("measure container %s: %w", id, err)
	}
	layer := s.GetWritableLayer()
	return volume.Used{Bytes: int64(layer.GetUsedBytes().GetValue()), Inodes: int64(layer.GetInodesUsed().GetValue())}, nil
}

// upperDirs finds where the overlays of containers write to, by the id that their mount point ends with: .../<id>/rootfs. A runtime
// may measure them itself, but containerd measures all that it has over and over or, as it is configured here, hardly ever.
func upperDirs() (map[string]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("overlay"))
	if err != nil {
		return nil, fmt.Errorf("find overlays: %w", err)
	}
	out := make(map[string]string, len(mounts))
	for _, m := range mounts {
		for option := range strings.SplitSeq(m.VFSOptions, ",") {
			if upper, ok := strings.CutPrefix(option, "upperdir="); ok {
				out[filepath.Base(filepath.Dir(m.Mountpoint))] = upper
			}
		}
	}
	return out, nil
}

// relief frees what the node is short of.
type relief struct {
	*Agent
	// last is the pod that was evicted last, and until when it is waited for.
	last  *worker
	until time.Time
}

// relieve takes one step: what nobody needs goes first, then one pod.
func (r *relief) relieve(ctx context.Context, short node.Shortage, now time.Time) {
	if r.last != nil && now.Before(r.until) && !r.last.cleaned() {
		return
	}
	r.last = nil
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.NodeName}}
	r.Recorder.EventAt(n, "", corev1.EventTypeWarning, "EvictionThresholdMet", "Attempting to reclaim %s", short.Resource)
	r.Logger.Warn("node is short", "signal", short.Signal, "threshold", short.Threshold.String(), "available", short.Available.String())
	if short.Condition == corev1.NodeDiskPressure && r.clear(ctx, now) {
		return // the next look tells whether that was enough
	}
	for _, c := range lifecycle.Rank(r.candidates(ctx, short), short.Resource) {
		w := r.worker(c.Pod.UID)
		if w == nil || !w.evict(lifecycle.NodeLow(c, short.Resource, short.Threshold, short.Available)) {
			continue
		}
		r.Logger.Warn("pod is evicted", "pod", c.Pod.Namespace+"/"+c.Pod.Name, "signal", short.Signal)
		r.last, r.until = w, now.Add(evictionPatience)
		return
	}
	r.Logger.Warn("node is short, but has no pod to evict", "signal", short.Signal)
}

// clear removes dead containers and unused images, and says whether there were any.
func (r *relief) clear(ctx context.Context, now time.Time) bool {
	dead := 0
	for _, w := range r.all() {
		dead += w.removeDead()
	}
	freed, err := r.images.RemoveUnused(ctx, now)
	if err != nil && ctx.Err() == nil {
		r.Logger.Warn("unused images stay", "err", err)
	}
	if freed > 0 {
		r.keeper.ImagesChanged()
	}
	return dead > 0 || freed > 0
}

// removeDead begins to remove the containers that have ended and are kept for their logs, but for the last ones of pods that go on,
// and returns how many there are.
func (w *worker) removeDead() (dead int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.life == nil || w.done {
		return 0
	}
	for name, records := range w.state.Containers {
		for i, c := range records {
			key := lifecycle.KeyRemove(c.ID)
			if c.Phase != lifecycle.Exited || i == 0 && !w.state.Clean || w.state.Busy[key] {
				continue
			}
			dead++
			w.removeContainer(w.life, lifecycle.Action{Verb: lifecycle.RemoveContainer, Key: key, Container: name, ID: c.ID})
		}
	}
	return dead
}

// cleaned says whether nothing of the pod is left that takes room.
func (w *worker) cleaned() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state.Clean || w.done
}

// candidates are the pods that run, with what they use of what is short.
func (r *relief) candidates(ctx context.Context, short node.Shortage) (out []lifecycle.Candidate) {
	var memory map[string]map[string]int64
	if short.Resource == corev1.ResourceMemory {
		var err error
		if memory, err = r.memory(ctx); err != nil {
			r.Logger.Warn("containers are not measured", "err", err)
		}
	}
	for _, w := range r.all() {
		pod := w.holds()
		if pod == nil {
			continue
		}
		c := lifecycle.Candidate{Pod: pod}
		switch {
		case short.Resource != corev1.ResourceMemory:
			if _, u, err := w.measure(ctx, parts{volumes: short.Files, layers: short.Layers, logs: short.Files}); err == nil {
				c.Usage = u
			}
		case memory[string(pod.UID)] != nil:
			c.Usage = &lifecycle.Usage{Containers: map[string]lifecycle.ContainerUsage{}}
			for name, bytes := range memory[string(pod.UID)] {
				c.Usage.Containers[name] = lifecycle.ContainerUsage{Memory: bytes}
			}
		}
		out = append(out, c)
	}
	return out
}

// memory is what each container holds, by pod and name.
func (r *relief) memory(ctx context.Context) (map[string]map[string]int64, error) {
	all, err := r.Runtime.ListContainerStats(ctx, &rt.ContainerStatsFilter{LabelSelector: map[string]string{spec.NodeLabel: r.NodeName}})
	if err != nil {
		return nil, err
	}
	out := map[string]map[string]int64{}
	for _, s := range all {
		labels := s.GetAttributes().GetLabels()
		uid := labels[kubelettypes.KubernetesPodUIDLabel]
		if out[uid] == nil {
			out[uid] = map[string]int64{}
		}
		out[uid][labels[kubelettypes.KubernetesContainerNameLabel]] = int64(s.GetMemory().GetWorkingSetBytes().GetValue())
	}
	return out, nil
}

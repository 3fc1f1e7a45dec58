package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/agent/cgroup"
	"github.com/kebernetes/kebernetes/agent/lifecycle"
	"github.com/kebernetes/kebernetes/agent/spec"
)

// input is what configurations of the pod depend on.
func (w *worker) input(pod *corev1.Pod, attempt uint32) spec.Input {
	in := spec.Input{
		NodeName: w.a.NodeName, SeccompDir: w.a.SeccompDir, Attempt: attempt, Now: time.Now(),
		DNS: spec.DNS{Servers: w.a.ClusterDNS, Domain: w.a.ClusterDomain},
	}
	if w.a.Dir != "" {
		// A node without the file has no servers of its own.
		in.DNS.Node, _ = os.ReadFile(w.a.ResolvConf)
	}
	if w.a.LogDir != "" {
		in.LogDir = w.a.logDir(pod)
	}
	if w.a.groups != nil {
		in.CgroupParent = w.a.groups.Pod(string(pod.UID), lifecycle.QOS(pod))
	}
	return in
}

func (a *Agent) logDir(pod *corev1.Pod) string {
	return filepath.Join(a.LogDir, spec.LogDir(pod.Namespace, pod.Name, string(pod.UID)))
}

// firstRetry and lastRetry bound the wait after a failed sandbox.
const (
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// runSandbox makes the pod's control group, its log directory and its sandbox.
func (w *worker) runSandbox(ctx context.Context, action lifecycle.Action) {
	pod := w.pod
	delay := firstRetry
	if f := w.state.SandboxFailure; f != nil {
		delay = min(2*f.Delay, lastRetry)
	}
	w.do(ctx, action.Key, func(ctx context.Context) func() {
		sandbox, config, err := w.makeSandbox(ctx, pod, action.Attempt)
		return func() {
			if errors.Is(err, context.Canceled) {
				return // the pod's end came first
			}
			if err != nil {
				if ctx.Err() == nil {
					w.event(corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: "+err.Error())
				}
				w.state.SandboxFailure = &lifecycle.Failure{Reason: "FailedCreatePodSandBox", Message: err.Error(), Delay: delay, Retry: time.Now().Add(delay)}
				return
			}
			w.config = config
			w.state.SandboxFailure = nil
			w.state.Sandboxes = append([]lifecycle.Sandbox{sandbox}, w.state.Sandboxes...)
		}
	})
}

func (w *worker) makeSandbox(ctx context.Context, pod *corev1.Pod, attempt uint32) (lifecycle.Sandbox, *rt.PodSandboxConfig, error) {
	config, err := spec.Sandbox(pod, w.input(pod, attempt))
	if err != nil {
		return lifecycle.Sandbox{}, nil, err
	}
	if w.a.groups != nil {
		if err := w.a.groups.Ensure(config.Linux.CgroupParent, podLimits(pod)); err != nil {
			return lifecycle.Sandbox{}, nil, err
		}
		if lifecycle.QOS(pod) == corev1.PodQOSBurstable {
			w.a.weigh()
		}
	}
	if config.LogDirectory != "" {
		if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
			return lifecycle.Sandbox{}, nil, fmt.Errorf("log directory: %w", err)
		}
	}
	handler := ""
	if name := pod.Spec.RuntimeClassName; name != nil && *name != "" {
		if handler, err = w.a.handler(ctx, *name); err != nil {
			return lifecycle.Sandbox{}, nil, err
		}
	}
	done, err := w.turn(sandboxTurn, pod)
	if err != nil {
		return lifecycle.Sandbox{}, nil, err
	}
	defer done()
	id, err := w.a.Runtime.RunPodSandbox(ctx, config, handler)
	if err != nil {
		return lifecycle.Sandbox{}, nil, err
	}
	status, err := w.a.Runtime.PodSandboxStatus(ctx, id)
	if err != nil {
		// Nobody would know of it, and the next try could not have its name.
		return lifecycle.Sandbox{}, nil, errors.Join(err, w.a.Runtime.RemovePodSandbox(context.WithoutCancel(ctx), id))
	}
	return lifecycle.Sandbox{ID: id, Attempt: attempt, Ready: status.State == rt.PodSandboxState_SANDBOX_READY, IPs: sandboxIPs(status)}, config, nil
}

// podLimits are those of the whole pod: a limit only when every container has one.
func podLimits(pod *corev1.Pod) cgroup.Limits {
	requests, limits := lifecycle.Requests(pod), lifecycle.Limits(pod)
	cpu := requests[corev1.ResourceCPU]
	out := cgroup.Limits{Shares: spec.Shares(&cpu)}
	bounded := func(name corev1.ResourceName) bool {
		if r := pod.Spec.Resources; r != nil {
			if _, ok := r.Limits[name]; ok {
				return true
			}
		}
		return !slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool {
			q, ok := c.Resources.Limits[name]
			return !ok || q.IsZero()
		})
	}
	if bounded(corev1.ResourceCPU) {
		q := limits[corev1.ResourceCPU]
		out.Quota = spec.Quota(&q)
	}
	if bounded(corev1.ResourceMemory) {
		q := limits[corev1.ResourceMemory]
		out.Memory = q.Value()
	}
	return out
}

// adopt takes up the life of containers that a former agent left running.
func (w *worker) adopt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hold()
	for i := range w.pod.Spec.Containers {
		w.seed(&w.pod.Spec.Containers[i])
	}
	for i := range w.pod.Spec.InitContainers {
		w.seed(&w.pod.Spec.InitContainers[i])
	}
	sandbox := w.state.Current()
	if sandbox == nil {
		return
	}
	config, err := spec.Sandbox(w.pod, w.input(w.pod, sandbox.Attempt))
	if err != nil {
		w.a.Logger.Warn("adopted sandbox", "pod", lifecycle.PodText(w.pod), "err", err)
		return
	}
	w.config = config
	for name, records := range w.state.Containers {
		c := find(w.pod, name)
		for _, r := range records {
			if c == nil || r.Phase != lifecycle.Running {
				continue
			}
			w.paths[r.ID] = filepath.Join(config.LogDirectory, name, fmt.Sprintf("%d.log", r.Attempt))
			if c.ReadinessProbe == nil && c.StartupProbe == nil {
				r.Ready, r.Started = true, true
			}
			w.watch(c, r)
		}
	}
}

package agent

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/agent/lifecycle"
	"github.com/kebernetes/kebernetes/agent/probe"
)

// hook runs a lifecycle handler until it ends or ctx does.
func (a *Agent) hook(ctx context.Context, h *corev1.LifecycleHandler, t probe.Target) error {
	switch {
	case h.Exec != nil:
		timeout := time.Duration(0)
		if deadline, ok := ctx.Deadline(); ok {
			timeout = max(time.Until(deadline), time.Second)
		}
		resp, err := a.Runtime.ExecSync(ctx, t.ID, h.Exec.Command, timeout)
		if err != nil {
			return err
		}
		if resp.ExitCode != 0 {
			return fmt.Errorf("command '%s' exited with %d: %s", strings.Join(h.Exec.Command, " "), resp.ExitCode, append(resp.Stdout, resp.Stderr...))
		}
		return nil
	case h.HTTPGet != nil:
		return a.httpHook(ctx, h.HTTPGet, t)
	case h.Sleep != nil:
		timer := time.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return nil
		}
	}
	return fmt.Errorf("invalid handler: %v", h)
}

// httpHook asks once; an HTTPS handler that is answered in plain HTTP is asked again so, as upstream does.
func (a *Agent) httpHook(ctx context.Context, get *corev1.HTTPGetAction, t probe.Target) error {
	client := probe.Client(0)
	defer client.CloseIdleConnections()
	ask := func(get *corev1.HTTPGetAction) error {
		req, err := probe.Request(ctx, get, t, "kube-lifecycle/"+minor(a.Version))
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, 10<<10))
		if err == nil && resp.StatusCode >= http.StatusBadRequest {
			err = fmt.Errorf("HTTP status %d: %s", resp.StatusCode, body)
		}
		return err
	}
	err := ask(get)
	if err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		plain := *get
		plain.Scheme = corev1.URISchemeHTTP
		return ask(&plain)
	}
	return err
}

// postStart runs the hook of a container that was just started; until it ends the container does not count as running. The lock is held.
func (w *worker) postStart(c *corev1.Container, r *lifecycle.Container) {
	pod, id := w.podWithIPs(), r.ID
	t := probe.Target{Container: c, ID: id, IP: pod.Status.PodIP}
	w.do(w.life, "poststart/"+id, func(ctx context.Context) func() {
		err := w.a.hook(ctx, c.Lifecycle.PostStart, t)
		return func() {
			r := w.state.Find(id)
			if r == nil {
				return
			}
			r.PostStart = false
			if err == nil {
				if r.Phase == lifecycle.Running {
					w.watch(c, r)
				}
				return
			}
			if ctx.Err() != nil {
				return
			}
			w.a.Logger.Info("postStart hook failed", "pod", pod.Namespace+"/"+pod.Name, "container", c.Name, "err", err)
			w.tell(pod, c.Name, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
			r.Unhealthy = "FailedPostStartHook"
			w.state.Waiting[c.Name] = &lifecycle.Failure{Reason: "PostStartHookError", Message: "PostStartHook failed"}
		}
	})
}

// watch begins a container's probes. One without readiness probe is ready at once, one without startup probe started. The
// lock is held.
func (w *worker) watch(c *corev1.Container, r *lifecycle.Container) {
	if w.probes[r.ID] != nil {
		return
	}
	if c.StartupProbe == nil {
		r.Started = true
	}
	if c.ReadinessProbe == nil {
		r.Ready = true
	}
	if c.StartupProbe == nil && c.ReadinessProbe == nil && c.LivenessProbe == nil {
		return
	}
	ctx, cancel := context.WithCancel(w.life)
	w.probes[r.ID] = cancel
	p := &prober{w: w, c: c, id: r.ID, started: r.StartedAt, pod: w.podWithIPs()}
	if c.StartupProbe != nil && !r.Started {
		p.watch(ctx, probe.Startup, c.StartupProbe)
		return
	}
	p.rest(ctx)
}

// prober runs the probes of one container.
type prober struct {
	w       *worker
	c       *corev1.Container
	pod     *corev1.Pod
	id      string
	started time.Time
}

// rest begins the probes that wait for the startup probe.
func (p *prober) rest(ctx context.Context) {
	if p.c.ReadinessProbe != nil {
		p.watch(ctx, probe.Readiness, p.c.ReadinessProbe)
	}
	if p.c.LivenessProbe != nil {
		p.watch(ctx, probe.Liveness, p.c.LivenessProbe)
	}
}

func (p *prober) watch(ctx context.Context, kind probe.Kind, spec *corev1.Probe) {
	t := probe.Target{Container: p.c, ID: p.id, IP: p.pod.Status.PodIP}
	p.w.wait.Go(func() {
		p.w.a.checker.Watch(ctx, kind, spec, t, p.started,
			func(ok bool, _ string) { p.verdict(ctx, kind, spec, ok) },
			func(reason, message string) { p.w.tell(p.pod, p.c.Name, corev1.EventTypeWarning, reason, message) })
	})
}

// verdict takes in what a probe decided.
func (p *prober) verdict(ctx context.Context, kind probe.Kind, spec *corev1.Probe, ok bool) {
	w := p.w
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.state.Find(p.id)
	if r == nil || r.Phase != lifecycle.Running || ctx.Err() != nil {
		return
	}
	switch {
	case kind == probe.Readiness:
		r.Ready = ok
	case kind == probe.Startup && ok:
		r.Started = true
		p.rest(ctx)
	case !ok:
		r.Unhealthy = fmt.Sprintf("Container %s failed %s probe", p.c.Name, strings.ToLower(string(kind)))
		r.Grace = spec.TerminationGracePeriodSeconds
	}
	w.poke()
}

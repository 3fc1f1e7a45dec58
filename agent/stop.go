package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/agent/lifecycle"
	"github.com/kebernetes/kebernetes/agent/probe"
	"github.com/kebernetes/kebernetes/client"
)

// leastGrace is what a container has between SIGTERM and SIGKILL even when its preStop hook took all of the grace.
const leastGrace = 2 * time.Second

// stopContainer runs the preStop hook, waits until the pod's endpoints are withdrawn, and stops the container, all within
// its grace.
func (w *worker) stopContainer(ctx context.Context, action lifecycle.Action) {
	r := w.state.Find(action.ID)
	again := !r.Stopping.IsZero()
	r.Stopping = action.Deadline
	pod := w.podWithIPs()
	c := find(pod, action.Container)
	withdrawn := w.withdrawn
	t := probe.Target{Container: c, ID: action.ID, IP: pod.Status.PodIP}
	if !again {
		message := action.Message
		if message == "" {
			message = "Stopping container " + action.Container
		}
		w.tell(pod, action.Container, corev1.EventTypeNormal, "Killing", message)
	}
	w.do(ctx, action.Key, func(ctx context.Context) func() {
		w.beforeTerm(ctx, pod, t, action.Deadline, again, withdrawn)
		if ctx.Err() != nil {
			return nil
		}
		var status *rt.ContainerStatus
		retry(ctx, func(ctx context.Context) error {
			if err := w.a.Runtime.StopContainer(ctx, action.ID, max(time.Until(action.Deadline), leastGrace)); err != nil {
				return err
			}
			var err error
			status, err = w.a.Runtime.ContainerStatus(ctx, action.ID)
			return err
		}, func(err error) {
			w.a.Logger.Warn("container is not stopped yet", "pod", pod.Namespace+"/"+pod.Name, "container", action.Container, "err", err)
		})
		if status == nil {
			return nil
		}
		record := w.a.record(status, "")
		return func() { w.merge(record) }
	})
}

// beforeTerm does what comes before SIGTERM: the preStop hook, once, while the endpoints are withdrawn.
func (w *worker) beforeTerm(ctx context.Context, pod *corev1.Pod, t probe.Target, deadline time.Time, again bool, withdrawn <-chan struct{}) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if c := t.Container; c != nil && !again && c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		if err := w.a.hook(ctx, c.Lifecycle.PreStop, t); err != nil && !errors.Is(ctx.Err(), context.Canceled) {
			w.a.Logger.Info("preStop hook failed", "pod", pod.Namespace+"/"+pod.Name, "container", c.Name, "err", err)
			w.tell(pod, c.Name, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
		}
	}
	if withdrawn != nil {
		select {
		case <-withdrawn:
		case <-ctx.Done():
		}
	}
}

// removeContainer removes a dead container, its log and its termination message.
func (w *worker) removeContainer(ctx context.Context, action lifecycle.Action) {
	name, id := action.Container, action.ID
	logs, message := "", ""
	if r := w.state.Find(id); r != nil {
		if w.a.LogDir != "" {
			logs = fmt.Sprintf("%s/%s/%d.log", w.a.logDir(w.pod), name, r.Attempt)
		}
		if w.a.Dir != "" {
			message = w.a.messageFile(w.uid, name, r.Attempt)
		}
	}
	w.do(ctx, action.Key, func(ctx context.Context) func() {
		if !retry(ctx, func(ctx context.Context) error { return w.a.Runtime.RemoveContainer(ctx, id) }, func(err error) {
			w.a.Logger.Warn("dead container stays", "container", id, "err", err)
		}) {
			return nil
		}
		var files []string
		if logs != "" {
			files, _ = filepath.Glob(logs + "*") // with those that rotation set aside
		}
		if message != "" {
			files = append(files, message)
		}
		for _, file := range files {
			if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
				w.a.Logger.Warn("file of a removed container stays", "path", file, "err", err)
			}
		}
		return func() { w.drop(name, id) }
	})
}

// sandboxIDs are those of all sandboxes of the pod. The lock is held.
func (w *worker) sandboxIDs() []string {
	ids := make([]string, len(w.state.Sandboxes))
	for i := range w.state.Sandboxes {
		ids[i] = w.state.Sandboxes[i].ID
	}
	return ids
}

// clean takes away all of an ended pod but its dead containers and their logs.
func (w *worker) clean(ctx context.Context, action lifecycle.Action) {
	pod := w.pod
	ids := w.sandboxIDs()
	w.do(ctx, action.Key, func(ctx context.Context) func() {
		ok := retry(ctx, func(ctx context.Context) error {
			for _, id := range ids {
				if err := w.a.Runtime.StopPodSandbox(ctx, id); err != nil {
					return fmt.Errorf("stop sandbox: %w", err)
				}
			}
			if err := w.a.Volumes.Unmount(ctx, pod.UID); err != nil {
				return err
			}
			if w.a.groups != nil {
				return w.a.groups.Remove(string(pod.UID))
			}
			return nil
		}, func(err error) {
			w.a.Logger.Warn("ended pod is not cleaned up yet", "pod", pod.Namespace+"/"+pod.Name, "err", err)
		})
		return func() {
			if !ok {
				return
			}
			w.state.Clean = true
			for i := range w.state.Sandboxes {
				w.state.Sandboxes[i].Ready = false
			}
		}
	})
}

// finish writes the last status and deletes the object for good.
func (w *worker) finish(ctx context.Context, action lifecycle.Action) {
	if w.writing {
		return // the end of that write asks again
	}
	w.do(ctx, action.Key, func(ctx context.Context) func() {
		gone := false
		done := retry(ctx, func(ctx context.Context) (err error) {
			gone, err = w.bury(ctx)
			return err
		}, func(err error) {
			w.a.Logger.Warn("ended pod is not deleted yet", "uid", w.uid, "err", err)
		})
		return func() {
			w.state.Finished = done
			w.state.Gone = w.state.Gone || gone
		}
	})
}

// bury brings the status up to date and deletes the object. Finalizers may keep it for a while: then gone is false, and its
// deletion comes through the feed.
func (w *worker) bury(ctx context.Context) (gone bool, err error) {
	w.mu.Lock()
	pod := w.pod
	status := lifecycle.Status(pod, w.state, *w.a.host.Load(), time.Now())
	w.mu.Unlock()
	if !equality.Semantic.DeepEqual(status, pod.Status) {
		written, err := w.write(ctx, pod, status)
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) && w.replaced(ctx, pod) {
			return true, nil
		}
		w.mu.Lock()
		if apierrors.IsConflict(err) {
			w.refetch(ctx, pod)
		} else if err == nil && newer(written, w.pod) {
			w.pod = written
		}
		w.mu.Unlock()
		if err != nil {
			return false, err
		}
	}
	zero, uid := int64(0), w.uid
	err = client.Remove[*corev1.Pod](ctx, w.a.Client, pod.Namespace, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &uid},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return true, nil // another pod may have the name by now
	}
	return false, err
}

// replaced says whether the object is gone, whatever has its name by now. The API refuses its status as a conflict then.
func (w *worker) replaced(ctx context.Context, pod *corev1.Pod) bool {
	now, err := client.Get[*corev1.Pod](ctx, w.a.Client, pod.Namespace, pod.Name)
	return apierrors.IsNotFound(err) || err == nil && now.UID != w.uid
}

// forget removes the last traces of a pod whose object is gone, and ends the worker.
func (w *worker) forget(ctx context.Context, action lifecycle.Action) {
	pod := w.pod
	ids := w.sandboxIDs()
	w.do(ctx, action.Key, func(ctx context.Context) func() {
		ok := retry(ctx, func(ctx context.Context) error {
			for _, id := range ids {
				if err := w.a.Runtime.RemovePodSandbox(ctx, id); err != nil {
					return fmt.Errorf("remove sandbox: %w", err)
				}
			}
			if w.a.LogDir != "" {
				return os.RemoveAll(w.a.logDir(pod))
			}
			return nil
		}, func(err error) {
			w.a.Logger.Warn("pod is not removed yet", "pod", pod.Namespace+"/"+pod.Name, "err", err)
		})
		return func() { w.done = ok }
	})
}

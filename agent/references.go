package agent

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/volume"
)

// reference names a ConfigMap or Secret of a pod's namespace.
type reference struct{ resource, name string }

const (
	configMaps = "configmaps"
	secrets    = "secrets"
)

// references are the ConfigMaps and Secrets that a pod's volumes and environments are made of. Those of image pulls are not among them:
// they are read when an image is pulled.
func references(pod *corev1.Pod) map[reference]bool {
	out := map[reference]bool{}
	for kind, name := range volume.References(pod) {
		if kind == "ConfigMap" {
			out[reference{configMaps, name}] = true
		} else {
			out[reference{secrets, name}] = true
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			environment(out, list[i].Env, list[i].EnvFrom)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		environment(out, pod.Spec.EphemeralContainers[i].Env, pod.Spec.EphemeralContainers[i].EnvFrom)
	}
	delete(out, reference{configMaps, ""})
	delete(out, reference{secrets, ""})
	return out
}

func environment(out map[reference]bool, env []corev1.EnvVar, from []corev1.EnvFromSource) {
	for i := range env {
		v := env[i].ValueFrom
		if v == nil {
			continue
		}
		if v.ConfigMapKeyRef != nil {
			out[reference{configMaps, v.ConfigMapKeyRef.Name}] = true
		}
		if v.SecretKeyRef != nil {
			out[reference{secrets, v.SecretKeyRef.Name}] = true
		}
	}
	for i := range from {
		if from[i].ConfigMapRef != nil {
			out[reference{configMaps, from[i].ConfigMapRef.Name}] = true
		}
		if from[i].SecretRef != nil {
			out[reference{secrets, from[i].SecretRef.Name}] = true
		}
	}
}

// hold keeps what the pod refers to, and nothing else, in the node's copy: changes come by it, and reads need no server. A pod that
// has ended holds nothing. The lock is held.
func (w *worker) hold() {
	if w.a.Follower == nil {
		return
	}
	var wanted map[reference]bool
	if !w.done && !ended(w.pod) {
		wanted = references(w.pod)
	}
	for r, h := range w.sources {
		if !wanted[r] {
			h.Release()
			delete(w.sources, r)
		}
	}
	for r := range wanted {
		if w.sources[r] == nil {
			if w.sources == nil {
				w.sources = map[reference]*client.Hold{}
			}
			w.sources[r] = w.a.Follower.Follow(r.resource, w.pod.Namespace, r.name, "")
		}
	}
}

// ended says whether the pod's containers are over and will not be started again.
func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// become makes a newer state of the pod the worker's. The lock is held.
func (w *worker) become(pod *corev1.Pod) {
	old := w.pod
	w.pod = pod
	if old.Generation != pod.Generation || old.Status.Phase != pod.Status.Phase {
		w.hold()
	}
}

// letGo releases all that the pod holds.
func (w *worker) letGo() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.sources {
		h.Release()
	}
	w.sources = nil
}

package workloads

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

const (
	// RestartIdentity is the service account in kube-system that the restarts act as. It is not one of upstream's.
	RestartIdentity = "config-restart-controller"
	// RestartOnChange, set to "true" on a Deployment, a StatefulSet or a DaemonSet, has its pods replaced, as its update
	// strategy says, when the contents of a ConfigMap or a Secret change that its pods read.
	RestartOnChange = "keb.dev/restart-on-config-change"
	// ConfigHash tells what those contents were: on the workload as last seen, on its template as its pods were started for.
	ConfigHash = "keb.dev/config-hash"
)

// Restarts replaces the pods of the workloads that ask for it (RestartOnChange) when what they read has changed. A workload
// that asks anew is left as it runs. While a ConfigMap or Secret is missing that its pods cannot do without, nothing is
// restarted: the new pods could not start. key keeps the hashes, which more people may read than Secrets, from telling
// anything of the contents; it must be the same after a restart of the process.
func Restarts(env controller.Env, key []byte) *controller.Loop {
	c := env.Client(RestartIdentity)
	r := &restarts{
		client: c, key: key, events: client.NewRecorder(c, RestartIdentity, env.Logger),
		byResource: map[string]*restartable{},
	}
	watches := []controller.Watch{
		watchRestartable(r, func(d *appsv1.Deployment) *corev1.PodTemplateSpec { return &d.Spec.Template }),
		watchRestartable(r, func(s *appsv1.StatefulSet) *corev1.PodTemplateSpec { return &s.Spec.Template }),
		watchRestartable(r, func(d *appsv1.DaemonSet) *corev1.PodTemplateSpec { return &d.Spec.Template }),
		{Resource: client.ResourceOf[*corev1.ConfigMap](c), Keys: r.readersOf("ConfigMap")},
		{Resource: client.ResourceOf[*corev1.Secret](c), Keys: r.readersOf("Secret")},
	}
	return env.NewLoop(c, controller.Controller{Name: RestartIdentity, Workers: 1, Watches: watches, Reconcile: r.reconcile})
}

type restarts struct {
	client     *client.Client
	key        []byte
	events     *client.Recorder
	byResource map[string]*restartable
}

// restartable is one kind of workload.
type restartable struct {
	readers  *controller.Index // by ConfigMap and Secret; only those that ask for restarts
	find     func(namespace, name string) (client.Object, bool)
	template func(client.Object) *corev1.PodTemplateSpec
	patch    func(ctx context.Context, namespace, name string, patch []byte) error
}

func watchRestartable[T client.Object](r *restarts, template func(T) *corev1.PodTemplateSpec) controller.Watch {
	resource := client.ResourceOf[T](r.client)
	w := &restartable{
		find: func(namespace, name string) (client.Object, bool) {
			return client.From[T](r.client, r.client.Snapshot(), namespace, name)
		},
		template: func(obj client.Object) *corev1.PodTemplateSpec { return template(obj.(T)) },
		patch: func(ctx context.Context, namespace, name string, patch []byte) error {
			_, err := client.Patch[T](ctx, r.client, namespace, name, "", types.MergePatchType, patch)
			return err
		},
	}
	w.readers = controller.NewIndex(func(obj client.Object, add func(controller.Group)) {
		if obj.GetAnnotations()[RestartOnChange] != "true" {
			return
		}
		for ref := range configsOf(&w.template(obj).Spec) {
			add(controller.Group{ref.kind, obj.GetNamespace(), ref.name})
		}
	})
	r.byResource[resource] = w
	return controller.Watch{Resource: resource, Index: w.readers, Keys: func(ev client.Event, add func(controller.Key)) {
		if ev.Type == client.Put && ev.Item.Object.GetAnnotations()[RestartOnChange] == "true" {
			add(ev.Item.Key)
		}
	}}
}

// readersOf leads from a ConfigMap or Secret to the workloads that read it.
func (r *restarts) readersOf(kind string) func(client.Event, func(controller.Key)) {
	return func(ev client.Event, add func(controller.Key)) {
		group := controller.Group{kind, ev.Item.Key.Namespace, ev.Item.Key.Name}
		for resource, w := range r.byResource {
			for _, obj := range controller.Indexed[client.Object](w.readers, group) {
				add(controller.Key{Resource: resource, Namespace: obj.GetNamespace(), Name: obj.GetName()})
			}
		}
	}
}

func (r *restarts) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	w := r.byResource[key.Resource]
	obj, ok := w.find(key.Namespace, key.Name)
	if !ok || obj.GetDeletionTimestamp() != nil || obj.GetAnnotations()[RestartOnChange] != "true" {
		return 0, nil
	}
	hash, complete := r.hash(obj.GetNamespace(), configsOf(&w.template(obj).Spec))
	before := obj.GetAnnotations()[ConfigHash]
	if !complete || before == hash {
		return 0, nil
	}
	change := map[string]any{"metadata": map[string]any{
		"uid": obj.GetUID(), "resourceVersion": obj.GetResourceVersion(), "annotations": map[string]string{ConfigHash: hash},
	}}
	if before != "" {
		change["spec"] = map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": map[string]string{ConfigHash: hash}}}}
	}
	patch, err := json.Marshal(change)
	if err != nil {
		return 0, err
	}
	if err := w.patch(ctx, obj.GetNamespace(), obj.GetName(), patch); err != nil {
		if gone(err) {
			return 0, nil
		}
		return 0, fmt.Errorf("restart %s/%s: %w", obj.GetNamespace(), obj.GetName(), err)
	}
	if before != "" {
		r.events.Event(obj, corev1.EventTypeNormal, "ConfigChanged", "Replacing the pods, as a ConfigMap or Secret that they read has changed")
	}
	return 0, nil
}

// hash sums up the contents of all that is referred to. complete is false when something is missing that must be there.
func (r *restarts) hash(namespace string, refs map[configRef]optional) (sum string, complete bool) {
	snap := r.client.Snapshot()
	h := hmac.New(sha256.New, r.key)
	out := json.NewEncoder(h) // sorts the keys of maps
	sorted := slices.SortedFunc(maps.Keys(refs), compareRefs)
	for _, ref := range sorted {
		var contents any
		if ref.kind == "Secret" {
			if s, ok := client.From[*corev1.Secret](r.client, snap, namespace, ref.name); ok {
				contents = s.Data
			}
		} else if m, ok := client.From[*corev1.ConfigMap](r.client, snap, namespace, ref.name); ok {
			contents = []any{m.Data, m.BinaryData}
		}
		if contents == nil && !refs[ref] {
			return "", false
		}
		// Strings and maps of strings and bytes can always be encoded, and a hash always written to.
		_ = out.Encode([]any{ref.kind, ref.name, contents})
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), true
}

// configRef names a ConfigMap or a Secret of the workload's namespace.
type configRef struct{ kind, name string }

// optional says that pods start without it.
type optional bool

func compareRefs(a, b configRef) int {
	return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name))
}

// configsOf collects the ConfigMaps and Secrets whose contents a pod's containers see, in their environment or as files.
func configsOf(spec *corev1.PodSpec) map[configRef]optional {
	refs := map[configRef]optional{}
	add := func(kind, name string, without *bool) {
		ref, opt := configRef{kind, name}, optional(ptr.Deref(without, false))
		if before, seen := refs[ref]; seen {
			opt = opt && before
		}
		refs[ref] = opt
	}
	for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range containers {
			environment(&containers[i], add)
		}
	}
	for i := range spec.Volumes {
		v := &spec.Volumes[i]
		if s := v.ConfigMap; s != nil {
			add("ConfigMap", s.Name, s.Optional)
		}
		if s := v.Secret; s != nil {
			add("Secret", s.SecretName, s.Optional)
		}
		if v.Projected == nil {
			continue
		}
		for _, source := range v.Projected.Sources {
			if s := source.ConfigMap; s != nil {
				add("ConfigMap", s.Name, s.Optional)
			}
			if s := source.Secret; s != nil {
				add("Secret", s.Name, s.Optional)
			}
		}
	}
	return refs
}

func environment(c *corev1.Container, add func(kind, name string, without *bool)) {
	for i := range c.Env {
		from := c.Env[i].ValueFrom
		if from == nil {
			continue
		}
		if s := from.ConfigMapKeyRef; s != nil {
			add("ConfigMap", s.Name, s.Optional)
		}
		if s := from.SecretKeyRef; s != nil {
			add("Secret", s.Name, s.Optional)
		}
	}
	for _, from := range c.EnvFrom {
		if s := from.ConfigMapRef; s != nil {
			add("ConfigMap", s.Name, s.Optional)
		}
		if s := from.SecretRef; s != nil {
			add("Secret", s.Name, s.Optional)
		}
	}
}

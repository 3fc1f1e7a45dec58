package apiserver

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/apiserver/wire"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

var scaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// scale reads or changes the replica count of an object, seen as a Scale.
func (rq *request) scale() error {
	m, err := rq.accept(true)
	if err != nil {
		return err
	}
	var item *store.Item
	switch rq.verb {
	case "get":
		ns, name := rq.storedName()
		item, err = rq.s.read(rq.kind, ns, name)
	case "update":
		item, err = rq.updateScale()
	case "patch":
		item, err = rq.patchScale()
	default:
		err = methodNotAllowed()
	}
	if err != nil {
		return err
	}
	if m.Shape != wire.Objects {
		return &wire.NotAcceptable
	}
	return rq.answerObject(http.StatusOK, scaleOf(rq.kind, item.Object), scaleKind, m)
}

// scaleOf is an object's Scale, under the object's metadata.
func scaleOf(k *kinds.Kind, obj store.Object) *autoscalingv1.Scale {
	sc := k.Scale.Get(obj)
	sc.ObjectMeta = metav1.ObjectMeta{
		Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
		ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp(),
	}
	return sc
}

func (rq *request) updateScale() (*store.Item, error) {
	o, err := rq.updateOptions()
	if err != nil {
		return nil, err
	}
	sc := &autoscalingv1.Scale{}
	if err := rq.decode(sc, scaleKind, o.FieldValidation); err != nil {
		return nil, err
	}
	w := rq.writeOf(o.FieldManager, o.DryRun)
	return rq.s.setScale(rq.ctx, w, func(*store.Item) (*autoscalingv1.Scale, error) { return sc, nil })
}

func (rq *request) patchScale() (*store.Item, error) {
	p, o, err := rq.readPatch()
	if err != nil {
		return nil, err
	}
	w := rq.writeOf(o.FieldManager, o.DryRun)
	if p.Type == types.ApplyYAMLPatchType {
		return rq.applyScale(w, p, o.Force != nil && *o.Force)
	}
	return rq.s.setScale(rq.ctx, w, func(current *store.Item) (*autoscalingv1.Scale, error) {
		before := scaleOf(rq.kind, current.Object)
		before.SetGroupVersionKind(scaleKind)
		j, err := json.Marshal(before)
		if err != nil {
			return nil, err
		}
		sc := &autoscalingv1.Scale{}
		return sc, p.Apply(j, sc, scaleKind)
	})
}

// setScale changes the replica count as a Scale says.
func (s *Server) setScale(ctx context.Context, w *write, f func(*store.Item) (*autoscalingv1.Scale, error)) (*store.Item, error) {
	return s.modify(ctx, s.scaleWrite(w), func(current *store.Item) (kinds.Object, error) {
		sc, err := f(current)
		if err != nil {
			return nil, err
		}
		if err := w.named(sc); err != nil {
			return nil, err
		}
		if sc.UID != "" && sc.UID != current.Object.GetUID() {
			return nil, uidConflict(w.kind, w.namespace, w.name, string(sc.UID), string(current.Object.GetUID()))
		}
		if sc.Spec.Replicas < 0 {
			return nil, invalid(scaleKind.GroupKind(), sc.Name, field.ErrorList{
				field.Invalid(field.NewPath("spec", "replicas"), sc.Spec.Replicas, "must be greater than or equal to 0")})
		}
		obj := current.Object.DeepCopyObject().(kinds.Object)
		obj.SetResourceVersion(sc.ResourceVersion)
		w.kind.Scale.SetReplicas(obj, sc.Spec.Replicas)
		return obj, nil
	})
}

// scaleWrite is a write of the main resource whose fields are recorded as the scale subresource's.
func (s *Server) scaleWrite(w *write) *write {
	out := *w
	sub := *w.sub
	sub.PrepareUpdate, sub.ValidateUpdate = w.kind.PrepareUpdate, w.kind.ValidateUpdate
	out.sub = &sub
	return &out
}

// applyScale applies a Scale: the replica count becomes the manager's.
func (rq *request) applyScale(w *write, p *wire.Patch, force bool) (*store.Item, error) {
	intent, err := p.Intent(&autoscalingv1.Scale{})
	if err != nil {
		return nil, err
	}
	if intent.GroupVersionKind() != scaleKind {
		return nil, apierrors.NewBadRequest("invalid object type: " + intent.GroupVersionKind().String())
	}
	parent := &unstructured.Unstructured{Object: map[string]any{}}
	parent.SetGroupVersionKind(w.gvkOf())
	parent.SetName(intent.GetName())
	parent.SetNamespace(intent.GetNamespace())
	parent.SetResourceVersion(intent.GetResourceVersion())
	if replicas, ok, _ := unstructured.NestedInt64(intent.Object, "spec", "replicas"); ok {
		path := strings.Split(strings.Trim(w.kind.Scale.ReplicasPath[w.served.Name], "."), ".")
		if err := unstructured.SetNestedField(parent.Object, replicas, path...); err != nil {
			return nil, err
		}
	}
	a := rq.s.scaleWrite(w)
	a.unlocked = true
	return rq.s.modify(rq.ctx, a, func(current *store.Item) (kinds.Object, error) {
		obj, err := rq.s.merge(w, current.Object, parent, force)
		if err != nil {
			return nil, err
		}
		return obj, a.named(obj)
	})
}

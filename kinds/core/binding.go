package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// Binding is the row of bindings, which assign a pod to a node and are never stored.
func Binding() *kinds.Kind {
	return &kinds.Kind{
		Kind:       "Binding",
		Resource:   "bindings",
		Namespaced: true,
		Virtual:    true,
		Verbs:      []string{"create"},
		Versions: []kinds.Version{{
			Name: "v1", New: func() kinds.Object { return new(corev1.Binding) }, Storage: true,
		}},
		Validate: kinds.Check(ValidateBinding),
	}
}

// ValidateBinding checks the target of a binding; it is also the check of pods/binding.
func ValidateBinding(b *corev1.Binding) field.ErrorList {
	var r check.Report
	at := field.NewPath("target")
	// A target without a kind is a node, for clients older than the field.
	if kind := b.Target.Kind; kind != "" && kind != "Node" {
		r.Add(field.NotSupported(at.Child("kind"), kind, []string{"Node", "<empty>"}))
	}
	r.Present(at.Child("name"), b.Target.Name)
	return r.Errs
}

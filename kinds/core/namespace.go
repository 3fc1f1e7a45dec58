package core

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// Namespace is the row of namespaces. A namespace goes when spec.finalizers is empty, which only finalize can change.
func Namespace() *kinds.Kind {
	return &kinds.Kind{
		Kind:                "Namespace",
		Resource:            "namespaces",
		ShortNames:          []string{"ns"},
		Versions:            []kinds.Version{kinds.V[corev1.Namespace, corev1.NamespaceList]("v1")},
		Verbs:               []string{"create", "delete", "get", "list", "patch", "update", "watch"},
		ValidateName:        apivalidation.ValidateNamespaceName,
		Default:             kinds.On(defaultNamespace),
		PrepareCreate:       kinds.On(prepareNamespace),
		PrepareUpdate:       kinds.OnUpdate(prepareNamespaceUpdate),
		Validate:            kinds.Check(validateNamespace),
		UnconditionalUpdate: true,
		FieldLabels:         []string{"status.phase"},
		Fields: kinds.Select(func(ns *corev1.Namespace) fields.Set {
			return fields.Set{"metadata.name": ns.Name, "status.phase": string(ns.Status.Phase)}
		}),
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(), kinds.Column("Status", "string", "The status of the namespace"), kinds.AgeColumn(),
		},
		Cells: kinds.Print(func(ns *corev1.Namespace, now metav1.Time) []any {
			return []any{ns.Name, string(ns.Status.Phase), kinds.Age(ns.CreationTimestamp, now)}
		}),
		ResetFields: map[string][]string{"v1": {"status"}},
		Subresources: []kinds.Subresource{
			{
				Name:  "finalize",
				Verbs: []string{"update"},
				PrepareUpdate: kinds.OnUpdate(func(ns, old *corev1.Namespace) {
					ns.Status = old.Status
				}),
				ValidateUpdate: kinds.CheckUpdate(func(ns, _ *corev1.Namespace) field.ErrorList {
					var r check.Report
					for i, f := range ns.Spec.Finalizers {
						finalizerName(&r, field.NewPath("spec", "finalizers").Index(i), f)
					}
					return r.Errs
				}),
				ResetFields: map[string][]string{"v1": {"status"}},
			},
			{
				Name:           "status",
				Verbs:          kinds.ReadWrite(),
				PrepareUpdate:  kinds.OnUpdate(func(ns, old *corev1.Namespace) { ns.Spec = old.Spec }),
				ValidateUpdate: kinds.CheckUpdate(validateNamespaceStatus),
				ResetFields:    map[string][]string{"v1": {"spec"}},
			},
		},
	}
}

// defaultNamespace keeps the label that lets selectors name a namespace.
func defaultNamespace(ns *corev1.Namespace) {
	if ns.Name == "" || ns.Labels[corev1.LabelMetadataName] == ns.Name {
		return
	}
	if ns.Labels == nil {
		ns.Labels = map[string]string{}
	}
	ns.Labels[corev1.LabelMetadataName] = ns.Name
}

func prepareNamespace(ns *corev1.Namespace) {
	defaultNamespace(ns)
	ns.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		ns.Spec.Finalizers = append(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
}

func prepareNamespaceUpdate(ns, old *corev1.Namespace) {
	ns.Spec.Finalizers = old.Spec.Finalizers
	ns.Status = old.Status
}

func validateNamespace(ns *corev1.Namespace) field.ErrorList {
	var r check.Report
	for _, f := range ns.Spec.Finalizers {
		finalizerName(&r, field.NewPath("spec", "finalizers"), f)
	}
	return r.Errs
}

func finalizerName(r *check.Report, at *field.Path, name corev1.FinalizerName) {
	if msgs := validation.IsQualifiedName(string(name)); len(msgs) > 0 {
		r.Invalid(at, string(name), msgs...)
		return
	}
	standard := []corev1.FinalizerName{corev1.FinalizerKubernetes, metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents}
	if !strings.Contains(string(name), "/") && !slices.Contains(standard, name) {
		r.Invalid(at, string(name), "name is neither a standard finalizer name nor is it fully qualified")
	}
}

func validateNamespaceStatus(ns, _ *corev1.Namespace) field.ErrorList {
	var r check.Report
	at := field.NewPath("status", "Phase")
	if ns.DeletionTimestamp.IsZero() {
		if ns.Status.Phase != corev1.NamespaceActive {
			r.Invalid(at, ns.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")
		}
	} else if ns.Status.Phase != corev1.NamespaceTerminating {
		r.Invalid(at, ns.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")
	}
	return r.Errs
}

package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
	"github.com/kebernetes/kebernetes/kinds/meta"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// ReplicaSet is the row of replica sets.
func ReplicaSet() *kinds.Kind {
	return &kinds.Kind{
		Group:      appsv1.GroupName,
		Kind:       "ReplicaSet",
		Resource:   "replicasets",
		ShortNames: []string{"rs"},
		Categories: []string{"all"},
		Namespaced: true,
		Versions:   []kinds.Version{kinds.V[appsv1.ReplicaSet, appsv1.ReplicaSetList]("v1")},
		Default: kinds.On(func(s *appsv1.ReplicaSet) {
			podspec.Default(&s.Spec.Template.Spec)
			check.DefaultPointer(&s.Spec.Replicas, 1)
		}),
		PrepareCreate: kinds.On(func(s *appsv1.ReplicaSet) { s.Status = appsv1.ReplicaSetStatus{} }),
		PrepareUpdate: kinds.OnUpdate(func(s, old *appsv1.ReplicaSet) { s.Status = old.Status }),
		Validate:      kinds.Check(validateReplicaSet),
		ValidateUpdate: kinds.CheckUpdate(func(s, old *appsv1.ReplicaSet) field.ErrorList {
			r := check.Report{Errs: validateReplicaSet(s)}
			r.Immutable(field.NewPath("spec", "selector"), s.Spec.Selector, old.Spec.Selector)
			return r.Errs
		}),
		Warnings:            kinds.Warn(warnReplicaSet),
		HasGeneration:       true,
		UnconditionalUpdate: true,
		Columns:             kinds.ReplicaColumns(appsv1.ReplicaSetSpec{}.SwaggerDoc(), appsv1.ReplicaSetStatus{}.SwaggerDoc()),
		Cells:               kinds.Print(replicaSetCells),
		ResetFields:         map[string][]string{"v1": {"status"}},
		Subresources: []kinds.Subresource{
			kinds.ScaleSubresource(),
			{
				Name:           "status",
				Verbs:          kinds.ReadWrite(),
				PrepareUpdate:  kinds.OnUpdate(func(s, old *appsv1.ReplicaSet) { s.Spec = old.Spec }),
				ValidateUpdate: kinds.CheckUpdate(validateReplicaSetStatus),
				ResetFields:    map[string][]string{"v1": {"spec"}},
			},
		},
		Scale: scaleOf(func(s *appsv1.ReplicaSet) (**int32, *metav1.LabelSelector, int32) {
			return &s.Spec.Replicas, s.Spec.Selector, s.Status.Replicas
		}),
	}
}

func validateReplicaSet(s *appsv1.ReplicaSet) field.ErrorList {
	var r check.Report
	at := field.NewPath("spec")
	check.NotNegative(&r, at.Child("replicas"), ptr.Deref(s.Spec.Replicas, 0))
	check.NotNegative(&r, at.Child("minReadySeconds"), s.Spec.MinReadySeconds)
	// The noun is upstream's: an empty selector of a replica set is refused in the words of a deployment.
	selector, errs := meta.ValidateSelector(s.Spec.Selector, "deployment", at.Child("selector"))
	r.Add(errs...)
	if selector != nil {
		r.Add(podspec.ValidateReplicated(&s.Spec.Template, selector, at.Child("template"))...)
	}
	return r.Errs
}

func validateReplicaSetStatus(s, _ *appsv1.ReplicaSet) field.ErrorList {
	var r check.Report
	at, t := field.NewPath("status"), &s.Status
	labeled, ready := count{"fullyLabeledReplicas", int64(t.FullyLabeledReplicas)}, count{"readyReplicas", int64(t.ReadyReplicas)}
	available := count{"availableReplicas", int64(t.AvailableReplicas)}
	notNegativeCounts(&r, at, count{"replicas", int64(t.Replicas)}, labeled, ready, available)
	if t.TerminatingReplicas != nil {
		check.NotNegative(&r, at.Child("terminatingReplicas"), *t.TerminatingReplicas)
	}
	notNegativeCounts(&r, at, count{"observedGeneration", t.ObservedGeneration})
	atMost(&r, at, t.Replicas, aboveReplicas, labeled, ready, available)
	atMost(&r, at, t.ReadyReplicas, aboveReadyReplicas, available)
	return r.Errs
}

func replicaSetCells(s *appsv1.ReplicaSet, now metav1.Time) []any {
	names, images := kinds.ContainerCells(s.Spec.Template.Spec.Containers)
	return []any{
		s.Name, int64(ptr.Deref(s.Spec.Replicas, 0)), int64(s.Status.Replicas), int64(s.Status.ReadyReplicas),
		kinds.Age(s.CreationTimestamp, now), names, images, kinds.SelectorCell(s.Spec.Selector),
	}
}

func warnReplicaSet(s, old *appsv1.ReplicaSet) []string {
	at := field.NewPath("spec", "template")
	if old == nil {
		return append(check.PodNameWarning(s.Name), podspec.TemplateWarnings(at, &s.Spec.Template, nil)...)
	}
	return podspec.TemplateWarnings(at, &s.Spec.Template, &old.Spec.Template)
}

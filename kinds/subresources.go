package kinds

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ReadWrite lists the verbs of subresources that read and write the object itself: status, scale and their like.
func ReadWrite() []string { return []string{"get", "patch", "update"} }

// ScaleSubresource is the scale subresource of every kind that has one; the row's Scale makes it work.
func ScaleSubresource() Subresource {
	return Subresource{
		Name:    "scale",
		Body:    autoscalingv1.SchemeGroupVersion.WithKind("Scale"),
		Verbs:   ReadWrite(),
		NewBody: func() Object { return new(autoscalingv1.Scale) },
		ValidateBody: Check(func(s *autoscalingv1.Scale) field.ErrorList {
			return apivalidation.ValidateNonnegativeField(int64(s.Spec.Replicas), field.NewPath("spec", "replicas"))
		}),
	}
}

// Package apps holds the kinds of the apps group: one file per kind, each with a function that returns its row. Only
// kinds/builtin imports it.
package apps

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// scaleOf says how workloads are scaled whose replicas, selector and present replicas are those that parts returns. An invalid
// selector selects nothing that could be printed.
func scaleOf[T kinds.Object](parts func(T) (replicas **int32, selector *metav1.LabelSelector, current int32)) *kinds.Scale {
	return &kinds.Scale{
		Get: func(o kinds.Object) *autoscalingv1.Scale {
			replicas, selector, current := parts(o.(T))
			out := &autoscalingv1.Scale{
				Spec:   autoscalingv1.ScaleSpec{Replicas: ptr.Deref(*replicas, 1)},
				Status: autoscalingv1.ScaleStatus{Replicas: current},
			}
			if parsed, err := metav1.LabelSelectorAsSelector(selector); err == nil {
				out.Status.Selector = parsed.String()
			}
			return out
		},
		SetReplicas: func(o kinds.Object, n int32) {
			replicas, _, _ := parts(o.(T))
			*replicas = &n
		},
		ReplicasPath: map[string]string{"v1": ".spec.replicas"},
	}
}

// notNegativeCounts reports status counts below zero, in order.
func notNegativeCounts(r *check.Report, at *field.Path, counts ...count) {
	for _, c := range counts {
		r.Add(apivalidation.ValidateNonnegativeField(c.value, at.Child(c.field))...)
	}
}

// count is a number in a status and its field name.
type count struct {
	field string
	value int64
}

// atMost reports those counts that are above the limit, which detail names.
func atMost(r *check.Report, at *field.Path, limit int32, detail string, counts ...count) {
	for _, c := range counts {
		if c.value > int64(limit) {
			r.Invalid(at.Child(c.field), int32(c.value), detail)
		}
	}
}

const (
	aboveReplicas      = "cannot be greater than status.replicas"
	aboveReadyReplicas = "cannot be greater than readyReplicas"
)

// collisionCount reports a counter below zero or below its old value.
func collisionCount(r *check.Report, at *field.Path, now, before *int32) {
	at = at.Child("collisionCount")
	if now != nil {
		check.NotNegative(r, at, *now)
	}
	if before != nil && (now == nil || *now < *before) {
		value := int32(0)
		if now != nil {
			value = *now
		}
		r.Invalid(at, value, "cannot be decremented")
	}
}

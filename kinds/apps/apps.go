// Package apps holds the kinds of the apps group: one file per kind, each with a function that returns its row. Only
// kinds/builtin imports it.
package apps

import (
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds/check"
)

// selectorText prints a selector for the status of a Scale; an invalid one selects nothing that could be printed.
func selectorText(s *metav1.LabelSelector) string {
	parsed, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return ""
	}
	return parsed.String()
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

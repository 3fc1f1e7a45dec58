package check

import (
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Amount checks a count of pods, given as a number or as a share of all.
func Amount(r *Report, at *field.Path, v *intstr.IntOrString) {
	switch {
	case v == nil:
	case v.Type == intstr.String:
		r.Invalid(at, *v, validation.IsValidPercent(v.StrVal)...)
	default:
		NotNegative(r, at, v.IntVal)
	}
}

// share returns the percentage that v holds, and whether it holds one.
func share(v *intstr.IntOrString) (int, bool) {
	if v == nil || v.Type != intstr.String || len(validation.IsValidPercent(v.StrVal)) > 0 {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSuffix(v.StrVal, "%"))
	return n, err == nil
}

// IsZero tells whether v is 0 or 0%.
func IsZero(v *intstr.IntOrString) bool {
	if n, ok := share(v); ok {
		return n == 0
	}
	return v == nil || v.IntVal == 0
}

// AtMostAll reports a share of more than all pods.
func AtMostAll(r *Report, at *field.Path, v *intstr.IntOrString) {
	if n, ok := share(v); ok && n > 100 {
		r.Invalid(at, *v, "must not be greater than 100%")
	}
}

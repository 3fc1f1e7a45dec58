// Package podspec holds what all kinds with pods in them share: defaults, validation, the rules of updates and the
// warnings of PodSpec and PodTemplateSpec. Its texts, field paths and their order are upstream's. Only the group packages
// below kinds import it.
package podspec

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// report gathers what is wrong, in the order in which it is found.
type report struct {
	errs field.ErrorList
}

func (r *report) add(errs ...*field.Error) { r.errs = append(r.errs, errs...) }

func (r *report) required(at *field.Path, detail string) { r.add(field.Required(at, detail)) }

func (r *report) forbidden(at *field.Path, detail string) { r.add(field.Forbidden(at, detail)) }

// invalid reports value once per message; it reports nothing when there is none, as the checks of names give them.
func (r *report) invalid(at *field.Path, value any, messages ...string) {
	for _, m := range messages {
		r.add(field.Invalid(at, value, m))
	}
}

// present reports an empty value and returns whether it is not.
func (r *report) present(at *field.Path, value string) bool {
	if value == "" {
		r.required(at, "")
	}
	return value != ""
}

// name reports an absent name, or what check finds wrong with it.
func (r *report) name(at *field.Path, value string, check func(string) []string) {
	if r.present(at, value) {
		r.invalid(at, value, check(value)...)
	}
}

// notNegative reports a value below zero.
func notNegative[T int32 | int64](r *report, at *field.Path, value T) {
	if value < 0 {
		r.invalid(at, int64(value), "must be greater than or equal to 0")
	}
}

// oneOf reports a value that is not in the list, which is printed in its order, and returns whether it is.
func oneOf[T ~string](r *report, at *field.Path, value T, allowed ...T) bool {
	ok := slices.Contains(allowed, value)
	if !ok {
		r.add(field.NotSupported(at, value, allowed))
	}
	return ok
}

// oneOfRequired is oneOf for fields that must not be empty either.
func oneOfRequired[T ~string](r *report, at *field.Path, value T, allowed ...T) {
	if r.present(at, string(value)) {
		oneOf(r, at, value, allowed...)
	}
}

// eachContainer calls f for every container with the list that it stands in: "initContainers", "containers",
// "ephemeralContainers". What f changes in an ephemeral container is kept.
func eachContainer(spec *corev1.PodSpec, f func(list string, i int, c *corev1.Container)) {
	for i := range spec.InitContainers {
		f("initContainers", i, &spec.InitContainers[i])
	}
	for i := range spec.Containers {
		f("containers", i, &spec.Containers[i])
	}
	for i := range spec.EphemeralContainers {
		f("ephemeralContainers", i, common(&spec.EphemeralContainers[i]))
	}
}

// common views an ephemeral container as a container: the two have the same fields.
func common(c *corev1.EphemeralContainer) *corev1.Container {
	return (*corev1.Container)(&c.EphemeralContainerCommon)
}

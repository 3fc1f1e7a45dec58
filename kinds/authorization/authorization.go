// Package authorization holds the kinds of authorization.k8s.io, which the API server answers and never stores. Only
// kinds/builtin imports it.
package authorization

import (
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// review is what the rows of the group have in common.
func review(kind, resource string, namespaced bool, empty func() kinds.Object, validate func(kinds.Object) field.ErrorList) *kinds.Kind {
	return &kinds.Kind{
		Group:      authorizationv1.GroupName,
		Kind:       kind,
		Resource:   resource,
		Namespaced: namespaced,
		Virtual:    true,
		Verbs:      []string{"create"},
		Versions:   []kinds.Version{{Name: "v1", New: empty, Storage: true}},
		Validate:   validate,
	}
}

// SubjectAccessReview is the row of subject access reviews: may they do this?
func SubjectAccessReview() *kinds.Kind {
	return review("SubjectAccessReview", "subjectaccessreviews", false,
		func() kinds.Object { return new(authorizationv1.SubjectAccessReview) },
		kinds.Check(func(s *authorizationv1.SubjectAccessReview) field.ErrorList {
			var r check.Report
			validateSubject(&r, &s.Spec)
			validateEmptyMeta(&r, s.ObjectMeta, "must be empty")
			return r.Errs
		}))
}

// SelfSubjectAccessReview is the row of self subject access reviews: may I do this?
func SelfSubjectAccessReview() *kinds.Kind {
	return review("SelfSubjectAccessReview", "selfsubjectaccessreviews", false,
		func() kinds.Object { return new(authorizationv1.SelfSubjectAccessReview) },
		kinds.Check(func(s *authorizationv1.SelfSubjectAccessReview) field.ErrorList {
			var r check.Report
			validateAttributes(&r, s.Spec.ResourceAttributes, s.Spec.NonResourceAttributes)
			validateEmptyMeta(&r, s.ObjectMeta, "must be empty")
			return r.Errs
		}))
}

// LocalSubjectAccessReview is the row of subject access reviews that those may make who rule one namespace.
func LocalSubjectAccessReview() *kinds.Kind {
	return review("LocalSubjectAccessReview", "localsubjectaccessreviews", true,
		func() kinds.Object { return new(authorizationv1.LocalSubjectAccessReview) },
		kinds.Check(func(s *authorizationv1.LocalSubjectAccessReview) field.ErrorList {
			var r check.Report
			validateSubject(&r, &s.Spec)
			meta := s.ObjectMeta
			meta.Namespace = ""
			validateEmptyMeta(&r, meta, "must be empty except for namespace")
			spec := field.NewPath("spec")
			if a := s.Spec.ResourceAttributes; a != nil && a.Namespace != s.Namespace {
				r.Invalid(spec.Child("resourceAttributes", "namespace"), a.Namespace, "must match metadata.namespace")
			}
			if a := s.Spec.NonResourceAttributes; a != nil {
				r.Invalid(spec.Child("nonResourceAttributes"), printed(a), "disallowed on this kind of request")
			}
			return r.Errs
		}))
}

// SelfSubjectRulesReview is the row of self subject rules reviews: what may I do in this namespace?
func SelfSubjectRulesReview() *kinds.Kind {
	return review("SelfSubjectRulesReview", "selfsubjectrulesreviews", false,
		func() kinds.Object { return new(authorizationv1.SelfSubjectRulesReview) }, nil)
}

func validateSubject(r *check.Report, s *authorizationv1.SubjectAccessReviewSpec) {
	validateAttributes(r, s.ResourceAttributes, s.NonResourceAttributes)
	if s.User == "" && len(s.Groups) == 0 {
		r.Invalid(field.NewPath("spec", "user"), s.User, "at least one of user or group must be specified")
	}
}

// path is a request that is not for a resource, under the Go names that errors have always printed.
type path struct{ Path, Verb string }

func printed(a *authorizationv1.NonResourceAttributes) *path {
	if a == nil {
		return nil
	}
	return &path{a.Path, a.Verb}
}

func validateAttributes(r *check.Report, a *authorizationv1.ResourceAttributes, non *authorizationv1.NonResourceAttributes) {
	spec := field.NewPath("spec")
	if (a == nil) == (non == nil) {
		r.Invalid(spec, printed(non), "exactly one of nonResourceAttributes or resourceAttributes must be specified")
	}
	if a == nil {
		return
	}
	at := spec.Child("resourceAttributes")
	// Operators that this server does not know are let through: newer clients may use them, and they never grant more.
	if s := a.FieldSelector; s != nil && validateSelector(r, at.Child("fieldSelector"), s.RawSelector, len(s.Requirements)) {
		opts := metav1validation.FieldSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}
		for i, q := range s.Requirements {
			r.Add(metav1validation.ValidateFieldSelectorRequirement(q, opts, at.Child("fieldSelector", "requirements").Index(i))...)
		}
	}
	if s := a.LabelSelector; s != nil && validateSelector(r, at.Child("labelSelector"), s.RawSelector, len(s.Requirements)) {
		opts := metav1validation.LabelSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}
		for i, q := range s.Requirements {
			r.Add(metav1validation.ValidateLabelSelectorRequirement(q, opts, at.Child("labelSelector", "requirements").Index(i))...)
		}
	}
}

// validateSelector wants either the raw or the parsed form of a selector; it returns whether requirements are to be checked.
func validateSelector(r *check.Report, at *field.Path, raw string, requirements int) bool {
	switch {
	case raw != "" && requirements > 0:
		r.Invalid(at.Child("rawSelector"), raw, "may not specified at the same time as requirements")
	case raw == "" && requirements == 0:
		r.Required(at.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", at))
	}
	return requirements > 0
}

func validateEmptyMeta(r *check.Report, meta metav1.ObjectMeta, detail string) {
	meta.ManagedFields = nil
	if !check.Same(meta, metav1.ObjectMeta{}) {
		r.Invalid(field.NewPath("metadata"), meta, detail)
	}
}

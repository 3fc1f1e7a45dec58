// Package meta validates what all kinds have in common, with upstream's texts: object metadata, and the label selectors
// of everything that selects pods. The API server and the kind packages import it; it is pure.
package meta

import (
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
)

// standardFinalizers are the finalizers of the built-in kinds that need no domain.
var standardFinalizers = sets.New("kubernetes", metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents)

// Validate returns what is wrong with the metadata of a new object of kind k, whose name has been generated already. Its
// errors stand before those of the kind itself.
func Validate(obj kinds.Object, k *kinds.Kind) field.ErrorList {
	name := k.ValidateName
	if name == nil {
		name = apivalidation.NameIsDNSSubdomain
	}
	at := field.NewPath("metadata")
	errs := apivalidation.ValidateObjectMetaAccessor(obj, k.Namespaced, name, at)
	return append(errs, finalizerNames(obj, at.Child("finalizers"))...)
}

// ValidateUpdate returns what is wrong with the metadata of an updated object. As upstream does, it finds a bad label or
// annotation twice: as such, and as an update.
func ValidateUpdate(obj, old kinds.Object, k *kinds.Kind) field.ErrorList {
	at := field.NewPath("metadata")
	// A name that was good once stays good, as long as it can stand in a path.
	segment := func(name string, prefix bool) []string {
		if prefix {
			return content.IsPathSegmentPrefix(name)
		}
		return content.IsPathSegmentName(name)
	}
	errs := apivalidation.ValidateObjectMetaAccessor(obj, k.Namespaced, segment, at)
	errs = append(errs, apivalidation.ValidateObjectMetaAccessorUpdate(obj, old, at)...)
	return append(errs, finalizerNames(obj, at.Child("finalizers"))...)
}

// finalizerNames holds the finalizers of built-in kinds to standard or domain-qualified names; custom resources are free.
func finalizerNames(obj kinds.Object, at *field.Path) (errs field.ErrorList) {
	if _, custom := obj.(runtime.Unstructured); custom {
		return nil
	}
	for i, f := range obj.GetFinalizers() {
		if !strings.Contains(f, "/") && !standardFinalizers.Has(f) {
			errs = append(errs, field.Invalid(at.Index(i), f, "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return errs
}

// ValidateSelector returns the parsed selector of a workload and what is wrong with it. workload is the noun of upstream's
// text for a selector that selects everything ("deployment"). The selector is nil when it cannot be parsed; a missing one
// is an error and selects nothing.
func ValidateSelector(selector *metav1.LabelSelector, workload string, at *field.Path) (labels.Selector, field.ErrorList) {
	if selector == nil {
		return labels.Nothing(), field.ErrorList{field.Required(at, "")}
	}
	errs := metav1validation.ValidateLabelSelector(selector, metav1validation.LabelSelectorValidationOptions{}, at)
	if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(at, selector, "empty selector is invalid for "+workload))
	}
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return nil, append(errs, field.Invalid(at, selector, "invalid label selector"))
	}
	return parsed, errs
}

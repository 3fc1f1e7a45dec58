package core

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// immutableSet is upstream's text for changes to a ConfigMap or Secret that was declared immutable.
const immutableSet = "field is immutable when `immutable` is set"

// ConfigMap is the row of config maps.
func ConfigMap() *kinds.Kind {
	return &kinds.Kind{
		Kind:                "ConfigMap",
		Resource:            "configmaps",
		ShortNames:          []string{"cm"},
		Namespaced:          true,
		Versions:            []kinds.Version{kinds.V[corev1.ConfigMap, corev1.ConfigMapList]("v1")},
		Validate:            kinds.Check(validateConfigMap),
		ValidateUpdate:      kinds.CheckUpdate(validateConfigMapUpdate),
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(), kinds.Column("Data", "string", corev1.ConfigMap{}.SwaggerDoc()["data"]), kinds.AgeColumn(),
		},
		Cells: kinds.Print(func(c *corev1.ConfigMap, now metav1.Time) []any {
			return []any{c.Name, int64(len(c.Data) + len(c.BinaryData)), kinds.Age(c.CreationTimestamp, now)}
		}),
	}
}

func validateConfigMap(c *corev1.ConfigMap) field.ErrorList {
	var r check.Report
	size := 0
	for _, k := range slices.Sorted(maps.Keys(c.Data)) {
		at := field.NewPath("data").Key(k)
		r.Invalid(at, k, validation.IsConfigMapKey(k)...)
		if _, twice := c.BinaryData[k]; twice {
			r.Invalid(at, k, "duplicate of key present in binaryData")
		}
		size += len(c.Data[k])
	}
	for _, k := range slices.Sorted(maps.Keys(c.BinaryData)) {
		r.Invalid(field.NewPath("binaryData").Key(k), k, validation.IsConfigMapKey(k)...)
		size += len(c.BinaryData[k])
	}
	if size > corev1.MaxSecretSize {
		r.Add(field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
	}
	return r.Errs
}

func validateConfigMapUpdate(c, old *corev1.ConfigMap) field.ErrorList {
	var r check.Report
	if old.Immutable != nil && *old.Immutable {
		if c.Immutable == nil || !*c.Immutable {
			r.Forbidden(field.NewPath("immutable"), immutableSet)
		}
		if !check.Same(c.Data, old.Data) {
			r.Forbidden(field.NewPath("data"), immutableSet)
		}
		if !check.Same(c.BinaryData, old.BinaryData) {
			r.Forbidden(field.NewPath("binaryData"), immutableSet)
		}
	}
	return append(r.Errs, validateConfigMap(c)...)
}

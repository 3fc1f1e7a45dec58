// Package storage holds the kinds of storage.k8s.io. Only kinds/builtin imports it.
package storage

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// Upper bounds of the parameters that a class passes to its driver.
const (
	maxParameters     = 512
	maxParametersSize = 256 * 1024
)

// Annotations that make a class the default one.
const (
	defaultClass     = "storageclass.kubernetes.io/is-default-class"
	betaDefaultClass = "storageclass.beta.kubernetes.io/is-default-class"
)

// StorageClass is the row of storage classes.
func StorageClass() *kinds.Kind {
	return &kinds.Kind{
		Group:      storagev1.GroupName,
		Kind:       "StorageClass",
		Resource:   "storageclasses",
		ShortNames: []string{"sc"},
		Versions:   []kinds.Version{kinds.V[storagev1.StorageClass, storagev1.StorageClassList]("v1")},
		Default: kinds.On(func(c *storagev1.StorageClass) {
			check.DefaultPointer(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
			check.DefaultPointer(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
		}),
		Validate:            kinds.Check(validateStorageClass),
		ValidateUpdate:      kinds.CheckUpdate(validateStorageClassUpdate),
		Warnings:            kinds.Warn(warnStorageClass),
		UnconditionalUpdate: true,
		Columns:             storageClassColumns(),
		Cells:               kinds.Print(storageClassCells),
	}
}

func validateStorageClass(c *storagev1.StorageClass) field.ErrorList {
	var r check.Report
	if p := c.Provisioner; p != "" {
		r.Invalid(field.NewPath("provisioner"), p, validation.IsQualifiedName(strings.ToLower(p))...)
	}
	classParameters(&r, field.NewPath("parameters"), c.Parameters)
	if p := c.ReclaimPolicy; p != nil && *p != "" {
		check.OneOf(&r, field.NewPath("reclaimPolicy"), *p, corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)
	}
	if m := c.VolumeBindingMode; m == nil {
		r.Required(field.NewPath("volumeBindingMode"), "")
	} else {
		check.OneOf(&r, field.NewPath("volumeBindingMode"), *m, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)
	}
	for i, t := range c.AllowedTopologies {
		topologyTerm(&r, field.NewPath("allowedTopologies").Index(i), t)
		for j := range i {
			if check.Same(c.AllowedTopologies[j], t) {
				r.Add(field.Duplicate(field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions"), ""))
				break
			}
		}
	}
	r.Present(field.NewPath("provisioner"), c.Provisioner)
	return r.Errs
}

func classParameters(r *check.Report, at *field.Path, parameters map[string]string) {
	if len(parameters) > maxParameters {
		r.Add(field.TooLong(at, "", maxParameters))
		return
	}
	size := 0
	for k, v := range parameters {
		if k == "" {
			r.Invalid(at, k, "field can not be empty.")
		}
		size += len(k) + len(v)
	}
	if size > maxParametersSize {
		r.Add(field.TooLong(at, "", maxParametersSize))
	}
}

func topologyTerm(r *check.Report, at *field.Path, t corev1.TopologySelectorTerm) {
	keys := map[string]bool{}
	at = at.Child("matchLabelExpressions")
	for i, e := range t.MatchLabelExpressions {
		at := at.Index(i)
		if len(e.Values) == 0 {
			r.Required(at.Child("values"), "")
		}
		values := map[string]bool{}
		for j, v := range e.Values {
			if values[v] {
				r.Add(field.Duplicate(at.Child("values").Index(j), v))
			}
			values[v] = true
		}
		r.Invalid(at.Child("key"), e.Key, validation.IsQualifiedName(e.Key)...)
		if keys[e.Key] {
			r.Add(field.Duplicate(at.Child("key"), e.Key))
		}
		keys[e.Key] = true
	}
}

// immutable reports a changed field the way upstream's generated checks do: without its value.
func immutable(r *check.Report, at *field.Path, value, old any) {
	if !check.Same(value, old) {
		r.Add(field.Invalid(at, nil, apivalidation.FieldImmutableErrorMsg))
	}
}

func validateStorageClassUpdate(c, old *storagev1.StorageClass) field.ErrorList {
	r := check.Report{Errs: validateStorageClass(c)}
	immutable(&r, field.NewPath("provisioner"), c.Provisioner, old.Provisioner)
	immutable(&r, field.NewPath("parameters"), c.Parameters, old.Parameters)
	immutable(&r, field.NewPath("reclaimPolicy"), c.ReclaimPolicy, old.ReclaimPolicy)
	immutable(&r, field.NewPath("volumeBindingMode"), c.VolumeBindingMode, old.VolumeBindingMode)
	return r.Errs
}

func warnStorageClass(c, _ *storagev1.StorageClass) (out []string) {
	for i, t := range c.AllowedTopologies {
		for j, e := range t.MatchLabelExpressions {
			if m := podspec.NodeLabelWarning(e.Key); m != "" {
				at := field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j).Child("key")
				out = append(out, at.String()+": "+m)
			}
		}
	}
	return out
}

func storageClassColumns() []metav1.TableColumnDefinition {
	doc := storagev1.StorageClass{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("Provisioner", "string", doc["provisioner"]),
		kinds.Column("ReclaimPolicy", "string", doc["reclaimPolicy"]),
		kinds.Column("VolumeBindingMode", "string", doc["volumeBindingMode"]),
		kinds.Column("AllowVolumeExpansion", "string", doc["allowVolumeExpansion"]),
		kinds.AgeColumn(),
	}
}

func storageClassCells(c *storagev1.StorageClass, now metav1.Time) []any {
	name, reclaim, mode := c.Name, string(corev1.PersistentVolumeReclaimDelete), string(storagev1.VolumeBindingImmediate)
	if c.Annotations[defaultClass] == "true" || c.Annotations[betaDefaultClass] == "true" {
		name += " (default)"
	}
	if c.ReclaimPolicy != nil {
		reclaim = string(*c.ReclaimPolicy)
	}
	if c.VolumeBindingMode != nil {
		mode = string(*c.VolumeBindingMode)
	}
	expands := c.AllowVolumeExpansion != nil && *c.AllowVolumeExpansion
	return []any{name, c.Provisioner, reclaim, mode, expands, kinds.Age(c.CreationTimestamp, now)}
}

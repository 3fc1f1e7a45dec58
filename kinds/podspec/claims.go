package podspec

import (
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds/check"
)

// claimMetadata checks the metadata of a claim's template, of which only labels and annotations are used.
func claimMetadata(at *field.Path, meta *metav1.ObjectMeta) field.ErrorList {
	r := &report{}
	r.Add(apivalidation.ValidateAnnotations(meta.Annotations, at.Child("annotations"))...)
	r.Add(metav1validation.ValidateLabels(meta.Labels, at.Child("labels"))...)
	v := reflect.ValueOf(meta).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if name != "Annotations" && name != "Labels" && !v.Field(i).IsZero() {
			r.Forbidden(at.Child(strings.ToLower(name[:1])+name[1:]), "cannot be set for an ephemeral volume")
		}
	}
	return r.Errs
}

// ValidateClaimSpec checks the spec of a PersistentVolumeClaim, or of a template of one.
func ValidateClaimSpec(c *corev1.PersistentVolumeClaimSpec, at *field.Path) field.ErrorList {
	r := &report{}
	if len(c.AccessModes) == 0 {
		r.Required(at.Child("accessModes"), "at least 1 access mode is required")
	}
	r.Add(metav1validation.ValidateLabelSelector(c.Selector, metav1validation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
	alone := false
	for _, m := range c.AccessModes {
		check.OneOf(&r.Report, at.Child("accessModes"), m, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)
		alone = alone || m == corev1.ReadWriteOncePod
	}
	if alone && len(c.AccessModes) > 1 {
		r.Forbidden(at.Child("accessModes"), "may not use ReadWriteOncePod with other access modes")
	}
	size := at.Child("resources").Key(string(corev1.ResourceStorage))
	if q, ok := c.Resources.Requests[corev1.ResourceStorage]; !ok {
		r.Required(size, "")
	} else if q.Sign() <= 0 {
		r.Invalid(size, q.String(), "must be greater than zero")
	}
	if n := ptr.Deref(c.StorageClassName, ""); n != "" {
		r.Invalid(at.Child("storageClassName"), n, subdomain(n)...)
	}
	if c.VolumeMode != nil {
		check.OneOf(&r.Report, at.Child("volumeMode"), *c.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
	}
	r.dataSources(at, c)
	if n := ptr.Deref(c.VolumeAttributesClassName, ""); n != "" {
		r.Invalid(at.Child("volumeAttributesClassName"), n, subdomain(n)...)
	}
	return r.Errs
}

// dataSources checks what a claim is filled from: the old field must agree with the new one.
func (r *report) dataSources(at *field.Path, c *corev1.PersistentVolumeClaimSpec) {
	one := func(at *field.Path, name, kind string, group *string) {
		r.Present(at.Child("name"), name)
		r.Present(at.Child("kind"), kind)
		g := ptr.Deref(group, "")
		if g == "" && kind != "PersistentVolumeClaim" {
			r.Invalid(at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup")
		}
		if g != "" {
			r.Invalid(at.Child("apiGroup"), g, validation.IsDNS1123Subdomain(g)...)
		}
	}
	if s := c.DataSource; s != nil {
		one(at.Child("dataSource"), s.Name, s.Kind, s.APIGroup)
	}
	s := c.DataSourceRef
	if s == nil {
		return
	}
	one(at.Child("dataSourceRef"), s.Name, s.Kind, s.APIGroup)
	if ptr.Deref(s.Namespace, "") != "" {
		if c.DataSource != nil {
			r.Invalid(at, at.Child("dataSource").String(), "may not be specified when dataSourceRef.namespace is specified")
		}
		return
	}
	same := corev1.TypedLocalObjectReference{APIGroup: s.APIGroup, Kind: s.Kind, Name: s.Name}
	if c.DataSource != nil && !reflect.DeepEqual(*c.DataSource, same) {
		r.Invalid(at, at.Child("dataSource").String(), "must match dataSourceRef")
	}
}

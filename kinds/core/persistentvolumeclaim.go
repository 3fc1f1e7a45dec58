package core

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// PersistentVolumeClaim is the row of persistent volume claims.
func PersistentVolumeClaim() *kinds.Kind {
	return &kinds.Kind{
		Kind:       "PersistentVolumeClaim",
		Resource:   "persistentvolumeclaims",
		ShortNames: []string{"pvc"},
		Namespaced: true,
		Versions:   []kinds.Version{kinds.V[corev1.PersistentVolumeClaim, corev1.PersistentVolumeClaimList]("v1")},
		Default:    kinds.On(defaultClaim),
		PrepareCreate: kinds.On(func(c *corev1.PersistentVolumeClaim) {
			c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
			claimSources(&c.Spec, nil)
		}),
		PrepareUpdate: kinds.OnUpdate(func(c, old *corev1.PersistentVolumeClaim) {
			c.Status = old.Status
			claimSources(&c.Spec, &old.Spec)
		}),
		Validate: kinds.Check(func(c *corev1.PersistentVolumeClaim) field.ErrorList {
			return podspec.ValidateClaimSpec(&c.Spec, field.NewPath("spec"))
		}),
		ValidateUpdate:      kinds.CheckUpdate(validateClaimUpdate),
		Warnings:            kinds.Warn(warnClaim),
		UnconditionalUpdate: true,
		ReturnsDeleted:      true,
		Columns:             claimColumns(),
		Cells:               kinds.Print(claimCells),
		ResetFields:         map[string][]string{"v1": {"status"}},
		Subresources: []kinds.Subresource{{
			Name:           "status",
			Verbs:          kinds.ReadWrite(),
			PrepareUpdate:  kinds.OnUpdate(func(c, old *corev1.PersistentVolumeClaim) { c.Spec = old.Spec }),
			ValidateUpdate: kinds.CheckUpdate(func(c, _ *corev1.PersistentVolumeClaim) field.ErrorList { return validateClaimStatus(c) }),
			ResetFields:    map[string][]string{"v1": {"spec"}},
		}},
	}
}

func defaultClaim(c *corev1.PersistentVolumeClaim) {
	check.Default(&c.Status.Phase, corev1.ClaimPending)
	check.DefaultPointer(&c.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	podspec.RoundUp(c.Spec.Resources.Limits)
	podspec.RoundUp(c.Spec.Resources.Requests)
	podspec.RoundUp(c.Status.Capacity)
}

// claimSources ignores what the old dataSource field never took, and keeps it and dataSourceRef the same. References into
// other namespaces are off by default upstream.
func claimSources(spec, old *corev1.PersistentVolumeClaimSpec) {
	if s := spec.DataSource; s != nil && !isClaimOrSnapshot(s) && (old == nil || !check.Same(s, old.DataSource)) {
		spec.DataSource = nil
	}
	if spec.DataSourceRef != nil && (old == nil || old.DataSourceRef == nil || old.DataSourceRef.Namespace == nil) {
		spec.DataSourceRef.Namespace = nil
	}
	switch {
	case spec.DataSource != nil && spec.DataSourceRef == nil:
		s := spec.DataSource
		spec.DataSourceRef = &corev1.TypedObjectReference{APIGroup: s.APIGroup, Kind: s.Kind, Name: s.Name}
	case spec.DataSource == nil && spec.DataSourceRef != nil && ptr.Deref(spec.DataSourceRef.Namespace, "") == "":
		s := spec.DataSourceRef
		spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: s.APIGroup, Kind: s.Kind, Name: s.Name}
	}
}

func isClaimOrSnapshot(s *corev1.TypedLocalObjectReference) bool {
	switch ptr.Deref(s.APIGroup, "") {
	case "":
		return s.Kind == "PersistentVolumeClaim"
	case "snapshot.storage.k8s.io":
		return s.Kind == "VolumeSnapshot"
	}
	return false
}

func validateClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	at := field.NewPath("spec")
	r := check.Report{Errs: podspec.ValidateClaimSpec(&c.Spec, at)}
	now, before := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	if before.VolumeName == "" {
		before.VolumeName = now.VolumeName
	}
	// A claim without a class may be given one, by hand or because a default class came later.
	if before.StorageClassName == nil && now.StorageClassName != nil {
		class, annotated := old.Annotations[corev1.BetaStorageClassAnnotation]
		if _, still := c.Annotations[corev1.BetaStorageClassAnnotation]; !annotated || (!still && class == *now.StorageClassName) {
			now.StorageClassName = nil
		}
	}
	if c.Status.Phase == corev1.ClaimBound {
		if now.Resources.Requests != nil {
			now.Resources.Requests[corev1.ResourceStorage] = before.Resources.Requests[corev1.ResourceStorage]
		}
		if now.VolumeAttributesClassName != nil {
			now.VolumeAttributesClassName = before.VolumeAttributesClassName
		}
	}
	if !check.Same(now, before) {
		r.Forbidden(at, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n"+
			diff.Diff(before, now))
	}
	size, was := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if actual := old.Status.Capacity[corev1.ResourceStorage]; size.Cmp(was) < 0 && size.Cmp(actual) <= 0 {
		r.Forbidden(at.Child("resources", "requests", "storage"), "field can not be less than status.capacity")
	}
	r.Immutable(field.NewPath("volumeMode"), c.Spec.VolumeMode, old.Spec.VolumeMode)
	if old.Spec.VolumeAttributesClassName != nil && c.Spec.VolumeAttributesClassName == nil {
		r.Forbidden(at.Child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden")
	}
	return r.Errs
}

func validateClaimStatus(c *corev1.PersistentVolumeClaim) field.ErrorList {
	var r check.Report
	r.Present(field.NewPath("resourceVersion"), c.ResourceVersion)
	if len(c.Spec.AccessModes) == 0 {
		r.Required(field.NewPath("Spec", "accessModes"), "")
	}
	at := field.NewPath("status")
	for _, list := range []struct {
		name   string
		amount corev1.ResourceList
	}{{"capacity", c.Status.Capacity}, {"allocatedResources", c.Status.AllocatedResources}} {
		for _, name := range podspec.SortedNames(list.amount) {
			if q := list.amount[name]; q.Sign() < 0 {
				r.Invalid(at.Child(list.name).Key(string(name)), q.Value(), "must be a valid resource quantity")
			}
		}
	}
	states := []corev1.ClaimResourceStatus{
		corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
		corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimNodeResizeInProgress,
		corev1.PersistentVolumeClaimNodeResizeInfeasible,
	}
	slices.Sort(states)
	for name, s := range c.Status.AllocatedResourceStatuses {
		check.OneOf(&r, at.Child("allocatedResourceStatuses").Key(string(name)), s, states...)
	}
	return r.Errs
}

func warnClaim(c, _ *corev1.PersistentVolumeClaim) (out []string) {
	if _, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		at := field.NewPath("metadata", "annotations").Key(corev1.BetaStorageClassAnnotation)
		out = append(out, at.String()+`: deprecated since v1.8; use "storageClassName" attribute instead`)
	}
	for _, list := range []struct {
		name   string
		amount corev1.ResourceList
	}{{"requests", c.Spec.Resources.Requests}, {"limits", c.Spec.Resources.Limits}} {
		if q, ok := list.amount[corev1.ResourceStorage]; ok && q.MilliValue()%1000 != 0 {
			at := field.NewPath("spec", "resources", list.name).Key(string(corev1.ResourceStorage))
			out = append(out, fmt.Sprintf("%s: fractional byte value %q is invalid, must be an integer", at, q.String()))
		}
	}
	return out
}

func claimColumns() []metav1.TableColumnDefinition {
	spec, status := corev1.PersistentVolumeClaimSpec{}.SwaggerDoc(), corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("Status", "string", status["phase"]),
		kinds.Column("Volume", "string", spec["volumeName"]),
		kinds.Column("Capacity", "string", status["capacity"]),
		kinds.Column("Access Modes", "string", status["accessModes"]),
		kinds.Column("StorageClass", "string", "StorageClass of the pvc"),
		kinds.Column("VolumeAttributesClass", "string", "VolumeAttributesClass of the pvc"),
		kinds.AgeColumn(),
		kinds.WideColumn("VolumeMode", "string", spec["volumeMode"]),
	}
}

func claimCells(c *corev1.PersistentVolumeClaim, now metav1.Time) []any {
	phase := string(c.Status.Phase)
	if c.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	size, modes := "", ""
	if c.Spec.VolumeName != "" {
		q := c.Status.Capacity[corev1.ResourceStorage]
		size, modes = q.String(), accessModesCell(c.Status.AccessModes)
	}
	class := ptr.Deref(c.Spec.StorageClassName, "")
	if annotated, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		class = annotated
	}
	return []any{
		c.Name, phase, c.Spec.VolumeName, size, modes, class, ptr.Deref(c.Spec.VolumeAttributesClassName, unset),
		kinds.Age(c.CreationTimestamp, now), string(ptr.Deref(c.Spec.VolumeMode, unset)),
	}
}

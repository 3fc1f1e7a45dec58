package core

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// mountOptionsAnnotation named mount options before there was a field for them.
const mountOptionsAnnotation = "volume.beta.kubernetes.io/mount-options"

// PersistentVolume is the row of persistent volumes.
func PersistentVolume() *kinds.Kind {
	return &kinds.Kind{
		Kind:                "PersistentVolume",
		Resource:            "persistentvolumes",
		ShortNames:          []string{"pv"},
		Versions:            []kinds.Version{kinds.V[corev1.PersistentVolume, corev1.PersistentVolumeList]("v1")},
		Default:             kinds.On(defaultPersistentVolume),
		PrepareCreate:       kinds.On(preparePersistentVolume),
		PrepareUpdate:       kinds.OnUpdate(func(v, old *corev1.PersistentVolume) { v.Status = old.Status }),
		Validate:            kinds.Check(validatePersistentVolume),
		ValidateUpdate:      kinds.CheckUpdate(validatePersistentVolumeUpdate),
		Warnings:            kinds.Warn(warnPersistentVolume),
		UnconditionalUpdate: true,
		ReturnsDeleted:      true,
		Columns:             persistentVolumeColumns(),
		Cells:               kinds.Print(persistentVolumeCells),
		ResetFields:         map[string][]string{"v1": {"status"}},
		Subresources: []kinds.Subresource{{
			Name:          "status",
			Verbs:         kinds.ReadWrite(),
			PrepareUpdate: kinds.OnUpdate(func(v, old *corev1.PersistentVolume) { v.Spec = old.Spec }),
			Stamp: func(o, before kinds.Object, now metav1.Time) {
				v, old := o.(*corev1.PersistentVolume), before.(*corev1.PersistentVolume)
				if v.Status.Phase != old.Status.Phase && check.Same(v.Status.LastPhaseTransitionTime, old.Status.LastPhaseTransitionTime) {
					v.Status.LastPhaseTransitionTime = &now
				}
			},
			ValidateUpdate: kinds.CheckUpdate(func(v, _ *corev1.PersistentVolume) field.ErrorList {
				var r check.Report
				r.Present(field.NewPath("resourceVersion"), v.ResourceVersion)
				return r.Errs
			}),
			ResetFields: map[string][]string{"v1": {"spec"}},
		}},
	}
}

func defaultPersistentVolume(v *corev1.PersistentVolume) {
	check.Default(&v.Status.Phase, corev1.VolumePending)
	check.Default(&v.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	check.DefaultPointer(&v.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	podspec.RoundUp(v.Spec.Capacity)
	podspec.DefaultPersistentVolumeSource(&v.Spec.PersistentVolumeSource)
}

func preparePersistentVolume(v *corev1.PersistentVolume) {
	created := v.CreationTimestamp
	v.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: &created}
}

func validatePersistentVolume(v *corev1.PersistentVolume) field.ErrorList {
	var r check.Report
	at, spec := field.NewPath("spec"), &v.Spec
	if len(spec.AccessModes) == 0 {
		r.Required(at.Child("accessModes"), "")
	}
	for _, m := range spec.AccessModes {
		check.OneOf(&r, at.Child("accessModes"), m, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)
	}
	if len(spec.AccessModes) > 1 && slices.Contains(spec.AccessModes, corev1.ReadWriteOncePod) {
		r.Forbidden(at.Child("accessModes"), "may not use ReadWriteOncePod with other access modes")
	}
	volumeCapacity(&r, at.Child("capacity"), spec.Capacity)
	if p := spec.PersistentVolumeReclaimPolicy; p != "" {
		check.OneOf(&r, at.Child("persistentVolumeReclaimPolicy"), p, corev1.PersistentVolumeReclaimDelete,
			corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)
	}
	pinned := volumeAffinity(&r, at.Child("nodeAffinity"), spec.NodeAffinity)
	r.Add(podspec.ValidatePersistentVolumeSource(&spec.PersistentVolumeSource, at)...)
	if spec.Local != nil && !pinned {
		r.Required(at.Child("nodeAffinity"), "Local volume requires node affinity")
	}
	if spec.HostPath != nil && podspec.IsRootPath(spec.HostPath) && spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		r.Forbidden(at.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'")
	}
	if c := spec.StorageClassName; c != "" {
		r.Invalid(at.Child("storageClassName"), c, apivalidation.NameIsDNSSubdomain(c, false)...)
	}
	if m := spec.VolumeMode; m != nil {
		check.OneOf(&r, at.Child("volumeMode"), *m, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
	}
	if c := spec.VolumeAttributesClassName; c != nil {
		r.Name(at.Child("volumeAttributesClassName"), *c, func(n string) []string { return apivalidation.NameIsDNSSubdomain(n, false) })
		if spec.CSI == nil {
			r.Required(at.Child("csi"), "has to be specified when using volumeAttributesClassName")
		}
	}
	return r.Errs
}

func volumeCapacity(r *check.Report, at *field.Path, capacity corev1.ResourceList) {
	if len(capacity) == 0 {
		r.Required(at, "")
	}
	if _, ok := capacity[corev1.ResourceStorage]; !ok || len(capacity) > 1 {
		r.Add(field.NotSupported(at, "", []string{string(corev1.ResourceStorage)}))
		r.Errs[len(r.Errs)-1].BadValue = capacity
	}
	for _, name := range podspec.SortedNames(capacity) {
		q := capacity[name]
		if q.Sign() < 0 {
			r.Invalid(at.Key(string(name)), q.Value(), "must be a valid resource quantity")
		}
		if q.Sign() <= 0 {
			r.Invalid(at.Key(string(name)), q.String(), "must be greater than zero")
		}
	}
}

// volumeAffinity returns whether the affinity binds the volume to some nodes.
func volumeAffinity(r *check.Report, at *field.Path, a *corev1.VolumeNodeAffinity) bool {
	if a == nil {
		return false
	}
	if a.Required == nil {
		r.Required(at.Child("required"), "must specify required node constraints")
		return true
	}
	r.Add(podspec.ValidateNodeSelector(a.Required, at.Child("required"))...)
	return true
}

func validatePersistentVolumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	r := check.Report{Errs: validatePersistentVolume(v)}
	if source, before := v.Spec.PersistentVolumeSource, old.Spec.PersistentVolumeSource; !check.Same(source, before) && !addsExpandSecret(&source, &before) {
		r.Forbidden(field.NewPath("spec", "persistentvolumesource"),
			"spec.persistentvolumesource is immutable after creation\n"+diff.Diff(before, source))
	}
	r.Immutable(field.NewPath("volumeMode"), v.Spec.VolumeMode, old.Spec.VolumeMode)
	if before := old.Spec.NodeAffinity; before != nil && !check.Same(stableLabels(v.Spec.NodeAffinity), stableLabels(before)) {
		r.Invalid(field.NewPath("nodeAffinity"), podspec.Dump(v.Spec.NodeAffinity), "field is immutable, except for updating from beta label to GA label")
	}
	if old.Spec.VolumeAttributesClassName != nil && v.Spec.VolumeAttributesClassName == nil {
		r.Forbidden(field.NewPath("spec", "volumeAttributesClassName"), "update from non-nil value to nil is forbidden")
	}
	return r.Errs
}

// addsExpandSecret tells whether a CSI volume only got the secret that expanding it needs.
func addsExpandSecret(source, before *corev1.PersistentVolumeSource) bool {
	if source.CSI == nil || before.CSI == nil || before.CSI.ControllerExpandSecretRef != nil {
		return false
	}
	with := before.DeepCopy()
	with.CSI.ControllerExpandSecretRef = source.CSI.ControllerExpandSecretRef
	return check.Same(source, with)
}

// stableLabels renames the beta labels of topology to those that followed them.
func stableLabels(a *corev1.VolumeNodeAffinity) *corev1.VolumeNodeAffinity {
	if a == nil || a.Required == nil {
		return a
	}
	out := a.DeepCopy()
	for i := range out.Required.NodeSelectorTerms {
		for j := range out.Required.NodeSelectorTerms[i].MatchExpressions {
			e := &out.Required.NodeSelectorTerms[i].MatchExpressions[j]
			switch e.Key {
			case corev1.LabelFailureDomainBetaZone:
				e.Key = corev1.LabelTopologyZone
			case corev1.LabelFailureDomainBetaRegion:
				e.Key = corev1.LabelTopologyRegion
			case corev1.LabelInstanceType:
				e.Key = corev1.LabelInstanceTypeStable
			}
		}
	}
	return out
}

func warnPersistentVolume(v, _ *corev1.PersistentVolume) (out []string) {
	at := field.NewPath("metadata", "annotations")
	if _, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		out = append(out, at.Key(corev1.BetaStorageClassAnnotation).String()+`: deprecated since v1.8; use "storageClassName" attribute instead`)
	}
	if _, ok := v.Annotations[mountOptionsAnnotation]; ok {
		out = append(out, at.Key(mountOptionsAnnotation).String()+`: deprecated since v1.31; use "mountOptions" attribute instead`)
	}
	if v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		out = append(out, "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if a := v.Spec.NodeAffinity; a != nil && a.Required != nil {
		for i, term := range a.Required.NodeSelectorTerms {
			for j, e := range term.MatchExpressions {
				if m := podspec.NodeLabelWarning(e.Key); m != "" {
					at := field.NewPath("spec", "nodeAffinity", "required", "nodeSelectorTerms").Index(i).Child("matchExpressions").Index(j)
					out = append(out, at.Child("key").String()+": "+e.Key+" is "+m)
				}
			}
		}
	}
	return out
}

func persistentVolumeColumns() []metav1.TableColumnDefinition {
	spec, status := corev1.PersistentVolumeSpec{}.SwaggerDoc(), corev1.PersistentVolumeStatus{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("Capacity", "string", spec["capacity"]),
		kinds.Column("Access Modes", "string", spec["accessModes"]),
		kinds.Column("Reclaim Policy", "string", spec["persistentVolumeReclaimPolicy"]),
		kinds.Column("Status", "string", status["phase"]),
		kinds.Column("Claim", "string", spec["claimRef"]),
		kinds.Column("StorageClass", "string", "StorageClass of the pv"),
		kinds.Column("VolumeAttributesClass", "string", "VolumeAttributesClass of the pv"),
		kinds.Column("Reason", "string", status["reason"]),
		kinds.AgeColumn(),
		kinds.WideColumn("VolumeMode", "string", spec["volumeMode"]),
	}
}

func persistentVolumeCells(v *corev1.PersistentVolume, now metav1.Time) []any {
	claim := ""
	if c := v.Spec.ClaimRef; c != nil {
		claim = c.Namespace + "/" + c.Name
	}
	phase := string(v.Status.Phase)
	if v.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	size := v.Spec.Capacity[corev1.ResourceStorage]
	class := v.Spec.StorageClassName
	if c, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		class = c
	}
	return []any{
		v.Name, size.String(), accessModesCell(v.Spec.AccessModes), string(v.Spec.PersistentVolumeReclaimPolicy), phase, claim, class,
		ptr.Deref(v.Spec.VolumeAttributesClassName, unset), v.Status.Reason, kinds.Age(v.CreationTimestamp, now),
		string(ptr.Deref(v.Spec.VolumeMode, unset)),
	}
}

// unset is what tables show for an optional value that is not there.
const unset = "<unset>"

// accessModesCell prints access modes in their usual order and short form: "RWO,ROX".
func accessModesCell(modes []corev1.PersistentVolumeAccessMode) string {
	var out []string
	for _, m := range []struct {
		mode  corev1.PersistentVolumeAccessMode
		short string
	}{{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"}} {
		if slices.Contains(modes, m.mode) {
			out = append(out, m.short)
		}
	}
	return strings.Join(out, ",")
}

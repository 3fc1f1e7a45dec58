package storage

import (
	"strings"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// Bounds of the tokens and periods of a driver, in seconds.
const (
	minTokenSeconds  = 10 * 60
	maxTokenSeconds  = 1 << 32
	minUpdateSeconds = 10
)

// CSIDriver is the row of CSI drivers.
func CSIDriver() *kinds.Kind {
	return &kinds.Kind{
		Group:    storagev1.GroupName,
		Kind:     "CSIDriver",
		Resource: "csidrivers",
		Versions: []kinds.Version{kinds.V[storagev1.CSIDriver, storagev1.CSIDriverList]("v1")},
		Default: kinds.On(func(d *storagev1.CSIDriver) {
			check.DefaultPointer(&d.Spec.AttachRequired, true)
			check.DefaultPointer(&d.Spec.PodInfoOnMount, false)
			check.DefaultPointer(&d.Spec.StorageCapacity, false)
			check.DefaultPointer(&d.Spec.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
			if len(d.Spec.VolumeLifecycleModes) == 0 {
				d.Spec.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
			}
			check.DefaultPointer(&d.Spec.RequiresRepublish, false)
			check.DefaultPointer(&d.Spec.SELinuxMount, false)
			check.DefaultPointer(&d.Spec.PreventPodSchedulingIfMissing, false)
		}),
		Validate: kinds.Check(func(d *storagev1.CSIDriver) field.ErrorList {
			r := check.Report{Errs: podspec.ValidateCSIDriverName(d.Name, field.NewPath("name"))}
			csiDriverSpec(&r, field.NewPath("spec"), &d.Spec)
			return r.Errs
		}),
		ValidateUpdate: kinds.CheckUpdate(func(d, old *storagev1.CSIDriver) field.ErrorList {
			var r check.Report
			spec := field.NewPath("spec")
			csiDriverSpec(&r, spec, &d.Spec)
			r.Immutable(spec.Child("attachRequired"), d.Spec.AttachRequired, old.Spec.AttachRequired)
			r.Immutable(spec.Child("volumeLifecycleModes"), d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes)
			return r.Errs
		}),
		Columns: csiDriverColumns(),
		Cells:   kinds.Print(csiDriverCells),
	}
}

func csiDriverSpec(r *check.Report, at *field.Path, spec *storagev1.CSIDriverSpec) {
	for _, f := range []struct {
		name  string
		value *bool
	}{{"attachedRequired", spec.AttachRequired}, {"podInfoOnMount", spec.PodInfoOnMount}, {"storageCapacity", spec.StorageCapacity}} {
		if f.value == nil {
			r.Required(at.Child(f.name), "")
		}
	}
	if p := spec.FSGroupPolicy; p == nil {
		r.Required(at.Child("fsGroupPolicy"), "")
	} else {
		check.OneOf(r, at.Child("fsGroupPolicy"), *p, storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	}
	audiences := map[string]bool{}
	for i, t := range spec.TokenRequests {
		at := at.Child("tokenRequests").Index(i)
		if audiences[t.Audience] {
			r.Add(field.Duplicate(at.Child("audience"), t.Audience))
			continue
		}
		audiences[t.Audience] = true
		if s := t.ExpirationSeconds; s != nil {
			if *s < minTokenSeconds {
				r.Invalid(at.Child("expirationSeconds"), *s, "may not specify a duration less than 10 minutes")
			}
			if *s > maxTokenSeconds {
				r.Invalid(at.Child("expirationSeconds"), *s, "may not specify a duration larger than 2^32 seconds")
			}
		}
	}
	for _, m := range spec.VolumeLifecycleModes {
		check.OneOf(r, at.Child("volumeLifecycleModes"), m, storagev1.VolumeLifecycleEphemeral, storagev1.VolumeLifecyclePersistent)
	}
	if spec.SELinuxMount == nil {
		r.Required(at.Child("seLinuxMount"), "")
	}
	if p := spec.NodeAllocatableUpdatePeriodSeconds; p != nil && *p < minUpdateSeconds {
		r.Invalid(at.Child("nodeAllocatableUpdatePeriodSeconds"), *p, "must be greater than or equal to 10 seconds")
	}
	if ptr.Deref(spec.ServiceAccountTokenInSecrets, false) && len(spec.TokenRequests) == 0 {
		r.Invalid(at.Child("serviceAccountTokenInSecrets"), true, "must be unset when tokenRequests is empty")
	}
}

func csiDriverColumns() []metav1.TableColumnDefinition {
	doc := storagev1.CSIDriverSpec{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("AttachRequired", "boolean", doc["attachRequired"]),
		kinds.Column("PodInfoOnMount", "boolean", doc["podInfoOnMount"]),
		kinds.Column("StorageCapacity", "boolean", doc["storageCapacity"]),
		kinds.Column("TokenRequests", "string", doc["tokenRequests"]),
		kinds.Column("RequiresRepublish", "boolean", doc["requiresRepublish"]),
		kinds.Column("Modes", "string", doc["volumeLifecycleModes"]),
		kinds.AgeColumn(),
	}
}

func csiDriverCells(d *storagev1.CSIDriver, now metav1.Time) []any {
	tokens, modes := "<unset>", kinds.None
	if len(d.Spec.TokenRequests) > 0 {
		var audiences []string
		for _, t := range d.Spec.TokenRequests {
			audiences = append(audiences, t.Audience)
		}
		tokens = strings.Join(audiences, ",")
	}
	if len(d.Spec.VolumeLifecycleModes) > 0 {
		var names []string
		for _, m := range d.Spec.VolumeLifecycleModes {
			names = append(names, string(m))
		}
		modes = strings.Join(names, ",")
	}
	return []any{
		d.Name, ptr.Deref(d.Spec.AttachRequired, true), ptr.Deref(d.Spec.PodInfoOnMount, false), ptr.Deref(d.Spec.StorageCapacity, false),
		tokens, ptr.Deref(d.Spec.RequiresRepublish, false), modes, kinds.Age(d.CreationTimestamp, now),
	}
}

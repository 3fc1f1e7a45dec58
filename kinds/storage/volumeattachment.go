package storage

import (
	storagev1 "k8s.io/api/storage/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// Upper bounds of what a driver reports of an attachment, in bytes.
const (
	maxMetadataSize = 256 * 1024
	maxErrorMessage = 1024
)

// VolumeAttachment is the row of volume attachments: that a volume is to be, or is, attached to a node.
func VolumeAttachment() *kinds.Kind {
	return &kinds.Kind{
		Group:         storagev1.GroupName,
		Kind:          "VolumeAttachment",
		Resource:      "volumeattachments",
		Versions:      []kinds.Version{kinds.V[storagev1.VolumeAttachment, storagev1.VolumeAttachmentList]("v1")},
		PrepareCreate: kinds.On(func(a *storagev1.VolumeAttachment) { a.Status = storagev1.VolumeAttachmentStatus{} }),
		PrepareUpdate: kinds.OnUpdate(func(a, old *storagev1.VolumeAttachment) { a.Status = old.Status }),
		Validate:      kinds.Check(validateAttachment),
		ValidateUpdate: kinds.CheckUpdate(func(a, old *storagev1.VolumeAttachment) field.ErrorList {
			r := check.Report{Errs: validateAttachment(a)}
			immutable(&r, field.NewPath("spec"), a.Spec, old.Spec)
			return r.Errs
		}),
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Attacher", "string", storagev1.VolumeAttachmentSpec{}.SwaggerDoc()["attacher"]),
			kinds.Column("PV", "string", storagev1.VolumeAttachmentSource{}.SwaggerDoc()["persistentVolumeName"]),
			kinds.Column("Node", "string", storagev1.VolumeAttachmentSpec{}.SwaggerDoc()["nodeName"]),
			kinds.Column("Attached", "boolean", storagev1.VolumeAttachmentStatus{}.SwaggerDoc()["attached"]),
			kinds.AgeColumn(),
		},
		Cells: kinds.Print(func(a *storagev1.VolumeAttachment, now metav1.Time) []any {
			return []any{
				a.Name, a.Spec.Attacher, ptr.Deref(a.Spec.Source.PersistentVolumeName, ""), a.Spec.NodeName, a.Status.Attached,
				kinds.Age(a.CreationTimestamp, now),
			}
		}),
		ResetFields: map[string][]string{"v1": {"status"}},
		Subresources: []kinds.Subresource{{
			Name:  "status",
			Verbs: kinds.ReadWrite(),
			PrepareUpdate: kinds.OnUpdate(func(a, old *storagev1.VolumeAttachment) {
				a.Spec = old.Spec
				meta := old.ObjectMeta
				// Only finalizers change together with the status: that is how detaching ends.
				meta.Finalizers, meta.ManagedFields, meta.ResourceVersion = a.Finalizers, a.ManagedFields, a.ResourceVersion
				a.ObjectMeta = meta
			}),
			ValidateUpdate: kinds.CheckUpdate(func(a, _ *storagev1.VolumeAttachment) field.ErrorList { return validateAttachment(a) }),
			ResetFields:    map[string][]string{"v1": {"spec", "metadata"}},
		}},
	}
}

func validateAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	var r check.Report
	spec, status := field.NewPath("spec"), field.NewPath("status")
	r.Add(podspec.ValidateCSIDriverName(a.Spec.Attacher, spec.Child("attacher"))...)
	source := spec.Child("source")
	switch s := &a.Spec.Source; {
	case s.PersistentVolumeName == nil && s.InlineVolumeSpec == nil:
		r.Required(source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
	case s.PersistentVolumeName != nil && s.InlineVolumeSpec != nil:
		r.Forbidden(source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
	case s.PersistentVolumeName != nil:
		name := *s.PersistentVolumeName
		if name == "" {
			r.Required(source.Child("persistentVolumeName"), "must specify non empty persistentVolumeName")
		} else {
			r.Invalid(source.Child("persistentVolumeName"), name, apivalidation.NameIsDNSSubdomain(name, false)...)
		}
	default:
		r.Add(podspec.ValidatePersistentVolumeSource(&s.InlineVolumeSpec.PersistentVolumeSource, source.Child("inlineVolumeSpec"))...)
	}
	r.Invalid(spec.Child("nodeName"), a.Spec.NodeName, apivalidation.NameIsDNSSubdomain(a.Spec.NodeName, false)...)
	size := 0
	for k, v := range a.Status.AttachmentMetadata {
		size += len(k) + len(v)
	}
	if size > maxMetadataSize {
		r.Add(field.TooLong(status.Child("attachmentMetadata"), "", maxMetadataSize))
	}
	volumeError(&r, status.Child("attachError"), a.Status.AttachError)
	volumeError(&r, status.Child("detachError"), a.Status.DetachError)
	return r.Errs
}

func volumeError(r *check.Report, at *field.Path, e *storagev1.VolumeError) {
	if e == nil {
		return
	}
	if len(e.Message) > maxErrorMessage {
		r.Add(field.TooLong(at.Child("message"), e.Message, maxErrorMessage))
	}
	if e.ErrorCode != nil && *e.ErrorCode < 0 {
		r.Invalid(at.Child("errorCode"), *e.ErrorCode, "must be greater than or equal to 0")
	}
}

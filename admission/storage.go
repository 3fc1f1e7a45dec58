package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/kebernetes/kebernetes/store"
)

// protections are the finalizers that keep storage objects while they are in use.
var protections = map[string]string{
	"persistentvolumeclaims.":                "kubernetes.io/pvc-protection",
	"persistentvolumes.":                     "kubernetes.io/pv-protection",
	"volumeattributesclasses.storage.k8s.io": "kubernetes.io/vac-protection",
}

// storageObjectInUseProtection marks new storage objects, so that they stay as long as something uses them.
func storageObjectInUseProtection() Step {
	return Step{Name: "StorageObjectInUseProtection", Mutate: func(_ context.Context, r *Request) error {
		finalizer := protections[r.Kind.Resource+"."+r.Kind.Group]
		if finalizer == "" || r.Operation != Create || r.Subresource != "" {
			return nil
		}
		if have := r.Object.GetFinalizers(); !slices.Contains(have, finalizer) {
			r.Object.SetFinalizers(append(slices.Clip(have), finalizer))
		}
		return nil
	}}
}

// persistentVolumeClaimResize lets a bound claim grow only where its class says that it can.
func persistentVolumeClaimResize(reader store.Reader) Step {
	return Step{Name: "PersistentVolumeClaimResize", Validate: func(_ context.Context, r *Request) error {
		claim, ok := r.Object.(*corev1.PersistentVolumeClaim)
		if !ok || r.Operation != Update || !r.is("persistentvolumeclaims", "") {
			return nil
		}
		old := r.Old.(*corev1.PersistentVolumeClaim)
		wanted, had := claim.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
		if wanted.Cmp(had) <= 0 {
			return nil
		}
		if old.Status.Phase != corev1.ClaimBound {
			return r.forbid("Only bound persistent volume claims can be expanded")
		}
		name := claim.Annotations[corev1.BetaStorageClassAnnotation]
		if name == "" && claim.Spec.StorageClassName != nil {
			name = *claim.Spec.StorageClassName
		}
		class, ok := named[*storagev1.StorageClass](reader, "storageclasses.storage.k8s.io", "", name)
		if !ok || class.AllowVolumeExpansion == nil || !*class.AllowVolumeExpansion {
			return r.forbid("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
		}
		return nil
	}}
}

package podspec

import (
	"path"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// DefaultPersistentVolumeSource fills in what the user left out of the source of a PersistentVolume.
func DefaultPersistentVolumeSource(s *corev1.PersistentVolumeSource) {
	if s.HostPath != nil {
		point(&s.HostPath.Type, corev1.HostPathUnset)
	}
	if s.ISCSI != nil {
		setDefault(&s.ISCSI.ISCSIInterface, "default")
	}
	if s.RBD != nil {
		setDefault(&s.RBD.RBDPool, "rbd")
		setDefault(&s.RBD.RadosUser, "admin")
		setDefault(&s.RBD.Keyring, "/etc/ceph/keyring")
	}
	if d := s.AzureDisk; d != nil {
		point(&d.CachingMode, corev1.AzureDataDiskCachingReadWrite)
		point(&d.Kind, corev1.AzureSharedBlobDisk)
		point(&d.FSType, "ext4")
		point(&d.ReadOnly, false)
	}
	if s.ScaleIO != nil {
		setDefault(&s.ScaleIO.StorageMode, "ThinProvisioned")
		setDefault(&s.ScaleIO.FSType, "xfs")
	}
}

// ValidatePersistentVolumeSource checks the one source of a PersistentVolume. Most sources are those of pods; where they
// name secrets, a volume of no namespace names the secret's namespace too.
func ValidatePersistentVolumeSource(s *corev1.PersistentVolumeSource, at *field.Path) field.ErrorList {
	r := &report{}
	n := 0
	for _, c := range persistentSources(s) {
		if !c.set {
			continue
		}
		if n++; n > 1 {
			r.Forbidden(at.Child(c.name), oneSource)
			continue
		}
		c.check(r, at.Child(c.name))
	}
	if n == 0 {
		r.Required(at, "must specify a volume type")
	}
	return r.Errs
}

func persistentSources(s *corev1.PersistentVolumeSource) []volumeCheck {
	v := asPodVolume(s)
	var checks []volumeCheck
	for _, c := range localSources(&v, nil) {
		if c.name == "hostPath" {
			checks = append(checks, c)
		}
	}
	for _, c := range networkSources(&v.VolumeSource) {
		switch c.name {
		case "cephfs":
			c.name = "cephFS"
		case "csi":
			c = volumeCheck{"csi", s.CSI != nil, func(r *report, at *field.Path) { r.persistentCSI(at, s.CSI) }}
		}
		checks = append(checks, c)
	}
	return append(checks, volumeCheck{"local", s.Local != nil, func(r *report, at *field.Path) {
		if r.Present(at.Child("path"), s.Local.Path) {
			r.noBacksteps(at.Child("path"), s.Local.Path)
		}
	}})
}

// asPodVolume views a source as the one that pods know under the same name.
func asPodVolume(s *corev1.PersistentVolumeSource) corev1.Volume {
	v := corev1.VolumeSource{
		GCEPersistentDisk: s.GCEPersistentDisk, AWSElasticBlockStore: s.AWSElasticBlockStore, HostPath: s.HostPath, NFS: s.NFS,
		FC: s.FC, Flocker: s.Flocker, VsphereVolume: s.VsphereVolume, Quobyte: s.Quobyte, AzureDisk: s.AzureDisk,
		PhotonPersistentDisk: s.PhotonPersistentDisk, PortworxVolume: s.PortworxVolume,
	}
	if g := s.Glusterfs; g != nil {
		v.Glusterfs = &corev1.GlusterfsVolumeSource{EndpointsName: g.EndpointsName, Path: g.Path, ReadOnly: g.ReadOnly}
	}
	if b := s.RBD; b != nil {
		v.RBD = &corev1.RBDVolumeSource{CephMonitors: b.CephMonitors, RBDImage: b.RBDImage}
	}
	if i := s.ISCSI; i != nil {
		v.ISCSI = &corev1.ISCSIVolumeSource{
			TargetPortal: i.TargetPortal, IQN: i.IQN, Lun: i.Lun, DiscoveryCHAPAuth: i.DiscoveryCHAPAuth,
			SessionCHAPAuth: i.SessionCHAPAuth, InitiatorName: i.InitiatorName, SecretRef: localName(i.SecretRef),
		}
	}
	if c := s.Cinder; c != nil {
		v.Cinder = &corev1.CinderVolumeSource{VolumeID: c.VolumeID, SecretRef: localName(c.SecretRef)}
	}
	if c := s.CephFS; c != nil {
		v.CephFS = &corev1.CephFSVolumeSource{Monitors: c.Monitors}
	}
	if f := s.FlexVolume; f != nil {
		v.FlexVolume = &corev1.FlexVolumeSource{Driver: f.Driver, Options: f.Options}
	}
	if a := s.AzureFile; a != nil {
		v.AzureFile = &corev1.AzureFileVolumeSource{SecretName: a.SecretName, ShareName: a.ShareName}
	}
	if i := s.ScaleIO; i != nil {
		v.ScaleIO = &corev1.ScaleIOVolumeSource{Gateway: i.Gateway, System: i.System, VolumeName: i.VolumeName}
	}
	if o := s.StorageOS; o != nil {
		v.StorageOS = &corev1.StorageOSVolumeSource{VolumeName: o.VolumeName, VolumeNamespace: o.VolumeNamespace}
		if o.SecretRef != nil {
			v.StorageOS.SecretRef = &corev1.LocalObjectReference{Name: o.SecretRef.Name}
		}
	}
	return corev1.Volume{VolumeSource: v}
}

func localName(s *corev1.SecretReference) *corev1.LocalObjectReference {
	if s == nil {
		return nil
	}
	return &corev1.LocalObjectReference{Name: s.Name}
}

func (r *report) persistentCSI(at *field.Path, s *corev1.CSIPersistentVolumeSource) {
	r.Add(ValidateCSIDriverName(s.Driver, at.Child("driver"))...)
	r.Present(at.Child("volumeHandle"), s.VolumeHandle)
	for _, ref := range []struct {
		name   string
		secret *corev1.SecretReference
	}{
		{"controllerPublishSecretRef", s.ControllerPublishSecretRef}, {"nodePublishSecretRef", s.NodePublishSecretRef},
		{"controllerExpandSecretRef", s.ControllerExpandSecretRef}, {"nodeStageSecretRef", s.NodeStageSecretRef},
		{"nodeExpandSecretRef", s.NodeExpandSecretRef},
	} {
		if ref.secret != nil {
			r.Present(at.Child(ref.name, "name"), ref.secret.Name)
			r.Present(at.Child(ref.name, "namespace"), ref.secret.Namespace)
		}
	}
}

// IsRootPath tells whether a hostPath volume is the whole file system of its node.
func IsRootPath(h *corev1.HostPathVolumeSource) bool {
	return path.Clean(ptr.Deref(h, corev1.HostPathVolumeSource{}).Path) == "/"
}

// ValidateOverhead checks what a pod needs beside its containers.
func ValidateOverhead(list corev1.ResourceList, at *field.Path) field.ErrorList {
	r := &report{}
	r.requirements(at, &corev1.ResourceRequirements{Limits: list}, nil)
	return r.Errs
}

// ValidateTolerations checks tolerations outside of a pod.
func ValidateTolerations(tolerations []corev1.Toleration, at *field.Path) field.ErrorList {
	r := &report{}
	r.tolerations(at, tolerations)
	return r.Errs
}

// ValidateContainerResourceName checks the name of a resource that containers may ask for.
func ValidateContainerResourceName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	r := &report{}
	r.containerResource(at, name, *resource.NewQuantity(0, resource.DecimalSI))
	return r.Errs
}

// Overcommits tells whether the containers of a node may together be promised more of a resource than there is.
func Overcommits(name corev1.ResourceName) bool { return overcommits(name) }

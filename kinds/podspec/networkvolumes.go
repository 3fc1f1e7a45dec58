package podspec

import (
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds/check"
)

// needed is a field that a volume source cannot do without.
type needed struct{ name, value string }

// networkSources are those of storage systems. Most have only fields that must not be empty.
func networkSources(v *corev1.VolumeSource) []volumeCheck {
	partition := func(r *report, at *field.Path, p int32) {
		if p < 0 || p > 255 {
			r.Invalid(at.Child("partition"), p, validation.InclusiveRangeError(0, 255))
		}
	}
	fields := func(list func() []needed) func(*report, *field.Path) {
		return func(r *report, at *field.Path) {
			for _, f := range list() {
				r.Present(at.Child(f.name), f.value)
			}
		}
	}
	return []volumeCheck{
		{"gcePersistentDisk", v.GCEPersistentDisk != nil, func(r *report, at *field.Path) {
			r.Present(at.Child("pdName"), v.GCEPersistentDisk.PDName)
			partition(r, at, v.GCEPersistentDisk.Partition)
		}},
		{"awsElasticBlockStore", v.AWSElasticBlockStore != nil, func(r *report, at *field.Path) {
			r.Present(at.Child("volumeID"), v.AWSElasticBlockStore.VolumeID)
			partition(r, at, v.AWSElasticBlockStore.Partition)
		}},
		{"nfs", v.NFS != nil, func(r *report, at *field.Path) {
			r.Present(at.Child("server"), v.NFS.Server)
			r.Present(at.Child("path"), v.NFS.Path)
			if !path.IsAbs(v.NFS.Path) {
				r.Invalid(at.Child("path"), v.NFS.Path, "must be an absolute path")
			}
		}},
		{"iscsi", v.ISCSI != nil, func(r *report, at *field.Path) { r.iscsi(at, v.ISCSI) }},
		{"glusterfs", v.Glusterfs != nil, fields(func() []needed {
			return []needed{{"endpoints", v.Glusterfs.EndpointsName}, {"path", v.Glusterfs.Path}}
		})},
		{"flocker", v.Flocker != nil, func(r *report, at *field.Path) {
			name, uuid := v.Flocker.DatasetName, v.Flocker.DatasetUUID
			switch {
			case name == "" && uuid == "":
				r.Required(at, "one of datasetName and datasetUUID is required")
			case name != "" && uuid != "":
				r.Invalid(at, "resource", "datasetName and datasetUUID can not be specified simultaneously")
			}
			if strings.Contains(name, "/") {
				r.Invalid(at.Child("datasetName"), name, "must not contain '/'")
			}
		}},
		{"rbd", v.RBD != nil, func(r *report, at *field.Path) {
			if len(v.RBD.CephMonitors) == 0 {
				r.Required(at.Child("monitors"), "")
			}
			r.Present(at.Child("image"), v.RBD.RBDImage)
		}},
		{"cinder", v.Cinder != nil, func(r *report, at *field.Path) {
			r.Present(at.Child("volumeID"), v.Cinder.VolumeID)
			if v.Cinder.SecretRef != nil {
				r.Present(at.Child("secretRef", "name"), v.Cinder.SecretRef.Name)
			}
		}},
		{"cephfs", v.CephFS != nil, func(r *report, at *field.Path) {
			if len(v.CephFS.Monitors) == 0 {
				r.Required(at.Child("monitors"), "")
			}
		}},
		{"quobyte", v.Quobyte != nil, func(r *report, at *field.Path) { r.quobyte(at, v.Quobyte) }},
		{"fc", v.FC != nil, func(r *report, at *field.Path) { r.fc(at, v.FC) }},
		{"flexVolume", v.FlexVolume != nil, func(r *report, at *field.Path) {
			r.Present(at.Child("driver"), v.FlexVolume.Driver)
			for key := range v.FlexVolume.Options {
				domain, _, _ := strings.Cut(key, "/")
				if domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") || domain == "k8s.io" || strings.HasSuffix(domain, ".k8s.io") {
					r.Invalid(at.Child("options").Key(key), key, "*.kubernetes.io and *.k8s.io option keys are reserved")
				}
			}
		}},
		{"azureFile", v.AzureFile != nil, fields(func() []needed {
			return []needed{{"secretName", v.AzureFile.SecretName}, {"shareName", v.AzureFile.ShareName}}
		})},
		{"vsphereVolume", v.VsphereVolume != nil, fields(func() []needed { return []needed{{"volumePath", v.VsphereVolume.VolumePath}} })},
		{"photonPersistentDisk", v.PhotonPersistentDisk != nil, fields(func() []needed { return []needed{{"pdID", v.PhotonPersistentDisk.PdID}} })},
		{"portworxVolume", v.PortworxVolume != nil, fields(func() []needed { return []needed{{"volumeID", v.PortworxVolume.VolumeID}} })},
		{"azureDisk", v.AzureDisk != nil, func(r *report, at *field.Path) { r.azureDisk(at, v.AzureDisk) }},
		{"storageos", v.StorageOS != nil, func(r *report, at *field.Path) {
			r.Name(at.Child("volumeName"), v.StorageOS.VolumeName, validation.IsDNS1123Label)
			if v.StorageOS.VolumeNamespace != "" {
				r.Invalid(at.Child("volumeNamespace"), v.StorageOS.VolumeNamespace, validation.IsDNS1123Label(v.StorageOS.VolumeNamespace)...)
			}
			if v.StorageOS.SecretRef != nil {
				r.Present(at.Child("secretRef", "name"), v.StorageOS.SecretRef.Name)
			}
		}},
		{"scaleIO", v.ScaleIO != nil, fields(func() []needed {
			return []needed{{"gateway", v.ScaleIO.Gateway}, {"system", v.ScaleIO.System}, {"volumeName", v.ScaleIO.VolumeName}}
		})},
		{"csi", v.CSI != nil, func(r *report, at *field.Path) {
			r.Add(ValidateCSIDriverName(v.CSI.Driver, at.Child("driver"))...)
			if v.CSI.NodePublishSecretRef != nil {
				r.Present(at.Child("nodePublishSecretRef", "name"), v.CSI.NodePublishSecretRef.Name)
			}
		}},
	}
}

// ValidateCSIDriverName checks the name that a CSI driver registers under.
func ValidateCSIDriverName(name string, at *field.Path) field.ErrorList {
	r := &report{}
	r.Present(at, name)
	if len(name) > 63 {
		r.Add(field.TooLong(at, name, 63))
	}
	r.Invalid(at, name, subdomain(strings.ToLower(name))...)
	return r.Errs
}

func (r *report) iscsi(at *field.Path, s *corev1.ISCSIVolumeSource) {
	r.Present(at.Child("targetPortal"), s.TargetPortal)
	if r.Present(at.Child("iqn"), s.IQN) {
		if !strings.HasPrefix(s.IQN, "iqn") && !strings.HasPrefix(s.IQN, "eui") && !strings.HasPrefix(s.IQN, "naa") {
			r.Invalid(at.Child("iqn"), s.IQN, "must be valid format starting with iqn, eui, or naa")
		}
	}
	if s.Lun < 0 || s.Lun > 255 {
		r.Invalid(at.Child("lun"), s.Lun, validation.InclusiveRangeError(0, 255))
	}
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		r.Required(at.Child("secretRef"), "")
	}
	if n := s.InitiatorName; n != nil && !strings.HasPrefix(*n, "iqn") && !strings.HasPrefix(*n, "eui") && !strings.HasPrefix(*n, "naa") {
		r.Invalid(at.Child("initiatorname"), *n, "must be valid format starting with iqn, eui, or naa")
	}
}

func (r *report) quobyte(at *field.Path, s *corev1.QuobyteVolumeSource) {
	if !r.Present(at.Child("registry"), s.Registry) {
		return
	}
	if len(s.Tenant) >= 65 {
		r.Required(at.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters")
	}
	for host := range strings.SplitSeq(s.Registry, ",") {
		if name, port, ok := strings.Cut(host, ":"); !ok || name == "" || port == "" {
			r.Invalid(at.Child("registry"), s.Registry, "must be a host:port pair or multiple pairs separated by commas")
			break
		}
	}
	r.Present(at.Child("volume"), s.Volume)
}

func (r *report) fc(at *field.Path, s *corev1.FCVolumeSource) {
	if len(s.TargetWWNs) == 0 && len(s.WWIDs) == 0 {
		r.Required(at.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both")
	}
	if len(s.TargetWWNs) > 0 && len(s.WWIDs) > 0 {
		r.Invalid(at.Child("targetWWNs"), s.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously")
	}
	if len(s.TargetWWNs) == 0 {
		return
	}
	if s.Lun == nil {
		r.Required(at.Child("lun"), "lun is required if targetWWNs is specified")
	} else if *s.Lun < 0 || *s.Lun > 255 {
		r.Invalid(at.Child("lun"), *s.Lun, validation.InclusiveRangeError(0, 255))
	}
}

func (r *report) azureDisk(at *field.Path, s *corev1.AzureDiskVolumeSource) {
	r.Present(at.Child("diskName"), s.DiskName)
	r.Present(at.Child("diskURI"), s.DataDiskURI)
	if s.CachingMode != nil {
		check.OneOf(&r.Report, at.Child("cachingMode"), *s.CachingMode, corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)
	}
	kind := ptr.Deref(s.Kind, corev1.AzureSharedBlobDisk)
	check.OneOf(&r.Report, at.Child("kind"), kind, corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk, corev1.AzureSharedBlobDisk)
	switch {
	case kind == corev1.AzureManagedDisk && !strings.HasPrefix(s.DataDiskURI, "/subscriptions/"):
		r.Add(field.NotSupported(at.Child("diskURI"), s.DataDiskURI,
			[]string{"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"}))
	case kind != corev1.AzureManagedDisk && !strings.HasPrefix(s.DataDiskURI, "https://"):
		r.Add(field.NotSupported(at.Child("diskURI"), s.DataDiskURI, []string{"https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"}))
	}
}

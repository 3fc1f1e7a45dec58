package podspec

import (
	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/utils/ptr"
)

// Default fills in what pods and pod templates lack, and clears the fields that are not served. It is idempotent, and writes
// nothing into a spec that it has seen before, so that such a spec may be shared.
func Default(spec *corev1.PodSpec) {
	dropUnserved(spec)
	setDefault(&spec.RestartPolicy, corev1.RestartPolicyAlways)
	setDefault(&spec.DNSPolicy, corev1.DNSClusterFirst)
	setDefault(&spec.SchedulerName, corev1.DefaultSchedulerName)
	point(&spec.TerminationGracePeriodSeconds, int64(corev1.DefaultTerminationGracePeriodSeconds))
	point(&spec.SecurityContext, corev1.PodSecurityContext{})
	// Two names of one field: the old one always mirrors the new one.
	setDefault(&spec.ServiceAccountName, spec.DeprecatedServiceAccount)
	spec.DeprecatedServiceAccount = spec.ServiceAccountName
	RoundUp(spec.Overhead)
	if spec.Resources != nil {
		RoundUp(spec.Resources.Limits)
		RoundUp(spec.Resources.Requests)
	}
	for i := range spec.Volumes {
		defaultVolume(&spec.Volumes[i].VolumeSource)
	}
	eachContainer(spec, func(_ string, _ int, c *corev1.Container) { defaultContainer(c) })
}

// DefaultPod fills in what a pod lacks: what Default does, and what upstream leaves out of templates.
func DefaultPod(pod *corev1.Pod) {
	spec := &pod.Spec
	Default(spec)
	point(&spec.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	if *spec.TerminationGracePeriodSeconds < 0 {
		*spec.TerminationGracePeriodSeconds = 1
	}
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			res := &list[i].Resources
			withDefaults(&res.Requests, res.Limits)
			for j := range list[i].Ports {
				if p := &list[i].Ports[j]; spec.HostNetwork && p.HostPort == 0 {
					p.HostPort = p.ContainerPort
				}
			}
		}
	}
	defaultPodResources(pod)
}

// defaultPodResources fills in the resources of the whole pod, once it has some: from its containers, then from its limits.
func defaultPodResources(pod *corev1.Pod) {
	res := pod.Spec.Resources
	if res == nil || len(res.Limits)+len(res.Requests) == 0 {
		return
	}
	podLevel := func(from corev1.ResourceList, only func(corev1.ResourceName) bool) corev1.ResourceList {
		out := corev1.ResourceList{}
		for name, q := range from {
			if only(name) {
				out[name] = q
			}
		}
		return out
	}
	limits := resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{})
	requests := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})
	withDefaults(&res.Limits, podLevel(limits, isHugePages))
	withDefaults(&res.Requests, podLevel(requests, resourcehelper.IsSupportedPodLevelResource))
	withDefaults(&res.Requests, podLevel(res.Limits, resourcehelper.IsSupportedPodLevelResource))
}

// withDefaults adds to list the entries of defaults that it lacks.
func withDefaults(list *corev1.ResourceList, defaults corev1.ResourceList) {
	for name, q := range defaults {
		if _, set := (*list)[name]; set {
			continue
		}
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[name] = q.DeepCopy()
	}
}

// RoundUp rounds every quantity up to a thousandth, the finest that the API keeps.
func RoundUp(list corev1.ResourceList) {
	for name, q := range list {
		if exact := q.RoundUp(resource.Milli); !exact {
			list[name] = q
		}
	}
}

// PullPolicy is the default imagePullPolicy of an image: Always when its tag is latest, as it also is when neither a tag
// nor a digest is given; IfNotPresent otherwise.
func PullPolicy(image string) corev1.PullPolicy {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return corev1.PullIfNotPresent
	}
	// TagNameOnly adds the tag latest to a name that has neither.
	if tagged, ok := reference.TagNameOnly(named).(reference.Tagged); ok && tagged.Tag() == "latest" {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

func defaultContainer(c *corev1.Container) {
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = PullPolicy(c.Image)
	}
	setDefault(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	setDefault(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	RoundUp(c.Resources.Limits)
	RoundUp(c.Resources.Requests)
	for i := range c.Ports {
		setDefault(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil {
			defaultFieldRef(from.FieldRef)
			if from.FileKeyRef != nil {
				point(&from.FileKeyRef.Optional, false)
			}
		}
	}
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p != nil {
			defaultProbe(p)
		}
	}
	if c.Lifecycle != nil {
		for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil {
				defaultHTTPGet(h.HTTPGet)
			}
		}
	}
}

func defaultProbe(p *corev1.Probe) {
	setDefault(&p.TimeoutSeconds, 1)
	setDefault(&p.PeriodSeconds, 10)
	setDefault(&p.SuccessThreshold, 1)
	setDefault(&p.FailureThreshold, 3)
	defaultHTTPGet(p.HTTPGet)
	if p.GRPC != nil {
		point(&p.GRPC.Service, "")
	}
}

func defaultHTTPGet(h *corev1.HTTPGetAction) {
	if h != nil {
		setDefault(&h.Path, "/")
		setDefault(&h.Scheme, corev1.URISchemeHTTP)
	}
}

func defaultFieldRef(f *corev1.ObjectFieldSelector) {
	if f != nil {
		setDefault(&f.APIVersion, "v1")
	}
}

func defaultVolume(v *corev1.VolumeSource) {
	if *v == (corev1.VolumeSource{}) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	switch {
	case v.HostPath != nil:
		point(&v.HostPath.Type, corev1.HostPathUnset)
	case v.Secret != nil:
		point(&v.Secret.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
	case v.ConfigMap != nil:
		point(&v.ConfigMap.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
	case v.DownwardAPI != nil:
		point(&v.DownwardAPI.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
		defaultDownward(v.DownwardAPI.Items)
	case v.Projected != nil:
		point(&v.Projected.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil {
				point(&s.ServiceAccountToken.ExpirationSeconds, int64(60*60))
			}
			if s.DownwardAPI != nil {
				defaultDownward(s.DownwardAPI.Items)
			}
		}
	case v.Image != nil:
		if v.Image.PullPolicy == "" {
			v.Image.PullPolicy = PullPolicy(v.Image.Reference)
		}
	case v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil:
		claim := &v.Ephemeral.VolumeClaimTemplate.Spec
		point(&claim.VolumeMode, corev1.PersistentVolumeFilesystem)
		RoundUp(claim.Resources.Limits)
		RoundUp(claim.Resources.Requests)
	default:
		defaultNetworkVolume(v)
	}
}

func defaultDownward(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		defaultFieldRef(items[i].FieldRef)
	}
}

func defaultNetworkVolume(v *corev1.VolumeSource) {
	switch {
	case v.ISCSI != nil:
		setDefault(&v.ISCSI.ISCSIInterface, "default")
	case v.RBD != nil:
		setDefault(&v.RBD.RBDPool, "rbd")
		setDefault(&v.RBD.RadosUser, "admin")
		setDefault(&v.RBD.Keyring, "/etc/ceph/keyring")
	case v.AzureDisk != nil:
		point(&v.AzureDisk.CachingMode, corev1.AzureDataDiskCachingReadWrite)
		point(&v.AzureDisk.Kind, corev1.AzureSharedBlobDisk)
		point(&v.AzureDisk.FSType, "ext4")
		point(&v.AzureDisk.ReadOnly, false)
	case v.ScaleIO != nil:
		setDefault(&v.ScaleIO.StorageMode, "ThinProvisioned")
		setDefault(&v.ScaleIO.FSType, "xfs")
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func point[T any](field **T, value T) {
	if *field == nil {
		*field = ptr.To(value)
	}
}

// dropUnserved clears the fields of upstream's alpha features, which a server with upstream's own settings ignores too.
func dropUnserved(spec *corev1.PodSpec) {
	clearField(&spec.SchedulingGroup)
	if spec.EvictionResponders != nil {
		spec.EvictionResponders = nil
	}
	for i := range spec.Volumes {
		if v := &spec.Volumes[i]; v.EmptyDir != nil {
			clearField(&v.EmptyDir.Mode)
		} else {
			dropFileOwners(&v.VolumeSource)
		}
	}
	eachContainer(spec, func(_ string, _ int, c *corev1.Container) {
		for i := range c.VolumeMounts {
			if m := &c.VolumeMounts[i]; m.BindMountOptions != nil {
				m.BindMountOptions = nil
			}
		}
		if c.Lifecycle != nil {
			clearField(&c.Lifecycle.StopSignal)
		}
		for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
			if p != nil && p.HTTPGet != nil {
				clearField(&p.HTTPGet.Protocol)
			}
			if p != nil && p.GRPC != nil {
				clearField(&p.GRPC.Mode)
			}
		}
	})
}

func dropFileOwners(v *corev1.VolumeSource) {
	downward := func(items []corev1.DownwardAPIVolumeFile) {
		for i := range items {
			clearField(&items[i].User)
		}
	}
	keys := func(items []corev1.KeyToPath) {
		for i := range items {
			clearField(&items[i].User)
		}
	}
	switch {
	case v.Secret != nil:
		clearField(&v.Secret.DefaultUser)
		keys(v.Secret.Items)
	case v.ConfigMap != nil:
		clearField(&v.ConfigMap.DefaultUser)
		keys(v.ConfigMap.Items)
	case v.DownwardAPI != nil:
		clearField(&v.DownwardAPI.DefaultUser)
		downward(v.DownwardAPI.Items)
	case v.Projected != nil:
		clearField(&v.Projected.DefaultUser)
		for i := range v.Projected.Sources {
			s := &v.Projected.Sources[i]
			if s.Secret != nil {
				keys(s.Secret.Items)
			}
			if s.ConfigMap != nil {
				keys(s.ConfigMap.Items)
			}
			if s.DownwardAPI != nil {
				downward(s.DownwardAPI.Items)
			}
			if s.ServiceAccountToken != nil {
				clearField(&s.ServiceAccountToken.User)
			}
			if s.ClusterTrustBundle != nil {
				clearField(&s.ClusterTrustBundle.User)
			}
			if s.PodCertificate != nil {
				clearField(&s.PodCertificate.User)
			}
		}
	}
}

func clearField[T any](field **T) {
	if *field != nil {
		*field = nil
	}
}

package podspec

import (
	"math"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds/check"
)

// ValidatePod checks a new pod, but for its ObjectMeta.
func ValidatePod(pod *corev1.Pod) field.ErrorList {
	r := &report{}
	r.pod(pod)
	at := field.NewPath("spec")
	if len(pod.Spec.EphemeralContainers) > 0 {
		r.Forbidden(at.Child("ephemeralContainers"), "cannot be set on create")
	}
	if pod.Spec.NodeName != "" && len(pod.Spec.SchedulingGates) > 0 {
		r.Forbidden(at.Child("nodeName"), "cannot be set until all schedulingGates have been cleared")
	}
	return r.Errs
}

// pod checks what must hold for a pod at any time.
func (r *report) pod(pod *corev1.Pod) {
	at, spec := field.NewPath("spec"), &pod.Spec
	r.annotations(field.NewPath("metadata", "annotations"), pod.Annotations, spec)
	r.spec(at, spec, &pod.ObjectMeta)
	// Templates are spared what follows: admission fills in the account, and odd images are replaced by controllers.
	if spec.ServiceAccountName == "" {
		for i, v := range spec.Volumes {
			if v.Projected == nil {
				continue
			}
			for j, s := range v.Projected.Sources {
				source := at.Child("volumes").Index(i).Child("projected", "sources").Index(j)
				if s.ServiceAccountToken != nil {
					r.Forbidden(source.Child("serviceAccountToken"), "must not be specified when serviceAccountName is not set")
				}
				if s.PodCertificate != nil {
					r.Forbidden(source.Child("podCertificate"), "must not be specified when serviceAccountName is not set")
				}
			}
		}
	}
	for i := range spec.Containers {
		r.imageSpace(at.Child("containers").Index(i), spec.Containers[i].Image)
	}
	for i := range spec.InitContainers {
		r.imageSpace(at.Child("initContainers").Index(i), spec.InitContainers[i].Image)
	}
}

func (r *report) imageSpace(at *field.Path, image string) {
	if image != strings.TrimSpace(image) {
		r.Invalid(at.Child("image"), image, "must not have leading or trailing whitespace")
	}
}

// ValidateTemplate checks a pod template with its metadata.
func ValidateTemplate(t *corev1.PodTemplateSpec, at *field.Path) field.ErrorList {
	r := &report{}
	r.template(at, t)
	return r.Errs
}

// ValidateReplicated checks the template of a workload that keeps a number of pods alike (ReplicaSet, Deployment, …):
// selector, as far as it could be parsed, must select its pods, and they must run for ever.
func ValidateReplicated(t *corev1.PodTemplateSpec, selector labels.Selector, at *field.Path) field.ErrorList {
	r := &report{}
	if selector != nil && !selector.Empty() && !selector.Matches(labels.Set(t.Labels)) {
		r.Invalid(at.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`")
	}
	r.template(at, t)
	spec := at.Child("spec")
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		r.Add(field.NotSupported(spec.Child("restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		r.Forbidden(spec.Child("activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicaSet is not Supported")
	}
	return r.Errs
}

func (r *report) template(at *field.Path, t *corev1.PodTemplateSpec) {
	r.Add(metav1validation.ValidateLabels(t.Labels, at.Child("labels"))...)
	r.Add(apivalidation.ValidateAnnotations(t.Annotations, at.Child("annotations"))...)
	r.annotations(at.Child("annotations"), t.Annotations, &t.Spec)
	r.spec(at.Child("spec"), &t.Spec, nil)
	if len(t.Spec.EphemeralContainers) > 0 {
		r.Forbidden(at.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template")
	}
}

// annotations checks those that mean something for a pod.
func (r *report) annotations(at *field.Path, annotations map[string]string, spec *corev1.PodSpec) {
	if value, mirror := annotations[corev1.MirrorPodAnnotationKey]; mirror && spec.NodeName == "" {
		r.Invalid(at.Key(corev1.MirrorPodAnnotationKey), value, "must set spec.nodeName if mirror pod annotation is set")
	}
	for key, value := range annotations {
		name, ok := strings.CutPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix)
		if !ok {
			continue
		}
		if !containerNames(spec)[name] {
			r.Invalid(at.Key(key), name, "container not found")
		}
		if value != "" && value != corev1.DeprecatedAppArmorBetaProfileRuntimeDefault && value != corev1.DeprecatedAppArmorBetaProfileNameUnconfined &&
			!strings.HasPrefix(value, corev1.DeprecatedAppArmorBetaProfileNamePrefix) {
			r.Invalid(at.Key(key), value, "invalid AppArmor profile name: \""+value+"\"")
		}
	}
}

func containerNames(spec *corev1.PodSpec) map[string]bool {
	names := map[string]bool{}
	eachContainer(spec, func(_ string, _ int, c *corev1.Container) { names[c.Name] = true })
	return names
}

// podContext is what the checks of one container know of the pod around it.
type podContext struct {
	spec *corev1.PodSpec
	// volumes holds the pod's valid volumes, claims the names of its resource claims.
	volumes map[string]*corev1.VolumeSource
	claims  map[string]bool
	// hostUsers: the pod has no user namespace of its own.
	hostUsers bool
}

// spec checks a PodSpec in upstream's order. meta is nil in templates.
func (r *report) spec(at *field.Path, spec *corev1.PodSpec, meta *metav1.ObjectMeta) {
	p := &podContext{spec: spec, hostUsers: spec.HostUsers == nil || *spec.HostUsers}
	p.volumes = r.volumes(at.Child("volumes"), spec.Volumes, meta)
	p.claims = r.resourceClaims(at.Child("resourceClaims"), spec.ResourceClaims)
	r.containers(at, p)
	r.podResources(at, spec)
	r.hostPorts(at, spec)
	check.OneOfRequired(&r.Report, at.Child("restartPolicy"), spec.RestartPolicy,
		corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	check.OneOfRequired(&r.Report, at.Child("dnsPolicy"), spec.DNSPolicy,
		corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)
	r.Add(metav1validation.ValidateLabels(spec.NodeSelector, at.Child("nodeSelector"))...)
	r.podSecurity(at.Child("securityContext"), spec)
	r.affinity(at.Child("affinity"), spec.Affinity)
	r.dnsConfig(at.Child("dnsConfig"), spec)
	for i, g := range spec.ReadinessGates {
		r.Invalid(at.Child("readinessGates").Index(i).Child("conditionType"), string(g.ConditionType), validation.IsQualifiedName(string(g.ConditionType))...)
	}
	r.schedulingGates(at.Child("schedulingGates"), spec.SchedulingGates)
	r.spread(at.Child("topologySpreadConstraints"), spec.TopologySpreadConstraints)
	r.hostProcess(at, spec)
	r.userNamespace(at, p)
	r.names(at, spec)
	r.tolerations(at.Child("tolerations"), spec.Tolerations)
	r.hostAliases(at.Child("hostAliases"), spec.HostAliases)
	if n := spec.PriorityClassName; n != "" {
		r.Invalid(at.Child("priorityClassName"), n, subdomain(n)...)
	}
	if n := spec.RuntimeClassName; n != nil {
		r.Invalid(at.Child("runtimeClassName"), *n, subdomain(*n)...)
	}
	if spec.PreemptionPolicy != nil {
		check.OneOfRequired(&r.Report, at.Child("preemptionPolicy"), *spec.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	r.requirements(at.Child("overhead"), &corev1.ResourceRequirements{Limits: spec.Overhead}, nil)
	r.os(at, spec)
}

// names checks the simple fields of a PodSpec that name or number something.
func (r *report) names(at *field.Path, spec *corev1.PodSpec) {
	for _, n := range []struct{ field, name string }{{"serviceAccountName", spec.ServiceAccountName}, {"nodeName", spec.NodeName}} {
		if n.name != "" {
			r.Invalid(at.Child(n.field), n.name, subdomain(n.name)...)
		}
	}
	if d := spec.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		r.Invalid(at.Child("activeDeadlineSeconds"), *d, validation.InclusiveRangeError(1, math.MaxInt32))
	}
	for _, n := range []struct{ field, name string }{{"hostname", spec.Hostname}, {"subdomain", spec.Subdomain}} {
		if n.name != "" {
			r.Invalid(at.Child(n.field), n.name, validation.IsDNS1123Label(n.name)...)
		}
	}
	if h := spec.HostnameOverride; h != nil {
		at := at.Child("hostnameOverride")
		// The kernel's limit of a host name.
		if len(*h) > 64 {
			r.Add(field.TooLong(at, *h, 64))
		}
		r.Invalid(at, *h, subdomain(*h)...)
		if ptr.Deref(spec.SetHostnameAsFQDN, false) {
			r.Forbidden(at, "setHostnameAsFQDN and hostnameOverride cannot be used together")
		}
		if spec.HostNetwork {
			r.Forbidden(at, "hostnameOverride cannot be used when hostNetwork is true")
		}
	}
}

func subdomain(name string) []string { return validation.IsDNS1123Subdomain(name) }

// descendingPath checks a path that must stay below where it starts.
func (r *report) descendingPath(at *field.Path, p string) {
	if path.IsAbs(p) {
		r.Invalid(at, p, "must be a relative path")
	}
	r.noBacksteps(at, p)
}

// ownPath is descendingPath for files beside which the volume keeps its own, whose names start with "..".
func (r *report) ownPath(at *field.Path, p string) {
	r.descendingPath(at, p)
	if strings.HasPrefix(p, "..") && !strings.HasPrefix(p, "../") {
		r.Invalid(at, p, "must not start with '..'")
	}
}

func (r *report) noBacksteps(at *field.Path, p string) {
	if hasBackstep(p) {
		r.Invalid(at, p, "must not contain '..'")
	}
}

func hasBackstep(p string) bool {
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// PodWarnings tells the author of a new pod what is accepted but ill-advised. Updates, which come from programs and come
// often, are not looked at: old is nil on create.
func PodWarnings(pod, old *corev1.Pod) []string {
	if old != nil {
		return nil
	}
	w := &warner{}
	if bad := validation.IsDNS1123Label(pod.Name); len(bad) > 0 {
		w.list = append(w.list, fmt.Sprintf("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", bad))
	}
	w.template(nil, &pod.ObjectMeta, &pod.Spec)
	return w.list
}

// TemplateWarnings is PodWarnings for a template at that path. An unchanged template is not warned of again.
func TemplateWarnings(at *field.Path, t, old *corev1.PodTemplateSpec) []string {
	if old != nil && equality.Semantic.DeepEqual(t, old) {
		return nil
	}
	w := &warner{}
	w.template(at, &t.ObjectMeta, &t.Spec)
	return w.list
}

type warner struct{ list []string }

func (w *warner) say(at *field.Path, format string, args ...any) {
	w.list = append(w.list, at.String()+": "+fmt.Sprintf(format, args...))
}

func (w *warner) template(at *field.Path, meta *metav1.ObjectMeta, spec *corev1.PodSpec) {
	spath := at.Child("spec")
	w.nodeLabels(spath, spec)
	w.annotations(at.Child("metadata", "annotations"), meta.Annotations, spec)
	w.volumes(spath.Child("volumes"), spec.Volumes)
	w.lists(spath, spec)
	w.fractions(spath.Child("overhead"), spec.Overhead)
	ports := map[string][]portAt{}
	eachContainer(spec, func(list string, i int, c *corev1.Container) {
		at := spath.Child(list).Index(i)
		w.fractions(at.Child("resources", "limits"), c.Resources.Limits)
		w.fractions(at.Child("resources", "requests"), c.Resources.Requests)
		w.env(at.Child("env"), c.Env)
		w.ports(at.Child("ports"), c.Ports, ports)
	})
	if g := spec.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		w.say(spath.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	w.selectors(spath, spec)
	for i, a := range spec.HostAliases {
		w.list = append(w.list, validation.GetWarningsForIP(spath.Child("hostAliases").Index(i).Child("ip"), a.IP)...)
	}
	if spec.DNSConfig != nil {
		for i, ip := range spec.DNSConfig.Nameservers {
			w.list = append(w.list, validation.GetWarningsForIP(spath.Child("dnsConfig", "nameservers").Index(i), ip)...)
		}
	}
}

// NodeLabelWarning says what to use instead of a node label that went out of use, or nothing.
func NodeLabelWarning(label string) string {
	for _, l := range []struct{ old, since, now string }{
		{"beta.kubernetes.io/arch", "v1.14", corev1.LabelArchStable},
		{"beta.kubernetes.io/os", "v1.14", corev1.LabelOSStable},
		{corev1.LabelFailureDomainBetaRegion, "v1.17", corev1.LabelTopologyRegion},
		{corev1.LabelFailureDomainBetaZone, "v1.17", corev1.LabelTopologyZone},
		{corev1.LabelInstanceType, "v1.17", corev1.LabelInstanceTypeStable},
	} {
		if label == l.old {
			return fmt.Sprintf("deprecated since %s; use %q instead", l.since, l.now)
		}
	}
	return ""
}

func (w *warner) nodeLabels(at *field.Path, spec *corev1.PodSpec) {
	for key := range spec.NodeSelector {
		if m := NodeLabelWarning(key); m != "" {
			w.say(at.Child("nodeSelector").Key(key), "%s", m)
		}
	}
	term := func(at *field.Path, t *corev1.NodeSelectorTerm) {
		for i, e := range t.MatchExpressions {
			if m := NodeLabelWarning(e.Key); m != "" {
				w.say(at.Child("matchExpressions").Index(i).Child("key"), "%s is %s", e.Key, m)
			}
		}
	}
	if spec.Affinity != nil && spec.Affinity.NodeAffinity != nil {
		n, at := spec.Affinity.NodeAffinity, at.Child("affinity", "nodeAffinity")
		if s := n.RequiredDuringSchedulingIgnoredDuringExecution; s != nil {
			for i := range s.NodeSelectorTerms {
				term(at.Child(required, "nodeSelectorTerms").Index(i), &s.NodeSelectorTerms[i])
			}
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			term(at.Child(preferred).Index(i).Child("preference"), &n.PreferredDuringSchedulingIgnoredDuringExecution[i].Preference)
		}
	}
	for i, c := range spec.TopologySpreadConstraints {
		if m := NodeLabelWarning(c.TopologyKey); m != "" {
			w.say(at.Child("topologySpreadConstraints").Index(i).Child("topologyKey"), "%s is %s", c.TopologyKey, m)
		}
	}
}

func (w *warner) annotations(at *field.Path, annotations map[string]string, spec *corev1.PodSpec) {
	profiled := map[string]bool{}
	eachContainer(spec, func(_ string, _ int, c *corev1.Container) {
		profiled[c.Name] = c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil
	})
	keys := make([]string, 0, len(annotations))
	for key := range annotations {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		container, appArmor := strings.CutPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix)
		switch {
		case key == "scheduler.alpha.kubernetes.io/critical-pod":
			w.say(at.Key(key), `non-functional in v1.16+; use the "priorityClassName" field instead`)
		case key == corev1.SeccompPodAnnotationKey || strings.HasPrefix(key, corev1.SeccompContainerAnnotationKeyPrefix):
			w.say(at.Key(key), `non-functional in v1.27+; use the "seccompProfile" field instead`)
		case appArmor && !profiled[container]:
			w.say(at.Key(key), `deprecated since v1.30; use the "appArmorProfile" field instead`)
		}
	}
}

func (w *warner) volumes(at *field.Path, volumes []corev1.Volume) {
	for i := range volumes {
		v := &volumes[i]
		for _, old := range []struct {
			name string
			set  bool
			fate string
		}{
			{"photonPersistentDisk", v.PhotonPersistentDisk != nil, "deprecated in v1.11, non-functional in v1.16+"},
			{"gitRepo", v.GitRepo != nil, "deprecated in v1.11, and disabled by default in v1.33+"},
			{"scaleIO", v.ScaleIO != nil, "deprecated in v1.16, non-functional in v1.22+"},
			{"flocker", v.Flocker != nil, "deprecated in v1.22, non-functional in v1.25+"},
			{"storageOS", v.StorageOS != nil, "deprecated in v1.22, non-functional in v1.25+"},
			{"quobyte", v.Quobyte != nil, "deprecated in v1.22, non-functional in v1.25+"},
			{"glusterfs", v.Glusterfs != nil, "deprecated in v1.25, non-functional in v1.26+"},
			{"cephfs", v.CephFS != nil, "deprecated in v1.28, non-functional in v1.31+"},
			{"rbd", v.RBD != nil, "deprecated in v1.28, non-functional in v1.31+"},
		} {
			if old.set {
				w.say(at.Index(i).Child(old.name), "%s", old.fate)
			}
		}
		if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
			requests := v.Ephemeral.VolumeClaimTemplate.Spec.Resources.Requests
			if q, ok := requests[corev1.ResourceStorage]; ok {
				w.fraction(at.Index(i).Child("ephemeral", "volumeClaimTemplate", "spec", "resources", "requests").Key("storage"), q)
			}
		}
	}
}

// lists warns of list entries that apply will merge into one.
func (w *warner) lists(at *field.Path, spec *corev1.PodSpec) {
	seen := map[string]bool{}
	for i, a := range spec.HostAliases {
		if seen[a.IP] {
			w.say(at.Child("hostAliases").Index(i).Child("ip"), "duplicate ip %q", a.IP)
		}
		seen[a.IP] = true
	}
	clear(seen)
	for i, s := range spec.ImagePullSecrets {
		at := at.Child("imagePullSecrets").Index(i).Child("name")
		if s.Name == "" {
			w.say(at, "invalid empty name %q", s.Name)
		} else if seen[s.Name] {
			w.say(at, "duplicate name %q", s.Name)
		}
		seen[s.Name] = true
	}
}

func (w *warner) env(at *field.Path, env []corev1.EnvVar) {
	seen := map[string]bool{}
	for i, e := range env {
		// A value that refers to the earlier one extends it.
		extends := e.ValueFrom == nil && (e.Value == "" || strings.Contains(e.Value, "$("+e.Name+")"))
		if seen[e.Name] && !extends {
			w.say(at.Index(i), "hides previous definition of %q, which may be dropped when using apply", e.Name)
		}
		seen[e.Name] = true
	}
}

type portAt struct {
	at   *field.Path
	port corev1.ContainerPort
}

func (w *warner) ports(at *field.Path, ports []corev1.ContainerPort, seen map[string][]portAt) {
	for i, p := range ports {
		at := at.Index(i)
		if p.HostIP != "" {
			w.list = append(w.list, validation.GetWarningsForIP(at.Child("hostIP"), p.HostIP)...)
		}
		key := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
		for _, other := range seen[key] {
			o := other.port
			switch {
			case p.HostIP == o.HostIP && p.HostPort == o.HostPort:
				w.say(at, "duplicate port definition with %s", other.at)
			case p.HostPort == 0 || o.HostPort == 0:
				w.say(at, "overlapping port definition with %s", other.at)
			case p.HostPort == o.HostPort && (p.HostIP == "") != (o.HostIP == ""):
				w.say(at, "dangerously ambiguous port definition with %s", other.at)
			}
		}
		seen[key] = append(seen[key], portAt{at, p})
	}
}

// fractions warns of parts of a byte.
func (w *warner) fractions(at *field.Path, list corev1.ResourceList) {
	for _, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if q, ok := list[name]; ok {
			w.fraction(at.Key(string(name)), q)
		}
	}
}

func (w *warner) fraction(at *field.Path, q resource.Quantity) {
	if q.MilliValue()%1000 != 0 {
		w.say(at, "fractional byte value %q is invalid, must be an integer", q.String())
	}
}

func (w *warner) selectors(at *field.Path, spec *corev1.PodSpec) {
	const none = "a null labelSelector results in matching no pod"
	terms := func(at *field.Path, must []corev1.PodAffinityTerm, should []corev1.WeightedPodAffinityTerm) {
		for i := range must {
			if must[i].LabelSelector == nil {
				w.say(at.Child(required).Index(i).Child("labelSelector"), none)
			}
		}
		for i := range should {
			if should[i].PodAffinityTerm.LabelSelector == nil {
				w.say(at.Child(preferred).Index(i).Child("podAffinityTerm", "labelSelector"), none)
			}
		}
	}
	if a := spec.Affinity; a != nil {
		if p := a.PodAffinity; p != nil {
			terms(at.Child("affinity", "podAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		if p := a.PodAntiAffinity; p != nil {
			terms(at.Child("affinity", "podAntiAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
		}
	}
	for i, c := range spec.TopologySpreadConstraints {
		if c.LabelSelector == nil {
			w.say(at.Child("topologySpreadConstraints").Index(i).Child("labelSelector"), none)
		}
	}
}

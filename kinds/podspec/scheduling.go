package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds/check"
)

const (
	required  = "requiredDuringSchedulingIgnoredDuringExecution"
	preferred = "preferredDuringSchedulingIgnoredDuringExecution"
)

func (r *report) affinity(at *field.Path, a *corev1.Affinity) {
	if a == nil {
		return
	}
	if n := a.NodeAffinity; n != nil {
		at := at.Child("nodeAffinity")
		if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			r.nodeSelector(at.Child(required), n.RequiredDuringSchedulingIgnoredDuringExecution)
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			t, at := &n.PreferredDuringSchedulingIgnoredDuringExecution[i], at.Child(preferred).Index(i)
			r.weight(at.Child("weight"), t.Weight)
			r.nodeSelectorTerm(at.Child("preference"), &t.Preference, false)
		}
	}
	if p := a.PodAffinity; p != nil {
		r.podAffinity(at.Child("podAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		r.podAffinity(at.Child("podAntiAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

func (r *report) weight(at *field.Path, w int32) {
	if w < 1 || w > 100 {
		r.Invalid(at, w, "must be in the range 1-100")
	}
}

// ValidateNodeSelector checks a choice of nodes, as in node affinity or in the topology of a volume.
func ValidateNodeSelector(s *corev1.NodeSelector, at *field.Path) field.ErrorList {
	r := &report{}
	r.nodeSelector(at, s)
	return r.Errs
}

func (r *report) nodeSelector(at *field.Path, s *corev1.NodeSelector) {
	at = at.Child("nodeSelectorTerms")
	if len(s.NodeSelectorTerms) == 0 {
		r.Required(at, "must have at least one node selector term")
	}
	for i := range s.NodeSelectorTerms {
		r.nodeSelectorTerm(at.Index(i), &s.NodeSelectorTerms[i], true)
	}
}

// nodeSelectorTerm checks one term; its values must be good labels only where they are required.
func (r *report) nodeSelectorTerm(at *field.Path, t *corev1.NodeSelectorTerm, strict bool) {
	for i, q := range t.MatchExpressions {
		at := at.Child("matchExpressions").Index(i)
		switch q.Operator {
		case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
			if len(q.Values) == 0 {
				r.Required(at.Child("values"), "must be specified when `operator` is 'In' or 'NotIn'")
			}
		case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
			if len(q.Values) > 0 {
				r.Forbidden(at.Child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
			}
		case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
			if len(q.Values) != 1 {
				r.Required(at.Child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'")
			}
		default:
			r.Invalid(at.Child("operator"), q.Operator, "not a valid selector operator")
		}
		r.Add(metav1validation.ValidateLabelName(q.Key, at.Child("key"))...)
		for j, v := range q.Values {
			if strict {
				r.Invalid(at.Child("values").Index(j), v, validation.IsValidLabelValue(v)...)
			}
		}
	}
	for i, q := range t.MatchFields {
		at := at.Child("matchFields").Index(i)
		switch q.Operator {
		case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
			if len(q.Values) != 1 {
				r.Required(at.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector")
			}
		default:
			r.Invalid(at.Child("operator"), q.Operator, "not a valid selector operator")
		}
		if q.Key != metav1.ObjectNameField {
			r.Invalid(at.Child("key"), q.Key, "not a valid field selector key")
			continue
		}
		for j, v := range q.Values {
			r.Invalid(at.Child("values").Index(j), v, subdomain(v)...)
		}
	}
}

func (r *report) podAffinity(at *field.Path, must []corev1.PodAffinityTerm, should []corev1.WeightedPodAffinityTerm) {
	for i := range must {
		r.podAffinityTerm(at.Child(required).Index(i), &must[i])
	}
	for i := range should {
		at := at.Child(preferred).Index(i)
		r.weight(at.Child("weight"), should[i].Weight)
		r.podAffinityTerm(at.Child("podAffinityTerm"), &should[i].PodAffinityTerm)
	}
}

func (r *report) podAffinityTerm(at *field.Path, t *corev1.PodAffinityTerm) {
	r.selector(at.Child("labelSelector"), t.LabelSelector)
	r.selector(at.Child("namespaceSelector"), t.NamespaceSelector)
	for _, n := range t.Namespaces {
		r.Invalid(at.Child("namespace"), n, validation.IsDNS1123Label(n)...)
	}
	r.labelKeys(at, "matchLabelKeys", t.MatchLabelKeys, t.LabelSelector)
	r.labelKeys(at, "mismatchLabelKeys", t.MismatchLabelKeys, t.LabelSelector)
	for i, k := range t.MatchLabelKeys {
		if slices.Contains(t.MismatchLabelKeys, k) {
			r.Invalid(at.Child("matchLabelKeys").Index(i), k, "exists in both matchLabelKeys and mismatchLabelKeys")
		}
	}
	if t.TopologyKey == "" {
		r.Required(at.Child("topologyKey"), "can not be empty")
	}
	r.Add(metav1validation.ValidateLabelName(t.TopologyKey, at.Child("topologyKey"))...)
}

func (r *report) selector(at *field.Path, s *metav1.LabelSelector) {
	r.Add(metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, at)...)
}

func (r *report) labelKeys(at *field.Path, name string, keys []string, selector *metav1.LabelSelector) {
	at = at.Child(name)
	if len(keys) > 0 && selector == nil {
		r.Forbidden(at, "must not be specified when labelSelector is not set")
	}
	for i, k := range keys {
		r.Add(metav1validation.ValidateLabelName(k, at.Index(i))...)
	}
}

// MergeLabelKeys turns the matchLabelKeys and mismatchLabelKeys of a new pod into requirements on the values that its own
// labels have, in the selectors beside them, which are all that the scheduler reads.
func MergeLabelKeys(spec *corev1.PodSpec, labels map[string]string) {
	merge := func(selector *metav1.LabelSelector, keys []string, op metav1.LabelSelectorOperator) {
		if selector == nil {
			return
		}
		for _, k := range keys {
			value, ok := labels[k]
			want := metav1.LabelSelectorRequirement{Key: k, Operator: op, Values: []string{value}}
			if !ok || slices.ContainsFunc(selector.MatchExpressions, func(q metav1.LabelSelectorRequirement) bool {
				return q.Key == k && q.Operator == op && slices.Equal(q.Values, want.Values)
			}) {
				continue
			}
			selector.MatchExpressions = append(selector.MatchExpressions, want)
		}
	}
	both := func(t *corev1.PodAffinityTerm) {
		merge(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn)
		merge(t.LabelSelector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
	}
	terms := func(must []corev1.PodAffinityTerm, should []corev1.WeightedPodAffinityTerm) {
		for i := range must {
			both(&must[i])
		}
		for i := range should {
			both(&should[i].PodAffinityTerm)
		}
	}
	if a := spec.Affinity; a != nil {
		if p := a.PodAffinity; p != nil {
			terms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		if p := a.PodAntiAffinity; p != nil {
			terms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
		}
	}
	for i := range spec.TopologySpreadConstraints {
		c := &spec.TopologySpreadConstraints[i]
		merge(c.LabelSelector, c.MatchLabelKeys, metav1.LabelSelectorOpIn)
	}
}

func (r *report) tolerations(at *field.Path, tolerations []corev1.Toleration) {
	for i, t := range tolerations {
		at := at.Index(i)
		if t.Key != "" {
			r.Add(metav1validation.ValidateLabelName(t.Key, at.Child("key"))...)
		} else if t.Operator != corev1.TolerationOpExists {
			r.Invalid(at.Child("operator"), t.Operator, `operator must be Exists when `+"`key`"+` is empty, which means "match all values and all keys"`)
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			r.Invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			if bad := validation.IsValidLabelValue(t.Value); len(bad) > 0 {
				r.Invalid(at.Child("operator"), t.Value, strings.Join(bad, ";"))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				r.Invalid(at.Child("operator"), t.Value, "value must be empty when `operator` is 'Exists'")
			}
		default:
			check.OneOf(&r.Report, at.Child("operator"), t.Operator, corev1.TolerationOpEqual, corev1.TolerationOpExists)
		}
		if t.Effect != "" {
			r.effect(at.Child("effect"), t.Effect)
		}
	}
}

func (r *report) effect(at *field.Path, e corev1.TaintEffect) {
	check.OneOf(&r.Report, at, e, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
}

// ValidateTaints checks the taints of a node.
func ValidateTaints(taints []corev1.Taint, at *field.Path) field.ErrorList {
	r := &report{}
	seen := map[string]bool{}
	for i, t := range taints {
		at := at.Index(i)
		r.Add(metav1validation.ValidateLabelName(t.Key, at.Child("key"))...)
		if bad := validation.IsValidLabelValue(t.Value); len(bad) > 0 {
			r.Invalid(at.Child("value"), t.Value, strings.Join(bad, ";"))
		}
		if r.Present(at.Child("effect"), string(t.Effect)) {
			r.effect(at.Child("effect"), t.Effect)
		}
		pair := string(t.Effect) + "/" + t.Key
		if seen[pair] {
			dup := field.Duplicate(at, Dump(t))
			dup.Detail = "taints must be unique by key and effect pair"
			r.Add(dup)
		}
		seen[pair] = true
	}
	return r.Errs
}

func (r *report) spread(at *field.Path, constraints []corev1.TopologySpreadConstraint) {
	const positive = "must be greater than zero"
	seen := map[string]bool{}
	for i := range constraints {
		c, at := &constraints[i], at.Index(i)
		if c.MaxSkew <= 0 {
			r.Invalid(at.Child("maxSkew"), c.MaxSkew, positive)
		}
		if c.TopologyKey == "" {
			r.Required(at.Child("topologyKey"), "can not be empty")
		} else {
			r.Add(metav1validation.ValidateLabelName(c.TopologyKey, at.Child("topologyKey"))...)
		}
		check.OneOf(&r.Report, at.Child("whenUnsatisfiable"), c.WhenUnsatisfiable, corev1.DoNotSchedule, corev1.ScheduleAnyway)
		pair := fmt.Sprintf("{%v, %v}", c.TopologyKey, c.WhenUnsatisfiable)
		if seen[pair] {
			r.Add(field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), pair))
		}
		seen[pair] = true
		if m := c.MinDomains; m != nil {
			if *m <= 0 {
				r.Invalid(at.Child("minDomains"), *m, positive)
			}
			if c.WhenUnsatisfiable != corev1.DoNotSchedule {
				r.Invalid(at.Child("minDomains"), *m, fmt.Sprintf("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not %v", c.WhenUnsatisfiable))
			}
		}
		for _, p := range []struct {
			name   string
			policy *corev1.NodeInclusionPolicy
		}{{"nodeAffinityPolicy", c.NodeAffinityPolicy}, {"nodeTaintsPolicy", c.NodeTaintsPolicy}} {
			if p.policy != nil {
				check.OneOf(&r.Report, at.Child(p.name), *p.policy, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
			}
		}
		r.labelKeys(at, "matchLabelKeys", c.MatchLabelKeys, c.LabelSelector)
		r.selector(at.Child("labelSelector"), c.LabelSelector)
	}
}

func (r *report) schedulingGates(at *field.Path, gates []corev1.PodSchedulingGate) {
	seen := map[string]bool{}
	for i, g := range gates {
		r.Invalid(at.Index(i), g.Name, validation.IsQualifiedName(g.Name)...)
		if seen[g.Name] {
			r.Add(field.Duplicate(at.Index(i), g.Name))
		}
		seen[g.Name] = true
	}
}

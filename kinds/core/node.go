package core

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/podspec"
)

// Node returns the row of nodes.
func Node() *kinds.Kind {
	return &kinds.Kind{
		Kind:       "Node",
		Resource:   "nodes",
		ShortNames: []string{"no"},
		Versions:   []kinds.Version{kinds.V[corev1.Node, corev1.NodeList]("v1")},
		Default:    kinds.On(defaultNode),
		PrepareUpdate: kinds.OnUpdate(func(n, old *corev1.Node) {
			n.Status = old.Status
		}),
		Validate:            kinds.Check(validateNode),
		ValidateUpdate:      kinds.CheckUpdate(validateNodeUpdate),
		Warnings:            kinds.Warn(nodeWarnings),
		UnconditionalUpdate: true,
		FieldLabels:         []string{"spec.unschedulable"},
		Fields: kinds.Select(func(n *corev1.Node) fields.Set {
			return fields.Set{"metadata.name": n.Name, "spec.unschedulable": strconv.FormatBool(n.Spec.Unschedulable)}
		}),
		Columns:     nodeColumns(),
		Cells:       kinds.Print(nodeCells),
		ResetFields: map[string][]string{"v1": {"status"}},
		Subresources: []kinds.Subresource{
			{Name: "proxy", Body: corev1.SchemeGroupVersion.WithKind("NodeProxyOptions"), Verbs: []string{"create", "delete", "get", "patch", "update"}},
			{
				Name: "status", Verbs: []string{"get", "patch", "update"},
				PrepareUpdate:  kinds.OnUpdate(func(n, old *corev1.Node) { n.Spec = old.Spec }),
				ValidateUpdate: kinds.CheckUpdate(validateNodeUpdate),
				ResetFields:    map[string][]string{"v1": {"spec"}},
			},
		},
	}
}

// defaultNode makes all of a node's capacity allocatable unless the node says otherwise. podCIDR and podCIDRs are two views
// of one list, in which the old field wins.
func defaultNode(n *corev1.Node) {
	s := &n.Spec
	// A field of an alpha feature, which is not served.
	s.PodPreemptionPolicy = nil
	switch {
	case s.PodCIDR == "" && len(s.PodCIDRs) > 0:
		s.PodCIDR = s.PodCIDRs[0]
	case s.PodCIDR != "" && (len(s.PodCIDRs) == 0 || s.PodCIDRs[0] != s.PodCIDR):
		s.PodCIDRs = []string{s.PodCIDR}
	}
	podspec.RoundUp(n.Status.Capacity)
	podspec.RoundUp(n.Status.Allocatable)
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
}

func validateNode(n *corev1.Node) field.ErrorList {
	return append(validateNodeState(n), validatePodCIDRs(n.Spec.PodCIDRs)...)
}

// validateNodeState checks what a client may write at any time: taints, which upstream reports below metadata, and amounts.
func validateNodeState(n *corev1.Node) field.ErrorList {
	errs := podspec.ValidateTaints(n.Spec.Taints, field.NewPath("metadata", "taints"))
	status := field.NewPath("status")
	for _, list := range []struct {
		name string
		list corev1.ResourceList
	}{{"capacity", n.Status.Capacity}, {"allocatable", n.Status.Allocatable}} {
		for _, name := range podspec.SortedNames(list.list) {
			errs = append(errs, podspec.ValidateQuantity(name, list.list[name], status.Child(list.name).Key(string(name)))...)
		}
	}
	return errs
}

func validatePodCIDRs(cidrs []string) (errs field.ErrorList) {
	at := field.NewPath("spec", "podCIDRs")
	families := map[bool]int{}
	for i, c := range cidrs {
		errs = append(errs, validation.IsValidCIDRForLegacyField(at.Index(i), c, true, nil)...)
		if p, err := netip.ParsePrefix(c); err == nil {
			families[p.Addr().Is4()]++
		}
	}
	if families[true] > 1 || families[false] > 1 {
		errs = append(errs, field.Invalid(at, cidrs, "may specify no more than one CIDR for each IP family"))
	}
	return errs
}

// validateNodeUpdate holds an update to the fields that may change. providerID and podCIDRs are set once.
func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	errs := validateNodeState(n)
	addresses := map[corev1.NodeAddress]bool{}
	for i, a := range n.Status.Addresses {
		if addresses[a] {
			errs = append(errs, field.Duplicate(field.NewPath("status", "addresses").Index(i), podspec.Dump(a)))
		}
		addresses[a] = true
	}
	if len(old.Spec.PodCIDRs) > 0 {
		if !slices.Equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
			errs = append(errs, field.Forbidden(field.NewPath("spec", "podCIDRs"), `node updates may not change podCIDR except from "" to valid`))
		}
	} else {
		errs = append(errs, validatePodCIDRs(n.Spec.PodCIDRs)...)
	}
	if old.Spec.ProviderID != "" && n.Spec.ProviderID != old.Spec.ProviderID {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "providerID"), `node updates may not change providerID except from "" to valid`))
	}
	fixed := old.Spec
	fixed.PodCIDR, fixed.PodCIDRs, fixed.ProviderID = n.Spec.PodCIDR, n.Spec.PodCIDRs, n.Spec.ProviderID
	fixed.Unschedulable, fixed.Taints, fixed.ConfigSource = n.Spec.Unschedulable, n.Spec.Taints, n.Spec.ConfigSource
	fixed.DoNotUseExternalID = n.Spec.DoNotUseExternalID
	if !equality.Semantic.DeepEqual(fixed, n.Spec) {
		errs = append(errs, field.Forbidden(field.NewPath(""), "node updates may only change labels, taints, or capacity (or configSource, if the DynamicKubeletConfig feature gate is enabled)"))
	}
	return errs
}

func nodeWarnings(n, _ *corev1.Node) (out []string) {
	if n.Spec.ConfigSource != nil {
		out = append(out, "spec.configSource: the feature is no longer supported")
	}
	if n.Spec.DoNotUseExternalID != "" {
		out = append(out, "spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	for i, c := range n.Spec.PodCIDRs {
		out = append(out, validation.GetWarningsForCIDR(field.NewPath("spec", "podCIDRs").Index(i), c)...)
	}
	return out
}

func nodeColumns() []metav1.TableColumnDefinition {
	status, info := corev1.NodeStatus{}.SwaggerDoc(), corev1.NodeSystemInfo{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("Status", "string", "The status of the node"),
		kinds.Column("Roles", "string", "The roles of the node"),
		kinds.AgeColumn(),
		kinds.Column("Version", "string", info["kubeletVersion"]),
		kinds.WideColumn("Internal-IP", "string", status["addresses"]),
		kinds.WideColumn("External-IP", "string", status["addresses"]),
		kinds.WideColumn("OS-Image", "string", info["osImage"]),
		kinds.WideColumn("Kernel-Version", "string", info["kernelVersion"]),
		kinds.WideColumn("Container-Runtime", "string", info["containerRuntimeVersion"]),
	}
}

// nodeCells prints a node as kubectl get nodes does.
func nodeCells(n *corev1.Node, now metav1.Time) []any {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			status = "NotReady"
			if c.Status == corev1.ConditionTrue {
				status = "Ready"
			}
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	address := func(kind corev1.NodeAddressType) string {
		for _, a := range n.Status.Addresses {
			if a.Type == kind {
				return a.Address
			}
		}
		return kinds.None
	}
	known := func(s string) string {
		if s == "" {
			return kinds.Unknown
		}
		return s
	}
	info := n.Status.NodeInfo
	kernel := known(info.KernelVersion)
	if info.KernelVersion != "" && info.Architecture != "" {
		kernel += " (" + info.Architecture + ")"
	}
	return []any{
		n.Name, status, nodeRoles(n), kinds.Age(n.CreationTimestamp, now), info.KubeletVersion,
		address(corev1.NodeInternalIP), address(corev1.NodeExternalIP),
		known(info.OSImage), kernel, known(info.ContainerRuntimeVersion),
	}
}

// nodeRoles are named by labels: node-role.kubernetes.io/<role>, and the older kubernetes.io/role=<role>.
func nodeRoles(n *corev1.Node) string {
	var roles []string
	for key, value := range n.Labels {
		if role, ok := strings.CutPrefix(key, "node-role.kubernetes.io/"); ok {
			value = role
		} else if key != "kubernetes.io/role" {
			continue
		}
		if value != "" {
			roles = append(roles, value)
		}
	}
	if len(roles) == 0 {
		return kinds.None
	}
	slices.Sort(roles)
	return strings.Join(slices.Compact(roles), ",")
}

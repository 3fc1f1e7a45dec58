package networking

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// NetworkPolicy is the row of network policies.
func NetworkPolicy() *kinds.Kind {
	return &kinds.Kind{
		Group:               networkingv1.GroupName,
		Kind:                "NetworkPolicy",
		Resource:            "networkpolicies",
		ShortNames:          []string{"netpol"},
		Namespaced:          true,
		Versions:            []kinds.Version{kinds.V[networkingv1.NetworkPolicy, networkingv1.NetworkPolicyList]("v1")},
		Default:             kinds.On(defaultNetworkPolicy),
		Validate:            kinds.Check(func(p *networkingv1.NetworkPolicy) field.ErrorList { return validateNetworkPolicy(p, nil) }),
		ValidateUpdate:      kinds.CheckUpdate(validateNetworkPolicy),
		Warnings:            kinds.Warn(warnNetworkPolicy),
		HasGeneration:       true,
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Pod-Selector", "string", networkingv1.NetworkPolicySpec{}.SwaggerDoc()["podSelector"]),
			kinds.AgeColumn(),
		},
		Cells: kinds.Print(func(p *networkingv1.NetworkPolicy, now metav1.Time) []any {
			return []any{p.Name, kinds.SelectorCell(&p.Spec.PodSelector), kinds.Age(p.CreationTimestamp, now)}
		}),
	}
}

func defaultNetworkPolicy(p *networkingv1.NetworkPolicy) {
	protocols := func(ports []networkingv1.NetworkPolicyPort) {
		for i := range ports {
			check.DefaultPointer(&ports[i].Protocol, corev1.ProtocolTCP)
		}
	}
	for i := range p.Spec.Ingress {
		protocols(p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		protocols(p.Spec.Egress[i].Ports)
	}
	if len(p.Spec.PolicyTypes) == 0 {
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 {
			p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
}

// eachPeer calls f for all peers of both directions.
func eachPeer(p *networkingv1.NetworkPolicy, f func(at *field.Path, peer *networkingv1.NetworkPolicyPeer)) {
	spec := field.NewPath("spec")
	for i := range p.Spec.Ingress {
		for j := range p.Spec.Ingress[i].From {
			f(spec.Child("ingress").Index(i).Child("from").Index(j), &p.Spec.Ingress[i].From[j])
		}
	}
	for i := range p.Spec.Egress {
		for j := range p.Spec.Egress[i].To {
			f(spec.Child("egress").Index(i).Child("to").Index(j), &p.Spec.Egress[i].To[j])
		}
	}
}

func validateNetworkPolicy(p, old *networkingv1.NetworkPolicy) field.ErrorList {
	var r check.Report
	var before []string
	if old != nil {
		eachPeer(old, func(_ *field.Path, peer *networkingv1.NetworkPolicyPeer) {
			if b := peer.IPBlock; b != nil {
				before = append(append(before, b.CIDR), b.Except...)
			}
		})
	}
	spec := field.NewPath("spec")
	r.Selector(spec.Child("podSelector"), &p.Spec.PodSelector)
	for i, rule := range p.Spec.Ingress {
		at := spec.Child("ingress").Index(i)
		policyPorts(&r, at.Child("ports"), rule.Ports)
		for j := range rule.From {
			policyPeer(&r, at.Child("from").Index(j), &rule.From[j], before)
		}
	}
	for i, rule := range p.Spec.Egress {
		at := spec.Child("egress").Index(i)
		policyPorts(&r, at.Child("ports"), rule.Ports)
		for j := range rule.To {
			policyPeer(&r, at.Child("to").Index(j), &rule.To[j], before)
		}
	}
	if len(p.Spec.PolicyTypes) > 2 {
		r.Invalid(spec.Child("policyTypes"), p.Spec.PolicyTypes, "may not specify more than two policyTypes")
		return r.Errs
	}
	for i, t := range p.Spec.PolicyTypes {
		check.OneOf(&r, spec.Child("policyTypes").Index(i), t, networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)
	}
	return r.Errs
}

func policyPorts(r *check.Report, at *field.Path, ports []networkingv1.NetworkPolicyPort) {
	for i, p := range ports {
		at := at.Index(i)
		if p.Protocol != nil {
			check.OneOf(r, at.Child("protocol"), *p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		}
		end := at.Child("endPort")
		if p.Port == nil {
			if p.EndPort != nil {
				r.Invalid(end, *p.EndPort, "may not be specified when `port` is not specified")
			}
			continue
		}
		r.PortNumberOrName(at.Child("port"), *p.Port)
		switch {
		case p.EndPort == nil:
		case p.Port.Type == intstr.String:
			r.Invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric")
		default:
			r.PortNumber(end, *p.EndPort)
			if *p.EndPort < p.Port.IntVal {
				r.Invalid(end, *p.EndPort, "must be greater than or equal to `port`")
			}
		}
	}
}

func policyPeer(r *check.Report, at *field.Path, p *networkingv1.NetworkPolicyPeer, before []string) {
	r.Selector(at.Child("podSelector"), p.PodSelector)
	r.Selector(at.Child("namespaceSelector"), p.NamespaceSelector)
	if p.IPBlock != nil {
		ipBlock(r, at.Child("ipBlock"), p.IPBlock, before)
	}
	selects := p.PodSelector != nil || p.NamespaceSelector != nil
	switch {
	case !selects && p.IPBlock == nil:
		r.Required(at, "must specify a peer")
	case selects && p.IPBlock != nil:
		r.Forbidden(at, "may not specify both ipBlock and another peer")
	}
}

func ipBlock(r *check.Report, at *field.Path, b *networkingv1.IPBlock, before []string) {
	if !r.Present(at.Child("cidr"), b.CIDR) || !r.CIDR(at.Child("cidr"), b.CIDR, before) {
		return
	}
	_, whole, err := netutils.ParseCIDRSloppy(b.CIDR)
	if err != nil {
		return // an old value that is no range at all
	}
	wholeBits, _ := whole.Mask.Size()
	for i, e := range b.Except {
		if !r.CIDR(at.Child("except").Index(i), e, before) {
			continue
		}
		ip, part, err := netutils.ParseCIDRSloppy(e)
		if err != nil {
			continue
		}
		if bits, _ := part.Mask.Size(); !whole.Contains(ip) || wholeBits >= bits {
			r.Invalid(at.Child("except").Index(i), e, "must be a strict subset of `cidr`")
		}
	}
}

func warnNetworkPolicy(p, _ *networkingv1.NetworkPolicy) (out []string) {
	eachPeer(p, func(at *field.Path, peer *networkingv1.NetworkPolicyPeer) {
		if b := peer.IPBlock; b != nil {
			out = append(out, validation.GetWarningsForCIDR(at.Child("ipBlock", "cidr"), b.CIDR)...)
			for i, e := range b.Except {
				out = append(out, validation.GetWarningsForCIDR(at.Child("ipBlock", "except").Index(i), e)...)
			}
		}
	})
	return out
}

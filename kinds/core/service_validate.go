package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// kubeletPort may not be exposed by a load balancer: the node's API listens there.
const kubeletPort = 10250

// validateService checks a service whose addresses and ports may not be allocated yet. Addresses that old had stay valid.
func validateService(s, old *corev1.Service) field.ErrorList {
	if old == nil {
		old = &corev1.Service{}
	}
	var r check.Report
	spec := field.NewPath("spec")
	topologyAnnotations(&r, s)
	if len(s.Spec.Ports) == 0 && !isHeadless(s) && s.Spec.Type != corev1.ServiceTypeExternalName {
		r.Required(spec.Child("ports"), "")
	}
	serviceType(&r, spec, s)
	servicePorts(&r, spec.Child("ports"), s)
	if s.Spec.Selector != nil {
		r.Add(metav1validation.ValidateLabels(s.Spec.Selector, spec.Child("selector"))...)
	}
	check.OneOfRequired(&r, spec.Child("sessionAffinity"), s.Spec.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	affinityConfig(&r, spec.Child("sessionAffinityConfig"), &s.Spec)
	clusterIPs(&r, spec, s, old)
	for i, ip := range s.Spec.ExternalIPs {
		if at := spec.Child("externalIPs").Index(i); r.IP(at, ip, old.Spec.ExternalIPs) {
			r.OrdinaryIP(at, ip)
		}
	}
	check.OneOfRequired(&r, spec.Child("type"), s.Spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName,
		corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)
	nodePorts(&r, spec.Child("ports"), s)
	sourceRanges(&r, spec, s, old)
	loadBalancerFields(&r, spec, s)
	trafficPolicies(&r, spec, s)
	return r.Errs
}

func topologyAnnotations(r *check.Report, s *corev1.Service) {
	hints, hinted := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	mode, moded := s.Annotations[corev1.AnnotationTopologyMode]
	if hinted && moded && hints != mode {
		r.Invalid(field.NewPath("metadata", "annotations").Key(corev1.AnnotationTopologyMode), mode,
			fmt.Sprintf("must match annotations[%s] when both are specified", corev1.DeprecatedAnnotationTopologyAwareHints))
	}
}

// serviceType checks what one type wants or excludes.
func serviceType(r *check.Report, spec *field.Path, s *corev1.Service) {
	switch s.Spec.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
			for i, p := range s.Spec.Ports {
				if p.Port == kubeletPort {
					r.Invalid(spec.Child("ports").Index(i), p.Port,
						fmt.Sprintf("may not expose port %v externally since it is used by kubelet", kubeletPort))
				}
			}
		}
		if isHeadless(s) {
			r.Invalid(spec.Child("clusterIPs").Index(0), corev1.ClusterIPNone,
				fmt.Sprintf("may not be set to 'None' for %s services", s.Spec.Type))
		}
	case corev1.ServiceTypeExternalName:
		const excluded = "may not be set for ExternalName services"
		if len(s.Spec.ClusterIPs) > 0 {
			r.Forbidden(spec.Child("clusterIPs"), excluded)
		}
		if len(s.Spec.IPFamilies) > 0 {
			r.Forbidden(spec.Child("ipFamilies"), excluded)
		}
		if s.Spec.IPFamilyPolicy != nil {
			r.Forbidden(spec.Child("ipFamilyPolicy"), excluded)
		}
		// A trailing dot marks the name as fully qualified.
		r.Name(spec.Child("externalName"), strings.TrimSuffix(s.Spec.ExternalName, "."), validation.IsDNS1123Subdomain)
	}
}

func servicePorts(r *check.Report, at *field.Path, s *corev1.Service) {
	names := map[string]bool{}
	for i := range s.Spec.Ports {
		p, at := &s.Spec.Ports[i], at.Index(i)
		switch {
		case p.Name == "" && len(s.Spec.Ports) > 1:
			r.Required(at.Child("name"), "")
		case p.Name != "":
			r.Invalid(at.Child("name"), p.Name, validation.IsDNS1123Label(p.Name)...)
			if names[p.Name] {
				r.Add(field.Duplicate(at.Child("name"), p.Name))
			}
			names[p.Name] = true
		}
		r.PortNumber(at.Child("port"), p.Port)
		r.Protocol(at.Child("protocol"), p.Protocol)
		r.PortNumberOrName(at.Child("targetPort"), p.TargetPort)
		if p.AppProtocol != nil {
			r.Invalid(at.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol)...)
		}
	}
}

func affinityConfig(r *check.Report, at *field.Path, spec *corev1.ServiceSpec) {
	const needed = "when session affinity type is ClientIP"
	c := spec.SessionAffinityConfig
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityClientIP:
		switch timeout := at.Child("clientIP", "timeoutSeconds"); {
		case c == nil:
			r.Required(at, needed)
		case c.ClientIP == nil:
			r.Required(at.Child("clientIP"), needed)
		case c.ClientIP.TimeoutSeconds == nil:
			r.Required(timeout, needed)
		case *c.ClientIP.TimeoutSeconds <= 0 || *c.ClientIP.TimeoutSeconds > maxAffinitySeconds:
			r.Invalid(timeout, *c.ClientIP.TimeoutSeconds, fmt.Sprintf("must be greater than 0 and less than %d", maxAffinitySeconds))
		}
	case corev1.ServiceAffinityNone:
		if c != nil {
			r.Forbidden(at, fmt.Sprintf("must not be set when session affinity is %s", corev1.ServiceAffinityNone))
		}
	}
}

// maxAffinitySeconds is one day.
const maxAffinitySeconds = 86400

// clusterIPs checks clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy for themselves and against each other. Whether the
// cluster has such families and ranges is for the allocation to say.
func clusterIPs(r *check.Report, spec *field.Path, s, old *corev1.Service) {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return
	}
	ips, at := s.Spec.ClusterIPs, spec.Child("clusterIPs")
	switch {
	case s.Spec.ClusterIP != "" && len(ips) == 0:
		r.Required(at, "")
	case s.Spec.ClusterIP != "" && ips[0] != s.Spec.ClusterIP:
		r.Invalid(at, ips, "first value must match `clusterIP`")
	case s.Spec.ClusterIP == "" && len(ips) > 0:
		r.Invalid(at, ips, "must be empty when `clusterIP` is not specified")
	}
	seen := map[corev1.IPFamily]bool{}
	for i, f := range s.Spec.IPFamilies {
		check.OneOf(r, spec.Child("ipFamilies").Index(i), f, corev1.IPv4Protocol, corev1.IPv6Protocol)
		if seen[f] {
			r.Add(field.Duplicate(spec.Child("ipFamilies").Index(i), f))
		}
		seen[f] = true
	}
	if p := s.Spec.IPFamilyPolicy; p != nil {
		check.OneOf(r, spec.Child("ipFamilyPolicy"), *p, corev1.IPFamilyPolicyPreferDualStack,
			corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)
	}
	valid := true
	for i, ip := range ips {
		if i == 0 && ip == corev1.ClusterIPNone {
			if len(ips) > 1 {
				valid = false
				r.Invalid(at, ips, "'None' must be the first and only value")
			}
			continue
		}
		valid = r.IP(at.Index(i), ip, old.Spec.ClusterIPs) && valid
	}
	if len(ips) > 2 {
		r.Invalid(at, ips, "may only hold up to 2 values")
	}
	if !valid {
		return
	}
	if len(ips) > 1 {
		if dual, err := netutils.IsDualStackIPStrings(ips); err != nil {
			r.Invalid(at, ips, "failed to check for dual stack with error:"+err.Error())
		} else if !dual {
			r.Invalid(at, ips, "may specify no more than one IP for each IP family")
		}
	}
	if !isHeadless(s) {
		familiesMatch(r, at, s)
	}
}

func familiesMatch(r *check.Report, at *field.Path, s *corev1.Service) {
	for i, ip := range s.Spec.ClusterIPs[:min(len(s.Spec.ClusterIPs), len(s.Spec.IPFamilies))] {
		f := s.Spec.IPFamilies[i]
		if (f == corev1.IPv4Protocol && netutils.IsIPv6String(ip)) || (f == corev1.IPv6Protocol && !netutils.IsIPv6String(ip)) {
			r.Invalid(at.Index(i), ip, fmt.Sprintf("expected an %v value as indicated by `ipFamilies[%v]`", f, i))
		}
	}
}

func nodePorts(r *check.Report, at *field.Path, s *corev1.Service) {
	// servicePort has the fields of a port in the form in which duplicates have always been printed.
	type servicePort struct {
		Name        string
		Protocol    corev1.Protocol
		AppProtocol *string
		Port        int32
		TargetPort  int32
		NodePort    int32
	}
	if s.Spec.Type == corev1.ServiceTypeClusterIP {
		for i, p := range s.Spec.Ports {
			if p.NodePort != 0 {
				r.Forbidden(at.Index(i).Child("nodePort"), "may not be used when `type` is 'ClusterIP'")
			}
		}
	}
	seen := map[servicePort]bool{}
	for i, p := range s.Spec.Ports {
		key := servicePort{Protocol: p.Protocol, NodePort: p.NodePort}
		if p.NodePort != 0 && seen[key] {
			r.Add(field.Duplicate(at.Index(i).Child("nodePort"), p.NodePort))
		}
		seen[key] = true
	}
	clear(seen)
	for i, p := range s.Spec.Ports {
		key := servicePort{Protocol: p.Protocol, Port: p.Port}
		if seen[key] {
			r.Add(field.Duplicate(at.Index(i), key))
		}
		seen[key] = true
	}
}

func sourceRanges(r *check.Report, spec *field.Path, s, old *corev1.Service) {
	const onlyLoadBalancer = "may only be used when `type` is 'LoadBalancer'"
	if len(s.Spec.LoadBalancerSourceRanges) > 0 {
		at := spec.Child("LoadBalancerSourceRanges")
		if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
			r.Forbidden(at, onlyLoadBalancer)
		}
		for i, cidr := range s.Spec.LoadBalancerSourceRanges {
			// White space around a range has always been accepted.
			r.CIDR(at.Index(i), strings.TrimSpace(cidr), old.Spec.LoadBalancerSourceRanges)
		}
		return
	}
	list, ok := s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]
	if !ok {
		return
	}
	at := field.NewPath("metadata", "annotations").Key(corev1.AnnotationLoadBalancerSourceRangesKey)
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		r.Forbidden(at, onlyLoadBalancer)
	}
	if list = strings.TrimSpace(list); list == "" {
		return
	}
	before := strings.Split(old.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey], ",")
	for _, cidr := range strings.Split(list, ",") {
		r.CIDR(at, strings.TrimSpace(cidr), before)
	}
}

func loadBalancerFields(r *check.Report, spec *field.Path, s *corev1.Service) {
	balanced := s.Spec.Type == corev1.ServiceTypeLoadBalancer
	switch allocate := spec.Child("allocateLoadBalancerNodePorts"); {
	case s.Spec.AllocateLoadBalancerNodePorts != nil && !balanced:
		r.Forbidden(allocate, "may only be used when `type` is 'LoadBalancer'")
	case s.Spec.AllocateLoadBalancerNodePorts == nil && balanced:
		r.Required(allocate, "")
	}
	if class := s.Spec.LoadBalancerClass; class != nil {
		if balanced {
			r.Invalid(spec.Child("loadBalancerClass"), *class, validation.IsQualifiedName(*class)...)
		} else {
			r.Forbidden(spec.Child("loadBalancerClass"), "may only be used when `type` is 'LoadBalancer'")
		}
	}
}

func trafficPolicies(r *check.Report, spec *field.Path, s *corev1.Service) {
	external := spec.Child("externalTrafficPolicy")
	if externallyAccessible(s) {
		check.OneOfRequired(r, external, s.Spec.ExternalTrafficPolicy,
			corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	} else if s.Spec.ExternalTrafficPolicy != "" {
		r.Invalid(external, s.Spec.ExternalTrafficPolicy, "may only be set for externally-accessible services")
	}
	if port := s.Spec.HealthCheckNodePort; port != 0 {
		if needsHealthCheck(s) {
			r.PortNumber(spec.Child("healthCheckNodePort"), port)
		} else {
			r.Invalid(spec.Child("healthCheckNodePort"), port,
				"may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'")
		}
	}
	switch p := s.Spec.InternalTrafficPolicy; {
	case p != nil:
		check.OneOf(r, spec.Child("internalTrafficPolicy"), *p,
			corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
	case s.Spec.Type == corev1.ServiceTypeClusterIP || needsNodePort(s):
		r.Required(spec.Child("internalTrafficPolicy"), "")
	}
	if d := s.Spec.TrafficDistribution; d != nil {
		check.OneOf(r, spec.Child("trafficDistribution"), *d, corev1.ServiceTrafficDistributionPreferClose,
			corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)
	}
}

// needsHealthCheck tells whether a load balancer must learn which nodes have endpoints.
func needsHealthCheck(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func validateServiceStatus(s, old *corev1.Service) field.ErrorList {
	var r check.Report
	at := field.NewPath("status", "loadBalancer", "ingress")
	ingress := s.Status.LoadBalancer.Ingress
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && len(ingress) > 0 {
		r.Forbidden(at, "may only be used when `spec.type` is 'LoadBalancer'")
		return r.Errs
	}
	before := kinds.IngressAddresses(old.Status.LoadBalancer)
	for i, in := range ingress {
		at := at.Index(i)
		if in.IP != "" {
			r.IP(at.Child("ip"), in.IP, before)
		}
		switch mode := at.Child("ipMode"); {
		case in.IPMode == nil && in.IP != "":
			r.Required(mode, "must be specified when `ip` is set")
		case in.IPMode != nil && in.IP == "":
			r.Forbidden(mode, "may not be specified when `ip` is not set")
		case in.IPMode != nil:
			check.OneOf(&r, mode, *in.IPMode, corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)
		}
		if in.Hostname != "" {
			r.Invalid(at.Child("hostname"), in.Hostname, validation.IsDNS1123Subdomain(in.Hostname)...)
			if netutils.ParseIPSloppy(in.Hostname) != nil {
				r.Invalid(at.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address")
			}
		}
	}
	return r.Errs
}

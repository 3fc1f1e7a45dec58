package core

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds/check"
)

// prepareServiceUpdate keeps what was allocated where the client left it out, and drops what the new type does not have
// where the client did not touch it. So a client may send back only the fields it knows, or change the type alone.
func prepareServiceUpdate(s, old *corev1.Service) {
	s.Status = old.Status
	keepAllocated(s, old)
	syncClusterIPs(s, old)
	dropForType(s, old)
}

func needsClusterIP(s *corev1.Service) bool { return s.Spec.Type != corev1.ServiceTypeExternalName }

func needsNodePort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

func keepAllocated(s, old *corev1.Service) {
	if needsClusterIP(old) && needsClusterIP(s) {
		check.Default(&s.Spec.ClusterIP, old.Spec.ClusterIP)
		if len(s.Spec.ClusterIPs) == 0 && s.Spec.ClusterIP == old.Spec.ClusterIP {
			s.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
		if len(s.Spec.IPFamilies) == 0 {
			s.Spec.IPFamilies = slices.Clone(old.Spec.IPFamilies)
		}
		if s.Spec.IPFamilyPolicy == nil {
			s.Spec.IPFamilyPolicy = old.Spec.IPFamilyPolicy
		}
		releaseSecond(s, old)
	}
	if needsNodePort(old) && needsNodePort(s) {
		keepNodePorts(s, old)
	}
	if needsHealthCheck(old) && needsHealthCheck(s) {
		check.Default(&s.Spec.HealthCheckNodePort, old.Spec.HealthCheckNodePort)
	}
}

// releaseSecond drops the second address and family of a client that changes only the policy to a single family.
func releaseSecond(s, old *corev1.Service) {
	single := func(p *corev1.IPFamilyPolicy) bool { return p == nil || *p == corev1.IPFamilyPolicySingleStack }
	if single(old.Spec.IPFamilyPolicy) || !single(s.Spec.IPFamilyPolicy) {
		return
	}
	if len(s.Spec.ClusterIPs) > 1 && slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
		s.Spec.ClusterIPs = s.Spec.ClusterIPs[:1]
	}
	if len(s.Spec.IPFamilies) > 1 && slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies) {
		s.Spec.IPFamilies = s.Spec.IPFamilies[:1]
	}
}

// keepNodePorts gives a port its old node port, found by the port's name, unless another port has taken it.
func keepNodePorts(s, old *corev1.Service) {
	taken := map[int32]bool{}
	for _, p := range s.Spec.Ports {
		taken[p.NodePort] = true
	}
	byName := map[string]int32{}
	for _, p := range old.Spec.Ports {
		byName[p.Name] = p.NodePort
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if was := byName[p.Name]; p.NodePort == 0 && was != 0 && !taken[was] {
			p.NodePort = was
			taken[was] = true
		}
	}
}

// syncClusterIPs follows clients that change clusterIP and do not know clusterIPs.
func syncClusterIPs(s, old *corev1.Service) {
	if s.Spec.ClusterIP == old.Spec.ClusterIP || !slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
		return
	}
	if s.Spec.ClusterIP == "" {
		s.Spec.ClusterIPs = nil
	} else {
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	}
}

func dropForType(s, old *corev1.Service) {
	if needsClusterIP(old) && !needsClusterIP(s) {
		if s.Spec.ClusterIP == old.Spec.ClusterIP && slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
			s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
		}
		if slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies) {
			s.Spec.IPFamilies = nil
		}
		dropSame(&s.Spec.IPFamilyPolicy, old.Spec.IPFamilyPolicy)
	}
	if needsNodePort(old) && !needsNodePort(s) && check.Same(nodePortSet(s), nodePortSet(old)) {
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].NodePort = 0
		}
	}
	if needsHealthCheck(old) && !needsHealthCheck(s) && s.Spec.HealthCheckNodePort == old.Spec.HealthCheckNodePort {
		s.Spec.HealthCheckNodePort = 0
	}
	if old.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		dropSame(&s.Spec.AllocateLoadBalancerNodePorts, old.Spec.AllocateLoadBalancerNodePorts)
		dropSame(&s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass)
	}
	if externallyAccessible(old) && !externallyAccessible(s) && s.Spec.ExternalTrafficPolicy == old.Spec.ExternalTrafficPolicy {
		s.Spec.ExternalTrafficPolicy = ""
	}
}

// dropSame clears a pointer whose value is the old one's.
func dropSame[T comparable](p **T, old *T) {
	if *p != nil && old != nil && **p == *old {
		*p = nil
	}
}

func nodePortSet(s *corev1.Service) map[int32]bool {
	set := map[int32]bool{}
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			set[p.NodePort] = true
		}
	}
	return set
}

func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	var r check.Report
	spec := field.NewPath("spec")
	if needsClusterIP(s) && needsClusterIP(old) {
		if !isHeadless(s) || !isHeadless(old) {
			listUpdate(&r, spec, "clusterIPs", "clusterIP", s, s.Spec.ClusterIPs, old.Spec.ClusterIPs)
		}
		if !isHeadless(s) || !isHeadless(old) || len(s.Spec.Selector) > 0 || len(old.Spec.Selector) > 0 {
			listUpdate(&r, spec, "ipFamilies", "ipFamily", s, s.Spec.IPFamilies, old.Spec.IPFamilies)
		}
	}
	balanced := corev1.ServiceTypeLoadBalancer
	if s.Spec.Type == balanced && old.Spec.Type == balanced && !check.Same(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		r.Invalid(spec.Child("loadBalancerClass"), s.Spec.LoadBalancerClass, "may not change once set")
	}
	return append(r.Errs, validateService(s, old)...)
}

// listUpdate lets the second of two values be added or released, and nothing else change.
func listUpdate[T comparable](r *check.Report, spec *field.Path, list, item string, s *corev1.Service, now, before []T) {
	const fixed = "may not change once set"
	at := spec.Child(list)
	switch {
	case len(now) == len(before):
		for i := range now {
			if now[i] != before[i] {
				r.Invalid(at.Index(i), now, fixed)
			}
		}
	case len(now) < len(before):
		if len(now) == 0 {
			r.Invalid(at.Index(0), now, "primary "+item+" can not be unset")
		} else if now[0] != before[0] {
			r.Invalid(at.Index(0), now, fixed)
		}
		if p := s.Spec.IPFamilyPolicy; len(now) == 1 && (p == nil || *p != corev1.IPFamilyPolicySingleStack) {
			r.Invalid(spec.Child("ipFamilyPolicy"), p, "must be set to 'SingleStack' when releasing the secondary "+item)
		}
	case len(before) > 0 && now[0] != before[0]:
		r.Invalid(at.Index(0), now, fixed)
	}
}

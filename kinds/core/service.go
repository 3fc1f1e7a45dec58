package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// Service is the row of services. Cluster IPs, IP families and node ports that the user left open are allocated by the API
// server after validation: they depend on the cluster's ranges. service_update.go holds the rules of updates.
func Service() *kinds.Kind {
	return &kinds.Kind{
		Kind:                "Service",
		Resource:            "services",
		ShortNames:          []string{"svc"},
		Categories:          []string{"all"},
		Namespaced:          true,
		Versions:            []kinds.Version{kinds.V[corev1.Service, corev1.ServiceList]("v1")},
		ValidateName:        apivalidation.NameIsDNSLabel,
		Default:             kinds.On(defaultService),
		PrepareCreate:       kinds.On(prepareService),
		PrepareUpdate:       kinds.OnUpdate(prepareServiceUpdate),
		Validate:            kinds.Check(func(s *corev1.Service) field.ErrorList { return validateService(s, nil) }),
		ValidateUpdate:      kinds.CheckUpdate(validateServiceUpdate),
		Warnings:            kinds.Warn(warnService),
		UnconditionalUpdate: true,
		ReturnsDeleted:      true,
		CreateOnUpdate:      true,
		FieldLabels:         []string{"spec.clusterIP", "spec.type"},
		Fields: kinds.Select(func(s *corev1.Service) fields.Set {
			return fields.Set{
				"metadata.name": s.Name, "metadata.namespace": s.Namespace,
				"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type),
			}
		}),
		Columns:     serviceColumns(),
		Cells:       kinds.Print(serviceCells),
		ResetFields: map[string][]string{"v1": {"status"}},
		Subresources: []kinds.Subresource{
			{
				Name:  "proxy",
				Body:  schema.GroupVersionKind{Version: "v1", Kind: "ServiceProxyOptions"},
				Verbs: []string{"create", "delete", "get", "patch", "update"},
			},
			{
				Name:           "status",
				Verbs:          kinds.ReadWrite(),
				PrepareUpdate:  kinds.OnUpdate(func(s, old *corev1.Service) { s.Spec = old.Spec }),
				ValidateUpdate: kinds.CheckUpdate(validateServiceStatus),
				ResetFields:    map[string][]string{"v1": {"spec"}},
			},
		},
	}
}

func defaultService(s *corev1.Service) {
	check.Default(&s.Spec.SessionAffinity, corev1.ServiceAffinityNone)
	switch {
	case s.Spec.SessionAffinity == corev1.ServiceAffinityNone && s.Spec.SessionAffinityConfig != nil:
		s.Spec.SessionAffinityConfig = nil
	case s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP:
		check.DefaultPointer(&s.Spec.SessionAffinityConfig, corev1.SessionAffinityConfig{})
		check.DefaultPointer(&s.Spec.SessionAffinityConfig.ClientIP, corev1.ClientIPConfig{})
		check.DefaultPointer(&s.Spec.SessionAffinityConfig.ClientIP.TimeoutSeconds, corev1.DefaultClientIPServiceAffinitySeconds)
	}
	check.Default(&s.Spec.Type, corev1.ServiceTypeClusterIP)
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		check.Default(&p.Protocol, corev1.ProtocolTCP)
		if p.Port != 0 && p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if externallyAccessible(s) {
		check.Default(&s.Spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeClusterIP:
		check.DefaultPointer(&s.Spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	check.DefaultPointer(&s.Spec.AllocateLoadBalancerNodePorts, true)
	for i := range s.Status.LoadBalancer.Ingress {
		if in := &s.Status.LoadBalancer.Ingress[i]; in.IP != "" {
			check.DefaultPointer(&in.IPMode, corev1.LoadBalancerIPModeVIP)
		}
	}
}

// prepareService also fills clusterIPs for clients that only know clusterIP.
func prepareService(s *corev1.Service) {
	s.Status = corev1.ServiceStatus{}
	if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	}
}

// externallyAccessible tells whether traffic may reach the service from outside the cluster.
func externallyAccessible(s *corev1.Service) bool {
	switch s.Spec.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeClusterIP:
		return len(s.Spec.ExternalIPs) > 0
	}
	return false
}

// isHeadless tells whether the service asks for no virtual address.
func isHeadless(s *corev1.Service) bool {
	return s.Spec.ClusterIP == corev1.ClusterIPNone || len(s.Spec.ClusterIPs) == 1 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

func warnService(s, _ *corev1.Service) (out []string) {
	spec := field.NewPath("spec")
	if _, ok := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]; ok {
		out = append(out, fmt.Sprintf("annotation %s is deprecated, please use %s instead",
			corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode))
	}
	if s.Spec.ClusterIP != "" && !isHeadless(s) && s.Spec.Type != corev1.ServiceTypeExternalName {
		for i, ip := range s.Spec.ClusterIPs {
			out = append(out, validation.GetWarningsForIP(spec.Child("clusterIPs").Index(i), ip)...)
		}
	}
	if len(s.Spec.ExternalIPs) > 0 {
		out = append(out, "spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	}
	if isHeadless(s) {
		if s.Spec.LoadBalancerIP != "" {
			out = append(out, "spec.loadBalancerIP is ignored when spec.clusterIP is set to \"None\"")
		}
		if len(s.Spec.ExternalIPs) > 0 {
			out = append(out, "spec.externalIPs is ignored when spec.clusterIP is \"None\"")
		}
		if s.Spec.SessionAffinity != corev1.ServiceAffinityNone {
			out = append(out, "spec.SessionAffinity is ignored for headless services")
		}
	}
	for i, ip := range s.Spec.ExternalIPs {
		out = append(out, validation.GetWarningsForIP(spec.Child("externalIPs").Index(i), ip)...)
	}
	if s.Spec.LoadBalancerIP != "" {
		out = append(out, validation.GetWarningsForIP(spec.Child("loadBalancerIP"), s.Spec.LoadBalancerIP)...)
	}
	for i, cidr := range s.Spec.LoadBalancerSourceRanges {
		out = append(out, validation.GetWarningsForCIDR(spec.Child("loadBalancerSourceRanges").Index(i), cidr)...)
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName && len(s.Spec.ExternalIPs) > 0 {
		out = append(out, fmt.Sprintf("spec.externalIPs is ignored when spec.type is %q", corev1.ServiceTypeExternalName))
	}
	return out
}

func serviceColumns() []metav1.TableColumnDefinition {
	doc := corev1.ServiceSpec{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("Type", "string", doc["type"]),
		kinds.Column("Cluster-IP", "string", doc["clusterIP"]),
		kinds.Column("External-IP", "string", doc["externalIPs"]),
		kinds.Column("Port(s)", "string", doc["ports"]),
		kinds.AgeColumn(),
		kinds.WideColumn("Selector", "string", doc["selector"]),
	}
}

func serviceCells(s *corev1.Service, now metav1.Time) []any {
	clusterIP := kinds.None
	if len(s.Spec.ClusterIPs) > 0 {
		clusterIP = s.Spec.ClusterIPs[0]
	}
	return []any{
		s.Name, string(s.Spec.Type), clusterIP, externalIPCell(s), portsCell(s.Spec.Ports),
		kinds.Age(s.CreationTimestamp, now), kinds.LabelCell(s.Spec.Selector),
	}
}

func externalIPCell(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		if len(s.Spec.ExternalIPs) > 0 {
			return strings.Join(s.Spec.ExternalIPs, ",")
		}
		return kinds.None
	case corev1.ServiceTypeLoadBalancer:
		if all := append(kinds.IngressAddresses(s.Status.LoadBalancer), s.Spec.ExternalIPs...); len(all) > 0 {
			return strings.Join(all, ",")
		}
		return "<pending>"
	}
	return kinds.Unknown
}

func portsCell(ports []corev1.ServicePort) string {
	if len(ports) == 0 {
		return kinds.None
	}
	out := make([]string, len(ports))
	for i, p := range ports {
		out[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			out[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
	}
	return strings.Join(out, ",")
}

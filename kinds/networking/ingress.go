// Package networking holds the kinds of networking.k8s.io. Only kinds/builtin imports it.
package networking

import (
	"fmt"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// classAnnotation named the class of an ingress before there was a field for it.
const classAnnotation = "kubernetes.io/ingress.class"

// shownHosts is how many hosts kubectl's table shows of an ingress.
const shownHosts = 3

// Ingress is the row of ingresses.
func Ingress() *kinds.Kind {
	return &kinds.Kind{
		Group:         networkingv1.GroupName,
		Kind:          "Ingress",
		Resource:      "ingresses",
		ShortNames:    []string{"ing"},
		Namespaced:    true,
		Versions:      []kinds.Version{kinds.V[networkingv1.Ingress, networkingv1.IngressList]("v1")},
		PrepareCreate: kinds.On(func(i *networkingv1.Ingress) { i.Status = networkingv1.IngressStatus{} }),
		PrepareUpdate: kinds.OnUpdate(func(i, old *networkingv1.Ingress) { i.Status = old.Status }),
		Validate: kinds.Check(func(i *networkingv1.Ingress) field.ErrorList {
			r := check.Report{Errs: validateIngress(i)}
			class, ok := i.Annotations[classAnnotation]
			if name := i.Spec.IngressClassName; ok && name != nil && class != *name {
				r.Invalid(field.NewPath("metadata", "annotations").Child(classAnnotation), class, "must match `ingressClassName` when both are specified")
			}
			return r.Errs
		}),
		ValidateUpdate: kinds.CheckUpdate(func(i, _ *networkingv1.Ingress) field.ErrorList { return validateIngress(i) }),
		Warnings: kinds.Warn(func(i, old *networkingv1.Ingress) []string {
			if _, ok := i.Annotations[classAnnotation]; ok && old == nil {
				return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", classAnnotation)}
			}
			return nil
		}),
		HasGeneration:       true,
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Class", "string", "The name of the IngressClass resource that should be used for additional configuration"),
			kinds.Column("Hosts", "string", "Hosts that incoming requests are matched against before the ingress rule"),
			kinds.Column("Address", "string", "Address is a list containing ingress points for the load-balancer"),
			kinds.Column("Ports", "string", "Ports of TLS configurations that open"),
			kinds.AgeColumn(),
		},
		Cells:       kinds.Print(ingressCells),
		ResetFields: map[string][]string{"v1": {"status"}},
		Subresources: []kinds.Subresource{{
			Name:           "status",
			Verbs:          kinds.ReadWrite(),
			PrepareUpdate:  kinds.OnUpdate(func(i, old *networkingv1.Ingress) { i.Spec = old.Spec }),
			ValidateUpdate: kinds.CheckUpdate(validateIngressStatus),
			ResetFields:    map[string][]string{"v1": {"spec"}},
		}},
	}
}

func validateIngress(i *networkingv1.Ingress) field.ErrorList {
	var r, missing check.Report
	at, spec := field.NewPath("spec"), &i.Spec
	if len(spec.Rules) == 0 && spec.DefaultBackend == nil {
		r.Invalid(at, spec.Rules, "either `defaultBackend` or `rules` must be specified")
	}
	if spec.DefaultBackend != nil {
		validateBackend(&r, at.Child("defaultBackend"), spec.DefaultBackend)
	}
	for n := range spec.Rules {
		validateRule(&r, &missing, at.Child("rules").Index(n), &spec.Rules[n])
	}
	for n, t := range spec.TLS {
		at := at.Child("tls").Index(n)
		for m, h := range t.Hosts {
			hostName(&r, at.Child("hosts").Index(m), h)
		}
		if t.SecretName != "" {
			r.Invalid(at.Child("secretName"), t.SecretName, apivalidation.NameIsDNSSubdomain(t.SecretName, false)...)
		}
	}
	if c := spec.IngressClassName; c != nil {
		r.Invalid(at.Child("ingressClassName"), *c, apivalidation.NameIsDNSSubdomain(*c, false)...)
	}
	return append(r.Errs, missing.Errs...)
}

func hostName(r *check.Report, at *field.Path, host string) {
	if strings.Contains(host, "*") {
		r.Invalid(at, host, validation.IsWildcardDNS1123Subdomain(host)...)
	} else {
		r.Invalid(at, host, validation.IsDNS1123Subdomain(host)...)
	}
}

// validateRule checks a rule; that it has no paths goes to missing, which is reported last.
func validateRule(r, missing *check.Report, at *field.Path, rule *networkingv1.IngressRule) {
	if h := rule.Host; h != "" {
		if netutils.ParseIPSloppy(h) != nil {
			r.Invalid(at.Child("host"), h, "must be a DNS name, not an IP address")
		}
		hostName(r, at.Child("host"), h)
	}
	if rule.HTTP == nil {
		return
	}
	at = at.Child("http", "paths")
	if len(rule.HTTP.Paths) == 0 {
		missing.Required(at, "")
	}
	for i := range rule.HTTP.Paths {
		validatePath(r, at.Index(i), &rule.HTTP.Paths[i])
	}
}

func validatePath(r *check.Report, at *field.Path, p *networkingv1.HTTPIngressPath) {
	if p.PathType == nil {
		r.Required(at.Child("pathType"), "pathType must be specified")
		return
	}
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !strings.HasPrefix(p.Path, "/") {
			r.Invalid(at.Child("path"), p.Path, "must be an absolute path")
		}
		for _, s := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(p.Path, s) {
				r.Invalid(at.Child("path"), p.Path, fmt.Sprintf("must not contain '%s'", s))
			}
		}
		for _, s := range []string{"/..", "/."} {
			if strings.HasSuffix(p.Path, s) {
				r.Invalid(at.Child("path"), p.Path, fmt.Sprintf("cannot end with '%s'", s))
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !strings.HasPrefix(p.Path, "/") {
			r.Invalid(at.Child("path"), p.Path, "must be an absolute path")
		}
	default:
		check.OneOf(r, at.Child("pathType"), *p.PathType,
			networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix)
	}
	validateBackend(r, at.Child("backend"), &p.Backend)
}

func validateBackend(r *check.Report, at *field.Path, b *networkingv1.IngressBackend) {
	switch {
	case b.Resource != nil && b.Service != nil:
		r.Invalid(at, "", "cannot set both resource and service backends")
	case b.Resource != nil:
		typedReference(r, at.Child("resource"), b.Resource.APIGroup, b.Resource.Kind, b.Resource.Name)
	case b.Service != nil:
		s := b.Service
		r.Name(at.Child("service", "name"), s.Name, func(n string) []string { return apivalidation.NameIsDNSLabel(n, false) })
		port := at.Child("service", "port")
		switch {
		case s.Port.Name != "" && s.Port.Number != 0:
			r.Invalid(at, "", "cannot set both port name & port number")
		case s.Port.Name != "":
			r.Invalid(port.Child("name"), s.Port.Name, validation.IsValidPortName(s.Port.Name)...)
		case s.Port.Number != 0:
			r.PortNumber(port.Child("number"), s.Port.Number)
		default:
			r.Required(at, "port name or number is required")
		}
	default:
		r.Invalid(at, "", "resource or service backend is required")
	}
}

// typedReference checks a reference to an object of any kind.
func typedReference(r *check.Report, at *field.Path, group *string, kind, name string) {
	if group != nil {
		r.Invalid(at.Child("apiGroup"), *group, validation.IsDNS1123Subdomain(*group)...)
	}
	for _, f := range [][2]string{{"kind", kind}, {"name", name}} {
		if f[1] == "" {
			r.Required(at.Child(f[0]), f[0]+" is required")
		} else {
			r.Invalid(at.Child(f[0]), f[1], path.IsValidPathSegmentName(f[1])...)
		}
	}
}

func validateIngressStatus(i, old *networkingv1.Ingress) field.ErrorList {
	var r check.Report
	before := addresses(&old.Status)
	for n, in := range i.Status.LoadBalancer.Ingress {
		at := field.NewPath("status", "loadBalancer", "ingress").Index(n)
		if in.IP != "" {
			r.IP(at.Child("ip"), in.IP, before)
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

func addresses(s *networkingv1.IngressStatus) []string {
	var out []string
	for _, in := range s.LoadBalancer.Ingress {
		if in.IP != "" {
			out = append(out, in.IP)
		} else if in.Hostname != "" {
			out = append(out, in.Hostname)
		}
	}
	return out
}

func ingressCells(i *networkingv1.Ingress, now metav1.Time) []any {
	class, ports := kinds.None, "80"
	if c := i.Spec.IngressClassName; c != nil {
		class = *c
	}
	if len(i.Spec.TLS) > 0 {
		ports = "80, 443"
	}
	return []any{i.Name, class, hostsCell(i.Spec.Rules), strings.Join(addresses(&i.Status), ","), ports, kinds.Age(i.CreationTimestamp, now)}
}

func hostsCell(rules []networkingv1.IngressRule) string {
	var hosts []string
	for _, r := range rules {
		if r.Host != "" {
			hosts = append(hosts, r.Host)
		}
	}
	if len(hosts) == 0 {
		return "*"
	}
	return kinds.FewCell(hosts, shownHosts, ",")
}

package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What resolvers of today take.
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchBytes = 2048
)

func (r *report) dnsConfig(at *field.Path, spec *corev1.PodSpec) {
	c := spec.DNSConfig
	if spec.DNSPolicy == corev1.DNSNone {
		if c == nil {
			r.Required(at, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", corev1.DNSNone))
			return
		}
		if len(c.Nameservers) == 0 {
			r.Required(at.Child("nameservers"), fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone))
			return
		}
	}
	if c == nil {
		return
	}
	servers, searches := at.Child("nameservers"), at.Child("searches")
	if len(c.Nameservers) > maxNameservers {
		r.Invalid(servers, c.Nameservers, fmt.Sprintf("must not have more than %v nameservers", maxNameservers))
	}
	for i, ip := range c.Nameservers {
		r.Add(validation.IsValidIPForLegacyField(servers.Index(i), ip, true, nil)...)
	}
	if len(c.Searches) > maxSearches {
		r.Invalid(searches, c.Searches, fmt.Sprintf("must not have more than %v search paths", maxSearches))
	}
	if len(strings.Join(c.Searches, " ")) > maxSearchBytes {
		r.Invalid(searches, c.Searches, fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", maxSearchBytes))
	}
	for i, s := range c.Searches {
		if s != "." {
			s = strings.TrimSuffix(s, ".")
			r.Invalid(searches.Index(i), s, validation.IsDNS1123SubdomainWithUnderscore(s)...)
		}
	}
	for i, o := range c.Options {
		if o.Name == "" {
			r.Required(at.Child("options").Index(i), "must not be empty")
		}
	}
}

func (r *report) hostAliases(at *field.Path, aliases []corev1.HostAlias) {
	for i, a := range aliases {
		at := at.Index(i)
		r.Add(validation.IsValidIPForLegacyField(at.Child("ip"), a.IP, true, nil)...)
		for j, h := range a.Hostnames {
			r.Invalid(at.Child("hostnames").Index(j), h, subdomain(h)...)
		}
	}
}

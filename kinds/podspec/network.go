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
			r.required(at, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", corev1.DNSNone))
			return
		}
		if len(c.Nameservers) == 0 {
			r.required(at.Child("nameservers"), fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone))
			return
		}
	}
	if c == nil {
		return
	}
	servers, searches := at.Child("nameservers"), at.Child("searches")
	if len(c.Nameservers) > maxNameservers {
		r.invalid(servers, c.Nameservers, fmt.Sprintf("must not have more than %v nameservers", maxNameservers))
	}
	for i, ip := range c.Nameservers {
		r.add(validation.IsValidIPForLegacyField(servers.Index(i), ip, true, nil)...)
	}
	if len(c.Searches) > maxSearches {
		r.invalid(searches, c.Searches, fmt.Sprintf("must not have more than %v search paths", maxSearches))
	}
	if len(strings.Join(c.Searches, " ")) > maxSearchBytes {
		r.invalid(searches, c.Searches, fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", maxSearchBytes))
	}
	for i, s := range c.Searches {
		if s != "." {
			s = strings.TrimSuffix(s, ".")
			r.invalid(searches.Index(i), s, validation.IsDNS1123SubdomainWithUnderscore(s)...)
		}
	}
	for i, o := range c.Options {
		if o.Name == "" {
			r.required(at.Child("options").Index(i), "must not be empty")
		}
	}
}

func (r *report) hostAliases(at *field.Path, aliases []corev1.HostAlias) {
	for i, a := range aliases {
		at := at.Index(i)
		r.add(validation.IsValidIPForLegacyField(at.Child("ip"), a.IP, true, nil)...)
		for j, h := range a.Hostnames {
			r.invalid(at.Child("hostnames").Index(j), h, subdomain(h)...)
		}
	}
}

// Package discovery holds the kinds of discovery.k8s.io. Only kinds/builtin imports it.
package discovery

import (
	"errors"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// Upper bounds of the lists in a slice.
const (
	maxEndpoints      = 1000
	maxAddresses      = 100
	maxPorts          = 20000
	maxTopologyLabels = 16
	maxHints          = 8
)

// shown is how many ports and addresses kubectl's tables show of a slice.
const shown = 3

// EndpointSlice is the row of endpoint slices.
func EndpointSlice() *kinds.Kind {
	return &kinds.Kind{
		Group:         discoveryv1.GroupName,
		Kind:          "EndpointSlice",
		Resource:      "endpointslices",
		Namespaced:    true,
		Versions:      []kinds.Version{kinds.V[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList]("v1")},
		Default:       kinds.On(defaultEndpointSlice),
		PrepareCreate: kinds.On(func(s *discoveryv1.EndpointSlice) { dropTopology(s, nil) }),
		PrepareUpdate: kinds.OnUpdate(dropTopology),
		Validate: kinds.Check(func(s *discoveryv1.EndpointSlice) field.ErrorList {
			return validateEndpointSlice(s, &discoveryv1.EndpointSlice{})
		}),
		ValidateUpdate: kinds.CheckUpdate(func(s, old *discoveryv1.EndpointSlice) field.ErrorList {
			r := check.Report{Errs: validateEndpointSlice(s, old)}
			r.Immutable(field.NewPath("addressType"), s.AddressType, old.AddressType)
			return r.Errs
		}),
		Warnings:      kinds.Warn(warnEndpointSlice),
		HasGeneration: true,
		SpecChanged: func(o, before kinds.Object) bool {
			s, old := o.(*discoveryv1.EndpointSlice), before.(*discoveryv1.EndpointSlice)
			return s.AddressType != old.AddressType || !check.Same(s.Endpoints, old.Endpoints) ||
				!check.Same(s.Ports, old.Ports) || !check.Same(s.Labels, old.Labels)
		},
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		Columns:             endpointSliceColumns(),
		Cells: kinds.Print(func(s *discoveryv1.EndpointSlice, now metav1.Time) []any {
			return []any{s.Name, string(s.AddressType), portsCell(s.Ports), endpointsCell(s.Endpoints), kinds.Age(s.CreationTimestamp, now)}
		}),
	}
}

func defaultEndpointSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		check.DefaultPointer(&s.Ports[i].Name, "")
		check.DefaultPointer(&s.Ports[i].Protocol, corev1.ProtocolTCP)
	}
}

// dropTopology ignores the labels that only the first version of the API could write; those of an old object may stay.
func dropTopology(s, old *discoveryv1.EndpointSlice) {
	for i := range s.Endpoints {
		if old != nil && i < len(old.Endpoints) && check.Same(s.Endpoints[i].DeprecatedTopology, old.Endpoints[i].DeprecatedTopology) {
			continue
		}
		s.Endpoints[i].DeprecatedTopology = nil
	}
}

// validateEndpointSlice reports what is missing last, as upstream does.
func validateEndpointSlice(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	var r, missing check.Report
	at := field.NewPath("endpoints")
	check.OneOfRequired(&missing, field.NewPath("addressType"), s.AddressType,
		discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	if len(s.Endpoints) > maxEndpoints {
		r.Add(field.TooMany(at, len(s.Endpoints), maxEndpoints))
		return append(r.Errs, missing.Errs...)
	}
	var before []string
	for _, e := range old.Endpoints {
		before = append(before, e.Addresses...)
	}
	for i := range s.Endpoints {
		e, at := &s.Endpoints[i], at.Index(i)
		switch addresses := at.Child("addresses"); {
		case len(e.Addresses) == 0:
			missing.Required(addresses, "")
		case len(e.Addresses) > maxAddresses:
			missing.Add(field.TooMany(addresses, len(e.Addresses), maxAddresses))
		}
		for j, a := range e.Addresses {
			validateAddress(&r, at.Child("addresses").Index(j), s.AddressType, a, before)
		}
		validateEndpoint(&r, at, e)
	}
	validatePorts(&r, field.NewPath("ports"), s.Ports)
	return append(r.Errs, missing.Errs...)
}

func validateAddress(r *check.Report, at *field.Path, typ discoveryv1.AddressType, a string, before []string) {
	switch typ {
	case discoveryv1.AddressTypeFQDN:
		r.Add(validation.IsFullyQualifiedDomainName(at, a)...)
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
		if !r.IP(at, a, before) {
			return
		}
		if netutils.IsIPv6String(a) != (typ == discoveryv1.AddressTypeIPv6) {
			r.Invalid(at, a, fmt.Sprintf("must be an %s address", typ))
			return
		}
		r.OrdinaryIP(at, a)
	}
}

func validateEndpoint(r *check.Report, at *field.Path, e *discoveryv1.Endpoint) {
	if e.NodeName != nil {
		r.Invalid(at.Child("nodeName"), *e.NodeName, apivalidation.NameIsDNSSubdomain(*e.NodeName, false)...)
	}
	topology := at.Child("deprecatedTopology")
	if len(e.DeprecatedTopology) > maxTopologyLabels {
		r.Add(field.TooMany(topology, len(e.DeprecatedTopology), maxTopologyLabels))
	}
	r.Add(metav1validation.ValidateLabels(e.DeprecatedTopology, topology)...)
	if _, ok := e.DeprecatedTopology[corev1.LabelHostname]; ok {
		r.Add(field.InternalError(topology.Key(corev1.LabelHostname), errors.New("should have been converted to nodeName")))
	}
	if e.Hostname != nil {
		r.Invalid(at.Child("hostname"), *e.Hostname, validation.IsDNS1123Label(*e.Hostname)...)
	}
	if e.Hints == nil {
		return
	}
	zones, nodes := make([]string, len(e.Hints.ForZones)), make([]string, len(e.Hints.ForNodes))
	for i, z := range e.Hints.ForZones {
		zones[i] = z.Name
	}
	for i, n := range e.Hints.ForNodes {
		nodes[i] = n.Name
	}
	validateHints(r, at.Child("hints", "forZones"), zones, validation.IsValidLabelValue)
	validateHints(r, at.Child("hints", "forNodes"), nodes, func(n string) []string { return apivalidation.NameIsDNSSubdomain(n, false) })
}

func validateHints(r *check.Report, at *field.Path, names []string, valid func(string) []string) {
	if len(names) > maxHints {
		r.Add(field.TooMany(at, len(names), maxHints))
		return
	}
	seen := map[string]bool{}
	for i, n := range names {
		at := at.Index(i).Child("name")
		if seen[n] {
			r.Add(field.Duplicate(at, n))
		}
		seen[n] = true
		r.Invalid(at, n, valid(n)...)
	}
}

func validatePorts(r *check.Report, at *field.Path, ports []discoveryv1.EndpointPort) {
	if len(ports) > maxPorts {
		r.Add(field.TooMany(at, len(ports), maxPorts))
		return
	}
	names := map[string]bool{}
	for i, p := range ports {
		at := at.Index(i)
		name := ""
		if p.Name != nil {
			name = *p.Name
		}
		if name != "" {
			r.Invalid(at.Child("name"), name, validation.IsDNS1123Label(name)...)
		}
		if names[name] {
			r.Add(field.Duplicate(at.Child("name"), name))
		}
		names[name] = true
		if p.Protocol == nil {
			r.Required(at.Child("protocol"), "")
		} else {
			r.Protocol(at.Child("protocol"), *p.Protocol)
		}
		if p.AppProtocol != nil {
			r.Invalid(at.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol)...)
		}
	}
}

func warnEndpointSlice(s, _ *discoveryv1.EndpointSlice) (out []string) {
	if s.AddressType == discoveryv1.AddressTypeFQDN {
		return []string{"spec.addressType: FQDN endpoints are deprecated"}
	}
	for i, e := range s.Endpoints {
		for j, a := range e.Addresses {
			out = append(out, validation.GetWarningsForIP(field.NewPath("endpoints").Index(i).Child("addresses").Index(j), a)...)
		}
	}
	return out
}

func endpointSliceColumns() []metav1.TableColumnDefinition {
	doc := discoveryv1.EndpointSlice{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("AddressType", "string", doc["addressType"]),
		kinds.Column("Ports", "string", doc["ports"]),
		kinds.Column("Endpoints", "string", doc["endpoints"]),
		kinds.AgeColumn(),
	}
}

func portsCell(ports []discoveryv1.EndpointPort) string {
	all := make([]string, len(ports))
	for i, p := range ports {
		switch {
		case p.Port != nil:
			all[i] = strconv.Itoa(int(*p.Port))
		case p.Name != nil:
			all[i] = *p.Name
		default:
			all[i] = "*"
		}
	}
	return listCell(all)
}

func endpointsCell(endpoints []discoveryv1.Endpoint) string {
	var all []string
	for _, e := range endpoints {
		all = append(all, e.Addresses...)
	}
	return listCell(all)
}

func listCell(all []string) string {
	if list := kinds.FewCell(all, shown, ","); list != "" {
		return list
	}
	return "<unset>"
}

package core

import (
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/check"
)

// shownEndpoints is how many addresses kubectl's tables show of an Endpoints or EndpointSlice.
const shownEndpoints = 3

// Endpoints is the row of endpoints, the predecessor of endpoint slices.
func Endpoints() *kinds.Kind {
	v1 := kinds.V[corev1.Endpoints, corev1.EndpointsList]("v1")
	v1.Warning = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"
	return &kinds.Kind{
		Kind:                "Endpoints",
		Resource:            "endpoints",
		ShortNames:          []string{"ep"},
		Namespaced:          true,
		Versions:            []kinds.Version{v1},
		Default:             kinds.On(defaultEndpoints),
		Validate:            kinds.Check(func(e *corev1.Endpoints) field.ErrorList { return validateEndpoints(e, nil) }),
		ValidateUpdate:      kinds.CheckUpdate(validateEndpoints),
		Warnings:            kinds.Warn(warnEndpoints),
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(), kinds.Column("Endpoints", "string", corev1.Endpoints{}.SwaggerDoc()["subsets"]), kinds.AgeColumn(),
		},
		Cells: kinds.Print(func(e *corev1.Endpoints, now metav1.Time) []any {
			return []any{e.Name, endpointsCell(e), kinds.Age(e.CreationTimestamp, now)}
		}),
	}
}

func defaultEndpoints(e *corev1.Endpoints) {
	for i := range e.Subsets {
		for j := range e.Subsets[i].Ports {
			check.Default(&e.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
		}
	}
}

func validateEndpoints(e, old *corev1.Endpoints) field.ErrorList {
	var r check.Report
	var before []string
	if old != nil {
		eachAddress(old, func(_ *field.Path, a *corev1.EndpointAddress) { before = append(before, a.IP) })
	}
	for i := range e.Subsets {
		s := &e.Subsets[i]
		at := field.NewPath("subsets").Index(i)
		if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
			r.Required(at, "must specify `addresses` or `notReadyAddresses`")
		}
		for j := range s.Addresses {
			validateEndpointAddress(&r, at.Child("addresses").Index(j), &s.Addresses[j], before)
		}
		for j := range s.NotReadyAddresses {
			validateEndpointAddress(&r, at.Child("notReadyAddresses").Index(j), &s.NotReadyAddresses[j], before)
		}
		for j := range s.Ports {
			validateEndpointPort(&r, at.Child("ports").Index(j), &s.Ports[j], len(s.Ports) > 1)
		}
	}
	return r.Errs
}

func validateEndpointAddress(r *check.Report, at *field.Path, a *corev1.EndpointAddress, before []string) {
	valid := r.IP(at.Child("ip"), a.IP, before)
	if a.Hostname != "" {
		r.Invalid(at.Child("hostname"), a.Hostname, validation.IsDNS1123Label(a.Hostname)...)
	}
	if a.NodeName != nil {
		r.Invalid(at.Child("nodeName"), *a.NodeName, apivalidation.NameIsDNSSubdomain(*a.NodeName, false)...)
	}
	if valid {
		r.OrdinaryIP(at.Child("ip"), a.IP)
	}
}

func validateEndpointPort(r *check.Report, at *field.Path, p *corev1.EndpointPort, named bool) {
	if p.Name != "" {
		r.Invalid(at.Child("name"), p.Name, validation.IsDNS1123Label(p.Name)...)
	} else if named {
		r.Required(at.Child("name"), "")
	}
	r.PortNumber(at.Child("port"), p.Port)
	r.Protocol(at.Child("protocol"), p.Protocol)
	if p.AppProtocol != nil {
		r.Invalid(at.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol)...)
	}
}

func eachAddress(e *corev1.Endpoints, f func(at *field.Path, a *corev1.EndpointAddress)) {
	for i := range e.Subsets {
		at := field.NewPath("subsets").Index(i)
		for j := range e.Subsets[i].Addresses {
			f(at.Child("addresses").Index(j), &e.Subsets[i].Addresses[j])
		}
		for j := range e.Subsets[i].NotReadyAddresses {
			f(at.Child("notReadyAddresses").Index(j), &e.Subsets[i].NotReadyAddresses[j])
		}
	}
}

func warnEndpoints(e, _ *corev1.Endpoints) (out []string) {
	eachAddress(e, func(at *field.Path, a *corev1.EndpointAddress) {
		out = append(out, validation.GetWarningsForIP(at.Child("ip"), a.IP)...)
	})
	return out
}

func endpointsCell(e *corev1.Endpoints) string {
	if len(e.Subsets) == 0 {
		return kinds.None
	}
	var all []string
	for _, s := range e.Subsets {
		if len(s.Ports) == 0 {
			for _, a := range s.Addresses {
				all = append(all, a.IP)
			}
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				all = append(all, net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
		}
	}
	return kinds.FewCell(all, shownEndpoints, ",")
}

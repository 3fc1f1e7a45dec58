// Package check gathers what is wrong with an object: a Report and the checks that many kinds share, with upstream's texts.
// The kind packages import it; it is pure.
package check

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// Report gathers what is wrong, in the order in which it is found. The zero Report is ready.
type Report struct {
	Errs field.ErrorList
}

// Add takes errors as they are.
func (r *Report) Add(errs ...*field.Error) { r.Errs = append(r.Errs, errs...) }

// Required reports a value that is missing.
func (r *Report) Required(at *field.Path, detail string) { r.Add(field.Required(at, detail)) }

// Forbidden reports a value that may not be there.
func (r *Report) Forbidden(at *field.Path, detail string) { r.Add(field.Forbidden(at, detail)) }

// Invalid reports value once per message, and nothing when there is none, as the checks of names give them.
func (r *Report) Invalid(at *field.Path, value any, messages ...string) {
	for _, m := range messages {
		r.Add(field.Invalid(at, value, m))
	}
}

// Present reports an empty value and returns whether it is not empty.
func (r *Report) Present(at *field.Path, value string) bool {
	if value == "" {
		r.Required(at, "")
	}
	return value != ""
}

// Name reports an absent name, or what check finds wrong with it.
func (r *Report) Name(at *field.Path, value string, check func(string) []string) {
	if r.Present(at, value) {
		r.Invalid(at, value, check(value)...)
	}
}

// Immutable reports a value that differs from the old one.
func (r *Report) Immutable(at *field.Path, value, old any) {
	r.Add(apivalidation.ValidateImmutableField(value, old, at)...)
}

// Selector reports what is wrong with a label selector; nil is right.
func (r *Report) Selector(at *field.Path, s *metav1.LabelSelector) {
	r.Add(metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, at)...)
}

// PortNumber reports a port outside 1 to 65535.
func (r *Report) PortNumber(at *field.Path, port int32) {
	r.Invalid(at, port, validation.IsValidPortNum(int(port))...)
}

// PortNumberOrName reports what is neither a port number nor an IANA service name.
func (r *Report) PortNumberOrName(at *field.Path, port intstr.IntOrString) {
	if port.Type == intstr.String {
		r.Invalid(at, port.StrVal, validation.IsValidPortName(port.StrVal)...)
		return
	}
	r.PortNumber(at, port.IntVal)
}

// Protocol reports an absent or unknown transport protocol.
func (r *Report) Protocol(at *field.Path, p corev1.Protocol) {
	OneOfRequired(r, at, p, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
}

// IP reports what is no IP address in the loose form that old fields accept; before holds the values that the object had,
// which stay valid. It returns whether the address is right.
func (r *Report) IP(at *field.Path, ip string, before []string) bool {
	errs := validation.IsValidIPForLegacyField(at, ip, true, before)
	r.Add(errs...)
	return len(errs) == 0
}

// CIDR is IP for address ranges.
func (r *Report) CIDR(at *field.Path, cidr string, before []string) bool {
	errs := validation.IsValidCIDRForLegacyField(at, cidr, true, before)
	r.Add(errs...)
	return len(errs) == 0
}

// OrdinaryIP reports an address that no traffic of a service may go to: unspecified, loopback, link-local.
func (r *Report) OrdinaryIP(at *field.Path, address string) {
	ip := netutils.ParseIPSloppy(address)
	switch {
	case ip == nil:
		r.Invalid(at, address, "must be a valid IP address")
	case ip.IsUnspecified():
		r.Invalid(at, address, "may not be unspecified ("+address+")")
	case ip.IsLoopback():
		r.Invalid(at, address, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
	case ip.IsLinkLocalUnicast():
		r.Invalid(at, address, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
	case ip.IsLinkLocalMulticast():
		r.Invalid(at, address, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
	}
}

// NotNegative reports a value below zero.
func NotNegative[T int32 | int64](r *Report, at *field.Path, value T) {
	r.Add(apivalidation.ValidateNonnegativeField(int64(value), at)...)
}

// OneOf reports a value that is not in the list, which is printed in its order, and returns whether it is.
func OneOf[T ~string](r *Report, at *field.Path, value T, allowed ...T) bool {
	ok := slices.Contains(allowed, value)
	if !ok {
		r.Add(field.NotSupported(at, value, allowed))
	}
	return ok
}

// OneOfRequired is OneOf for fields that must not be empty either.
func OneOfRequired[T ~string](r *Report, at *field.Path, value T, allowed ...T) {
	if r.Present(at, string(value)) {
		OneOf(r, at, value, allowed...)
	}
}

// Default sets a field that has its zero value.
func Default[T comparable](to *T, value T) {
	var zero T
	if *to == zero {
		*to = value
	}
}

// DefaultPointer sets a pointer that is nil.
func DefaultPointer[T any](to **T, value T) {
	if *to == nil {
		*to = &value
	}
}

// Same compares as the API does: nil and empty lists are equal, and so are equal quantities and times of any form.
func Same(a, b any) bool { return apiequality.Semantic.DeepEqual(a, b) }

// PodNameWarning warns of an object whose name its pods' names start with and which is no host name.
func PodNameWarning(name string) []string {
	msgs := validation.IsDNS1123Label(name)
	if len(msgs) == 0 {
		return nil
	}
	const text = "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v"
	return []string{fmt.Sprintf(text, msgs)}
}

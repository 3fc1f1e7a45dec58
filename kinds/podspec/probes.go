package podspec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds/check"
)

// handler is what a probe and a lifecycle hook have in common.
type handler struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
}

// lifecycle checks the hooks and the probes of a container that runs as long as the pod.
func (r *report) lifecycle(at *field.Path, c *corev1.Container, spec *corev1.PodSpec) {
	grace := spec.TerminationGracePeriodSeconds
	if l := c.Lifecycle; l != nil {
		at := at.Child("lifecycle")
		for _, h := range []struct {
			name string
			hook *corev1.LifecycleHandler
		}{{"postStart", l.PostStart}, {"preStop", l.PreStop}} {
			if h.hook != nil {
				r.handler(at.Child(h.name), handler{exec: h.hook.Exec, http: h.hook.HTTPGet, tcp: h.hook.TCPSocket, sleep: h.hook.Sleep}, grace)
			}
		}
	}
	if p := c.LivenessProbe; p != nil {
		r.probe(at.Child("livenessProbe"), p, grace, true)
	}
	if p := c.ReadinessProbe; p != nil {
		at := at.Child("readinessProbe")
		r.probe(at, p, grace, false)
		if p.TerminationGracePeriodSeconds != nil {
			r.Invalid(at.Child("terminationGracePeriodSeconds"), *p.TerminationGracePeriodSeconds, "must not be set for readinessProbes")
		}
	}
	if p := c.StartupProbe; p != nil {
		r.probe(at.Child("startupProbe"), p, grace, true)
	}
}

// probe checks a probe; the restarting ones must believe a single success.
func (r *report) probe(at *field.Path, p *corev1.Probe, grace *int64, restarts bool) {
	r.handler(at, handler{exec: p.Exec, http: p.HTTPGet, tcp: p.TCPSocket, grpc: p.GRPC}, grace)
	check.NotNegative(&r.Report, at.Child("initialDelaySeconds"), p.InitialDelaySeconds)
	check.NotNegative(&r.Report, at.Child("timeoutSeconds"), p.TimeoutSeconds)
	check.NotNegative(&r.Report, at.Child("periodSeconds"), p.PeriodSeconds)
	check.NotNegative(&r.Report, at.Child("successThreshold"), p.SuccessThreshold)
	check.NotNegative(&r.Report, at.Child("failureThreshold"), p.FailureThreshold)
	if g := p.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		r.Invalid(at.Child("terminationGracePeriodSeconds"), *g, "must be greater than 0")
	}
	if restarts && p.SuccessThreshold != 1 {
		r.Invalid(at.Child("successThreshold"), p.SuccessThreshold, "must be 1")
	}
}

func (r *report) handler(at *field.Path, h handler, grace *int64) {
	n := 0
	for _, kind := range []struct {
		name  string
		set   bool
		check func(at *field.Path)
	}{
		{"exec", h.exec != nil, func(at *field.Path) {
			if len(h.exec.Command) == 0 {
				r.Required(at.Child("command"), "")
			}
		}},
		{"httpGet", h.http != nil, func(at *field.Path) { r.httpGet(at, h.http) }},
		{"tcpSocket", h.tcp != nil, func(at *field.Path) { r.port(at.Child("port"), h.tcp.Port) }},
		{"grpc", h.grpc != nil, func(at *field.Path) { r.port(at.Child("port"), intstr.FromInt32(h.grpc.Port)) }},
		{"sleep", h.sleep != nil, func(at *field.Path) {
			if s := h.sleep.Seconds; s < 0 || grace != nil && s > *grace {
				r.Invalid(at, s, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", ptr.Deref(grace, 0)))
			}
		}},
	} {
		if !kind.set {
			continue
		}
		if n++; n > 1 {
			r.Forbidden(at.Child(kind.name), "may not specify more than 1 handler type")
			continue
		}
		kind.check(at.Child(kind.name))
	}
	if n == 0 {
		r.Required(at, "must specify a handler type")
	}
}

func (r *report) httpGet(at *field.Path, h *corev1.HTTPGetAction) {
	r.Present(at.Child("path"), h.Path)
	r.port(at.Child("port"), h.Port)
	check.OneOf(&r.Report, at.Child("scheme"), h.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
	for _, header := range h.HTTPHeaders {
		r.Invalid(at.Child("httpHeaders"), header.Name, validation.IsHTTPHeaderName(header.Name)...)
	}
}

// port checks a port by number or name.
func (r *report) port(at *field.Path, p intstr.IntOrString) {
	if p.Type == intstr.String {
		r.Invalid(at, p.StrVal, validation.IsValidPortName(p.StrVal)...)
		return
	}
	r.Invalid(at, p.IntVal, validation.IsValidPortNum(p.IntValue())...)
}

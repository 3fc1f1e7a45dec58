package podspec

import (
	"fmt"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kebernetes/kebernetes/kinds/check"
)

func (r *report) containers(at *field.Path, p *podContext) {
	names := map[string]bool{}
	unique := func(at *field.Path, name string) {
		if names[name] {
			r.Add(field.Duplicate(at.Child("name"), name))
		}
		names[name] = true
	}
	list := at.Child("containers")
	if len(p.spec.Containers) == 0 {
		r.Required(list, "")
	}
	for i := range p.spec.Containers {
		c, at := &p.spec.Containers[i], list.Index(i)
		r.container(at, c, p)
		unique(at, c.Name)
		r.lifecycle(at, c, p.spec)
		r.restartRules(at, c)
	}
	r.hostPortConflicts(list, p.spec.Containers)

	list = at.Child("initContainers")
	for i := range p.spec.InitContainers {
		c, at := &p.spec.InitContainers[i], list.Index(i)
		r.container(at, c, p)
		r.restartRules(at, c)
		unique(at, c.Name)
		r.initContainer(at, c, p.spec)
		// Init containers run one after the other, so that only ports within one can clash.
		r.hostPortConflicts(list, p.spec.InitContainers[i:i+1])
	}
	r.ephemeralContainers(at.Child("ephemeralContainers"), p, names)
}

func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func (r *report) initContainer(at *field.Path, c *corev1.Container, spec *corev1.PodSpec) {
	if isSidecar(c) {
		r.lifecycle(at, c, spec)
		return
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"lifecycle", c.Lifecycle != nil}, {"livenessProbe", c.LivenessProbe != nil},
		{"readinessProbe", c.ReadinessProbe != nil}, {"startupProbe", c.StartupProbe != nil},
	} {
		if f.set {
			r.Forbidden(at.Child(f.name), "may not be set for init containers without restartPolicy=Always")
		}
	}
	if len(c.ResizePolicy) > 0 {
		r.Invalid(at.Child("resizePolicy"), Dump(c.ResizePolicy), "must not be set for init containers")
	}
}

// notEphemeral lists the container fields that an ephemeral container must leave empty.
var notEphemeral = []string{"Ports", "Resources", "ResizePolicy", "RestartPolicy", "RestartPolicyRules", "LivenessProbe", "ReadinessProbe", "StartupProbe", "Lifecycle"}

func (r *report) ephemeralContainers(list *field.Path, p *podContext, names map[string]bool) {
	lasting := map[string]bool{}
	for n := range names {
		lasting[n] = true
	}
	for i := range p.spec.EphemeralContainers {
		e, at := &p.spec.EphemeralContainers[i], list.Index(i)
		c := common(e)
		r.container(at, c, p)
		r.imageSpace(at, c.Image)
		if names[e.Name] {
			r.Add(field.Duplicate(at.Child("name"), e.Name))
		}
		names[e.Name] = true
		if e.TargetContainerName != "" && !lasting[e.TargetContainerName] {
			r.Add(field.NotFound(at.Child("targetContainerName"), e.TargetContainerName))
		}
		const refusal = "cannot be set for an Ephemeral Container"
		v := reflect.ValueOf(c).Elem()
		for _, name := range notEphemeral {
			if !v.FieldByName(name).IsZero() {
				r.Forbidden(at.Child(strings.ToLower(name[:1])+name[1:]), refusal)
			}
		}
		for j, m := range e.VolumeMounts {
			mount := at.Child("volumeMounts").Index(j)
			if m.SubPath != "" {
				r.Forbidden(mount.Child("subPath"), refusal)
			}
			if m.SubPathExpr != "" {
				r.Forbidden(mount.Child("subPathExpr"), refusal)
			}
		}
	}
}

// container checks what all sorts of containers have in common.
func (r *report) container(at *field.Path, c *corev1.Container, p *podContext) {
	r.Name(at.Child("name"), c.Name, validation.IsDNS1123Label)
	r.Present(at.Child("image"), c.Image)
	check.OneOfRequired(&r.Report, at.Child("terminationMessagePolicy"), c.TerminationMessagePolicy,
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)
	r.ports(at.Child("ports"), c.Ports)
	r.env(at.Child("env"), c.Env, p)
	r.envFrom(at.Child("envFrom"), c.EnvFrom)
	r.mounts(at.Child("volumeMounts"), c, p)
	r.devices(at.Child("volumeDevices"), c, p)
	check.OneOfRequired(&r.Report, at.Child("imagePullPolicy"), c.ImagePullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
	r.containerRequirements(at.Child("resources"), &c.Resources, p.claims)
	r.resizePolicy(at.Child("resizePolicy"), c.ResizePolicy, p.spec.RestartPolicy)
	r.containerSecurity(at.Child("securityContext"), c.SecurityContext, p.hostUsers)
}

func (r *report) ports(at *field.Path, ports []corev1.ContainerPort) {
	names := map[string]bool{}
	for i, p := range ports {
		at := at.Index(i)
		if p.Name != "" {
			bad := validation.IsValidPortName(p.Name)
			r.Invalid(at.Child("name"), p.Name, bad...)
			if len(bad) == 0 && names[p.Name] {
				r.Add(field.Duplicate(at.Child("name"), p.Name))
			}
			names[p.Name] = true
		}
		if p.ContainerPort == 0 {
			r.Required(at.Child("containerPort"), "")
		} else {
			r.Invalid(at.Child("containerPort"), p.ContainerPort, validation.IsValidPortNum(int(p.ContainerPort))...)
		}
		if p.HostPort != 0 {
			r.Invalid(at.Child("hostPort"), p.HostPort, validation.IsValidPortNum(int(p.HostPort))...)
		}
		check.OneOfRequired(&r.Report, at.Child("protocol"), p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
	}
}

// hostPortConflicts reports host ports that two of the containers want.
func (r *report) hostPortConflicts(at *field.Path, containers []corev1.Container) {
	taken := map[string]bool{}
	for i := range containers {
		for j, p := range containers[i].Ports {
			if p.HostPort == 0 {
				continue
			}
			key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
			if taken[key] {
				r.Add(field.Duplicate(at.Index(i).Child("ports").Index(j).Child("hostPort"), key))
			}
			taken[key] = true
		}
	}
}

// hostPorts holds the ports of a pod in the node's network to those of its containers.
func (r *report) hostPorts(at *field.Path, spec *corev1.PodSpec) {
	if !spec.HostNetwork {
		return
	}
	for i := range spec.Containers {
		for j, p := range spec.Containers[i].Ports {
			if p.HostPort != p.ContainerPort {
				r.Invalid(at.Child("containers").Index(i).Child("ports").Index(j).Child("hostPort"), p.HostPort,
					"must match `containerPort` when `hostNetwork` is true")
			}
		}
	}
}

func (r *report) resizePolicy(at *field.Path, policies []corev1.ContainerResizePolicy, restart corev1.RestartPolicy) {
	seen := map[corev1.ResourceName]bool{}
	for i, p := range policies {
		at := at.Index(i)
		check.OneOfRequired(&r.Report, at.Child("resourceName"), p.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)
		check.OneOfRequired(&r.Report, at.Child("restartPolicy"), p.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)
		if restart == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			r.Invalid(at.Child("restartPolicy"), p.RestartPolicy, "must be 'NotRequired' when `restartPolicy` is 'Never'")
		}
		if seen[p.ResourceName] {
			r.Add(field.Duplicate(at, p.ResourceName))
		}
		seen[p.ResourceName] = true
	}
}

// restartRules checks a container's own restart policy and its exceptions by exit code.
func (r *report) restartRules(at *field.Path, c *corev1.Container) {
	if c.RestartPolicy == nil {
		if len(c.RestartPolicyRules) > 0 {
			r.Required(at.Child("restartPolicy"), "must specify restartPolicy when restart rules are used")
		}
		return
	}
	check.OneOf(&r.Report, at.Child("restartPolicy"), *c.RestartPolicy,
		corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
	at = at.Child("restartPolicyRules")
	if n := len(c.RestartPolicyRules); n > 20 {
		r.Add(field.TooMany(at, n, 20))
		return
	}
	for i, rule := range c.RestartPolicyRules {
		at := at.Index(i)
		check.OneOfRequired(&r.Report, at.Child("action"), rule.Action, corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)
		exits := at.Child("exitCodes")
		if rule.ExitCodes == nil {
			r.Required(exits, "must be specified")
			continue
		}
		check.OneOfRequired(&r.Report, exits.Child("operator"), rule.ExitCodes.Operator, corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)
		if n := len(rule.ExitCodes.Values); n > 255 {
			r.Add(field.TooMany(exits.Child("values"), n, 255))
		}
	}
}

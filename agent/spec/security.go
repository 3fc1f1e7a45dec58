package spec

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/agent/lifecycle"
)

// maskedPaths and readonlyPaths are what procMount: Default hides (k8s.io/api core/v1 ProcMountType; the runtimes' defaults).
var (
	maskedPaths = []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func namespaces(pod *corev1.Pod) *rt.NamespaceOption {
	out := &rt.NamespaceOption{Network: rt.NamespaceMode_POD, Pid: rt.NamespaceMode_CONTAINER, Ipc: rt.NamespaceMode_POD}
	if pod.Spec.HostNetwork {
		out.Network = rt.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		out.Ipc = rt.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		out.Pid = rt.NamespaceMode_NODE
	case pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace:
		out.Pid = rt.NamespaceMode_POD
	}
	return out
}

func sandboxSecurity(pod *corev1.Pod) *rt.LinuxSandboxSecurityContext {
	out := &rt.LinuxSandboxSecurityContext{NamespaceOptions: namespaces(pod)}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			out.Privileged = out.Privileged || privileged(&list[i])
		}
	}
	sc := pod.Spec.SecurityContext
	if sc == nil {
		sc = &corev1.PodSecurityContext{}
	}
	// The pod's profile is for its containers. It may allow too little for the pause process, which needs no more than its own.
	out.Seccomp = &rt.SecurityProfile{ProfileType: rt.SecurityProfile_RuntimeDefault}
	out.RunAsUser, out.RunAsGroup = number(sc.RunAsUser), number(sc.RunAsGroup)
	if out.RunAsUser == nil {
		out.RunAsGroup = nil // the runtime takes a group only beside a user
	}
	out.SupplementalGroups, out.SupplementalGroupsPolicy = groups(sc)
	out.SelinuxOptions = selinux(sc.SELinuxOptions)
	return out
}

func number(n *int64) *rt.Int64Value {
	if n == nil {
		return nil
	}
	return &rt.Int64Value{Value: *n}
}

func groups(sc *corev1.PodSecurityContext) ([]int64, rt.SupplementalGroupsPolicy) {
	out := slices.Clone(sc.SupplementalGroups)
	if sc.FSGroup != nil {
		out = append(out, *sc.FSGroup)
	}
	policy := rt.SupplementalGroupsPolicy_Merge
	if sc.SupplementalGroupsPolicy != nil && *sc.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict {
		policy = rt.SupplementalGroupsPolicy_Strict
	}
	return out, policy
}

func selinux(o *corev1.SELinuxOptions) *rt.SELinuxOption {
	if o == nil {
		return nil
	}
	return &rt.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

func seccomp(p *corev1.SeccompProfile, dir string) (*rt.SecurityProfile, error) {
	switch {
	case p == nil || p.Type == corev1.SeccompProfileTypeUnconfined:
		return &rt.SecurityProfile{ProfileType: rt.SecurityProfile_Unconfined}, nil
	case p.Type == corev1.SeccompProfileTypeRuntimeDefault:
		return &rt.SecurityProfile{ProfileType: rt.SecurityProfile_RuntimeDefault}, nil
	case p.LocalhostProfile == nil || *p.LocalhostProfile == "":
		return nil, fmt.Errorf("localhostProfile must be set if seccompProfile type is Localhost")
	}
	return &rt.SecurityProfile{ProfileType: rt.SecurityProfile_Localhost, LocalhostRef: filepath.Join(dir, filepath.Clean("/"+*p.LocalhostProfile))}, nil
}

func apparmor(p *corev1.AppArmorProfile) *rt.SecurityProfile {
	if p == nil {
		return nil
	}
	switch p.Type {
	case corev1.AppArmorProfileTypeRuntimeDefault:
		return &rt.SecurityProfile{ProfileType: rt.SecurityProfile_RuntimeDefault}
	case corev1.AppArmorProfileTypeLocalhost:
		ref := ""
		if p.LocalhostProfile != nil {
			ref = *p.LocalhostProfile
		}
		return &rt.SecurityProfile{ProfileType: rt.SecurityProfile_Localhost, LocalhostRef: ref}
	}
	return &rt.SecurityProfile{ProfileType: rt.SecurityProfile_Unconfined}
}

func privileged(c *corev1.Container) bool {
	return c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
}

// effective merges the container's security context over the pod's.
func effective(pod *corev1.Pod, c *corev1.Container) corev1.SecurityContext {
	var out corev1.SecurityContext
	if c.SecurityContext != nil {
		out = *c.SecurityContext
	}
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return out
	}
	if out.RunAsUser == nil {
		out.RunAsUser = sc.RunAsUser
	}
	if out.RunAsGroup == nil {
		out.RunAsGroup = sc.RunAsGroup
	}
	if out.RunAsNonRoot == nil {
		out.RunAsNonRoot = sc.RunAsNonRoot
	}
	if out.SeccompProfile == nil {
		out.SeccompProfile = sc.SeccompProfile
	}
	if out.AppArmorProfile == nil {
		out.AppArmorProfile = sc.AppArmorProfile
	}
	if out.SELinuxOptions == nil {
		out.SELinuxOptions = sc.SELinuxOptions
	}
	return out
}

func containerSecurity(pod *corev1.Pod, c *corev1.Container, seccompDir string) (*rt.LinuxContainerSecurityContext, error) {
	sc := effective(pod, c)
	out := &rt.LinuxContainerSecurityContext{
		NamespaceOptions: namespaces(pod),
		Privileged:       privileged(c),
		RunAsUser:        number(sc.RunAsUser),
		RunAsGroup:       number(sc.RunAsGroup),
		ReadonlyRootfs:   sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem,
		NoNewPrivs:       sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
		MaskedPaths:      maskedPaths,
		ReadonlyPaths:    readonlyPaths,
		SelinuxOptions:   selinux(sc.SELinuxOptions),
		Apparmor:         apparmor(sc.AppArmorProfile),
	}
	if sc.ProcMount != nil && *sc.ProcMount == corev1.UnmaskedProcMount {
		out.MaskedPaths, out.ReadonlyPaths = []string{}, []string{}
	}
	var err error
	if out.Seccomp, err = seccomp(sc.SeccompProfile, seccompDir); err != nil {
		return nil, err
	}
	if caps := sc.Capabilities; caps != nil {
		out.Capabilities = &rt.Capability{}
		for _, a := range caps.Add {
			out.Capabilities.AddCapabilities = append(out.Capabilities.AddCapabilities, string(a))
		}
		for _, d := range caps.Drop {
			out.Capabilities.DropCapabilities = append(out.Capabilities.DropCapabilities, string(d))
		}
	}
	if psc := pod.Spec.SecurityContext; psc != nil {
		out.SupplementalGroups, out.SupplementalGroupsPolicy = groups(psc)
	}
	return out, nil
}

// CheckNonRoot refuses a container that must not run as root and would, or might. image is what the runtime knows of it.
func CheckNonRoot(pod *corev1.Pod, c *corev1.Container, image *rt.Image) error {
	sc := effective(pod, c)
	if sc.RunAsNonRoot == nil || !*sc.RunAsNonRoot {
		return nil
	}
	where := fmt.Sprintf("(pod: %q, container: %s)", lifecycle.PodText(pod), c.Name)
	if sc.RunAsUser != nil {
		if *sc.RunAsUser == 0 {
			return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
		}
		return nil
	}
	switch user := image.GetUsername(); {
	case image.GetUid() != nil && image.GetUid().Value == 0, image.GetUid() == nil && user == "":
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	case image.GetUid() == nil:
		if _, err := strconv.Atoi(user); err != nil {
			return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", user, where)
		}
	}
	return nil
}

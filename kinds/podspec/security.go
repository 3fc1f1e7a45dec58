package podspec

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds/check"
)

const sysctlPattern = `^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`

var sysctlRE = regexp.MustCompile(sysctlPattern)

func (r *report) podSecurity(at *field.Path, spec *corev1.PodSpec) {
	s := spec.SecurityContext
	if s == nil {
		return
	}
	if s.FSGroup != nil {
		r.Invalid(at.Child("fsGroup"), *s.FSGroup, validation.IsValidGroupID(*s.FSGroup)...)
	}
	if s.RunAsUser != nil {
		r.Invalid(at.Child("runAsUser"), *s.RunAsUser, validation.IsValidUserID(*s.RunAsUser)...)
	}
	if s.RunAsGroup != nil {
		r.Invalid(at.Child("runAsGroup"), *s.RunAsGroup, validation.IsValidGroupID(*s.RunAsGroup)...)
	}
	for i, g := range s.SupplementalGroups {
		r.Invalid(at.Child("supplementalGroups").Index(i), g, validation.IsValidGroupID(g)...)
	}
	if spec.HostPID && ptr.Deref(spec.ShareProcessNamespace, false) {
		r.Invalid(at.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled")
	}
	r.sysctls(at.Child("sysctls"), s.Sysctls, spec)
	if p := s.FSGroupChangePolicy; p != nil {
		check.OneOf(&r.Report, at.Child("fsGroupChangePolicy"), *p, corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)
	}
	r.seccomp(at.Child("seccompProfile"), s.SeccompProfile)
	r.windowsOptions(at.Child("windowsOptions"), s.WindowsOptions)
	r.appArmor(at.Child("appArmorProfile"), s.AppArmorProfile)
	if p := s.SupplementalGroupsPolicy; p != nil {
		check.OneOf(&r.Report, at.Child("supplementalGroupsPolicy"), *p, corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)
	}
	if p := s.SELinuxChangePolicy; p != nil {
		check.OneOf(&r.Report, at.Child("seLinuxChangePolicy"), *p, corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive)
	}
}

// sysctls checks kernel parameters; those of a namespace that the pod shares with the node are not the pod's to set.
func (r *report) sysctls(at *field.Path, sysctls []corev1.Sysctl, spec *corev1.PodSpec) {
	names := map[string]bool{}
	for i, s := range sysctls {
		name := at.Index(i).Child("name")
		key := strings.ReplaceAll(s.Name, "/", ".")
		switch {
		case s.Name == "":
			r.Required(name, "")
		case len(s.Name) > 253 || !sysctlRE.MatchString(s.Name):
			r.Invalid(name, s.Name, fmt.Sprintf("must have at most %d characters and match regex %s", 253, sysctlPattern))
		case names[key]:
			r.Add(field.Duplicate(name, s.Name))
		}
		names[key] = true
		if spec.HostNetwork && strings.HasPrefix(key, "net.") {
			r.Invalid(name, s.Name, "may not be specified when 'hostNetwork' is true")
		}
		if spec.HostIPC && (key == "kernel.sem" || strings.HasPrefix(key, "kernel.shm") || strings.HasPrefix(key, "kernel.msg") || strings.HasPrefix(key, "fs.mqueue.")) {
			r.Invalid(name, s.Name, "may not be specified when 'hostIPC' is true")
		}
	}
}

func (r *report) containerSecurity(at *field.Path, s *corev1.SecurityContext, hostUsers bool) {
	if s == nil {
		return
	}
	if s.RunAsUser != nil {
		r.Invalid(at.Child("runAsUser"), *s.RunAsUser, validation.IsValidUserID(*s.RunAsUser)...)
	}
	if s.RunAsGroup != nil {
		r.Invalid(at.Child("runAsGroup"), *s.RunAsGroup, validation.IsValidGroupID(*s.RunAsGroup)...)
	}
	if m := s.ProcMount; m != nil {
		check.OneOf(&r.Report, at.Child("procMount"), *m, corev1.DefaultProcMount, corev1.UnmaskedProcMount)
		if hostUsers && *m == corev1.UnmaskedProcMount {
			r.Invalid(at.Child("procMount"), *m, "`hostUsers` must be false to use `Unmasked`")
		}
	}
	r.seccomp(at.Child("seccompProfile"), s.SeccompProfile)
	if s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation {
		const refusal = "cannot set `allowPrivilegeEscalation` to false and "
		if ptr.Deref(s.Privileged, false) {
			r.Invalid(at, Dump(s), refusal+"`privileged` to true")
		}
		if s.Capabilities != nil {
			for _, c := range s.Capabilities.Add {
				if c == "CAP_SYS_ADMIN" {
					r.Invalid(at, Dump(s), refusal+"`capabilities.Add` CAP_SYS_ADMIN")
				}
			}
		}
	}
	r.windowsOptions(at.Child("windowsOptions"), s.WindowsOptions)
	r.appArmor(at.Child("appArmorProfile"), s.AppArmorProfile)
}

func (r *report) seccomp(at *field.Path, p *corev1.SeccompProfile) {
	if p == nil {
		return
	}
	local := at.Child("localhostProfile")
	if p.Type == "" {
		r.Required(at.Child("type"), "type is required when seccompProfile is set")
	} else {
		check.OneOf(&r.Report, at.Child("type"), p.Type, corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	}
	switch {
	case p.Type != corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile != nil:
		r.Invalid(local, Dump(p), "can only be set when seccomp type is Localhost")
	case p.Type == corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile == nil:
		r.Required(local, "must be set when seccomp type is Localhost")
	case p.Type == corev1.SeccompProfileTypeLocalhost:
		r.descendingPath(local, *p.LocalhostProfile)
	}
}

func (r *report) appArmor(at *field.Path, p *corev1.AppArmorProfile) {
	if p == nil {
		return
	}
	local := at.Child("localhostProfile")
	switch p.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		name := ptr.Deref(p.LocalhostProfile, "")
		trimmed := strings.TrimSpace(name)
		switch {
		case trimmed == "":
			r.Required(local, "must be set when AppArmor type is Localhost")
		case trimmed != name:
			r.Invalid(local, name, "must not be padded with whitespace")
		}
		// PATH_MAX of Linux, without its final zero.
		if len(name) > 4095 {
			r.Add(field.TooLong(local, name, 4095))
		}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			r.Invalid(local, *p.LocalhostProfile, "can only be set when AppArmor type is Localhost")
		}
	case "":
		r.Required(at.Child("type"), "type is required when appArmorProfile is set")
	default:
		check.OneOf(&r.Report, at.Child("type"), p.Type, corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	}
}

func (r *report) windowsOptions(at *field.Path, w *corev1.WindowsSecurityContextOptions) {
	if w == nil {
		return
	}
	if n := w.GMSACredentialSpecName; n != nil {
		r.Invalid(at.Child("gmsaCredentialSpecName"), *n, subdomain(*n)...)
	}
	if s := w.GMSACredentialSpec; s != nil {
		at := at.Child("gmsaCredentialSpec")
		if *s == "" {
			r.Invalid(at, *s, "gmsaCredentialSpec cannot be an empty string")
		} else if len(*s) > 64*1024 {
			r.Invalid(at, *s, "gmsaCredentialSpec size must be under 64 KiB")
		}
	}
	if n := w.RunAsUserName; n != nil {
		r.windowsUser(at.Child("runAsUserName"), *n)
	}
}

// windowsUser checks USER or DOMAIN\USER.
func (r *report) windowsUser(at *field.Path, name string) {
	domain, user, qualified := strings.Cut(name, `\`)
	if !qualified {
		domain, user = "", name
	}
	switch {
	case name == "":
		r.Invalid(at, name, "runAsUserName cannot be an empty string")
		return
	case strings.ContainsFunc(name, func(c rune) bool { return c < 32 || c == 127 }):
		r.Invalid(at, name, "runAsUserName cannot contain control characters")
	case strings.Count(name, `\`) > 1:
		r.Invalid(at, name, "runAsUserName cannot contain more than one backslash")
	}
	if qualified && domain == "" {
		r.Invalid(at, name, "runAsUserName's Domain doesn't match the NetBIOS nor the DNS format")
	}
	switch {
	case user == "":
		r.Invalid(at, name, "runAsUserName's User cannot be empty")
	case len(user) > 104:
		r.Invalid(at, name, "runAsUserName's User length must not be longer than 104 characters")
	case strings.Trim(user, ". ") == "":
		r.Invalid(at, name, "runAsUserName's User cannot contain only periods or spaces")
	case strings.ContainsAny(user, `"/\:;|=,+*?<>@[]`):
		r.Invalid(at, name, `runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]`)
	}
}

// os holds a pod that names its operating system to the fields that mean something there.
func (r *report) os(at *field.Path, spec *corev1.PodSpec) {
	if spec.OS == nil {
		return
	}
	switch spec.OS.Name {
	case "":
		r.Required(at.Child("os", "name"), "cannot be empty")
	case corev1.Linux:
		r.linux(at, spec)
	case corev1.Windows:
		r.windows(at, spec)
	default:
		check.OneOf(&r.Report, at.Child("os"), spec.OS.Name, corev1.Linux, corev1.Windows)
	}
}

func (r *report) linux(at *field.Path, spec *corev1.PodSpec) {
	if s := spec.SecurityContext; s != nil && s.WindowsOptions != nil {
		r.Forbidden(at.Child("securityContext", "windowsOptions"), "windows options cannot be set for a linux pod")
	}
	eachContainer(spec, func(list string, i int, c *corev1.Container) {
		if c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil {
			r.Forbidden(at.Child(list).Index(i).Child("securityContext", "windowsOptions"), "cannot be set for a linux pod")
		}
	})
}

// The fields that a pod for Windows must leave empty, by their path below the spec, the pod's security context and a
// container's.
var (
	notWindowsSpec      = []string{"hostPID", "hostIPC", "hostUsers", "resources", "shareProcessNamespace"}
	notWindowsPod       = []string{"appArmorProfile", "seLinuxOptions", "seccompProfile", "fsGroup", "fsGroupChangePolicy", "sysctls", "runAsUser", "runAsGroup", "supplementalGroups", "supplementalGroupsPolicy"}
	notWindowsContainer = []string{"appArmorProfile", "seLinuxOptions", "seccompProfile", "capabilities", "readOnlyRootFilesystem", "privileged", "allowPrivilegeEscalation", "procMount", "runAsUser", "runAsGroup"}
)

func (r *report) windows(at *field.Path, spec *corev1.PodSpec) {
	r.unset(at, spec, notWindowsSpec)
	if spec.SecurityContext != nil {
		r.unset(at.Child("securityContext"), spec.SecurityContext, notWindowsPod)
	}
	eachContainer(spec, func(list string, i int, c *corev1.Container) {
		if c.SecurityContext != nil {
			r.unset(at.Child(list).Index(i).Child("securityContext"), c.SecurityContext, notWindowsContainer)
		}
	})
}

// unset reports the fields of obj, a pointer to a struct, that are set although a Windows pod may not have them.
func (r *report) unset(at *field.Path, obj any, names []string) {
	v := reflect.ValueOf(obj).Elem()
	for _, name := range names {
		f := v.FieldByNameFunc(func(n string) bool { return strings.EqualFold(n, name) })
		if !f.IsZero() {
			r.Forbidden(at.Child(name), "cannot be set for a windows pod")
		}
	}
}

// hostProcess checks Windows containers that run on the node itself: all of a pod must, in the node's network.
func (r *report) hostProcess(at *field.Path, spec *corev1.PodSpec) {
	option := func(w *corev1.WindowsSecurityContextOptions) *bool {
		if w == nil {
			return nil
		}
		return w.HostProcess
	}
	var pod *bool
	if spec.SecurityContext != nil {
		pod = option(spec.SecurityContext.WindowsOptions)
	}
	all, on := 0, 0
	eachContainer(spec, func(list string, i int, c *corev1.Container) {
		var own *bool
		if c.SecurityContext != nil {
			own = option(c.SecurityContext.WindowsOptions)
		}
		if pod != nil && own != nil && *pod != *own {
			r.Invalid(at.Child(list).Index(i).Child("securityContext", "windowsOptions", "hostProcess"), *own, fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *pod))
		}
		all++
		if ptr.Deref(own, ptr.Deref(pod, false)) {
			on++
		}
	})
	if on == 0 {
		return
	}
	if on != all {
		r.Invalid(at, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers")
	}
	if !spec.HostNetwork {
		r.Invalid(at.Child("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers")
	}
}

// userNamespace checks a pod with users of its own, which can share no other namespace of the node.
func (r *report) userNamespace(at *field.Path, p *podContext) {
	if p.hostUsers {
		return
	}
	const refusal = "when `hostUsers` is false"
	for _, ns := range []struct {
		name string
		set  bool
	}{{"hostNetwork", p.spec.HostNetwork}, {"HostPID", p.spec.HostPID}, {"HostIPC", p.spec.HostIPC}} {
		if ns.set {
			r.Forbidden(at.Child(ns.name), refusal)
		}
	}
	eachContainer(p.spec, func(list string, i int, c *corev1.Container) {
		if len(c.VolumeDevices) > 0 {
			r.Forbidden(at.Child(list).Index(i).Child("volumeDevices"), refusal)
		}
	})
}

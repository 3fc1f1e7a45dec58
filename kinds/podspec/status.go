package podspec

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/kinds/check"
)

// ValidateStatusUpdate checks an update of a pod's status, metadata apart.
func ValidateStatusUpdate(pod, old *corev1.Pod) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("status"), &pod.Status
	r.unchangedAppArmor(pod, old)
	for i, c := range s.Conditions {
		at := at.Child("conditions").Index(i)
		r.Invalid(at.Child("Type"), string(c.Type), validation.IsQualifiedName(string(c.Type))...)
		check.NotNegative(&r.Report, at.Child("observedGeneration"), c.ObservedGeneration)
	}
	check.NotNegative(&r.Report, at.Child("observedGeneration"), s.ObservedGeneration)
	if n := s.NominatedNodeName; n != "" {
		r.Invalid(at.Child("nominatedNodeName"), n, subdomain(n)...)
	}
	r.Add(apivalidation.ValidateImmutableField(s.QOSClass, old.Status.QOSClass, at.Child("qosClass"))...)
	policy := pod.Spec.RestartPolicy
	r.noRevival(at.Child("containerStatuses"), s.ContainerStatuses, old.Status.ContainerStatuses, pod.Spec.Containers, policy)
	// Init containers run until they succeed unless the pod never restarts.
	initPolicy := policy
	if policy == corev1.RestartPolicyAlways {
		initPolicy = corev1.RestartPolicyOnFailure
	}
	r.noRevival(at.Child("initContainerStatuses"), s.InitContainerStatuses, old.Status.InitContainerStatuses, pod.Spec.InitContainers, initPolicy)
	r.noRevival(at.Child("ephemeralContainerStatuses"), s.EphemeralContainerStatuses, old.Status.EphemeralContainerStatuses, nil, corev1.RestartPolicyNever)
	known := map[string]bool{}
	for _, c := range pod.Spec.ResourceClaims {
		known[c.Name] = true
	}
	for i, c := range s.ResourceClaimStatuses {
		at := at.Child("resourceClaimStatuses").Index(i)
		if !known[c.Name] {
			r.Invalid(at.Child("name"), c.Name, "must match the name of an entry in `spec.resourceClaims`")
		}
		if n := c.ResourceClaimName; n != nil {
			r.Invalid(at.Child("resourceClaimName"), *n, subdomain(*n)...)
		}
	}
	podIPs := func(list []corev1.PodIP) (ips []string) {
		for _, ip := range list {
			ips = append(ips, ip.IP)
		}
		return ips
	}
	hostIPs := func(list []corev1.HostIP) (ips []string) {
		for _, ip := range list {
			ips = append(ips, ip.IP)
		}
		return ips
	}
	r.addresses(at.Child("podIPs"), podIPs(s.PodIPs), podIPs(old.Status.PodIPs), Dump(s.PodIPs))
	if len(s.HostIPs) > 0 && s.HostIPs[0].IP != s.HostIP {
		r.Invalid(at.Child("hostIPs").Index(0).Child("ip"), s.HostIPs[0].IP, "must be equal to `hostIP`")
	}
	r.addresses(at.Child("hostIPs"), hostIPs(s.HostIPs), hostIPs(old.Status.HostIPs), Dump(s.HostIPs))
	return r.Errs
}

// addresses checks the addresses of a pod or of its node: good ones, at most one of each family. Odd spellings that stand in
// old stay good. all is what is printed.
func (r *report) addresses(at *field.Path, ips, old []string, all any) {
	seen, families := map[string]bool{}, map[bool]int{}
	for i, ip := range ips {
		r.Add(validation.IsValidIPForLegacyField(at.Index(i), ip, true, old)...)
		if seen[ip] {
			r.Add(field.Duplicate(at.Index(i), ip))
		}
		seen[ip] = true
		if a, err := netip.ParseAddr(ip); err == nil {
			families[a.Unmap().Is4()]++
		}
	}
	if families[true] > 1 || families[false] > 1 {
		r.Invalid(at, all, "may specify no more than one IP for each IP family")
	}
}

// noRevival reports containers that left the terminated state although nothing restarts them.
func (r *report) noRevival(at *field.Path, now, then []corev1.ContainerStatus, specs []corev1.Container, policy corev1.RestartPolicy) {
	policies := map[string]corev1.RestartPolicy{}
	ruled := map[string]bool{}
	for i := range specs {
		policies[specs[i].Name] = corev1.RestartPolicy(ptr.Deref(specs[i].RestartPolicy, corev1.ContainerRestartPolicy(policy)))
		ruled[specs[i].Name] = len(specs[i].RestartPolicyRules) > 0
	}
	for i := range now {
		for j := range then {
			old := then[j].State.Terminated
			if now[i].Name != then[j].Name || old == nil || now[i].State.Terminated != nil {
				continue
			}
			own, known := policies[now[i].Name]
			if !known {
				own = policy
			}
			if own == corev1.RestartPolicyAlways || own == corev1.RestartPolicyOnFailure && old.ExitCode != 0 || ruled[now[i].Name] {
				continue
			}
			r.Forbidden(at.Index(i).Child("state"), "may not be transitioned to non-terminated state")
		}
	}
}

package spec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// nameMax is the longest host name that Linux takes, and labelMax the longest label of DNS.
const (
	nameMax  = 64
	labelMax = 63
)

// short is the pod's host name without its domain.
func short(pod *corev1.Pod) string {
	name := pod.Spec.Hostname
	if name == "" {
		name = pod.Name
	}
	if len(name) > labelMax {
		name = strings.TrimRight(name[:labelMax], "-.")
	}
	return name
}

// domain is the pod's domain, when it has a subdomain.
func domain(pod *corev1.Pod, clusterDomain string) string {
	if pod.Spec.Subdomain == "" {
		return ""
	}
	return fmt.Sprintf("%s.%s.svc.%s", pod.Spec.Subdomain, pod.Namespace, clusterDomain)
}

// Hostname is what hostname(1) says in the pod; "" leaves the node's, which pods on the host's network share.
func Hostname(pod *corev1.Pod, in Input) (string, error) {
	if o := pod.Spec.HostnameOverride; o != nil && !pod.Spec.HostNetwork {
		return *o, nil
	}
	if pod.Spec.HostNetwork {
		return "", nil
	}
	name := short(pod)
	d := domain(pod, in.DNS.Domain)
	if d == "" || pod.Spec.SetHostnameAsFQDN == nil || !*pod.Spec.SetHostnameAsFQDN {
		return name, nil
	}
	full := name + "." + d
	if len(full) > nameMax {
		return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)",
			full, nameMax, len(full))
	}
	return full, nil
}

// Hosts is the content of the pod's /etc/hosts. node is the node's own file, which pods on the host's network see.
func Hosts(pod *corev1.Pod, ips []string, clusterDomain string, node []byte) []byte {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.Write(node)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n" +
			"127.0.0.1\tlocalhost\n" +
			"::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\n" +
			"fe00::0\tip6-mcastprefix\n" +
			"fe00::1\tip6-allnodes\n" +
			"fe00::2\tip6-allrouters\n")
		name := short(pod)
		if o := pod.Spec.HostnameOverride; o != nil {
			name = *o
		}
		for _, ip := range ips {
			if d := domain(pod, clusterDomain); d != "" && pod.Spec.HostnameOverride == nil {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, name, d, name)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, name)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return []byte(b.String())
}

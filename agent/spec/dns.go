package spec

import (
	"bufio"
	"bytes"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The limits of a pod's resolv.conf (https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/).
const (
	maxServers     = 3
	maxSearches    = 32
	maxSearchBytes = 2048
)

// DNS is the cluster's name service and the node's own.
type DNS struct {
	Servers []string // of the cluster
	Domain  string   // "cluster.local"
	// Node is the content of the node's resolv.conf.
	Node []byte
}

// dnsConfig applies the pod's policy and its own additions.
func dnsConfig(pod *corev1.Pod, d DNS) *rt.DNSConfig {
	node := parseResolv(d.Node)
	out := node
	policy := pod.Spec.DNSPolicy
	switch {
	case policy == corev1.DNSNone:
		out = &rt.DNSConfig{}
	case len(d.Servers) == 0:
	case policy == corev1.DNSClusterFirstWithHostNet, policy != corev1.DNSDefault && !pod.Spec.HostNetwork:
		searches := []string{pod.Namespace + ".svc." + d.Domain, "svc." + d.Domain, d.Domain}
		out = &rt.DNSConfig{Servers: d.Servers, Searches: unique(append(searches, node.Searches...)), Options: []string{"ndots:5"}}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		out = &rt.DNSConfig{
			Servers:  unique(append(slices.Clone(out.Servers), c.Nameservers...)),
			Searches: unique(append(slices.Clone(out.Searches), c.Searches...)),
			Options:  mergeOptions(out.Options, c.Options),
		}
	}
	if len(out.Servers) > maxServers {
		out.Servers = out.Servers[:maxServers]
	}
	if len(out.Searches) > maxSearches {
		out.Searches = out.Searches[:maxSearches]
	}
	for len(strings.Join(out.Searches, " ")) > maxSearchBytes {
		out.Searches = out.Searches[:len(out.Searches)-1]
	}
	return out
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// mergeOptions lets the pod's options override those of the same name.
func mergeOptions(base []string, add []corev1.PodDNSConfigOption) []string {
	name := func(s string) string { n, _, _ := strings.Cut(s, ":"); return n }
	var out []string
	for _, b := range base {
		if !slices.ContainsFunc(add, func(o corev1.PodDNSConfigOption) bool { return o.Name == name(b) }) {
			out = append(out, b)
		}
	}
	for _, o := range add {
		s := o.Name
		if o.Value != nil && *o.Value != "" {
			s += ":" + *o.Value
		}
		out = append(out, s)
	}
	return out
}

// parseResolv reads resolv.conf(5): the last search or domain line wins.
func parseResolv(data []byte) *rt.DNSConfig {
	out := &rt.DNSConfig{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		line := lines.Text()
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			out.Servers = append(out.Servers, fields[1])
		case "search", "domain":
			out.Searches = nil
			for _, s := range fields[1:] {
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				out.Searches = append(out.Searches, s)
			}
		case "options":
			out.Options = append(out.Options, fields[1:]...)
		}
	}
	return out
}

package proxy

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Node is what rules depend on of the node that they are for.
type Node struct {
	Name string
	// Zone is the node's topology.kubernetes.io/zone, "" when it has none.
	Zone string
}

// frontendKey is what a connection is addressed to. An invalid addr means any address of the node.
type frontendKey struct {
	v6    bool
	addr  netip.Addr
	proto uint8 // IPPROTO_TCP, _UDP, _SCTP
	port  uint16
}

// masquerade says when a connection gets the node's own address as its source, so that answers come back this way.
type masquerade uint8

const (
	masqueradeNever      masquerade = iota
	masqueradeOffCluster            // unless it comes from a pod
	masqueradeAlways
	masqueradeLoopback // when it comes from 127.0.0.0/8
)

// route is what becomes of the connections to a frontend: they go to one of the endpoints or, when there are none, are refused
// (or dropped, when endpoints exist that the service's policy excludes).
type route struct {
	endpoints  []netip.AddrPort
	masquerade masquerade
	drop       bool
}

// frontend is one way to reach a service.
type frontend struct {
	frontendKey
	inside route
	// outside is for connections from outside of the cluster, when they go other ways.
	outside *route
	// affinity keeps a client at its endpoint until it has not connected for so long; 0 means none.
	affinity time.Duration
	// sources are the only ranges that may connect, when there are any.
	sources []netip.Prefix
}

// plan is all that the rules hold for one service, or for the host ports of one pod.
type plan struct {
	frontends []frontend
	// clusterIPs are addresses that must not be reached by any port but those of frontends.
	clusterIPs []netip.Addr
	// hairpins are endpoints which may live on this node and so may be connected to themselves.
	hairpins []netip.Addr
	// serving are the addresses of endpoints that get new connections and are not terminating.
	serving []netip.Addr
	health  healthCheck
}

// healthCheck is the port at which a load balancer asks for endpoints on this node, 0 for none, and how many there are.
type healthCheck struct {
	port      uint16
	endpoints int
}

// add appends a frontend, unless the plan has one of that key: an address may be named twice, as external and as balancer's.
func (p *plan) add(f frontend) {
	if !slices.ContainsFunc(p.frontends, func(have frontend) bool { return have.frontendKey == f.frontendKey }) {
		p.frontends = append(p.frontends, f)
	}
}

// compileService returns the plan of a service with its slices. It is empty for services that are none of ours.
func compileService(svc *corev1.Service, slicesOf []*discoveryv1.EndpointSlice, node Node) plan {
	var p plan
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone ||
		svc.Labels["service.kubernetes.io/service-proxy-name"] != "" {
		return p
	}
	clusterIPs := svc.Spec.ClusterIPs
	if len(clusterIPs) == 0 {
		clusterIPs = []string{svc.Spec.ClusterIP}
	}
	p.clusterIPs = parseAddrs(clusterIPs)
	for _, clusterIP := range p.clusterIPs {
		for i := range svc.Spec.Ports {
			compilePort(&p, svc, clusterIP, &svc.Spec.Ports[i], endpointsOf(slicesOf, clusterIP.Is6(), &svc.Spec.Ports[i], node), node)
		}
	}
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		p.health = healthCheck{uint16(svc.Spec.HealthCheckNodePort), localReady(slicesOf, node)}
	}
	slices.SortFunc(p.hairpins, netip.Addr.Compare)
	p.hairpins = slices.Compact(p.hairpins)
	slices.SortFunc(p.serving, netip.Addr.Compare)
	p.serving = slices.Compact(p.serving)
	return p
}

// compilePort adds the frontends of one port of a service in the family of clusterIP.
func compilePort(p *plan, svc *corev1.Service, clusterIP netip.Addr, port *corev1.ServicePort, endpoints []endpoint, node Node) {
	v6, proto := clusterIP.Is6(), protocolNumber(port)
	cluster := near(usable(endpoints), node)
	local := usable(localOnly(endpoints))
	exist := len(cluster) > 0 || len(local) > 0

	internal := route{endpoints: addrPorts(cluster), masquerade: masqueradeOffCluster}
	if deref(svc.Spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster) == corev1.ServiceInternalTrafficPolicyLocal {
		internal.endpoints, internal.drop = addrPorts(local), exist
	}
	external := frontend{affinity: affinityOf(svc), inside: route{endpoints: addrPorts(cluster), masquerade: masqueradeAlways}}
	if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		// The policy keeps the client's address by staying on the node. What starts inside of the cluster has no need of it.
		external.inside.masquerade = masqueradeOffCluster
		external.outside = &route{endpoints: addrPorts(local), drop: exist}
	}
	add := func(addr netip.Addr, number int32, sources []netip.Prefix) {
		f := external
		f.frontendKey = frontendKey{v6, addr, proto, uint16(number)}
		f.sources = sources
		p.add(f)
	}
	p.add(frontend{frontendKey: frontendKey{v6, clusterIP, proto, uint16(port.Port)}, inside: internal, affinity: affinityOf(svc)})
	for _, addr := range externalAddrs(svc, v6) {
		add(addr, port.Port, nil)
	}
	for _, addr := range balancerAddrs(svc, v6) {
		add(addr, port.Port, sourceRanges(svc, v6))
	}
	if port.NodePort != 0 {
		add(netip.Addr{}, port.NodePort, nil)
	}
	for _, used := range [][]endpoint{cluster, local} {
		for _, e := range used {
			if e.local || e.nodeless {
				p.hairpins = append(p.hairpins, e.Addr())
			}
			if !e.terminating {
				p.serving = append(p.serving, e.Addr())
			}
		}
	}
}

// compilePod returns the plan of a pod's host ports. It is empty when the pod has none, or is not one that runs.
func compilePod(pod *corev1.Pod, node Node) plan {
	var p plan
	if !hasHostPorts(pod, node) || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return p
	}
	ips := pod.Status.PodIPs
	if len(ips) == 0 {
		ips = []corev1.PodIP{{IP: pod.Status.PodIP}}
	}
	for _, ip := range ips {
		podAddr, err := netip.ParseAddr(ip.IP)
		if err != nil {
			continue
		}
		for c := range containersOf(pod) {
			for _, port := range c.Ports {
				if port.HostPort == 0 {
					continue
				}
				to := route{endpoints: []netip.AddrPort{netip.AddrPortFrom(podAddr, uint16(port.ContainerPort))}, masquerade: masqueradeLoopback}
				proto := protocolNumber(&corev1.ServicePort{Protocol: port.Protocol})
				for _, addr := range hostAddrs(port.HostIP, podAddr.Is6()) {
					p.add(frontend{frontendKey: frontendKey{podAddr.Is6(), addr, proto, uint16(port.HostPort)}, inside: to})
				}
			}
		}
		p.hairpins = append(p.hairpins, podAddr)
	}
	return p
}

// hasHostPorts says whether a pod is one of this node's whose ports are ours to open.
func hasHostPorts(pod *corev1.Pod, node Node) bool {
	if pod.Spec.NodeName != node.Name || pod.Spec.HostNetwork {
		return false
	}
	for c := range containersOf(pod) {
		if slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.HostPort != 0 }) {
			return true
		}
	}
	return false
}

// containersOf yields the containers whose ports count: the main ones and the init containers that keep running.
func containersOf(pod *corev1.Pod) func(yield func(*corev1.Container) bool) {
	return func(yield func(*corev1.Container) bool) {
		for i := range pod.Spec.Containers {
			if !yield(&pod.Spec.Containers[i]) {
				return
			}
		}
		for i := range pod.Spec.InitContainers {
			c := &pod.Spec.InitContainers[i]
			if deref(c.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways && !yield(c) {
				return
			}
		}
	}
}

// hostAddrs returns the addresses that a host port listens at: the one that it names, or any of the node's. The latter leaves
// 127.0.0.1 out, where node ports do not answer, so that it is named by itself.
func hostAddrs(hostIP string, v6 bool) []netip.Addr {
	addr, err := netip.ParseAddr(hostIP)
	switch {
	case err == nil && !addr.IsUnspecified() && addr.Is6() == v6:
		return []netip.Addr{addr}
	case err == nil && !addr.IsUnspecified():
		return nil
	case v6:
		return []netip.Addr{{}}
	}
	return []netip.Addr{{}, netip.AddrFrom4([4]byte{127, 0, 0, 1})}
}

func affinityOf(svc *corev1.Service) time.Duration {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := corev1.DefaultClientIPServiceAffinitySeconds
	if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	return time.Duration(seconds) * time.Second
}

func externalAddrs(svc *corev1.Service, v6 bool) []netip.Addr {
	return slices.DeleteFunc(parseAddrs(svc.Spec.ExternalIPs), func(a netip.Addr) bool { return a.Is6() != v6 })
}

// balancerAddrs returns the load balancer's addresses, but for balancers that answer at their own and only forward to us.
func balancerAddrs(svc *corev1.Service, v6 bool) []netip.Addr {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	var out []netip.Addr
	for _, in := range svc.Status.LoadBalancer.Ingress {
		addr, err := netip.ParseAddr(in.IP)
		if err == nil && addr.Is6() == v6 && deref(in.IPMode, corev1.LoadBalancerIPModeVIP) == corev1.LoadBalancerIPModeVIP {
			out = append(out, addr)
		}
	}
	return out
}

// sourceRanges returns who may use the load balancer. When all ranges are of the other family nobody of this one may.
func sourceRanges(svc *corev1.Service, v6 bool) []netip.Prefix {
	if len(svc.Spec.LoadBalancerSourceRanges) == 0 {
		return nil
	}
	out := []netip.Prefix{}
	for _, s := range svc.Spec.LoadBalancerSourceRanges {
		if prefix, err := netip.ParsePrefix(strings.TrimSpace(s)); err == nil && prefix.Addr().Is6() == v6 {
			out = append(out, prefix.Masked())
		}
	}
	return out
}

func parseAddrs(in []string) []netip.Addr {
	var out []netip.Addr
	for _, s := range in {
		if addr, err := netip.ParseAddr(s); err == nil {
			out = append(out, addr)
		}
	}
	return out
}

func protocolOf(port *corev1.ServicePort) corev1.Protocol {
	if port.Protocol == "" {
		return corev1.ProtocolTCP
	}
	return port.Protocol
}

func protocolNumber(port *corev1.ServicePort) uint8 {
	switch port.Protocol {
	case corev1.ProtocolUDP:
		return unix.IPPROTO_UDP
	case corev1.ProtocolSCTP:
		return unix.IPPROTO_SCTP
	}
	return unix.IPPROTO_TCP
}

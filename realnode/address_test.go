package realnode

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// readdress gives the machine another address in the place of one.
func (n *node) readdress(t *testing.T, from, to string) {
	t.Helper()
	must(t, n.inside.Do(func() error {
		link, err := netlink.LinkByName("up0")
		if err != nil {
			return err
		}
		was, err := netlink.ParseAddr(from + "/24")
		if err != nil {
			return err
		}
		if err := netlink.AddrDel(link, was); err != nil {
			return err
		}
		is, err := netlink.ParseAddr(to + "/24")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(link, is)
	}))
}

// serving is how long a node may take to serve at a new address on a machine that has more to do; the budget of an idle one is a second.
const serving = 5 * time.Second

// A joined node whose address changes serves at the new one, and reports it everywhere, without a restart. So does the server's.
func testAddress(t *testing.T, server, joined *node) {
	server.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: moved, labels: {app: moved}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: $IMAGE, command: [hello], env: [{name: POD_NAME, value: moved}, {name: GREETING, value: Hi}], ports: [{containerPort: 8080, name: http}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: host, labels: {app: host}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: $IMAGE}]
---
apiVersion: v1
kind: Service
metadata: {name: moved}
spec: {type: NodePort, selector: {app: moved}, ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: moved}
spec: {defaultBackend: {service: {name: moved, port: {name: http}}}}
`)
	pod := server.state(t, "moved", "Running ready main:running*0")
	server.state(t, "host", "Running ready main:running*0")
	const to = "192.0.2.9"
	asks := func(url string) func() bool {
		return func() bool {
			answer, _, err := server.visit(url, "moved.example")
			return err == nil && strings.HasPrefix(answer, "200 Hi from moved")
		}
	}
	for _, url := range []string{"http://" + joinedIP, "http://" + joinedIP + ":30080", "http://" + nodeIP, "http://" + nodeIP + ":30080"} {
		swiftly(t, patience, url+" serves", asks(url))
	}
	joined.readdress(t, joinedIP, to)
	swiftly(t, serving, "the server's node reaches the pod", func() bool {
		conn, err := server.inside.Dial("tcp", "", net.JoinHostPort(pod.Status.PodIP, "8080"))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	for _, url := range []string{"http://" + to, "http://" + to + ":30080", "http://" + nodeIP, "http://" + nodeIP + ":30080"} {
		swiftly(t, serving, url+" serves", asks(url))
	}
	swiftly(t, serving, "the node tells", func() bool { return server.address(t, "n2") == to })
	swiftly(t, serving, "the Ingress tells", func() bool {
		var i networkingv1.Ingress
		server.get(t, "/apis/networking.k8s.io/v1/namespaces/default/ingresses/moved", &i)
		return len(i.Status.LoadBalancer.Ingress) == 2 && i.Status.LoadBalancer.Ingress[1].IP == to
	})
	swiftly(t, serving, "logs and exec are back", func() bool {
		_, err := server.try(t, nil, "exec", "moved", "--", "true")
		return err == nil
	})
	server.pod(t, "moved", func(p *corev1.Pod) bool { return p.Status.HostIP == to && p.Status.PodIP == pod.Status.PodIP })
	server.pod(t, "host", func(p *corev1.Pod) bool { return p.Status.HostIP == to && p.Status.PodIP == to })
	server.ready(t, "n2", true)

	const server2 = "192.0.2.11"
	server.readdress(t, nodeIP, server2)
	swiftly(t, serving, "the server's node tells", func() bool { return server.address(t, "n1") == server2 })
	swiftly(t, serving, "the API's endpoint is the new one", func() bool {
		var s discoveryv1.EndpointSlice
		server.get(t, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes", &s)
		return s.Endpoints[0].Addresses[0] == server2
	})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(server.hostFile(t, "pki/ca.crt")))
	for _, at := range []string{server2 + ":6443", "10.43.0.1:443"} {
		var failed error
		swiftly(t, serving, "the API serves at "+at, func() bool {
			conn, err := server.inside.Dial("tcp", "", at)
			if err != nil {
				failed = err
				return false
			}
			defer conn.Close()
			host, _, _ := net.SplitHostPort(at)
			failed = tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: host}).Handshake()
			return failed == nil
		})
		if failed != nil {
			t.Error(fmt.Errorf("%s: %w", at, failed))
		}
	}
}

// address is the InternalIP that a node reports.
func (n *node) address(t *testing.T, name string) string {
	t.Helper()
	var node corev1.Node
	n.get(t, "/api/v1/nodes/"+name, &node)
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	return ""
}

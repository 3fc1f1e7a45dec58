package services

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	. "github.com/kebernetes/kebernetes/controller/controllertest"
	"github.com/kebernetes/kebernetes/kinds"
)

func newAPI() *API {
	return New(
		Row[corev1.Pod, corev1.PodList]("", "v1", "pods", true),
		Row[corev1.Node, corev1.NodeList]("", "v1", "nodes", false),
		Row[corev1.Event, corev1.EventList]("", "v1", "events", true),
		Row[corev1.Service, corev1.ServiceList]("", "v1", "services", true),
		Row[networkingv1.IPAddress, networkingv1.IPAddressList]("networking.k8s.io", "v1", "ipaddresses", false),
		Row[networkingv1.ServiceCIDR, networkingv1.ServiceCIDRList]("networking.k8s.io", "v1", "servicecidrs", false),
		Row[corev1.Endpoints, corev1.EndpointsList]("", "v1", "endpoints", true),
		Row[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList]("discovery.k8s.io", "v1", "endpointslices", true),
	)
}

func service(edit ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "svc", Labels: map[string]string{"team": "a"}, CreationTimestamp: metav1.Unix(100, 0)},
		Spec: corev1.ServiceSpec{
			ClusterIP: "10.43.0.1", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Selector: map[string]string{"app": "web"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080), Protocol: corev1.ProtocolTCP}},
		},
	}
	for _, e := range edit {
		e(s)
	}
	return s
}

func pod(i int, edit ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprintf("p%03d", i), UID: types.UID(fmt.Sprint("u", i)), Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "node"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.42.%d.%d", i/250, i%250)}, {IP: fmt.Sprintf("fd00::%x", i)}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Unix(int64(1000+i), 0)}}},
	}
	for _, e := range edit {
		e(p)
	}
	return p
}

func pods(from, to int) (out []*corev1.Pod) {
	for i := from; i < to; i++ {
		out = append(out, pod(i))
	}
	return out
}

func unready(p *corev1.Pod)     { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func terminating(p *corev1.Pod) { p.DeletionTimestamp = ptr.To(metav1.Unix(5000, 0)) }

func oneNode(name string) *corev1.Node {
	if name != "node" {
		return nil
	}
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: "z1"}}}
}

// apply makes a plan true on a list of slices.
func apply(have []*discoveryv1.EndpointSlice, plan slicePlan) []*discoveryv1.EndpointSlice {
	out := slices.Clone(have)
	for _, s := range plan.update {
		i := slices.IndexFunc(out, func(o *discoveryv1.EndpointSlice) bool { return o.Name == s.Name })
		out[i] = s
	}
	out = slices.DeleteFunc(out, func(o *discoveryv1.EndpointSlice) bool { return slices.Contains(plan.remove, o) })
	for _, s := range plan.create {
		s.Name = fmt.Sprint("s", len(have)+len(out))
		out = append(out, s)
	}
	return out
}

// sizes tells how many endpoints the slices hold: "100 20".
func sizes(list []*discoveryv1.EndpointSlice) string {
	var out []string
	for _, s := range list {
		out = append(out, fmt.Sprint(len(s.Endpoints)))
	}
	return strings.Join(out, " ")
}

func TestSlicesTakeFewWrites(t *testing.T) {
	svc := service()
	var have []*discoveryv1.EndpointSlice
	for _, step := range []struct {
		name                   string
		pods                   []*corev1.Pod
		create, update, remove int
		sizes                  string
	}{
		{"no pods: a placeholder", nil, 1, 0, 0, "0"},
		{"nothing new", nil, 0, 0, 0, "0"},
		{"the placeholder is used", pods(0, 120), 1, 1, 0, "100 20"},
		{"one more fills the slice with room", pods(0, 121), 0, 1, 0, "100 21"},
		{"one leaves the full slice, another comes: one write", append(pods(1, 121), pod(121)), 0, 1, 0, "100 21"},
		{"a pod unready: one write", append(pods(1, 121), pod(121, unready)), 0, 1, 0, "100 21"},
		{"an emptied slice goes", pods(1, 100), 0, 1, 1, "99"},
		{"back to none", nil, 0, 1, 0, "0"},
	} {
		plan := planSlices(svc, step.pods, have, oneNode)
		if len(plan.create) != step.create || len(plan.update) != step.update || len(plan.remove) != step.remove {
			t.Errorf("%s: %d created, %d updated, %d removed", step.name, len(plan.create), len(plan.update), len(plan.remove))
		}
		have = apply(have, plan)
		if got := sizes(have); got != step.sizes {
			t.Errorf("%s: slices %s, want %s", step.name, got, step.sizes)
		}
		if again := planSlices(svc, step.pods, have, oneNode); len(again.create)+len(again.update)+len(again.remove) != 0 {
			t.Errorf("%s: the plan does not come to rest: %+v", step.name, again)
		}
	}
}

func TestSliceOfAPod(t *testing.T) {
	for _, c := range []struct {
		name    string
		service *corev1.Service
		pod     *corev1.Pod
		want    string // ready serving terminating, address, port, hostname
	}{
		{"ready", service(), pod(1), "true true false 10.42.0.1 8080 "},
		{"unready", service(), pod(1, unready), "false false false 10.42.0.1 8080 "},
		{"terminating", service(), pod(1, terminating), "false true true 10.42.0.1 8080 "},
		{"published at any price", service(func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }), pod(1, unready, terminating), "true false true 10.42.0.1 8080 "},
		{"IPv6", service(func(s *corev1.Service) { s.Spec.IPFamilies[0] = corev1.IPv6Protocol }), pod(1), "true true false fd00::1 8080 "},
		{"named port of its own", service(func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromString("web") }),
			pod(1, func(p *corev1.Pod) {
				p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 81, Protocol: corev1.ProtocolTCP}}}}
			}), "true true false 10.42.0.1 81 "},
		{"named port missing", service(func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromString("web") }), pod(1), "true true false 10.42.0.1 - "},
		{"headless with hostname", service(func(s *corev1.Service) { s.Spec.ClusterIP = "None"; s.Spec.Ports = nil }),
			pod(1, func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "h", "web" }), "true true false 10.42.0.1 - h"},
		{"node gone", service(), pod(1, func(p *corev1.Pod) { p.Spec.NodeName = "lost" }), "none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := planSlices(c.service, []*corev1.Pod{c.pod}, nil, oneNode).create[0]
			got := "none"
			if len(s.Endpoints) > 0 {
				e := s.Endpoints[0]
				port := "-"
				if len(s.Ports) > 0 {
					port = fmt.Sprint(*s.Ports[0].Port)
				}
				got = fmt.Sprintf("%t %t %t %s %s %s", *e.Conditions.Ready, *e.Conditions.Serving, *e.Conditions.Terminating, e.Addresses[0], port, ptr.Deref(e.Hostname, ""))
				if ptr.Deref(e.Zone, "") != "z1" || *e.NodeName != "node" || e.TargetRef.Name != "p001" {
					t.Errorf("endpoint %+v", e)
				}
				if at := s.Annotations[corev1.EndpointsLastChangeTriggerTime]; at != "1970-01-01T00:16:41Z" {
					t.Errorf("changed at %s, want the time of the pod's readiness", at)
				}
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if _, mark := s.Labels[corev1.IsHeadlessService]; mark != (c.service.Spec.ClusterIP == "None") || s.Labels["team"] != "a" || s.Labels[discoveryv1.LabelServiceName] != "web" {
				t.Errorf("labels %v", s.Labels)
			}
		})
	}
}

func TestEndpointsOfPods(t *testing.T) {
	named := service(func(s *corev1.Service) {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "admin", TargetPort: intstr.FromString("admin"), Protocol: corev1.ProtocolTCP})
	})
	withAdmin := func(p *corev1.Pod) {
		p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "admin", ContainerPort: 99, Protocol: corev1.ProtocolTCP}}}}
	}
	for _, c := range []struct {
		name    string
		service *corev1.Service
		pods    []*corev1.Pod
		want    string // per subset: ready|unready:ports
	}{
		{"ready and not", service(), []*corev1.Pod{pod(2), pod(1), pod(3, unready), pod(4, terminating)}, "10.42.0.1,10.42.0.2|10.42.0.3:http=8080"},
		{"ports differ from pod to pod", named, []*corev1.Pod{pod(1), pod(2, withAdmin)}, "10.42.0.2|:admin=99,http=8080 10.42.0.1|:http=8080"},
		{"no pods", service(), nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := planEndpoints(c.service, c.pods, nil)
			var out []string
			for _, s := range e.Subsets {
				var ready, not, ports []string
				for _, a := range s.Addresses {
					ready = append(ready, a.IP)
				}
				for _, a := range s.NotReadyAddresses {
					not = append(not, a.IP)
				}
				for _, p := range s.Ports {
					ports = append(ports, fmt.Sprintf("%s=%d", p.Name, p.Port))
				}
				out = append(out, strings.Join(ready, ",")+"|"+strings.Join(not, ",")+":"+strings.Join(ports, ","))
			}
			if got := strings.Join(out, " "); got != c.want {
				t.Errorf("subsets %q, want %q", got, c.want)
			}
			if planEndpoints(c.service, c.pods, e) != nil {
				t.Error("the plan does not come to rest")
			}
		})
	}
	big := planEndpoints(service(), append(pods(0, 900), func() (out []*corev1.Pod) {
		for i := 900; i < 1200; i++ {
			out = append(out, pod(i, unready))
		}
		return out
	}()...), nil)
	if s := big.Subsets[0]; len(s.Addresses) != 900 || len(s.NotReadyAddresses) != 100 || big.Annotations[corev1.EndpointsOverCapacity] != "truncated" {
		t.Errorf("%d ready and %d unready of 1200, annotations %v", len(s.Addresses), len(s.NotReadyAddresses), big.Annotations)
	}
}

func TestServiceLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Put(api, oneNode("node"))
		for i := range 3 {
			Put(api, pod(i))
		}
		Start(t, EndpointSlices(api.Env(t)), Endpoints(api.Env(t)))
		Put(api, service())
		synctest.Wait()
		count := func() string {
			s, e := All[*discoveryv1.EndpointSlice](api), All[*corev1.Endpoints](api)
			addresses := 0
			for _, e := range e {
				for _, sub := range e.Subsets {
					addresses += len(sub.Addresses)
				}
			}
			return sizes(s) + " / " + fmt.Sprint(len(e), addresses)
		}
		if got := count(); got != "3 / 1 3" {
			t.Fatalf("slices / endpoints: %s", got)
		}
		api.Writes()
		// Nothing that an endpoint shows: nothing is written.
		Change(api, "ns", "p001", func(p *corev1.Pod) { p.Status.Message = "x" })
		synctest.Wait()
		if w := api.Writes(); len(w) > 0 {
			t.Errorf("writes %q", w)
		}
		Change(api, "ns", "p001", unready)
		synctest.Wait()
		if w := api.Writes(); len(w) != 2 {
			t.Errorf("a pod unready: writes %q", w)
		}
		Change(api, "ns", "p002", func(p *corev1.Pod) { p.Labels = nil })
		synctest.Wait()
		if got := count(); got != "2 / 1 1" {
			t.Errorf("slices / endpoints after a pod left: %s", got)
		}
		Change(api, "", "node", func(n *corev1.Node) { n.Labels[corev1.LabelTopologyZone] = "z2" })
		synctest.Wait()
		if z := All[*discoveryv1.EndpointSlice](api)[0].Endpoints[0].Zone; *z != "z2" {
			t.Errorf("zone %s", *z)
		}
		Drop[*corev1.Service](api, "ns", "web")
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(All[*corev1.Endpoints](api)); n != 0 {
			t.Errorf("%d endpoints left without a service", n)
		}
	})
}

func TestHandMadeEndpointsAreMirrored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Start(t, Controllers(api.Env(t), nil)...)
		Put(api, service(func(s *corev1.Service) { s.Spec.Selector = nil }))
		Put(api, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", Labels: map[string]string{"mine": "yes"}}, Subsets: []corev1.EndpointSubset{{
			Addresses:         []corev1.EndpointAddress{{IP: "192.0.2.1"}, {IP: "2001:db8::1"}},
			NotReadyAddresses: []corev1.EndpointAddress{{IP: "192.0.2.2", Hostname: "h"}},
			Ports:             []corev1.EndpointPort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}},
		}}})
		show := func() string {
			synctest.Wait()
			var out []string
			for _, s := range All[*discoveryv1.EndpointSlice](api) {
				text := string(s.AddressType)
				for _, e := range s.Endpoints {
					text += fmt.Sprintf(" %s:%d=%t", e.Addresses[0], *s.Ports[0].Port, *e.Conditions.Ready)
				}
				if s.Labels["mine"] != "yes" || s.Labels[discoveryv1.LabelServiceName] != "web" {
					t.Errorf("labels %v", s.Labels)
				}
				out = append(out, text)
			}
			slices.Sort(out)
			return strings.Join(out, ", ")
		}
		if got := show(); got != "IPv4 192.0.2.1:80=true 192.0.2.2:80=false, IPv6 2001:db8::1:80=true" {
			t.Errorf("slices %s", got)
		}
		Change(api, "ns", "web", func(e *corev1.Endpoints) {
			e.Subsets[0].Addresses = e.Subsets[0].Addresses[:1]
			e.Subsets[0].Ports[0].Port = 81
		})
		if got := show(); got != "IPv4 192.0.2.1:81=true 192.0.2.2:81=false" {
			t.Errorf("slices after a change: %s", got)
		}
		Drop[*corev1.Endpoints](api, "ns", "web")
		if got := show(); got != "" {
			t.Errorf("slices of Endpoints that are gone: %s", got)
		}
	})
}

func TestNodesBalance(t *testing.T) {
	node := func(name, ip string, edit ...func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}, {Type: corev1.NodeHostName, Address: name}}
		for _, e := range edit {
			e(n)
		}
		return n
	}
	balanced := func(name string, created int64, edit ...func(*corev1.Service)) *corev1.Service {
		s := service(append(edit, func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer })...)
		s.Name, s.UID, s.CreationTimestamp = name, types.UID(name), metav1.Unix(created, 0)
		return s
	}
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Start(t, Balancers(api.Env(t), map[int32]string{443: "Ingresses"}))
		expect := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			var got []string
			for _, s := range All[*corev1.Service](api) {
				got = append(got, s.Name+"="+strings.Join(kinds.IngressAddresses(s.Status.LoadBalancer), ","))
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s: %q, want %q", what, got, want)
			}
		}
		Put(api, node("node", "192.0.2.1"))
		Put(api, node("out", "192.0.2.3", func(n *corev1.Node) { n.Labels[corev1.LabelNodeExcludeBalancers] = "" }))
		Put(api, balanced("web", 100))
		expect("one node", "web=192.0.2.1")
		Put(api, node("second", "192.0.2.2", func(n *corev1.Node) {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "198.51.100.2"})
		}))
		expect("a second, with an address outside", "web=192.0.2.1,198.51.100.2")
		Put(api, balanced("late", 200))
		Put(api, balanced("other", 200, func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr.To("example.com/lb") }))
		Put(api, balanced("secure", 200, func(s *corev1.Service) { s.Spec.Ports[0].Port = 443 }))
		Put(api, balanced("udp", 200, func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP }))
		expect("ports that are taken", "late=", "other=", "secure=", "udp=192.0.2.1,198.51.100.2", "web=192.0.2.1,198.51.100.2")
		var said []string
		for _, e := range All[*corev1.Event](api) {
			if e.Type == corev1.EventTypeWarning {
				said = append(said, e.InvolvedObject.Name+": "+e.Message)
			}
		}
		if slices.Sort(said); !slices.Equal(said, []string{
			"late: Error syncing load balancer: port 80/TCP of the nodes serves service ns/web",
			"secure: Error syncing load balancer: port 443/TCP of the nodes serves Ingresses",
		}) {
			t.Errorf("events %q", said)
		}
		Change(api, "ns", "web", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP })
		expect("the next takes the port", "late=192.0.2.1,198.51.100.2", "other=", "secure=", "udp=192.0.2.1,198.51.100.2", "web=")
		Change(api, "", "second", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown })
		expect("a node is lost", "late=192.0.2.1", "other=", "secure=", "udp=192.0.2.1", "web=")

		Change(api, "", "second", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionTrue })
		Change(api, "ns", "late", func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal })
		expect("local, no endpoint", "late=", "other=", "secure=", "udp=192.0.2.1,198.51.100.2", "web=")
		Put(api, &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: "late-1", Labels: map[string]string{discoveryv1.LabelServiceName: "late"}},
			AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.42.0.1"}, NodeName: ptr.To("second")}},
		})
		expect("local, an endpoint", "late=198.51.100.2", "other=", "secure=", "udp=192.0.2.1,198.51.100.2", "web=")
	})
}

func TestHintsKeepTrafficNear(t *testing.T) {
	for near, want := range map[string]string{"": "<nil>", corev1.ServiceTrafficDistributionPreferSameZone: "zone z1", corev1.ServiceTrafficDistributionPreferSameNode: "zone z1 node node"} {
		s := planSlices(service(func(s *corev1.Service) {
			if near != "" {
				s.Spec.TrafficDistribution = &near
			}
		}), []*corev1.Pod{pod(1), pod(2, unready)}, nil, oneNode).create[0]
		got := "<nil>"
		if h := s.Endpoints[0].Hints; h != nil {
			got = "zone " + h.ForZones[0].Name
			for _, n := range h.ForNodes {
				got += " node " + n.Name
			}
		}
		if got != want || s.Endpoints[1].Hints != nil {
			t.Errorf("%q: hints %s of the ready endpoint, want %s; %v of the unready one", near, got, want, s.Endpoints[1].Hints)
		}
	}
}

func TestAddressesAndRanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Start(t, IPAddresses(api.Env(t)), ServiceCIDRs(api.Env(t)))
		at := func(name, ip string) *corev1.Service {
			return service(func(s *corev1.Service) {
				s.Name, s.UID, s.Spec.ClusterIP, s.Spec.ClusterIPs = name, types.UID(name), ip, []string{ip}
			})
		}
		cidr := func(name, cidr string) *networkingv1.ServiceCIDR {
			return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{cidr}}}
		}
		expect := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			var got []string
			for _, a := range All[*networkingv1.IPAddress](api) {
				got = append(got, a.Name+"="+a.Spec.ParentRef.Name)
			}
			for _, c := range All[*networkingv1.ServiceCIDR](api) {
				ready := "?"
				if len(c.Status.Conditions) > 0 {
					ready = string(c.Status.Conditions[0].Status) + c.Status.Conditions[0].Reason
				}
				got = append(got, c.Name+"="+ready)
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s: %q, want %q", what, got, want)
			}
		}
		Put(api, cidr("kubernetes", "10.43.0.0/24"))
		Put(api, cidr("more", "10.44.0.0/24"))
		Put(api, at("web", "10.43.0.9"))
		Put(api, at("db", "10.44.0.9"))
		Put(api, at("none", corev1.ClusterIPNone))
		Put(api, &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: "10.43.0.7"},
			Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Group: "example.com", Resource: "gateways", Name: "mine"}}})
		expect("services have addresses", "10.43.0.7=mine", "10.43.0.9=web", "10.44.0.9=db", "kubernetes=True", "more=True")
		if err := client.Remove[*networkingv1.ServiceCIDR](t.Context(), api.Client(), "", "more", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		expect("a range in use stays", "10.43.0.7=mine", "10.43.0.9=web", "10.44.0.9=db", "kubernetes=True", "more=FalseTerminating")
		Drop[*corev1.Service](api, "ns", "db")
		expect("its last address goes, and it", "10.43.0.7=mine", "10.43.0.9=web", "kubernetes=True")
		Drop[*corev1.Service](api, "ns", "web")
		Put(api, at("new", "10.43.0.9"))
		expect("an address changes hands", "10.43.0.7=mine", "10.43.0.9=new", "kubernetes=True")
		Drop[*networkingv1.IPAddress](api, "", "10.43.0.9")
		expect("an address in use comes back", "10.43.0.7=mine", "10.43.0.9=new", "kubernetes=True")
	})
}

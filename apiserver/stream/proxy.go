package stream

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"

	"github.com/kebernetes/kebernetes/apiserver"
	"github.com/kebernetes/kebernetes/store"
)

// target is what stands in a proxy's path: "name", "name:port" or "scheme:name:port".
type target struct{ scheme, name, port string }

func parseTarget(id string) (target, error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
	if !ok {
		return target{}, apierrors.NewBadRequest(fmt.Sprintf("invalid proxy target %q", id))
	}
	if scheme == "" {
		scheme = "http"
	}
	return target{scheme, name, port}, nil
}

func (s *Streams) proxyPod(w http.ResponseWriter, r *http.Request, c *apiserver.Connection) error {
	t, err := parseTarget(c.Name)
	if err != nil {
		return err
	}
	pod, err := s.pod(c.Namespace, t.name)
	if err != nil {
		return err
	}
	if t.port == "" {
		t.port = firstPort(pod)
	}
	ip := pod.Status.PodIP
	// A pod's status is written by its node: it must not lead the server to itself or to a neighbour on its link.
	if addr, err := netip.ParseAddr(ip); err != nil || addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsMulticast() || addr.IsUnspecified() {
		return apierrors.NewBadRequest("address not allowed")
	}
	return s.proxyTo(w, r, pod.Spec.NodeName, t.scheme, ip, t.port, c.Path)
}

// firstPort is the first port that a pod's containers declare.
func firstPort(pod *corev1.Pod) string {
	for _, c := range pod.Spec.Containers {
		if len(c.Ports) > 0 {
			return strconv.Itoa(int(c.Ports[0].ContainerPort))
		}
	}
	return ""
}

func (s *Streams) proxyService(w http.ResponseWriter, r *http.Request, c *apiserver.Connection) error {
	t, err := parseTarget(c.Name)
	if err != nil {
		return err
	}
	at, err := s.endpoint(c.Namespace, t)
	if err != nil {
		return err
	}
	return s.proxyTo(w, r, at.node, t.scheme, at.ip, strconv.Itoa(int(at.port)), c.Path)
}

// address is where an endpoint answers. node is "" when it is no pod.
type address struct {
	ip   string
	port int32
	node string
}

// endpoint picks one ready endpoint of a service at random.
func (s *Streams) endpoint(namespace string, t target) (address, error) {
	none := apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", t.name))
	snapshot := s.Reader.Snapshot()
	item := snapshot.Get(store.Key{Resource: "services", Namespace: namespace, Name: t.name})
	if item == nil {
		return address{}, none
	}
	name, ok := portName(item.Object.(*corev1.Service), t.port)
	if !ok {
		return address{}, apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %q found for service %q", t.port, t.name))
	}
	var all []address
	for item := range snapshot.List("endpointslices.discovery.k8s.io", namespace) {
		slice := item.Object.(*discoveryv1.EndpointSlice)
		if slice.Labels[discoveryv1.LabelServiceName] != t.name || slice.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for _, p := range slice.Ports {
			if p.Port == nil || p.Name != nil && *p.Name != name || p.Name == nil && name != "" {
				continue
			}
			for _, e := range slice.Endpoints {
				if (e.Conditions.Ready == nil || *e.Conditions.Ready) && len(e.Addresses) > 0 {
					all = append(all, addressOf(&e, *p.Port))
				}
			}
		}
	}
	if len(all) == 0 {
		return address{}, none
	}
	return all[rand.IntN(len(all))], nil
}

func addressOf(e *discoveryv1.Endpoint, port int32) address {
	a := address{ip: e.Addresses[0], port: port}
	if e.NodeName != nil && e.TargetRef != nil && e.TargetRef.Kind == "Pod" {
		a.node = *e.NodeName
	}
	return a
}

// portName finds the name of the service's port that a request means: by name, by number, or the only one.
func portName(svc *corev1.Service, port string) (string, bool) {
	if port == "" {
		if len(svc.Spec.Ports) == 1 {
			return svc.Spec.Ports[0].Name, true
		}
		return "", false
	}
	for _, p := range svc.Spec.Ports {
		if p.Name == port || strconv.Itoa(int(p.Port)) == port {
			return p.Name, true
		}
	}
	return "", false
}

// proxyTo forwards the request, upgrades included, and rewrites the links of HTML answers to lead through the proxy.
func (s *Streams) proxyTo(w http.ResponseWriter, r *http.Request, node, scheme, ip, port, path string) error {
	host := ip
	if port != "" {
		host = net.JoinHostPort(ip, port)
	} else if strings.Contains(ip, ":") {
		host = "[" + ip + "]"
	}
	location := &url.URL{Scheme: scheme, Host: host, Path: path, RawQuery: r.URL.RawQuery}
	if path != "" && !strings.HasPrefix(path, "/") {
		location.Path = "/" + path
	}
	var failed error
	way := s.direct
	if through := s.Nodes.Pods(node); through != nil {
		way = through
	}
	h := proxy.NewUpgradeAwareHandler(location, way, true, false, responder{&failed})
	r.Header.Del("Authorization")
	h.ServeHTTP(w, r)
	return failed
}

// responder keeps the error for the API server to answer with.
type responder struct{ err *error }

func (r responder) Error(_ http.ResponseWriter, _ *http.Request, err error) {
	*r.err = apierrors.NewServiceUnavailable("error trying to reach service: " + err.Error())
}

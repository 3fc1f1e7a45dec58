package ingress

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// memory is a client's transport over a bare store: what is put there is seen by the server.
type memory struct {
	client.Transport
	*store.Memory
	client *client.Client
}

func (m memory) Snapshot() store.Snapshot { return m.Memory.Snapshot() }

func (m memory) Watch(resource string, after int64) (*store.Watch, error) {
	return m.Memory.Watch(resource, after)
}

func newMemory() memory {
	m := memory{Memory: store.NewMemory(1)}
	m.client = client.New(m, kinds.NewTable(
		&kinds.Kind{Kind: "Service", Resource: "services", Namespaced: true, Versions: []kinds.Version{kinds.V[corev1.Service, corev1.ServiceList]("v1")}},
		&kinds.Kind{Kind: "Secret", Resource: "secrets", Namespaced: true, Versions: []kinds.Version{kinds.V[corev1.Secret, corev1.SecretList]("v1")}},
		&kinds.Kind{Group: "discovery.k8s.io", Kind: "EndpointSlice", Resource: "endpointslices", Namespaced: true,
			Versions: []kinds.Version{kinds.V[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList]("v1")}},
		&kinds.Kind{Group: "networking.k8s.io", Kind: "Ingress", Resource: "ingresses", Namespaced: true,
			Versions: []kinds.Version{kinds.V[networkingv1.Ingress, networkingv1.IngressList]("v1")}},
		&kinds.Kind{Group: "networking.k8s.io", Kind: "IngressClass", Resource: "ingressclasses",
			Versions: []kinds.Version{kinds.V[networkingv1.IngressClass, networkingv1.IngressClassList]("v1")}},
	))
	return m
}

func keyOf(obj client.Object) store.Key {
	k := store.Key{Namespace: obj.GetNamespace(), Name: obj.GetName()}
	switch obj.(type) {
	case *corev1.Service:
		k.Resource = "services"
	case *corev1.Secret:
		k.Resource = "secrets"
	case *discoveryv1.EndpointSlice:
		k.Resource = "endpointslices.discovery.k8s.io"
	case *networkingv1.Ingress:
		k.Resource = "ingresses.networking.k8s.io"
	case *networkingv1.IngressClass:
		k.Resource = "ingressclasses.networking.k8s.io"
	}
	return k
}

func (m memory) put(obj client.Object)    { m.Mirror(store.Put, keyOf(obj), obj, 0) }
func (m memory) remove(obj client.Object) { m.Mirror(store.Delete, keyOf(obj), obj, 0) }

// load puts the objects of a YAML stream, into the namespace default unless they say otherwise.
func (m memory) load(t testing.TB, stream string) {
	t.Helper()
	for doc := range bytes.SplitSeq([]byte(stream), []byte("---\n")) {
		var kind metav1.TypeMeta
		err := yaml.Unmarshal(doc, &kind)
		var obj client.Object
		switch kind.Kind {
		case "Service":
			obj = &corev1.Service{}
		case "Secret":
			obj = &corev1.Secret{}
		case "EndpointSlice":
			obj = &discoveryv1.EndpointSlice{}
		case "Ingress":
			obj = &networkingv1.Ingress{}
		case "IngressClass":
			obj = &networkingv1.IngressClass{}
		default:
			t.Fatalf("no kind in\n%s", doc)
		}
		if err == nil {
			err = yaml.UnmarshalStrict(doc, obj)
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if obj.GetNamespace() == "" && kind.Kind != "IngressClass" {
			obj.SetNamespace("default")
		}
		m.put(obj)
	}
}

// class is the default class, ours.
const class = `
kind: IngressClass
metadata: {name: keb, annotations: {ingressclass.kubernetes.io/is-default-class: "true"}}
spec: {controller: keb.dev/ingress}
`

// service puts a service with one port, 80, and its endpoints.
func (m memory) service(name, appProtocol string, endpoints ...string) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{
		IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Name: "web", Protocol: corev1.ProtocolTCP, Port: 80}}}}
	if appProtocol != "" {
		svc.Spec.Ports[0].AppProtocol = &appProtocol
	}
	m.put(svc)
	m.endpoints(name, endpoints...)
}

// endpoints gives a service endpoints, one slice each as their ports differ. A "!" before one says that it terminates.
func (m memory) endpoints(service string, endpoints ...string) {
	for _, s := range client.List[*discoveryv1.EndpointSlice](m.client, m.Snapshot(), "default", nil) {
		if s.Labels[discoveryv1.LabelServiceName] == service {
			defer m.remove(s)
		}
	}
	for i, e := range endpoints {
		at, terminating := strings.CutPrefix(e, "!")
		ap := netip.MustParseAddrPort(at)
		name, protocol, port, yes, no := "web", corev1.ProtocolTCP, int32(ap.Port()), true, false
		conditions := discoveryv1.EndpointConditions{Ready: &yes}
		if terminating {
			conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
		}
		m.put(&discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("%s-%d-%d", service, i, m.Snapshot().Revision()),
				Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{ap.Addr().String()}, Conditions: conditions}},
			Ports:       []discoveryv1.EndpointPort{{Name: &name, Protocol: &protocol, Port: &port}},
		})
	}
}

// ingress puts an Ingress with one rule for all paths of a host.
func (m memory) ingress(t testing.TB, name, host, service, more string) {
	t.Helper()
	m.load(t, fmt.Sprintf(`
kind: Ingress
metadata: {name: %q, generation: %d, annotations: {changed: "%d"}}
spec:
  rules: [{host: %q, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: %s, port: {name: web}}}}]}}]
%s`, name, m.Snapshot().Revision(), m.Snapshot().Revision(), host, service, more))
}

// start runs a server on loopback and returns it with the addresses for HTTP and HTTPS.
func start(t testing.TB, m memory, change ...func(*Options)) (s *Server, plain, encrypted string) {
	t.Helper()
	opts := Options{Client: m.client, HTTP: "127.0.0.1:0", HTTPS: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&opts)
	}
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	for _, e := range s.entrances {
		<-e.bound
	}
	return s, s.entrances[0].addr.String(), s.entrances[1].addr.String()
}

// eventually waits until ok, looking again and again: what is awaited has no event that a test could see.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// makeCertificate returns a certificate for names and its key, in PEM.
func makeCertificate(t testing.TB, serial int64, names ...string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

func (m memory) secret(name string, cert, key []byte) {
	m.put(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key}})
}

// dead is an address that refuses connections.
func dead(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

package ingress

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net/http/httputil"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
)

var update = flag.Bool("update", false, "write the results into testdata")

// TestCompile reads objects and requests from testdata/compile: "HOST PATH" for a request, "tls NAME" for a server name. What becomes
// of them, and which faults are found, is compared with what stands there.
func TestCompile(t *testing.T) {
	files, err := filepath.Glob("testdata/compile/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no data", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			m, results := newMemory(), ""
			var out compiled
			for i := range a.Files {
				f := &a.Files[i]
				switch f.Name {
				case "objects":
					m.load(t, string(f.Data))
					out = compile(worldFor(m))
				case "requests":
					for line := range strings.Lines(string(f.Data)) {
						request, _, _ := strings.Cut(strings.TrimSpace(line), " -> ")
						results += request + " -> " + answerTo(out.table, request) + "\n"
					}
					f.Data, results = swap(t, f, results), ""
				case "faults":
					for _, f := range out.faults {
						results += fmt.Sprintf("%s %s: %s\n", f.object.GetName(), f.reason, f.message)
					}
					f.Data, results = swap(t, f, results), ""
				}
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func swap(t *testing.T, f *txtar.File, got string) []byte {
	t.Helper()
	if diff := cmp.Diff(string(f.Data), got); diff != "" && !*update {
		t.Errorf("%s (-want +got)\n%s", f.Name, diff)
	}
	return []byte(got)
}

// worldFor is the world of what is in m. The certificate of a Secret is the names that its tls.crt says, "bad" is none.
func worldFor(m memory) world {
	w := worldOf(m.client, m.Snapshot(), certificates{}, func(key backendKey) *backend {
		b := newBackend(nil, httputil.ReverseProxy{})
		b.pool.Store(&pool{addresses: []address{}, endpoints: []endpoint{{host: key.service.String() + ":" + strings.Trim(portString(key.port), `"`)}}})
		return b
	})
	w.certificate = func(key types.NamespacedName) (*tls.Certificate, error) {
		secret, ok := client.From[*corev1.Secret](m.client, m.Snapshot(), key.Namespace, key.Name)
		if !ok {
			return nil, fmt.Errorf("secret %q does not exist", key.Name)
		}
		names := string(secret.Data[corev1.TLSCertKey])
		if names == "bad" {
			return nil, errors.New("bad certificate")
		}
		return &tls.Certificate{Leaf: &x509.Certificate{DNSNames: strings.Split(names, ",")}}, nil
	}
	return w
}

func answerTo(t *table, request string) string {
	first, second, _ := strings.Cut(request, " ")
	if first == "tls" {
		if c := t.certificate(second); c != nil {
			return strings.Join(c.Leaf.DNSNames, ",")
		}
		return "default certificate"
	}
	r := t.match(first, second)
	switch {
	case r == nil:
		return "none"
	case r.backend == nil:
		return "unsupported"
	case r.redirect:
		return "https " + r.backend.pool.Load().endpoints[0].host
	}
	return r.backend.pool.Load().endpoints[0].host
}

func TestResolve(t *testing.T) {
	for name, test := range map[string]struct {
		objects string
		port    string
		want    []string
	}{
		"ready ones, each once": {
			objects: `
kind: EndpointSlice
metadata: {name: a, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}, {name: other, port: 9090, protocol: TCP}]
endpoints:
- {addresses: [10.0.0.2], conditions: {ready: true}}
- {addresses: [10.0.0.1]}
- {addresses: [10.0.0.3], conditions: {ready: false}}
- {addresses: [10.0.0.4], conditions: {ready: false, serving: true, terminating: true}}
---
kind: EndpointSlice
metadata: {name: b, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}]
---
kind: EndpointSlice
metadata: {name: c, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: ["fd00::1"], conditions: {ready: true}}]
`, want: []string{"10.0.0.1:8080", "10.0.0.2:8080"}},
		"terminating ones that serve, when nobody else is left": {
			objects: `
kind: EndpointSlice
metadata: {name: a, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
- {addresses: [10.0.0.3], conditions: {ready: false, serving: false, terminating: true}}
- {addresses: [10.0.0.4], conditions: {ready: false, serving: true, terminating: true}}
`, want: []string{"10.0.0.4:8080 late"}},
		"those that terminate, of a Service that publishes all": {
			objects: `
kind: EndpointSlice
metadata: {name: a, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
- {addresses: [10.0.0.4], conditions: {ready: true, serving: true, terminating: true}}
- {addresses: [10.0.0.5], conditions: {ready: true}}
`, want: []string{"10.0.0.4:8080 late", "10.0.0.5:8080"}},
		"none of a UDP port": {
			objects: `
kind: EndpointSlice
metadata: {name: a, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}]
endpoints: [{addresses: [10.0.0.3]}]
`, port: "dns"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			m.load(t, strings.TrimSpace(test.objects))
			index := sliceIndex{}
			for _, slice := range client.List[*discoveryv1.EndpointSlice](m.client, m.Snapshot(), "", nil) {
				index.add(slice)
			}
			svc := &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{
				{Name: "http", Port: 80}, {Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}}}}
			port := networkingv1.ServiceBackendPort{Name: test.port}
			if test.port == "" {
				port.Number = 80
			}
			addresses, _ := resolve(svc, index[types.NamespacedName{Namespace: "default", Name: "web"}], port)
			var got []string
			for _, a := range addresses {
				s := a.AddrPort.String()
				if a.terminating {
					s += " late"
				}
				got = append(got, s)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

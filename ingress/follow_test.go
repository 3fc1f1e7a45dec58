package ingress

import (
	"crypto/tls"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
)

// follower brings Secrets into the copy only while they are followed.
type follower struct {
	memory
	mu      sync.Mutex
	secrets map[string]*corev1.Secret
	holds   map[string]int
}

func (f *follower) Follow(resource, namespace, name, selector string) *client.Hold {
	key := types.NamespacedName{Namespace: namespace, Name: name}.String() + "?" + selector
	f.mu.Lock()
	defer f.mu.Unlock()
	synced := make(chan struct{})
	f.holds[resource+"/"+key]++
	go func() { // as from a server
		f.mu.Lock()
		defer f.mu.Unlock()
		if s := f.secrets[name]; s != nil {
			f.put(s)
		}
		close(synced)
	}()
	return &client.Hold{Synced: synced, Release: func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.holds[resource+"/"+key]--
	}}
}

func (f *follower) held(key string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.holds[key]
}

// Where the copy has no Secrets but those that are followed, those that Ingresses name are, and are there before anybody is served.
func TestFollowsCertificates(t *testing.T) {
	m := newMemory()
	m.load(t, strings.TrimSpace(class))
	m.service("web", "", endpointOf(t, says("web")))
	m.ingress(t, "a", "a.example", "web", "  tls: [{hosts: [a.example], secretName: a}]")
	f := &follower{memory: m, secrets: map[string]*corev1.Secret{}, holds: map[string]int{}}
	for i, name := range []string{"a", "b"} {
		cert, key := makeCertificate(t, int64(i+1), name+".example")
		s := &corev1.Secret{Type: corev1.SecretTypeTLS, Data: map[string][]byte{corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key}}
		s.Namespace, s.Name = "default", name
		f.secrets[name] = s
	}
	_, _, encrypted := start(t, m, func(o *Options) { o.Follower = f })
	serial := func(name string) int64 {
		conn, err := tls.Dial("tcp", encrypted, &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if n := conn.ConnectionState().PeerCertificates[0].SerialNumber; n.IsInt64() {
			return n.Int64()
		}
		return 0
	}
	if got := serial("a.example"); got != 1 {
		t.Errorf("the first client gets certificate %d, want 1", got)
	}
	const heldA, heldB = "secrets/default/a?type=kubernetes.io/tls", "secrets/default/b?type=kubernetes.io/tls"
	if f.held(heldA) != 1 || f.held(heldB) != 0 {
		t.Errorf("held %v", f.holds)
	}
	m.ingress(t, "b", "b.example", "web", "  tls: [{hosts: [b.example], secretName: b}]")
	eventually(t, "the new Ingress's certificate is served", func() bool { return serial("b.example") == 2 })
	gone := &networkingv1.Ingress{}
	gone.Namespace, gone.Name = "default", "b"
	m.remove(gone)
	eventually(t, "its Secret is let go", func() bool { return f.held(heldB) == 0 && f.held(heldA) == 1 })
}

// A Secret of another type is not used, for only the server's own node could read it.
func TestOtherTypes(t *testing.T) {
	cert, key := makeCertificate(t, 1, "a.example")
	s := &corev1.Secret{Type: corev1.SecretTypeOpaque, Data: map[string][]byte{corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key}}
	s.Name = "a"
	if _, err := parseCertificate(s); err == nil || err.Error() != `secret "a" is of type Opaque; want kubernetes.io/tls` {
		t.Errorf("%v", err)
	}
}

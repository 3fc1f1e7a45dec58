package addresses

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

type cluster struct {
	*testing.T
	memory *store.Memory
	pool   *Pool
	kind   *kinds.Kind
}

func newCluster(t *testing.T, cidr string, ports [2]int32) *cluster {
	m := store.NewMemory(1)
	return &cluster{t, m, New(m, netip.MustParsePrefix(cidr), ports), &kinds.Kind{Resource: "services"}}
}

func service(name, ip string, typ corev1.ServiceType, nodePorts ...int32) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}}
	s.Spec.Type, s.Spec.ClusterIP = typ, ip
	if ip != "" {
		s.Spec.ClusterIPs = []string{ip}
	}
	for i, p := range nodePorts {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint(i), Port: int32(80 + i), NodePort: p})
	}
	return s
}

// store makes a Service stand in the store; nil old means a new one, nil s a deletion.
func (c *cluster) store(s, old *corev1.Service) {
	e := store.Event{Item: &store.Item{Revision: c.memory.Snapshot().Revision() + 1}}
	last := s
	if s == nil {
		e.Type, last = store.Delete, old
	}
	e.Item.Object = last.DeepCopy()
	e.Item.Key = store.Key{Resource: "services", Namespace: "ns", Name: last.Name}
	e.Prev = c.memory.Snapshot().Get(e.Item.Key)
	c.memory.Publish(e.Item.Revision, []store.Event{e})
}

// make creates a Service as the server does: its address is held until the write is done.
func (c *cluster) make(s *corev1.Service) {
	c.Helper()
	release, err := c.pool.Create(c.kind, s, false)
	if err != nil {
		c.Fatal(err)
	}
	c.store(s, nil)
	release()
}

func (c *cluster) refused(s *corev1.Service, want string) {
	c.Helper()
	if _, err := c.pool.Create(c.kind, s, false); err == nil || !strings.Contains(err.Error(), want) {
		c.Errorf("%v, want %q", err, want)
	}
}

func TestGivenAddresses(t *testing.T) {
	c := newCluster(t, "10.0.0.0/24", [2]int32{30000, 30100})
	a := service("a", "10.0.0.9", corev1.ServiceTypeNodePort, 30007)
	c.make(a)
	c.refused(service("b", "10.0.0.9", corev1.ServiceTypeClusterIP), "provided IP is already allocated")
	c.refused(service("b", "", corev1.ServiceTypeNodePort, 30007), "provided port is already allocated")
	c.refused(service("b", "", corev1.ServiceTypeNodePort, 80), "The range of valid ports is 30000-30100")
	for _, ip := range []string{"10.0.0.0", "10.0.0.255", "10.0.1.1", "fd00::1"} {
		c.refused(service("b", ip, corev1.ServiceTypeClusterIP), "does not match the current range")
	}

	// An update keeps what it has, and frees what it drops.
	b := a.DeepCopy()
	b.Spec.Type, b.Spec.Ports[0].NodePort = corev1.ServiceTypeClusterIP, 0
	release, err := c.pool.Update(c.kind, nil, b, a, false)
	if err != nil {
		t.Fatal(err)
	}
	c.store(b, a)
	release()
	c.make(service("d", "", corev1.ServiceTypeNodePort, 30007))
	c.store(nil, b)
	c.make(service("e", "10.0.0.9", corev1.ServiceTypeClusterIP))
}

// TestHeldAcrossLostEvents: a write under way keeps what it took when the pool must read all Services anew.
func TestHeldAcrossLostEvents(t *testing.T) {
	c := newCluster(t, "10.0.0.0/24", [2]int32{30000, 30100})
	a := service("a", "10.0.0.9", corev1.ServiceTypeClusterIP)
	release, err := c.pool.Create(c.kind, a, false)
	if err != nil {
		t.Fatal(err)
	}
	lose := func() {
		c.store(service("other", "10.0.0.7", corev1.ServiceTypeClusterIP), nil)
		c.memory.Compact(c.memory.Snapshot().Revision())
	}
	lose()
	c.refused(service("b", "10.0.0.9", corev1.ServiceTypeClusterIP), "provided IP is already allocated")
	c.store(a, nil)
	lose()
	release()
	c.refused(service("b", "10.0.0.9", corev1.ServiceTypeClusterIP), "provided IP is already allocated")
	c.store(nil, a)
	c.make(service("b", "10.0.0.9", corev1.ServiceTypeClusterIP))
}

// TestHeldUntilStored: an address is taken from the moment it is given, and free again when the write failed.
func TestHeldUntilStored(t *testing.T) {
	c := newCluster(t, "10.0.0.0/24", [2]int32{30000, 30100})
	release, err := c.pool.Create(c.kind, service("a", "10.0.0.9", corev1.ServiceTypeClusterIP), false)
	if err != nil {
		t.Fatal(err)
	}
	c.refused(service("b", "10.0.0.9", corev1.ServiceTypeClusterIP), "already allocated")
	release()
	c.make(service("b", "10.0.0.9", corev1.ServiceTypeClusterIP))
	if _, err := c.pool.Create(c.kind, service("dry", "10.0.0.10", corev1.ServiceTypeClusterIP), true); err != nil {
		t.Fatal(err)
	}
	c.make(service("c", "10.0.0.10", corev1.ServiceTypeClusterIP))
}

// TestDrawn: a small range is given out to its last address, no address twice, those left for static use last.
func TestDrawn(t *testing.T) {
	c := newCluster(t, "10.0.0.0/26", [2]int32{30000, 30063})
	seen := map[string]bool{}
	ports := map[int32]bool{}
	for i := range 62 {
		s := service(fmt.Sprint("s", i), "", corev1.ServiceTypeNodePort, 0)
		c.make(s)
		ip := netip.MustParseAddr(s.Spec.ClusterIP)
		if seen[ip.String()] || ports[s.Spec.Ports[0].NodePort] {
			t.Fatalf("%s %d given twice", ip, s.Spec.Ports[0].NodePort)
		}
		seen[ip.String()], ports[s.Spec.Ports[0].NodePort] = true, true
		if low := ip.As4()[3] < ipBandLeast; low && i < 62-(ipBandLeast-1) {
			t.Fatalf("%s is left for those who ask for it", ip)
		}
		if i == 30 { // the feed's history is lost: the pool counts anew
			c.memory.Compact(c.memory.Snapshot().Revision())
			c.pool.cursor = nil
		}
	}
	c.refused(service("more", "", corev1.ServiceTypeClusterIP), "range is full")
	if s := service("x", corev1.ClusterIPNone, corev1.ServiceTypeClusterIP); true {
		c.make(s) // headless needs none
	}
}

func TestFamilies(t *testing.T) {
	c := newCluster(t, "10.0.0.0/24", [2]int32{30000, 30100})
	dual := corev1.IPFamilyPolicyRequireDualStack
	s := service("a", "", corev1.ServiceTypeClusterIP)
	s.Spec.IPFamilyPolicy = &dual
	c.refused(s, "this cluster is not configured for dual-stack services")
	s = service("a", "", corev1.ServiceTypeClusterIP)
	s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
	c.refused(s, "not configured on this cluster")
	s = service("a", "", corev1.ServiceTypeLoadBalancer, 0)
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	c.make(s)
	if s.Spec.HealthCheckNodePort == 0 || s.Spec.HealthCheckNodePort == s.Spec.Ports[0].NodePort {
		t.Errorf("health port %d", s.Spec.HealthCheckNodePort)
	}
}

package addresses

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	if s == nil {
		c.put("services", old, store.Delete)
	} else {
		c.put("services", s, store.Put)
	}
}

func (c *cluster) put(resource string, obj kinds.Object, typ store.EventType) {
	e := store.Event{Type: typ, Item: &store.Item{Revision: c.memory.Snapshot().Revision() + 1}}
	e.Item.Object = obj.DeepCopyObject().(kinds.Object)
	e.Item.Key = store.Key{Resource: resource, Namespace: obj.GetNamespace(), Name: obj.GetName()}
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
			c.pool.followed = nil
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

// TestFurtherRanges: ServiceCIDRs extend the range, but not once they go.
func TestFurtherRanges(t *testing.T) {
	c := newCluster(t, "10.0.0.0/30", [2]int32{30000, 30100}) // two addresses
	c.refused(service("far", "10.9.0.5", corev1.ServiceTypeClusterIP), "does not match the current range")
	more := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.9.0.0/29"}}}
	c.put("servicecidrs.networking.k8s.io", more, store.Put)
	c.make(service("far", "10.9.0.5", corev1.ServiceTypeClusterIP))
	for i := range 3 {
		s := service(fmt.Sprint("s", i), "", corev1.ServiceTypeClusterIP)
		c.make(s)
		if far := strings.HasPrefix(s.Spec.ClusterIP, "10.9.0."); far != (i == 2) {
			t.Errorf("address %d is %s", i, s.Spec.ClusterIP)
		}
	}
	more.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	c.put("servicecidrs.networking.k8s.io", more, store.Put)
	c.refused(service("late", "10.9.0.6", corev1.ServiceTypeClusterIP), "does not match the current range")
	c.refused(service("late", "", corev1.ServiceTypeClusterIP), "range is full")
}

// TestReserved: what an IPAddress reserves no Service gets, and what a Service holds no IPAddress of another can reserve.
func TestReserved(t *testing.T) {
	c := newCluster(t, "10.0.0.0/24", [2]int32{30000, 30100})
	kind := &kinds.Kind{Group: "networking.k8s.io", Resource: "ipaddresses"}
	address := func(ip, resource, parent string) *networkingv1.IPAddress {
		return &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: ip},
			Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: resource, Namespace: "ns", Name: parent}}}
	}
	release, err := c.pool.Create(kind, address("10.0.0.9", "gateways", "mine"), false)
	if err != nil {
		t.Fatal(err)
	}
	c.refused(service("a", "10.0.0.9", corev1.ServiceTypeClusterIP), "already allocated")
	c.put("ipaddresses.networking.k8s.io", address("10.0.0.9", "gateways", "mine"), store.Put)
	release()
	c.refused(service("a", "10.0.0.9", corev1.ServiceTypeClusterIP), "already allocated")
	c.put("ipaddresses.networking.k8s.io", address("10.0.0.9", "gateways", "mine"), store.Delete)
	c.make(service("a", "10.0.0.9", corev1.ServiceTypeClusterIP))
	for _, test := range []struct {
		address *networkingv1.IPAddress
		refused bool
	}{
		{address("10.0.0.9", "gateways", "mine"), true},
		{address("10.0.0.9", "services", "b"), true},
		{address("10.0.0.9", "services", "a"), false},
		{address("10.0.0.8", "services", "b"), false},
	} {
		_, err := c.pool.Create(kind, test.address, true)
		if apierrors.IsAlreadyExists(err) != test.refused {
			t.Errorf("%s for %v: %v", test.address.Name, test.address.Spec.ParentRef, err)
		}
	}
}

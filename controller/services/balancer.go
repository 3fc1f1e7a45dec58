package services

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
	"github.com/kebernetes/kebernetes/kinds"
)

// NodeBalancer is the loadBalancerClass of Services that the nodes' own addresses serve. It is also what those get that name no class.
const NodeBalancer = "keb.dev/nodes"

// Balancers gives Services of type LoadBalancer the addresses of the nodes: each node's proxy takes connections to its own
// address at the service's ports, and spreads them. One port of the nodes serves one service, the oldest that wants it; reserved are
// TCP ports that serve something else on the nodes, with what that is. Services of other classes are left to their own controllers.
func Balancers(env controller.Env, reserved map[int32]string) *controller.Loop {
	c := env.Client("service-controller")
	r := &balancers{
		client: c, reserved: reserved,
		events: client.NewRecorder(c, "service-controller", env.Logger),
		byPort: controller.NewIndex(func(obj client.Object, add func(controller.Group)) {
			if s := obj.(*corev1.Service); nodeBalanced(s) {
				add(anyPort)
				for i := range s.Spec.Ports {
					add(portGroup(&s.Spec.Ports[i]))
				}
			}
		}),
		slices: controller.NewIndex(func(obj client.Object, add func(controller.Group)) {
			add(controller.Group{obj.GetNamespace(), obj.GetLabels()[discoveryv1.LabelServiceName]})
		}),
	}
	return env.NewLoop(c, controller.Controller{
		Name: "service-lb-controller",
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*corev1.Service](c), Index: r.byPort, Keys: r.serviceChanged},
			{Resource: client.ResourceOf[*discoveryv1.EndpointSlice](c), Index: r.slices, Keys: r.sliceChanged},
			{Resource: client.ResourceOf[*corev1.Node](c), Keys: r.nodeChanged},
		},
		Reconcile: r.reconcile,
	})
}

type balancers struct {
	client   *client.Client
	reserved map[int32]string
	events   *client.Recorder
	byPort   *controller.Index // services that the nodes balance, by protocol and port
	slices   *controller.Index // by service
}

// anyPort is the group of all services that the nodes balance.
var anyPort = controller.Group{}

func portGroup(p *corev1.ServicePort) controller.Group {
	return controller.Group{string(p.Protocol), strconv.Itoa(int(p.Port))}
}

// nodeBalanced says whether the nodes are a service's load balancer.
func nodeBalanced(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && ptr.Deref(s.Spec.LoadBalancerClass, NodeBalancer) == NodeBalancer && s.DeletionTimestamp == nil
}

// serviceChanged adds a service, and those that share ports with what it was: they may have waited for them.
func (r *balancers) serviceChanged(ev client.Event, add func(controller.Key)) {
	for _, item := range []*client.Item{ev.Item, ev.Prev} {
		if item == nil {
			continue
		}
		s := item.Object.(*corev1.Service)
		if !nodeBalanced(s) && len(s.Status.LoadBalancer.Ingress) == 0 {
			continue
		}
		add(controller.KeyOf(s))
		for i := range s.Spec.Ports {
			for _, rival := range controller.Indexed[*corev1.Service](r.byPort, portGroup(&s.Spec.Ports[i])) {
				add(controller.KeyOf(rival))
			}
		}
	}
}

// sliceChanged adds the slice's service: which nodes have endpoints matters where traffic stays on the node.
func (r *balancers) sliceChanged(ev client.Event, add func(controller.Key)) {
	key := controller.Key{Namespace: ev.Item.Key.Namespace, Name: ev.Item.Object.GetLabels()[discoveryv1.LabelServiceName]}
	s, ok := client.From[*corev1.Service](r.client, r.client.Snapshot(), key.Namespace, key.Name)
	if ok && nodeBalanced(s) && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		add(key)
	}
}

func (r *balancers) nodeChanged(ev client.Event, add func(controller.Key)) {
	node := ev.Item.Object.(*corev1.Node)
	if ev.Type == client.Put && ev.Prev != nil &&
		slices.Equal(kinds.BalancerAddresses(node), kinds.BalancerAddresses(ev.Prev.Object.(*corev1.Node))) {
		return
	}
	for _, s := range controller.Indexed[*corev1.Service](r.byPort, anyPort) {
		add(controller.KeyOf(s))
	}
}

func (r *balancers) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	snap := r.client.Snapshot()
	s, ok := client.From[*corev1.Service](r.client, snap, key.Namespace, key.Name)
	if !ok {
		return 0, nil
	}
	if !nodeBalanced(s) {
		if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
			return 0, nil
		}
		return 0, r.write(ctx, s, nil)
	}
	if taken := r.taken(s); taken != "" {
		r.events.Event(s, corev1.EventTypeWarning, "SyncLoadBalancerFailed", "Error syncing load balancer: %s", taken)
		return 0, r.write(ctx, s, nil)
	}
	nodes := client.List[*corev1.Node](r.client, snap, "", nil)
	slicesOf := controller.Indexed[*discoveryv1.EndpointSlice](r.slices, controller.Group{s.Namespace, s.Name})
	return 0, r.write(ctx, s, balancerIngress(s, nodes, slicesOf))
}

// taken says what else has one of the service's ports on the nodes, "" when nothing has.
func (r *balancers) taken(s *corev1.Service) string {
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if what, is := r.reserved[p.Port]; is && p.Protocol == corev1.ProtocolTCP {
			return fmt.Sprintf("port %d/%s of the nodes serves %s", p.Port, p.Protocol, what)
		}
		for _, rival := range controller.Indexed[*corev1.Service](r.byPort, portGroup(p)) {
			if rival.UID != s.UID && olderThan(rival, s) {
				return fmt.Sprintf("port %d/%s of the nodes serves service %s/%s", p.Port, p.Protocol, rival.Namespace, rival.Name)
			}
		}
	}
	return ""
}

func olderThan(a, b *corev1.Service) bool {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name)) < 0
}

// balancerIngress lists the addresses of the nodes in the service's families; where traffic must stay on the node that it
// reached, of those that have an endpoint.
func balancerIngress(s *corev1.Service, nodes []*corev1.Node, slicesOf []*discoveryv1.EndpointSlice) []corev1.LoadBalancerIngress {
	serving := map[string]bool{}
	for _, slice := range slicesOf {
		for i := range slice.Endpoints {
			if e := &slice.Endpoints[i]; ptr.Deref(e.Conditions.Ready, true) {
				serving[ptr.Deref(e.NodeName, "")] = true
			}
		}
	}
	local := s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	var addrs []netip.Addr
	for _, n := range nodes {
		if !local || serving[n.Name] {
			addrs = append(addrs, kinds.BalancerAddresses(n)...)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	var out []corev1.LoadBalancerIngress
	for _, addr := range slices.Compact(addrs) {
		family := corev1.IPv4Protocol
		if addr.Is6() {
			family = corev1.IPv6Protocol
		}
		if slices.Contains(families(s), family) {
			out = append(out, corev1.LoadBalancerIngress{IP: addr.String(), IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)})
		}
	}
	return out
}

// write makes these the addresses of the service's balancer.
func (r *balancers) write(ctx context.Context, s *corev1.Service, ingress []corev1.LoadBalancerIngress) error {
	if apiequality.Semantic.DeepEqual(s.Status.LoadBalancer.Ingress, ingress) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": s.UID},
		"status":   map[string]any{"loadBalancer": map[string]any{"ingress": ingress}},
	})
	if err != nil {
		return fmt.Errorf("encode balancer of service %s/%s: %w", s.Namespace, s.Name, err)
	}
	_, err = client.Patch[*corev1.Service](ctx, r.client, s.Namespace, s.Name, "status", types.MergePatchType, patch)
	if gone(err) {
		return nil // gone or replaced; its own event follows
	}
	if err != nil {
		return fmt.Errorf("write balancer of service %s/%s: %w", s.Namespace, s.Name, err)
	}
	if len(s.Status.LoadBalancer.Ingress) == 0 {
		r.events.Event(s, corev1.EventTypeNormal, "EnsuredLoadBalancer", "Ensured load balancer")
	}
	return nil
}

package services

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

// AddressIdentity is the service account in kube-system that keeps the IPAddresses. Upstream's API server writes them itself.
const AddressIdentity = "service-address-controller"

// addressManager marks the IPAddresses that stand for cluster IPs, as upstream marks them.
const addressManager = "ipallocator.k8s.io"

// IPAddresses keeps one IPAddress for each cluster IP in use, named after it (KEP-1880). Which Service holds an address is decided by
// the API when the Service is written; the objects show it.
func IPAddresses(env controller.Env) *controller.Loop {
	c := env.Client(AddressIdentity)
	r := &ipAddresses{
		client: c,
		events: client.NewRecorder(c, AddressIdentity, env.Logger),
		holders: controller.NewIndex(func(obj client.Object, add func(controller.Group)) {
			for _, ip := range clusterIPs(obj.(*corev1.Service)) {
				add(controller.Group{ip})
			}
		}),
	}
	return env.NewLoop(c, controller.Controller{
		Name: "service-ip-address-controller",
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*corev1.Service](c), Index: r.holders, Keys: func(ev client.Event, add func(controller.Key)) {
				for _, item := range []*client.Item{ev.Item, ev.Prev} {
					if item == nil {
						continue
					}
					for _, ip := range clusterIPs(item.Object.(*corev1.Service)) {
						add(controller.Key{Name: ip})
					}
				}
			}},
			{Resource: client.ResourceOf[*networkingv1.IPAddress](c), Keys: controller.Itself},
		},
		Reconcile: r.reconcile,
	})
}

type ipAddresses struct {
	client  *client.Client
	events  *client.Recorder
	holders *controller.Index // services by cluster IP
}

// clusterIPs are the addresses of a Service, spelled as IPAddresses are named.
func clusterIPs(s *corev1.Service) []string {
	var out []string
	for _, text := range s.Spec.ClusterIPs {
		if ip, err := netip.ParseAddr(text); err == nil { // "None" is none
			out = append(out, ip.String())
		}
	}
	return out
}

func (r *ipAddresses) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	have, there := client.From[*networkingv1.IPAddress](r.client, r.client.Snapshot(), "", key.Name)
	holders := controller.Indexed[*corev1.Service](r.holders, controller.Group{key.Name})
	if len(holders) == 0 {
		if !there || have.Labels[networkingv1.LabelManagedBy] != addressManager || have.DeletionTimestamp != nil {
			return 0, nil
		}
		return 0, r.remove(ctx, have)
	}
	want := addressOf(key.Name, holders[0])
	switch {
	case !there:
		if _, err := client.Create(ctx, r.client, want); err != nil && !apierrors.IsAlreadyExists(err) {
			return 0, fmt.Errorf("create IP address %s: %w", key.Name, err)
		}
	case apiequality.Semantic.DeepEqual(have.Spec, want.Spec) || have.DeletionTimestamp != nil:
	case have.Labels[networkingv1.LabelManagedBy] != addressManager:
		r.events.Event(holders[0], corev1.EventTypeWarning, "ClusterIPNotAllocated", "Cluster IP %s: IPAddress %s belongs to somebody else", key.Name, key.Name)
	default: // the address has a new holder; the old object's parent cannot be changed, so its deletion brings a new one
		return 0, r.remove(ctx, have)
	}
	return 0, nil
}

func (r *ipAddresses) remove(ctx context.Context, a *networkingv1.IPAddress) error {
	err := client.Remove[*networkingv1.IPAddress](ctx, r.client, "", a.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &a.UID}})
	if err != nil && !gone(err) {
		return fmt.Errorf("delete IP address %s: %w", a.Name, err)
	}
	return nil
}

// addressOf is the IPAddress of a Service's cluster IP.
func addressOf(ip string, s *corev1.Service) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: ip, Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: string(familyOf(ip)), networkingv1.LabelManagedBy: addressManager,
		}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: s.Namespace, Name: s.Name}},
	}
}

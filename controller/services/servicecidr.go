package services

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

const (
	// cidrFinalizer keeps a range as long as addresses of it are in use that no other range has.
	cidrFinalizer = "networking.k8s.io/service-cidr-finalizer"
	// cidrTerminating is upstream's reason for a range that goes.
	cidrTerminating = "Terminating"
)

// ServiceCIDRs tells which ranges cluster IPs come from, and lets one go when nothing of it is in use (KEP-1880).
func ServiceCIDRs(env controller.Env) *controller.Loop {
	c := env.Client("service-cidrs-controller")
	r := &serviceCIDRs{client: c}
	return env.NewLoop(c, controller.Controller{
		Name: "service-cidr-controller",
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*networkingv1.ServiceCIDR](c), Keys: r.cidrChanged},
			{Resource: client.ResourceOf[*networkingv1.IPAddress](c), Keys: r.addressChanged},
		},
		Reconcile: r.reconcile,
	})
}

type serviceCIDRs struct{ client *client.Client }

// cidrChanged adds a range, and those that go: another one may now have their addresses.
func (r *serviceCIDRs) cidrChanged(ev client.Event, add func(controller.Key)) {
	controller.Itself(ev, add)
	r.leaving(add)
}

// addressChanged adds the ranges that go when an address is gone.
func (r *serviceCIDRs) addressChanged(ev client.Event, add func(controller.Key)) {
	if ev.Type == client.Delete {
		r.leaving(add)
	}
}

func (r *serviceCIDRs) leaving(add func(controller.Key)) {
	for _, c := range client.List[*networkingv1.ServiceCIDR](r.client, r.client.Snapshot(), "", nil) {
		if c.DeletionTimestamp != nil {
			add(controller.KeyOf(c))
		}
	}
}

func (r *serviceCIDRs) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	snap := r.client.Snapshot()
	c, ok := client.From[*networkingv1.ServiceCIDR](r.client, snap, "", key.Name)
	if !ok {
		return 0, nil
	}
	ready := metav1.Condition{Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes Service CIDR is ready"}
	if c.DeletionTimestamp == nil {
		if !slices.Contains(c.Finalizers, cidrFinalizer) {
			c = c.DeepCopy()
			c.Finalizers = append(c.Finalizers, cidrFinalizer)
			var err error
			if c, err = client.Update(ctx, r.client, c); err != nil {
				return 0, fmt.Errorf("hold service CIDR %s: %w", key.Name, err)
			}
		}
		return 0, r.condition(ctx, c, ready)
	}
	others := client.List[*networkingv1.ServiceCIDR](r.client, snap, "", nil)
	if inUse(c, others, client.List[*networkingv1.IPAddress](r.client, snap, "", nil)) {
		ready.Status, ready.Reason = metav1.ConditionFalse, cidrTerminating
		ready.Message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
		return 0, r.condition(ctx, c, ready)
	}
	if i := slices.Index(c.Finalizers, cidrFinalizer); i >= 0 {
		c = c.DeepCopy()
		c.Finalizers = slices.Delete(c.Finalizers, i, i+1)
		if _, err := client.Update(ctx, r.client, c); err != nil && !gone(err) {
			return 0, fmt.Errorf("let service CIDR %s go: %w", key.Name, err)
		}
	}
	return 0, nil
}

func (r *serviceCIDRs) condition(ctx context.Context, c *networkingv1.ServiceCIDR, cond metav1.Condition) error {
	c = c.DeepCopy()
	if !meta.SetStatusCondition(&c.Status.Conditions, cond) {
		return nil
	}
	if _, err := client.UpdateStatus(ctx, r.client, c); err != nil && !gone(err) {
		return fmt.Errorf("write status of service CIDR %s: %w", c.Name, err)
	}
	return nil
}

// inUse says whether an address lies in a range and in no other one that stays.
func inUse(c *networkingv1.ServiceCIDR, others []*networkingv1.ServiceCIDR, addresses []*networkingv1.IPAddress) bool {
	return slices.ContainsFunc(addresses, func(a *networkingv1.IPAddress) bool {
		ip, err := netip.ParseAddr(a.Name)
		return err == nil && covers(c, ip) && !slices.ContainsFunc(others, func(other *networkingv1.ServiceCIDR) bool {
			return other.DeletionTimestamp == nil && covers(other, ip)
		})
	})
}

func covers(c *networkingv1.ServiceCIDR, ip netip.Addr) bool {
	return slices.ContainsFunc(c.Spec.CIDRs, func(text string) bool {
		cidr, err := netip.ParsePrefix(text)
		return err == nil && cidr.Contains(ip)
	})
}

package services

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

const (
	mirrorManager = "endpointslicemirroring-controller.k8s.io"
	// maxMirrored is how many addresses of a subset are mirrored: upstream's default.
	maxMirrored = 1000
	// leaderAnnotation marks Endpoints that were once used as locks.
	leaderAnnotation = "control-plane.alpha.kubernetes.io/leader"
)

// EndpointMirrors shows Endpoints that people make for services without a selector as EndpointSlices, which is what proxies read.
func EndpointMirrors(env controller.Env) *controller.Loop {
	c := env.Client("endpointslicemirroring-controller")
	r := &mirrors{
		client: c,
		events: client.NewRecorder(c, "endpoint-slice-mirroring-controller", env.Logger),
		slices: controller.NewIndex(managedBy(mirrorManager)),
	}
	return env.NewLoop(c, controller.Controller{
		Name: "endpointslice-mirroring-controller",
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*corev1.Endpoints](c), Keys: controller.Itself},
			{Resource: client.ResourceOf[*corev1.Service](c), Keys: controller.Itself},
			{Resource: client.ResourceOf[*discoveryv1.EndpointSlice](c), Index: r.slices, Keys: sliceChanged(mirrorManager)},
		},
		Reconcile: r.reconcile,
	})
}

type mirrors struct {
	client *client.Client
	events *client.Recorder
	slices *controller.Index // by service
}

func (r *mirrors) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	snap := r.client.Snapshot()
	existing := controller.Indexed[*discoveryv1.EndpointSlice](r.slices, controller.Group{key.Namespace, key.Name})
	endpoints, there := client.From[*corev1.Endpoints](r.client, snap, key.Namespace, key.Name)
	service, served := client.From[*corev1.Service](r.client, snap, key.Namespace, key.Name)
	if !there || !served || !mirrored(endpoints, service) {
		return 0, (&slicePlan{remove: existing}).carryOut(ctx, r.client)
	}
	plan, skipped := planMirror(endpoints, existing)
	if skipped > 0 {
		r.events.Event(endpoints, corev1.EventTypeWarning, "InvalidAddress",
			"Skipped %d invalid IP addresses when mirroring to EndpointSlices", skipped)
	}
	err := plan.carryOut(ctx, r.client)
	if err != nil && !apierrors.IsConflict(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		r.events.Event(endpoints, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices",
			"Error updating Endpoint Slices for Endpoints %s/%s: %v", endpoints.Namespace, endpoints.Name, err)
	}
	return 0, err
}

// mirrored says whether Endpoints are to be mirrored: not those that a controller makes from a selector, and not those that say no.
func mirrored(e *corev1.Endpoints, s *corev1.Service) bool {
	_, lock := e.Annotations[leaderAnnotation]
	return s.Spec.Selector == nil && !lock && e.Labels[discoveryv1.LabelSkipMirror] != "true" && e.DeletionTimestamp == nil
}

// planMirror computes the writes that make the slices show the Endpoints: one slice per address family and set of ports.
func planMirror(e *corev1.Endpoints, existing []*discoveryv1.EndpointSlice) (plan slicePlan, skipped int) {
	wanted := map[string]*discoveryv1.EndpointSlice{}
	for i := range e.Subsets {
		skipped += mirrorSubset(e, &e.Subsets[i], wanted)
	}
	spare := []*discoveryv1.EndpointSlice{}
	for _, s := range existing {
		key := string(s.AddressType) + portsKey(s.Ports)
		next := wanted[key]
		if next == nil || s.DeletionTimestamp != nil {
			spare = append(spare, s)
			continue
		}
		delete(wanted, key)
		if apiequality.Semantic.DeepEqual(s.Endpoints, next.Endpoints) && maps.Equal(s.Labels, next.Labels) && sameAnnotations(s, next) && metav1.IsControlledBy(s, e) {
			continue
		}
		meta := s.ObjectMeta.DeepCopy()
		meta.Labels, meta.Annotations, meta.OwnerReferences = next.Labels, next.Annotations, next.OwnerReferences
		next.ObjectMeta = *meta
		plan.update = append(plan.update, next)
	}
	for _, key := range slices.Sorted(maps.Keys(wanted)) {
		plan.create = append(plan.create, wanted[key])
	}
	plan.remove = spare
	return plan, skipped
}

func sameAnnotations(a, b *discoveryv1.EndpointSlice) bool {
	return len(a.Annotations) == 0 && len(b.Annotations) == 0 || maps.Equal(a.Annotations, b.Annotations)
}

// mirrorSubset adds a subset's addresses to the slices, and returns how many of them are no addresses.
func mirrorSubset(e *corev1.Endpoints, subset *corev1.EndpointSubset, out map[string]*discoveryv1.EndpointSlice) (skipped int) {
	ports := []discoveryv1.EndpointPort{}
	for i := range subset.Ports {
		p := &subset.Ports[i]
		ports = append(ports, discoveryv1.EndpointPort{Name: ptr.To(p.Name), Port: ptr.To(p.Port), Protocol: ptr.To(p.Protocol), AppProtocol: p.AppProtocol})
	}
	count := 0
	add := func(list []corev1.EndpointAddress, ready bool) {
		for i := range list {
			a := &list[i]
			if !validAddress(a.IP) {
				skipped++
				continue
			}
			if count++; count > maxMirrored {
				return
			}
			family := discoveryv1.AddressType(familyOf(a.IP))
			key := string(family) + portsKey(ports)
			if out[key] == nil {
				out[key] = newMirror(e, family, ports)
			}
			out[key].Endpoints = append(out[key].Endpoints, mirrorAddress(a, ready))
		}
	}
	add(subset.Addresses, true)
	add(subset.NotReadyAddresses, false)
	return skipped
}

func mirrorAddress(a *corev1.EndpointAddress, ready bool) discoveryv1.Endpoint {
	out := discoveryv1.Endpoint{Addresses: []string{a.IP}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(ready)}, TargetRef: a.TargetRef.DeepCopy()}
	if a.NodeName != nil {
		out.NodeName = ptr.To(*a.NodeName)
	}
	if a.Hostname != "" {
		out.Hostname = ptr.To(a.Hostname)
	}
	return out
}

// newMirror returns a slice for Endpoints, without endpoints. It belongs to the Endpoints, not to the service.
func newMirror(e *corev1.Endpoints, family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: e.Namespace, GenerateName: e.Name + "-",
			Labels: map[string]string{}, Annotations: map[string]string{},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(e, corev1.SchemeGroupVersion.WithKind("Endpoints"))},
		},
		AddressType: family,
		Ports:       ports,
	}
	maps.Copy(s.Labels, e.Labels)
	delete(s.Labels, endpointsManagedBy)
	s.Labels[discoveryv1.LabelServiceName], s.Labels[discoveryv1.LabelManagedBy] = e.Name, mirrorManager
	for k, v := range e.Annotations {
		if k != corev1.LastAppliedConfigAnnotation && k != corev1.EndpointsLastChangeTriggerTime && !strings.HasPrefix(k, corev1.EndpointsOverCapacity) {
			s.Annotations[k] = v
		}
	}
	return s
}

func validAddress(ip string) bool {
	_, err := netip.ParseAddr(ip)
	return err == nil
}

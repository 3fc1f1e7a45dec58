package services

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

const (
	sliceManager = "endpointslice-controller.k8s.io"
	// maxPerSlice is how many endpoints a slice holds at most: upstream's default.
	maxPerSlice = 100
)

// EndpointSlices keeps the slices of every service with a selector in step with its pods.
func EndpointSlices(env controller.Env) *controller.Loop {
	c := env.Client("endpointslice-controller")
	r := &endpointSlices{
		client:    c,
		events:    client.NewRecorder(c, "endpoint-slice-controller", env.Logger),
		selection: newSelection(c),
		slices:    controller.NewIndex(managedBy(sliceManager)),
	}
	return env.NewLoop(c, controller.Controller{
		Name: "endpointslice-controller",
		Watches: append(r.selection.watches(),
			controller.Watch{Resource: client.ResourceOf[*discoveryv1.EndpointSlice](c), Index: r.slices, Keys: sliceChanged(sliceManager)},
			controller.Watch{Resource: client.ResourceOf[*corev1.Node](c), Keys: r.nodeChanged},
		),
		Reconcile: r.reconcile,
	})
}

type endpointSlices struct {
	client    *client.Client
	events    *client.Recorder
	selection *selection
	slices    *controller.Index // by service
}

// managedBy groups the slices of one manager by their services.
func managedBy(manager string) func(client.Object, func(controller.Group)) {
	return func(obj client.Object, add func(controller.Group)) {
		if l := obj.GetLabels(); l[discoveryv1.LabelManagedBy] == manager {
			add(controller.Group{obj.GetNamespace(), l[discoveryv1.LabelServiceName]})
		}
	}
}

// sliceChanged adds the service of a slice of one manager, before and after the event.
func sliceChanged(manager string) func(client.Event, func(controller.Key)) {
	return func(ev client.Event, add func(controller.Key)) {
		for _, item := range []*client.Item{ev.Item, ev.Prev} {
			if item == nil {
				continue
			}
			if l := item.Object.GetLabels(); l[discoveryv1.LabelManagedBy] == manager && l[discoveryv1.LabelServiceName] != "" {
				add(controller.Key{Namespace: item.Key.Namespace, Name: l[discoveryv1.LabelServiceName]})
			}
		}
	}
}

// nodeChanged adds the services with pods on a node that came, went or moved to another zone.
func (r *endpointSlices) nodeChanged(ev client.Event, add func(controller.Key)) {
	if ev.Type == client.Put && ev.Prev != nil && zone(ev.Item.Object) == zone(ev.Prev.Object) {
		return
	}
	for _, pod := range client.List[*corev1.Pod](r.client, r.client.Snapshot(), "", nil) {
		if pod.Spec.NodeName == ev.Item.Key.Name {
			r.selection.servicesOf(pod, add)
		}
	}
}

func zone(node client.Object) string { return node.GetLabels()[corev1.LabelTopologyZone] }

func (r *endpointSlices) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	snap := r.client.Snapshot()
	service, ok := client.From[*corev1.Service](r.client, snap, key.Namespace, key.Name)
	if !ok || !servable(service) || service.DeletionTimestamp != nil {
		// The garbage collector takes the slices of a service that is gone.
		return 0, nil
	}
	pods := r.selection.podsOf(service)
	existing := controller.Indexed[*discoveryv1.EndpointSlice](r.slices, controller.Group{key.Namespace, key.Name})
	nodes := func(name string) *corev1.Node {
		node, _ := client.From[*corev1.Node](r.client, snap, "", name)
		return node
	}
	plan := planSlices(service, pods, existing, nodes)
	if err := plan.carryOut(ctx, r.client); err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) && !apierrors.IsConflict(err) {
			r.events.Event(service, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices",
				"Error updating Endpoint Slices for Service %s/%s: %v", service.Namespace, service.Name, err)
		}
		return 0, err
	}
	return 0, nil
}

// carryOut creates before it deletes, so that no endpoint is missing in between.
func (plan *slicePlan) carryOut(ctx context.Context, c *client.Client) error {
	for _, s := range plan.create {
		if _, err := client.Create(ctx, c, s); err != nil {
			return fmt.Errorf("create endpoint slice of %s: %w", s.Labels[discoveryv1.LabelServiceName], err)
		}
	}
	for _, s := range plan.update {
		if _, err := client.Update(ctx, c, s); err != nil {
			return fmt.Errorf("update endpoint slice %s: %w", s.Name, err)
		}
	}
	for _, s := range plan.remove {
		err := client.Remove[*discoveryv1.EndpointSlice](ctx, c, s.Namespace, s.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &s.UID},
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete endpoint slice %s: %w", s.Name, err)
		}
	}
	return nil
}

// slicePlan is what makes the slices of a service right.
type slicePlan struct {
	create, update, remove []*discoveryv1.EndpointSlice
}

// wantedSlices is what all slices of one address type and one set of ports must hold together.
type wantedSlices struct {
	ports     []discoveryv1.EndpointPort
	endpoints map[types.UID]wantedEndpoint
	order     []types.UID
}

type wantedEndpoint struct {
	endpoint discoveryv1.Endpoint
	since    time.Time // when the pod's readiness last changed
}

// planSlices computes the fewest writes that make the slices right: endpoints stay in the slice that they are in, new ones fill up
// slices that change anyway, and slices that empty are used again before new ones are made.
func planSlices(service *corev1.Service, pods []*corev1.Pod, existing []*discoveryv1.EndpointSlice, node func(string) *corev1.Node) slicePlan {
	var plan slicePlan
	left := map[discoveryv1.AddressType][]*discoveryv1.EndpointSlice{}
	for _, s := range existing {
		if s.DeletionTimestamp == nil {
			left[s.AddressType] = append(left[s.AddressType], s)
		}
	}
	for _, family := range families(service) {
		at := discoveryv1.AddressType(family)
		p := &typePlan{service: service, addressType: at}
		p.build(wantedOf(service, pods, family, node), left[at])
		delete(left, at)
		plan.create = append(plan.create, p.create...)
		plan.update = append(plan.update, p.update...)
		plan.remove = append(plan.remove, p.remove...)
	}
	for _, foreign := range left {
		plan.remove = append(plan.remove, foreign...)
	}
	return plan
}

// wantedOf groups a service's endpoints of one family by the ports that they serve: named ports may differ from pod to pod.
func wantedOf(service *corev1.Service, pods []*corev1.Pod, family corev1.IPFamily, node func(string) *corev1.Node) map[string]*wantedSlices {
	out := map[string]*wantedSlices{}
	for _, pod := range pods {
		ip, ok := address(pod, family)
		if !ok {
			continue
		}
		var on *corev1.Node
		if pod.Spec.NodeName != "" {
			// A pod whose node is gone serves nothing, unless the service wants to see pods at any price.
			if on = node(pod.Spec.NodeName); on == nil && !service.Spec.PublishNotReadyAddresses {
				continue
			}
		}
		ports := slicePorts(service, pod)
		key := portsKey(ports)
		group := out[key]
		if group == nil {
			group = &wantedSlices{ports: ports, endpoints: map[types.UID]wantedEndpoint{}}
			out[key] = group
		}
		group.endpoints[pod.UID] = wantedEndpoint{sliceEndpoint(service, pod, ip, on), readySince(pod)}
		group.order = append(group.order, pod.UID)
	}
	return out
}

// sliceEndpoint is the endpoint of one pod.
func sliceEndpoint(service *corev1.Service, pod *corev1.Pod, ip string, node *corev1.Node) discoveryv1.Endpoint {
	serving, terminating := controller.PodReady(pod), pod.DeletionTimestamp != nil
	e := discoveryv1.Endpoint{
		Addresses: []string{ip},
		Conditions: discoveryv1.EndpointConditions{
			Ready:       ptr.To(service.Spec.PublishNotReadyAddresses || serving && !terminating),
			Serving:     ptr.To(serving),
			Terminating: ptr.To(terminating),
		},
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	if pod.Spec.NodeName != "" {
		e.NodeName = ptr.To(pod.Spec.NodeName)
	}
	if node != nil && zone(node) != "" {
		e.Zone = ptr.To(zone(node))
	}
	if h := hostname(pod, service); h != "" {
		e.Hostname = ptr.To(h)
	}
	e.Hints = hints(service, &e)
	return e
}

// hints tell proxies whose clients an endpoint is for, where the service wants traffic to stay near (KEP-4444, KEP-3015).
func hints(service *corev1.Service, e *discoveryv1.Endpoint) *discoveryv1.EndpointHints {
	near := ptr.Deref(service.Spec.TrafficDistribution, "")
	if near == "" || !*e.Conditions.Ready {
		return nil
	}
	var h discoveryv1.EndpointHints
	if e.Zone != nil {
		h.ForZones = []discoveryv1.ForZone{{Name: *e.Zone}}
	}
	if near == corev1.ServiceTrafficDistributionPreferSameNode && e.NodeName != nil {
		h.ForNodes = []discoveryv1.ForNode{{Name: *e.NodeName}}
	}
	if h.ForZones == nil && h.ForNodes == nil {
		return nil
	}
	return &h
}

// slicePorts are the service's ports as the pod serves them.
func slicePorts(service *corev1.Service, pod *corev1.Pod) []discoveryv1.EndpointPort {
	ports := []discoveryv1.EndpointPort{}
	for i := range service.Spec.Ports {
		p := &service.Spec.Ports[i]
		if n, ok := targetPort(pod, p); ok {
			ports = append(ports, discoveryv1.EndpointPort{Name: ptr.To(p.Name), Port: ptr.To(n), Protocol: ptr.To(p.Protocol), AppProtocol: p.AppProtocol})
		}
	}
	return ports
}

func portsKey(ports []discoveryv1.EndpointPort) string {
	var b strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&b, "%s/%d/%s/%s;", ptr.Deref(p.Name, ""), ptr.Deref(p.Port, 0), ptr.Deref(p.Protocol, ""), ptr.Deref(p.AppProtocol, ""))
	}
	return b.String()
}

// typePlan plans the slices of one address type.
type typePlan struct {
	service     *corev1.Service
	addressType discoveryv1.AddressType
	slicePlan
}

func (p *typePlan) build(wanted map[string]*wantedSlices, existing []*discoveryv1.EndpointSlice) {
	byPorts := map[string][]*discoveryv1.EndpointSlice{}
	var spare []*discoveryv1.EndpointSlice
	for _, s := range existing {
		if key := portsKey(s.Ports); wanted[key] != nil {
			byPorts[key] = append(byPorts[key], s)
		} else {
			spare = append(spare, s)
		}
	}
	var fresh []*discoveryv1.EndpointSlice
	for key, group := range wanted {
		f, empty := p.buildGroup(group, byPorts[key])
		fresh = append(fresh, f...)
		spare = append(spare, empty...)
	}
	if len(wanted) == 0 {
		// One empty slice shows that the service was looked at and has no endpoints.
		s := p.newSlice([]discoveryv1.EndpointPort{})
		if len(spare) > 0 && p.current(spare[0]) && len(spare[0].Endpoints) == 0 && len(spare[0].Ports) == 0 {
			spare = spare[1:]
		} else {
			p.stamp(s, []time.Time{p.service.CreationTimestamp.Time})
			fresh = append(fresh, s)
		}
	}
	for _, s := range fresh {
		if len(spare) == 0 {
			p.create = append(p.create, s)
			continue
		}
		// Used again under its old name.
		s.ObjectMeta = *p.meta(spare[0], s.Annotations)
		p.update = append(p.update, s)
		spare = spare[1:]
	}
	p.remove = spare
}

// buildGroup plans the slices of one set of ports. It returns slices that are needed beside the existing ones, and existing
// ones that are no longer needed.
func (p *typePlan) buildGroup(group *wantedSlices, existing []*discoveryv1.EndpointSlice) (fresh, empty []*discoveryv1.EndpointSlice) {
	type slot struct {
		old     *discoveryv1.EndpointSlice
		keep    []discoveryv1.Endpoint
		changed bool
		times   []time.Time
	}
	placed := map[types.UID]bool{}
	var slots []*slot
	for _, s := range existing {
		st := &slot{old: s, changed: !p.current(s)}
		for i := range s.Endpoints {
			uid := types.UID("")
			if ref := s.Endpoints[i].TargetRef; ref != nil {
				uid = ref.UID
			}
			want, ok := group.endpoints[uid]
			if !ok || placed[uid] {
				st.changed = true
				continue
			}
			placed[uid] = true
			if !apiequality.Semantic.DeepEqual(s.Endpoints[i], want.endpoint) {
				st.changed = true
				st.times = append(st.times, want.since)
			}
			st.keep = append(st.keep, want.endpoint)
		}
		slots = append(slots, st)
	}
	var rest []wantedEndpoint
	for _, uid := range group.order {
		if !placed[uid] {
			rest = append(rest, group.endpoints[uid])
		}
	}
	fill := func(st *slot) {
		for len(rest) > 0 && len(st.keep) < maxPerSlice {
			st.keep = append(st.keep, rest[0].endpoint)
			st.times = append(st.times, rest[0].since)
			st.changed = true
			rest = rest[1:]
		}
	}
	for _, st := range slots {
		if st.changed && len(st.keep) > 0 {
			fill(st)
		}
	}
	// What does not fit into those goes into the fullest slice that can take all of it: one write instead of a new slice.
	var best *slot
	for _, st := range slots {
		if len(rest) > 0 && !st.changed && len(st.keep)+len(rest) <= maxPerSlice && (best == nil || len(st.keep) > len(best.keep)) {
			best = st
		}
	}
	if best != nil {
		fill(best)
	}
	for _, st := range slots {
		switch {
		case len(st.keep) == 0:
			empty = append(empty, st.old)
		case st.changed:
			s := p.newSlice(group.ports)
			s.Endpoints = st.keep
			p.stamp(s, st.times)
			s.ObjectMeta = *p.meta(st.old, s.Annotations)
			p.update = append(p.update, s)
		}
	}
	for len(rest) > 0 {
		st := &slot{}
		fill(st)
		s := p.newSlice(group.ports)
		s.Endpoints = st.keep
		p.stamp(s, st.times)
		fresh = append(fresh, s)
	}
	return fresh, empty
}

// newSlice returns a slice without endpoints.
func (p *typePlan) newSlice(ports []discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       p.service.Namespace,
			GenerateName:    p.service.Name + "-",
			Labels:          p.labels(),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(p.service, corev1.SchemeGroupVersion.WithKind("Service"))},
		},
		AddressType: p.addressType,
		Endpoints:   []discoveryv1.Endpoint{},
		Ports:       ports,
	}
}

func (p *typePlan) labels() map[string]string {
	l := serviceLabels(p.service, discoveryv1.LabelServiceName, discoveryv1.LabelManagedBy)
	l[discoveryv1.LabelServiceName] = p.service.Name
	l[discoveryv1.LabelManagedBy] = sliceManager
	return l
}

// current says that a slice's labels and owner are as they should be.
func (p *typePlan) current(s *discoveryv1.EndpointSlice) bool {
	return maps.Equal(s.Labels, p.labels()) && metav1.IsControlledBy(s, p.service)
}

// meta is the metadata of an existing slice with the labels, owner and trigger time of today.
func (p *typePlan) meta(old *discoveryv1.EndpointSlice, annotations map[string]string) *metav1.ObjectMeta {
	m := old.ObjectMeta.DeepCopy()
	m.Labels = p.labels()
	m.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(p.service, corev1.SchemeGroupVersion.WithKind("Service"))}
	delete(m.Annotations, corev1.EndpointsLastChangeTriggerTime)
	for k, v := range annotations {
		metav1.SetMetaDataAnnotation(m, k, v)
	}
	return m
}

// stamp notes when the change happened that a slice brings.
func (p *typePlan) stamp(s *discoveryv1.EndpointSlice, times []time.Time) {
	if at := trigger(times); at != "" {
		metav1.SetMetaDataAnnotation(&s.ObjectMeta, corev1.EndpointsLastChangeTriggerTime, at)
	}
}

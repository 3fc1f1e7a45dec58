package services

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

const (
	// maxPerEndpoints is how many addresses an Endpoints object holds at most; the annotation tells when there were more.
	maxPerEndpoints       = 1000
	overCapacityTruncated = "truncated"

	endpointsManagedBy = "endpoints.kubernetes.io/managed-by"
	endpointsManager   = "endpoint-controller"
)

// Endpoints keeps the Endpoints object of every service with a selector in step with its pods.
func Endpoints(env controller.Env) *controller.Loop {
	c := env.Client("endpoint-controller")
	r := &endpoints{
		client:    c,
		events:    client.NewRecorder(c, "endpoint-controller", env.Logger),
		selection: newSelection(c),
	}
	return env.NewLoop(c, controller.Controller{
		Name: "endpoints-controller",
		Watches: append(r.selection.watches(),
			controller.Watch{Resource: client.ResourceOf[*corev1.Endpoints](c), Keys: controller.Itself}),
		Reconcile: r.reconcile,
	})
}

type endpoints struct {
	client    *client.Client
	events    *client.Recorder
	selection *selection
}

func (r *endpoints) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	snap := r.client.Snapshot()
	existing, there := client.From[*corev1.Endpoints](r.client, snap, key.Namespace, key.Name)
	service, ok := client.From[*corev1.Service](r.client, snap, key.Namespace, key.Name)
	if !ok {
		if there && existing.Labels[endpointsManagedBy] == endpointsManager {
			err := client.Remove[*corev1.Endpoints](ctx, r.client, key.Namespace, key.Name, metav1.DeleteOptions{
				Preconditions: &metav1.Preconditions{UID: &existing.UID},
			})
			if err != nil && !apierrors.IsNotFound(err) {
				return 0, fmt.Errorf("delete endpoints %s: %w", key.Name, err)
			}
		}
		return 0, nil
	}
	if !servable(service) || service.DeletionTimestamp != nil {
		return 0, nil
	}
	if !there {
		existing = nil
	}
	next := planEndpoints(service, r.selection.podsOf(service), existing)
	if next == nil {
		return 0, nil
	}
	var err error
	if existing == nil {
		_, err = client.Create(ctx, r.client, next)
	} else {
		_, err = client.Update(ctx, r.client, next)
	}
	if err == nil || apierrors.IsConflict(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return 0, err
	}
	reason, verb := "FailedToUpdateEndpoint", "update"
	if existing == nil {
		reason, verb = "FailedToCreateEndpoint", "create"
	}
	r.events.Event(service, corev1.EventTypeWarning, reason, "Failed to %s endpoint for service %s/%s: %v", verb, service.Namespace, service.Name, err)
	return 0, err
}

// planEndpoints returns the Endpoints object to write, or nil when the existing one is right.
func planEndpoints(service *corev1.Service, pods []*corev1.Pod, existing *corev1.Endpoints) *corev1.Endpoints {
	subsets := subsetsOf(service, pods)
	truncated := truncate(subsets)
	labels := serviceLabels(service, endpointsManagedBy)
	labels[endpointsManagedBy] = endpointsManager
	next := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: service.Namespace, Name: service.Name}}
	if existing != nil {
		if apiequality.Semantic.DeepEqual(existing.Subsets, subsets) && maps.Equal(existing.Labels, labels) &&
			(existing.Annotations[corev1.EndpointsOverCapacity] == overCapacityTruncated) == truncated {
			return nil
		}
		existing.ObjectMeta.DeepCopyInto(&next.ObjectMeta)
	}
	next.Labels, next.Subsets = labels, subsets
	for _, k := range []string{corev1.EndpointsOverCapacity, corev1.EndpointsLastChangeTriggerTime} {
		delete(next.Annotations, k)
	}
	if truncated {
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, corev1.EndpointsOverCapacity, overCapacityTruncated)
	}
	if at := trigger(changeTimes(service, pods, existing)); at != "" {
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, corev1.EndpointsLastChangeTriggerTime, at)
	}
	return next
}

// changeTimes lists when the things happened that changed the endpoints: for a new object the service's creation, else the
// changes of readiness of the pods that are not where they were.
func changeTimes(service *corev1.Service, pods []*corev1.Pod, existing *corev1.Endpoints) []time.Time {
	if existing == nil {
		return []time.Time{service.CreationTimestamp.Time}
	}
	ready := map[string]bool{}
	for _, s := range existing.Subsets {
		for i := range s.Addresses {
			ready[s.Addresses[i].IP] = true
		}
		for i := range s.NotReadyAddresses {
			ready[s.NotReadyAddresses[i].IP] = false
		}
	}
	var out []time.Time
	for _, pod := range pods {
		if ip, ok := address(pod, families(service)[0]); ok {
			if was, there := ready[ip]; !there || was != controller.PodReady(pod) {
				out = append(out, readySince(pod))
			}
		}
	}
	return out
}

// subsetsOf groups the pods by the ports that they serve, in a stable order.
func subsetsOf(service *corev1.Service, pods []*corev1.Pod) []corev1.EndpointSubset {
	byPorts := map[string]*corev1.EndpointSubset{}
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil && !service.Spec.PublishNotReadyAddresses {
			continue
		}
		ip, ok := address(pod, families(service)[0])
		if !ok {
			continue
		}
		ports := endpointPorts(service, pod)
		if len(ports) == 0 && len(service.Spec.Ports) > 0 {
			continue
		}
		key := subsetKey(ports)
		subset := byPorts[key]
		if subset == nil {
			subset = &corev1.EndpointSubset{Ports: ports}
			byPorts[key] = subset
		}
		a := corev1.EndpointAddress{
			IP: ip, Hostname: hostname(pod, service),
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		}
		if pod.Spec.NodeName != "" {
			a.NodeName = ptr.To(pod.Spec.NodeName)
		}
		if service.Spec.PublishNotReadyAddresses || controller.PodReady(pod) {
			subset.Addresses = append(subset.Addresses, a)
		} else {
			subset.NotReadyAddresses = append(subset.NotReadyAddresses, a)
		}
	}
	var out []corev1.EndpointSubset
	for _, key := range slices.Sorted(maps.Keys(byPorts)) {
		s := byPorts[key]
		for _, list := range [][]corev1.EndpointAddress{s.Addresses, s.NotReadyAddresses} {
			slices.SortFunc(list, func(a, b corev1.EndpointAddress) int {
				return cmp.Or(cmp.Compare(a.IP, b.IP), cmp.Compare(a.TargetRef.UID, b.TargetRef.UID))
			})
		}
		out = append(out, *s)
	}
	return out
}

// endpointPorts are the service's ports as the pod serves them, ordered by name, number and protocol.
func endpointPorts(service *corev1.Service, pod *corev1.Pod) []corev1.EndpointPort {
	var ports []corev1.EndpointPort
	for i := range service.Spec.Ports {
		p := &service.Spec.Ports[i]
		if n, ok := targetPort(pod, p); ok {
			ports = append(ports, corev1.EndpointPort{Name: p.Name, Port: n, Protocol: p.Protocol, AppProtocol: p.AppProtocol})
		}
	}
	slices.SortFunc(ports, func(a, b corev1.EndpointPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	return ports
}

func subsetKey(ports []corev1.EndpointPort) string {
	var b strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&b, "%s/%d/%s/%s;", p.Name, p.Port, p.Protocol, ptr.Deref(p.AppProtocol, ""))
	}
	return b.String()
}

// truncate cuts the subsets to the most that an Endpoints object may hold, ready addresses first, each subset in
// proportion to its size, and says whether it had to.
func truncate(subsets []corev1.EndpointSubset) bool {
	ready, unready := 0, 0
	for i := range subsets {
		ready += len(subsets[i].Addresses)
		unready += len(subsets[i].NotReadyAddresses)
	}
	if ready+unready <= maxPerEndpoints {
		return false
	}
	keepReady := min(ready, maxPerEndpoints)
	cut(subsets, keepReady, ready, func(s *corev1.EndpointSubset) *[]corev1.EndpointAddress { return &s.Addresses })
	cut(subsets, maxPerEndpoints-keepReady, unready, func(s *corev1.EndpointSubset) *[]corev1.EndpointAddress { return &s.NotReadyAddresses })
	return true
}

// cut keeps some of the addresses of a sort, over all subsets.
func cut(subsets []corev1.EndpointSubset, keep, of int, list func(*corev1.EndpointSubset) *[]corev1.EndpointAddress) {
	if keep >= of {
		return
	}
	left := keep
	for i := range subsets {
		l := list(&subsets[i])
		n := min(left, (len(*l)*keep+of-1)/max(of, 1))
		*l = (*l)[:n]
		left -= n
	}
}

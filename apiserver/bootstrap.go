package apiserver

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/kinds"
)

// bootstrapManager is the field manager of the objects that the server makes itself.
const bootstrapManager = "kube-apiserver"

// bootstrap makes what every cluster has: namespaces, priority classes, the given roles and bindings, and the Service by
// which pods reach the API. What is there already stays, but for what it lacks.
func (s *Server) bootstrap(ctx context.Context) error {
	var spaces, rest []kinds.Object
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		spaces = append(spaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	if err := s.ensureAll(ctx, spaces); err != nil {
		return err
	}
	rest = append(rest, s.Bootstrap...)
	rest = append(rest, systemPriorities()...)
	rest = append(rest, s.apiService(), &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{s.ServiceCIDR.Masked().String()}},
	})
	if s.advertise.Load().IsValid() {
		rest = append(rest, s.apiEndpoints()...)
	}
	return s.ensureAll(ctx, rest)
}

// SetAdvertise makes the Service kubernetes lead to another address, after the server has started with one.
func (s *Server) SetAdvertise(ctx context.Context, at netip.AddrPort) error {
	s.advertise.Store(&at)
	return s.ensureAll(ctx, s.apiEndpoints())
}

// bootstrapWriters is how many objects are written at once, so that they share the syncs to disk.
const bootstrapWriters = 32

// ensureAll makes sure of all objects whose kind the table has.
func (s *Server) ensureAll(ctx context.Context, objects []kinds.Object) error {
	l := s.Client(&auth.User{Name: "system:apiserver", Groups: []string{auth.GroupMasters, auth.GroupAuthenticated}})
	l.manager = bootstrapManager
	seats := make(chan struct{}, bootstrapWriters)
	errs := make([]error, len(objects))
	var wg sync.WaitGroup
	for i, obj := range objects {
		k := s.Table.Type(reflect.TypeOf(obj))
		if k == nil {
			continue
		}
		seats <- struct{}{}
		wg.Go(func() {
			defer func() { <-seats }()
			errs[i] = s.ensure(ctx, l, k, obj.DeepCopyObject().(kinds.Object))
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("ensure %T %s: %w", objects[i], objects[i].GetName(), err)
		}
	}
	return nil
}

// ensure creates an object, or adds to the one that is there what it lacks.
func (s *Server) ensure(ctx context.Context, l *Local, k *kinds.Kind, want kinds.Object) error {
	for {
		item := s.Store.Snapshot().Get(key(k, want.GetNamespace(), want.GetName()))
		if item == nil {
			_, err := l.Create(ctx, k, want.DeepCopyObject().(kinds.Object), metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) {
				continue
			}
			return err
		}
		next, replace := reconcile(want, item.Object)
		switch {
		case next == nil && !replace:
			return nil
		case replace: // a binding's role cannot be changed
			if err := l.Delete(ctx, k, want.GetNamespace(), want.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
			continue
		}
		_, err := l.Update(ctx, k, "", next, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) && ctx.Err() == nil {
			continue
		}
		return err
	}
}

// reconcile returns what an existing object must become, nil for no change, or that it must be replaced.
func reconcile(want, have kinds.Object) (next kinds.Object, replace bool) {
	if have.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] == "false" {
		return nil, false
	}
	out := have.DeepCopyObject().(kinds.Object)
	switch w := want.(type) {
	case *rbacv1.ClusterRole:
		role := out.(*rbacv1.ClusterRole)
		if w.AggregationRule != nil {
			role.AggregationRule = w.AggregationRule.DeepCopy() // a controller gathers the rules
		} else {
			role.Rules = withMissing(role.Rules, w.Rules)
		}
	case *rbacv1.Role:
		role := out.(*rbacv1.Role)
		role.Rules = withMissing(role.Rules, w.Rules)
	case *rbacv1.ClusterRoleBinding:
		b := out.(*rbacv1.ClusterRoleBinding)
		if b.RoleRef != w.RoleRef {
			return nil, true
		}
		b.Subjects = withMissing(b.Subjects, w.Subjects)
	case *rbacv1.RoleBinding:
		b := out.(*rbacv1.RoleBinding)
		if b.RoleRef != w.RoleRef {
			return nil, true
		}
		b.Subjects = withMissing(b.Subjects, w.Subjects)
	case *corev1.Endpoints:
		out.(*corev1.Endpoints).Subsets = w.Subsets
	case *discoveryv1.EndpointSlice:
		slice := out.(*discoveryv1.EndpointSlice)
		slice.Endpoints, slice.Ports = w.Endpoints, w.Ports
	default:
		return nil, false
	}
	out.SetLabels(withMissingKeys(out.GetLabels(), want.GetLabels()))
	out.SetAnnotations(withMissingKeys(out.GetAnnotations(), want.GetAnnotations()))
	if apiequality.Semantic.DeepEqual(out, have) {
		return nil, false
	}
	return out, false
}

func withMissing[T any](have, want []T) []T {
	for _, w := range want {
		if !slices.ContainsFunc(have, func(h T) bool { return apiequality.Semantic.DeepEqual(h, w) }) {
			have = append(have, w)
		}
	}
	return have
}

func withMissingKeys(have, want map[string]string) map[string]string {
	if len(want) == 0 {
		return have
	}
	out := maps.Clone(want)
	maps.Copy(out, have)
	return out
}

// systemPriorities are the two priority classes that every cluster has, with upstream's values.
func systemPriorities() []kinds.Object {
	lower := corev1.PreemptLowerPriority
	return []kinds.Object{
		&schedulingv1.PriorityClass{
			ObjectMeta: metav1.ObjectMeta{Name: "system-node-critical"}, Value: 2000001000, PreemptionPolicy: &lower,
			Description: "Used for system critical pods that must not be moved from their current node.",
		},
		&schedulingv1.PriorityClass{
			ObjectMeta: metav1.ObjectMeta{Name: "system-cluster-critical"}, Value: 2000000000, PreemptionPolicy: &lower,
			Description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
		},
	}
}

const (
	apiServiceName = "kubernetes"
	apiPortName    = "https"
)

// defaultAPIPort is where the Service leads when no address is advertised.
const defaultAPIPort = 6443

func (s *Server) apiPort() int32 {
	if s.advertise.Load().IsValid() {
		return int32(s.advertise.Load().Port())
	}
	return defaultAPIPort
}

// apiService is the Service by which pods reach the API, at the first address of the range.
func (s *Server) apiService() kinds.Object {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Name: apiServiceName, Namespace: metav1.NamespaceDefault,
		Labels: map[string]string{"provider": "kubernetes", "component": "apiserver"},
	}}
	svc.Spec = corev1.ServiceSpec{
		Type:            corev1.ServiceTypeClusterIP,
		SessionAffinity: corev1.ServiceAffinityNone,
		ClusterIP:       s.addresses.Nth(1).String(),
		Ports:           []corev1.ServicePort{{Name: apiPortName, Port: 443, Protocol: corev1.ProtocolTCP}},
	}
	svc.Spec.Ports[0].TargetPort.IntVal = s.apiPort()
	return svc
}

// apiEndpoints lead the Service to the advertised address.
func (s *Server) apiEndpoints() []kinds.Object {
	ip, port, name, tcp, ready := s.advertise.Load().Addr().String(), s.apiPort(), apiPortName, corev1.ProtocolTCP, true
	family := discoveryv1.AddressTypeIPv4
	if s.advertise.Load().Addr().Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	return []kinds.Object{
		&corev1.Endpoints{
			ObjectMeta: metav1.ObjectMeta{
				Name: apiServiceName, Namespace: metav1.NamespaceDefault,
				Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"},
			},
			Subsets: []corev1.EndpointSubset{{
				Addresses: []corev1.EndpointAddress{{IP: ip}},
				Ports:     []corev1.EndpointPort{{Name: name, Port: port, Protocol: tcp}},
			}},
		},
		&discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Name: apiServiceName, Namespace: metav1.NamespaceDefault,
				Labels: map[string]string{discoveryv1.LabelServiceName: apiServiceName},
			},
			AddressType: family,
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
			Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &tcp}},
		},
	}
}

package ingress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/kinds"
)

// writeRetry is how long the Controller rests after the API refused a write.
const writeRetry = 5 * time.Second

// ControllerOptions say what a Controller works on. They are not changed after NewController.
type ControllerOptions struct {
	// Client reads what a Server reads, and nodes, and must mirror them. It creates ingress classes, patches the status of
	// ingresses and writes events.
	Client *client.Client
	Logger *slog.Logger
}

// Controller looks after the Ingress objects of a cluster, beside the Servers that serve them.
type Controller struct {
	client   *client.Client
	logger   *slog.Logger
	recorder *client.Recorder

	// Of Run's goroutine alone:
	certs     certificates
	reported  map[report]bool // what events were written about
	ours      map[types.NamespacedName]bool
	secrets   map[types.NamespacedName]bool // that Ingresses name
	services  map[types.NamespacedName]bool
	addresses []networkingv1.IngressLoadBalancerIngress
}

// report is one fault of one Ingress.
type report struct {
	uid             types.UID
	reason, message string
}

// NewController returns a controller.
func NewController(opts ControllerOptions) *Controller {
	return &Controller{client: opts.Client, logger: opts.Logger, certs: certificates{}, reported: map[report]bool{},
		recorder: client.NewRecorder(opts.Client, "ingress-controller", opts.Logger)}
}

// Name is the component's name in logs.
func (c *Controller) Name() string { return "ingress-controller" }

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	made := false
	for ctx.Err() == nil {
		err := error(nil)
		if !made {
			err = c.makeClass(ctx)
			made = err == nil
		}
		if err == nil {
			err = c.follow(ctx)
		}
		switch {
		case ctx.Err() != nil || errors.Is(err, client.ErrClosed):
			return nil
		case errors.Is(err, client.ErrCompacted):
			continue
		}
		c.logger.Warn("ingresses are not up to date", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(writeRetry):
		}
	}
	return nil
}

// makeClass makes the class of this controller unless there is one, the default one unless there is one. It does so once at each
// start: who removes the class until then is heeded.
func (c *Controller) makeClass(ctx context.Context) error {
	class := &networkingv1.IngressClass{
		ObjectMeta: metav1.ObjectMeta{Name: ClassName, Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}},
		Spec:       networkingv1.IngressClassSpec{Controller: ControllerName},
	}
	for _, other := range client.List[*networkingv1.IngressClass](c.client, c.client.Snapshot(), "", nil) {
		if other.Spec.Controller == ControllerName {
			return nil
		}
		if other.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
			class.Annotations = nil
		}
	}
	if _, err := client.Create(ctx, c.client, class); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create ingress class %s: %w", ClassName, err)
	}
	return nil
}

// follow keeps status and events true until ctx ends, events are gone or a write fails.
func (c *Controller) follow(ctx context.Context) error {
	snapshot := c.client.Snapshot()
	f, err := client.OpenFeed(c.client, snapshot.Revision(), client.ResourceOf[*networkingv1.Ingress](c.client),
		client.ResourceOf[*networkingv1.IngressClass](c.client), client.ResourceOf[*corev1.Service](c.client),
		client.ResourceOf[*corev1.Secret](c.client), client.ResourceOf[*corev1.Node](c.client))
	if err != nil {
		return err
	}
	if err := c.reconcile(ctx, snapshot); err != nil {
		return err
	}
	var p pace
	var due <-chan time.Time
	for {
		events, expired, err := await(ctx, f, due)
		if err != nil {
			return err
		}
		stale := c.note(events)
		switch {
		case expired:
			start := time.Now()
			if err := c.reconcile(ctx, c.client.Snapshot()); err != nil {
				return err
			}
			p.took(start)
			due = nil
		case stale && due == nil:
			due = p.wait()
		}
	}
}

// note says whether events may change what reconcile does.
func (c *Controller) note(events []client.Event) (stale bool) {
	for _, e := range events {
		switch obj := e.Item.Object.(type) {
		case *networkingv1.Ingress:
			wrong := e.Type == client.Put && c.ours[nameOf(e.Item)] && !apiequality.Semantic.DeepEqual(obj.Status.LoadBalancer.Ingress, c.addresses)
			stale = stale || wrong || specChanged(e)
		case *networkingv1.IngressClass:
			stale = true
		case *corev1.Secret:
			stale = stale || c.secrets[nameOf(e.Item)]
		case *corev1.Service:
			stale = stale || c.services[nameOf(e.Item)]
		case *corev1.Node:
			stale = stale || addressesMoved(e)
		}
	}
	return stale
}

// addressesMoved says whether what happened to a node changes its part of addressesOf.
func addressesMoved(e client.Event) bool {
	var was, now []*corev1.Node
	if e.Prev != nil {
		was = append(was, e.Prev.Object.(*corev1.Node))
	}
	if e.Type == client.Put {
		now = append(now, e.Item.Object.(*corev1.Node))
	}
	return !apiequality.Semantic.DeepEqual(addressesOf(was), addressesOf(now))
}

// reconcile writes events about new faults, and the addresses into each status that lacks them.
func (c *Controller) reconcile(ctx context.Context, snapshot client.Snapshot) error {
	out := compile(worldOf(c.client, snapshot, c.certs, func(backendKey) *backend { return nil }))
	c.certs.forget(out.secrets)
	c.secrets, c.services = out.secrets, make(map[types.NamespacedName]bool, len(out.backends))
	for key := range out.backends {
		c.services[key.service] = true
	}
	c.report(snapshot, out.faults)
	c.addresses = addressesOf(client.List[*corev1.Node](c.client, snapshot, "", nil))
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"loadBalancer": map[string]any{"ingress": c.addresses}}})
	if err != nil {
		return fmt.Errorf("encode addresses: %w", err)
	}
	c.ours = make(map[types.NamespacedName]bool, len(out.ours))
	var failed error
	for _, i := range out.ours {
		c.ours[types.NamespacedName{Namespace: i.Namespace, Name: i.Name}] = true
		if apiequality.Semantic.DeepEqual(i.Status.LoadBalancer.Ingress, c.addresses) {
			continue
		}
		_, err := client.Patch[*networkingv1.Ingress](ctx, c.client, i.Namespace, i.Name, "status", types.MergePatchType, patch)
		if err != nil && !apierrors.IsNotFound(err) {
			failed = fmt.Errorf("write addresses of ingress %s/%s: %w", i.Namespace, i.Name, err)
		}
	}
	return failed
}

// report writes an event about each fault that was not there the last time, for bad Secrets about them too.
func (c *Controller) report(snapshot client.Snapshot, faults []fault) {
	now := make(map[report]bool, len(faults))
	for _, f := range faults {
		r := report{f.object.GetUID(), f.reason, f.message}
		if !now[r] && !c.reported[r] {
			c.recorder.Event(f.object, corev1.EventTypeWarning, f.reason, "%s", f.message)
			if secret, ok := client.From[*corev1.Secret](c.client, snapshot, f.secret.Namespace, f.secret.Name); ok {
				c.recorder.Event(secret, corev1.EventTypeWarning, f.reason, "ingress %s: %s", f.object.GetName(), f.message)
			}
		}
		now[r] = true
	}
	c.reported = now
}

// addressesOf are the addresses that clients reach the ingress at: those of the nodes that serve it.
func addressesOf(nodes []*corev1.Node) []networkingv1.IngressLoadBalancerIngress {
	var addrs []netip.Addr
	for _, n := range nodes {
		if kinds.ServesIngress(n) {
			addrs = append(addrs, kinds.BalancerAddresses(n)...)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	out := make([]networkingv1.IngressLoadBalancerIngress, 0, len(addrs))
	for _, addr := range slices.Compact(addrs) {
		out = append(out, networkingv1.IngressLoadBalancerIngress{IP: addr.String()})
	}
	return out
}

// Package simulate plays nodes whose pods "run" at once: the API, the controllers and the scheduler are put to work as by a
// large cluster, with nothing behind it. cli imports it for `keb node simulate`, testcluster for scale tests.
package simulate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/client"
)

const (
	// leasePeriod is how often a node renews its lease, a quarter of upstream's 40 s duration, as the kubelet does.
	leaseSeconds = 40
	leasePeriod  = leaseSeconds * time.Second / 4
	// atOnce bounds the requests under way.
	atOnce = 32
)

// Label marks simulated nodes; its value is "true".
const Label = "keb.dev/simulated"

// Options say what to play. Client must mirror pods and nodes.
type Options struct {
	Client *client.Client
	Count  int    // nodes
	Prefix string // of their names; "sim-" when empty
	Logger *slog.Logger
}

// Simulator plays the nodes. It is a component.
type Simulator struct {
	Options
	mine map[string]bool
}

// New returns a simulator.
func New(o Options) *Simulator {
	if o.Prefix == "" {
		o.Prefix = "sim-"
	}
	s := &Simulator{Options: o, mine: map[string]bool{}}
	for i := range o.Count {
		s.mine[s.node(i)] = true
	}
	return s
}

func (s *Simulator) node(i int) string { return fmt.Sprintf("%s%d", s.Prefix, i) }

// Name is the component's name.
func (s *Simulator) Name() string { return "simulator" }

// Run makes the nodes and plays their kubelets until ctx is done. The node objects stay.
func (s *Simulator) Run(ctx context.Context) error {
	if err := s.register(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.renew(ctx) })
	g.Go(func() error { return s.follow(ctx) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (s *Simulator) register(ctx context.Context) error {
	return s.each(ctx, func(i int) error {
		node := s.newNode(i, metav1.Now())
		_, err := client.Create(ctx, s.Client, node)
		if apierrors.IsAlreadyExists(err) {
			err = nil
		}
		return err
	})
}

// each calls f for every node, several at a time.
func (s *Simulator) each(ctx context.Context, f func(i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i := range s.Count {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { return f(i) })
	}
	return g.Wait()
}

func (s *Simulator) newNode(i int, now metav1.Time) *corev1.Node {
	capacity := corev1.ResourceList{
		corev1.ResourceCPU:              resource.MustParse("32"),
		corev1.ResourceMemory:           resource.MustParse("64Gi"),
		corev1.ResourcePods:             resource.MustParse("110"),
		corev1.ResourceEphemeralStorage: resource.MustParse("500Gi"),
	}
	name := s.node(i)
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			Label: "true", corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
			corev1.LabelTopologyZone: fmt.Sprintf("zone-%d", i%3),
		}},
		Status: corev1.NodeStatus{
			Capacity: capacity, Allocatable: capacity,
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}},
			Conditions: []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "simulated",
				LastHeartbeatTime: now, LastTransitionTime: now,
			}},
		},
	}
}

// renew keeps the leases fresh, a few at a time over the whole period.
func (s *Simulator) renew(ctx context.Context) error {
	tick := time.NewTicker(max(leasePeriod/time.Duration(max(s.Count, 1)), time.Millisecond))
	defer tick.Stop()
	for i := 0; ; i = (i + 1) % max(s.Count, 1) {
		if err := s.renewLease(ctx, s.node(i)); err != nil && ctx.Err() == nil {
			s.Logger.Warn("lease not renewed", "node", s.node(i), "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (s *Simulator) renewLease(ctx context.Context, name string) error {
	seconds, now := int32(leaseSeconds), metav1.NowMicro()
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &seconds, RenewTime: &now},
	}
	_, err := client.Update(ctx, s.Client, lease)
	if apierrors.IsNotFound(err) {
		_, err = client.Create(ctx, s.Client, lease)
	}
	return err
}

// follow runs every pod that is bound to a simulated node.
func (s *Simulator) follow(ctx context.Context) error {
	resource := client.ResourceOf[*corev1.Pod](s.Client)
	for ctx.Err() == nil {
		snapshot := s.Client.Snapshot()
		watch, err := s.Client.Watch(resource, snapshot.Revision())
		if err != nil {
			return fmt.Errorf("watch pods: %w", err)
		}
		s.play(ctx, client.List[*corev1.Pod](s.Client, snapshot, "", nil))
		for {
			events, _, err := watch.Next(ctx)
			if errors.Is(err, client.ErrCompacted) {
				break
			}
			if err != nil {
				return fmt.Errorf("watch pods: %w", err)
			}
			var pods []*corev1.Pod
			for _, e := range events {
				if e.Type == client.Put {
					pods = append(pods, e.Item.Object.(*corev1.Pod))
				}
			}
			s.play(ctx, pods)
		}
	}
	return ctx.Err()
}

// play takes each pod one step further, several at a time.
func (s *Simulator) play(ctx context.Context, pods []*corev1.Pod) {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, p := range pods {
		if s.mine[p.Spec.NodeName] {
			g.Go(func() error {
				if err := s.step(ctx, p); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
					s.Logger.Warn("pod not played", "pod", p.Namespace+"/"+p.Name, "err", err)
				}
				return nil
			})
		}
	}
	_ = g.Wait() // step's errors were logged
}

func (s *Simulator) step(ctx context.Context, p *corev1.Pod) error {
	switch {
	case p.DeletionTimestamp != nil:
		now := int64(0)
		return client.Remove[*corev1.Pod](ctx, s.Client, p.Namespace, p.Name, metav1.DeleteOptions{
			GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &p.UID},
		})
	case p.Status.Phase == corev1.PodPending:
		_, err := client.UpdateStatus(ctx, s.Client, running(p, metav1.Now()))
		return err
	}
	return nil
}

// running is the pod as a kubelet would report it once all its containers run and are ready.
func running(p *corev1.Pod, now metav1.Time) *corev1.Pod {
	p = p.DeepCopy()
	ip := address(string(p.UID))
	p.Status.Phase, p.Status.StartTime = corev1.PodRunning, &now
	p.Status.PodIP, p.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
	p.Status.ObservedGeneration = p.Generation
	p.Status.ContainerStatuses = nil
	started := true
	for _, c := range p.Spec.Containers {
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, Ready: true, Started: &started,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		})
	}
	kept := p.Status.Conditions[:0]
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled {
			kept = append(kept, c)
		}
	}
	for _, t := range []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady} {
		kept = append(kept, corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, LastTransitionTime: now, ObservedGeneration: p.Generation})
	}
	p.Status.Conditions = kept
	return p
}

// address makes up a pod address from the range that RFC 2544 sets aside for tests of this kind.
func address(uid string) string {
	h := uint32(2166136261) // FNV-1a
	for i := range len(uid) {
		h = (h ^ uint32(uid[i])) * 16777619
	}
	return netip.AddrFrom4([4]byte{198, 18 + byte(h>>16)&1, byte(h >> 8), byte(h)}).String()
}

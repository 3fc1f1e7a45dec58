// Package scheduler gives pods their nodes. The cluster lies in columns (one array per property of the nodes), kept up to
// date from the feed of pods and nodes; pick chooses nodes for whole runs of equal pods, as a pure function over the columns and two tables,
// of filters and of scores; the loop binds many pods in one commit and takes their room as given until the feed shows it.
// daemon runs it; nobody else imports it.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
)

// Options are what a Scheduler needs. Both are required.
type Options struct {
	// Client acts as system:kube-scheduler.
	Client *client.Client
	Logger *slog.Logger
}

// Scheduler is the component. It schedules the pods whose schedulerName is default-scheduler.
type Scheduler struct {
	client   *client.Client
	recorder *client.Recorder
	log      *slog.Logger

	columns *columns
	classes *classes
	picker  *picker
	queue   *queue
	// changed is what happened since parked pods were last woken.
	changed changes
	// ungated are pods with gates whose condition does not say so yet.
	ungated []*corev1.Pod
	// binding are the pods that have a node and wait for their claims; claimsMoved tells that some of these may be bound now.
	binding     map[types.UID]*binding
	claimsMoved bool
	// promised and given are the claims, with where, and the volumes that pods of this batch were promised.
	promised map[types.UID]offer
	given    map[types.UID]bool
	// services changes with every change of a Service.
	services uint64
}

// New returns a scheduler.
func New(o Options) (*Scheduler, error) {
	if o.Client == nil || o.Logger == nil {
		return nil, errors.New("scheduler: client and logger are required")
	}
	s := &Scheduler{
		client:   o.Client,
		recorder: client.NewRecorder(o.Client, corev1.DefaultSchedulerName, o.Logger),
		log:      o.Logger,
		promised: map[types.UID]offer{},
		given:    map[types.UID]bool{},
	}
	s.reset()
	return s, nil
}

// reset forgets the cluster.
func (s *Scheduler) reset() {
	s.columns = newColumns()
	s.classes = newClasses(s.columns)
	s.picker = newPicker(s.columns)
	s.queue = newQueue()
	s.changed = newChanges()
	s.binding = map[types.UID]*binding{}
	s.services++
}

// Name names the component.
func (s *Scheduler) Name() string { return "scheduler" }

// Run schedules until ctx ends.
func (s *Scheduler) Run(ctx context.Context) error {
	for {
		err := s.follow(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, client.ErrCompacted):
			s.log.Debug("scheduler fell behind the feed; starts again from a snapshot")
		default:
			return fmt.Errorf("scheduler: %w", err)
		}
	}
}

// feed is a watch and what takes in its events.
type feed struct {
	watch *client.Watch
	take  func(client.Event)
}

// feedOf watches a resource, in a cluster that knows it.
func feedOf[T client.Object](s *Scheduler, after int64, take func(client.Event, T)) (feed, error) {
	if !knows[T](s.client) {
		return feed{}, nil
	}
	w, err := s.client.Watch(client.ResourceOf[T](s.client), after)
	return feed{w, func(e client.Event) { take(e, e.Item.Object.(T)) }}, err
}

// knows tells whether the cluster has a kind.
func knows[T client.Object](c *client.Client) bool {
	return c.Table().Type(reflect.TypeFor[T]()) != nil
}

// feeds opens all watches, in the order in which they are to be drained: a pod's event may name a node that is new.
func (s *Scheduler) feeds(after int64) (out [9]feed, err error) {
	var errs [len(out)]error
	out[0], errs[0] = feedOf(s, after, s.nodeEvent)
	out[1], errs[1] = feedOf(s, after, s.namespaceEvent)
	out[2], errs[2] = feedOf(s, after, s.csiNodeEvent)
	out[3], errs[3] = feedOf(s, after, func(client.Event, *corev1.Service) { s.services++ })
	out[4], errs[4] = feedOf(s, after, func(client.Event, *storagev1.StorageClass) { s.changed.storage = true })
	out[5], errs[5] = feedOf(s, after, func(client.Event, *storagev1.CSIStorageCapacity) { s.changed.storage = true })
	out[6], errs[6] = feedOf(s, after, func(client.Event, *corev1.PersistentVolume) { s.changed.storage, s.claimsMoved = true, true })
	out[7], errs[7] = feedOf(s, after, func(_ client.Event, c *corev1.PersistentVolumeClaim) {
		s.changed.claims[c.Namespace+"/"+c.Name], s.claimsMoved = true, true
	})
	out[8], errs[8] = feedOf(s, after, s.podEvent)
	return out, errors.Join(errs[:]...)
}

// follow loads a snapshot and goes on from it until a watch breaks or ctx ends.
func (s *Scheduler) follow(ctx context.Context) error {
	snapshot := s.client.Snapshot()
	feeds, err := s.feeds(snapshot.Revision())
	if err != nil {
		return err
	}
	s.load(snapshot)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		for _, f := range feeds {
			if err := s.drain(ctx, f); err != nil {
				return err
			}
		}
		now := time.Now()
		if s.claimsMoved || s.overdue(now) {
			s.settle(ctx, now)
		}
		s.wake()
		if batch := s.queue.take(batchSize, now); len(batch) > 0 || len(s.ungated) > 0 {
			s.schedule(ctx, batch, now)
			if ctx.Err() == nil {
				continue
			}
		}
		if at, ok := s.next(); ok {
			timer.Reset(time.Until(at))
		} else {
			timer.Stop()
		}
		if err := wait(ctx, feeds, timer); err != nil {
			return err
		}
	}
}

// wait returns once there is something to do.
func wait(ctx context.Context, feeds [9]feed, timer *time.Timer) error {
	var pending [len(feeds)]<-chan struct{}
	for i, f := range feeds {
		if f.watch != nil {
			pending[i] = f.watch.Pending()
		}
	}
	select {
	case <-pending[0]:
	case <-pending[1]:
	case <-pending[2]:
	case <-pending[3]:
	case <-pending[4]:
	case <-pending[5]:
	case <-pending[6]:
	case <-pending[7]:
	case <-pending[8]:
	case <-timer.C:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// next is when something is due: the end of a back-off, or of the wait for claims.
func (s *Scheduler) next() (at time.Time, ok bool) {
	at, ok = s.queue.next()
	for _, b := range s.binding {
		if end := b.since.Add(mostWait); !ok || end.Before(at) {
			at, ok = end, true
		}
	}
	return at, ok
}

// overdue tells whether a pod has waited for its claims too long.
func (s *Scheduler) overdue(now time.Time) bool {
	for _, b := range s.binding {
		if now.Sub(b.since) >= mostWait {
			return true
		}
	}
	return false
}

// drain takes in what a watch has, without waiting.
func (s *Scheduler) drain(ctx context.Context, f feed) error {
	for f.watch != nil {
		select {
		case <-f.watch.Pending():
		default:
			return nil
		}
		events, _, err := f.watch.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			f.take(e)
		}
	}
	return nil
}

// load builds the columns from a snapshot. Pods that wait keep their back-off, and pods that were bound but are not yet seen
// bound their room; those that only wait for their claims look again.
func (s *Scheduler) load(snapshot client.Snapshot) {
	before, waiting, unbound := s.columns, s.queue.entries, s.binding
	s.reset()
	if knows[*corev1.Namespace](s.client) {
		for _, n := range client.List[*corev1.Namespace](s.client, snapshot, "", nil) {
			s.columns.setNamespace(n.Name, n.Labels)
		}
	}
	if knows[*storagev1.CSINode](s.client) {
		for _, n := range client.List[*storagev1.CSINode](s.client, snapshot, "", nil) {
			s.columns.setLimits(n.Name, limitsOf(n))
		}
	}
	for _, n := range client.List[*corev1.Node](s.client, snapshot, "", nil) {
		s.columns.setNode(n)
	}
	for _, p := range client.List[*corev1.Pod](s.client, snapshot, "", nil) {
		old := before.placed[p.UID]
		if old != nil && old.assumed && p.Spec.NodeName == "" && unbound[p.UID] == nil {
			s.columns.place(s.placedAt(p, old.node, true))
		}
		s.podChanged(p)
		if now := s.columns.placed[p.UID]; now != nil && old != nil {
			now.victim = old.victim
		}
		if e, old := s.queue.entries[p.UID], waiting[p.UID]; e != nil && old != nil {
			e.attempts, e.tried, e.refusal, e.told = old.attempts, old.tried, old.refusal, old.told
			s.columns.nominate(e, old.nominated)
		}
	}
}

// placedAt returns a pod as it takes room on a node.
func (s *Scheduler) placedAt(p *corev1.Pod, node string, assumed bool) *placed {
	out := &placed{uid: p.UID, node: node, class: s.classes.of(p), kin: s.columns.kinOf(p), assumed: assumed, pod: p}
	if p.Spec.Priority != nil {
		out.priority = *p.Spec.Priority
	}
	out.attaches = s.attachesOf(out.class)
	return out
}

func (s *Scheduler) nodeEvent(e client.Event, n *corev1.Node) {
	if e.Type == client.Delete {
		s.columns.dropNode(n.Name)
		s.changed.domains = true
		// Room that was kept there is no more.
		for uid, p := range s.columns.nominated {
			if waiting := s.queue.entries[uid]; p.node == n.Name && waiting != nil {
				s.columns.nominate(waiting, "")
				s.queue.unpark(waiting)
			}
		}
		return
	}
	better, moved := s.columns.setNode(n)
	if better {
		s.changed.slots[s.columns.slots[n.Name]] = true
	}
	s.changed.domains = s.changed.domains || moved
}

func (s *Scheduler) namespaceEvent(e client.Event, n *corev1.Namespace) {
	set := n.Labels
	if e.Type == client.Delete {
		set = nil
	}
	s.changed.namespaces = s.columns.setNamespace(n.Name, set) || s.changed.namespaces
}

func (s *Scheduler) csiNodeEvent(e client.Event, n *storagev1.CSINode) {
	limits := limitsOf(n)
	if e.Type == client.Delete {
		limits = nil
	}
	s.columns.setLimits(n.Name, limits)
	if i, ok := s.columns.slots[n.Name]; ok {
		s.changed.slots[i] = true
	}
	s.changed.storage = true
}

// limitsOf reads how many volumes of each driver a node takes.
func limitsOf(n *storagev1.CSINode) map[string]int32 {
	var out map[string]int32
	for _, d := range n.Spec.Drivers {
		if d.Allocatable == nil || d.Allocatable.Count == nil {
			continue
		}
		if out == nil {
			out = map[string]int32{}
		}
		out[d.Name] = *d.Allocatable.Count
	}
	return out
}

func (s *Scheduler) podEvent(e client.Event, p *corev1.Pod) {
	if e.Type == client.Delete {
		s.podGone(p)
		return
	}
	s.podChanged(p)
}

func (s *Scheduler) podGone(p *corev1.Pod) {
	s.dequeue(p.UID)
	delete(s.binding, p.UID)
	s.left(s.columns.remove(p.UID))
}

func (s *Scheduler) podChanged(p *corev1.Pod) {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		s.podGone(p)
		return
	}
	if p.Spec.NodeName != "" {
		s.podBound(p)
		return
	}
	if b := s.binding[p.UID]; b != nil {
		if b.entry.pod = p; p.DeletionTimestamp != nil {
			s.podGone(p)
		}
		return
	}
	if s.columns.placed[p.UID] != nil {
		return // an older state of a pod that was bound since
	}
	if p.DeletionTimestamp != nil || p.Spec.SchedulerName != corev1.DefaultSchedulerName {
		s.dequeue(p.UID)
		return
	}
	if e := s.queue.put(p, s.read); e.nominated != "" {
		s.columns.nominate(e, e.nominated)
	} else if at := p.Status.NominatedNodeName; at != "" && e.attempts == 0 {
		// A run before this one, or another component, made room for it.
		s.columns.nominate(e, at)
	}
	if len(p.Spec.SchedulingGates) > 0 && conditionDiffers(p, gatedCondition(p)) {
		s.ungated = append(s.ungated, p)
	}
}

// read finds what a pod has in common with others.
func (s *Scheduler) read(p *corev1.Pod) (*class, *kin) { return s.classes.of(p), s.columns.kinOf(p) }

// dequeue forgets that a pod waits.
func (s *Scheduler) dequeue(uid types.UID) {
	s.queue.drop(uid)
	if p := s.columns.nominated[uid]; p != nil {
		delete(s.columns.nominated, uid)
		s.left(p)
	}
}

// podBound counts a pod on its node, unless it is counted there as it is.
func (s *Scheduler) podBound(p *corev1.Pod) {
	s.dequeue(p.UID)
	delete(s.binding, p.UID)
	old := s.columns.placed[p.UID]
	if old != nil && old.node == p.Spec.NodeName && sameLabels(old.pod, p) &&
		(old.assumed || old.pod.Generation == p.Generation && !resizes(p) && !resizes(old.pod)) {
		old.assumed, old.pod = false, p
		return
	}
	now := s.placedAt(p, p.Spec.NodeName, false)
	if old != nil {
		now.victim = old.victim
		if old.node != now.node || old.kin != now.kin || !slices.Equal(old.class.requests, now.class.requests) {
			s.left(old)
		}
		s.columns.remove(p.UID)
	}
	s.columns.place(now)
	s.changed.came[sortOf{now.kin, now.class}] = true
}

// sameLabels tells whether no selector tells two states of a pod apart.
func sameLabels(a, b *corev1.Pod) bool {
	return (a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) && maps.Equal(a.Labels, b.Labels)
}

// resizes tells whether a pod's resources are being changed in place, during which the node may grant it others than its spec names.
func resizes(p *corev1.Pod) bool {
	for i := range p.Status.Conditions {
		if t := p.Status.Conditions[i].Type; t == corev1.PodResizePending || t == corev1.PodResizeInProgress {
			return true
		}
	}
	return false
}

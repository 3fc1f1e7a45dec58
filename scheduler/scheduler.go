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
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	changed change
	// ungated are pods with gates whose condition does not say so yet.
	ungated []*corev1.Pod
}

// New returns a scheduler.
func New(o Options) (*Scheduler, error) {
	if o.Client == nil || o.Logger == nil {
		return nil, errors.New("scheduler: client and logger are required")
	}
	return &Scheduler{
		client:   o.Client,
		recorder: client.NewRecorder(o.Client, corev1.DefaultSchedulerName, o.Logger),
		log:      o.Logger,
		queue:    newQueue(),
	}, nil
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

// follow loads a snapshot and goes on from it until a watch breaks or ctx ends.
func (s *Scheduler) follow(ctx context.Context) error {
	snapshot := s.client.Snapshot()
	nodes, err := s.client.Watch(client.ResourceOf[*corev1.Node](s.client), snapshot.Revision())
	if err != nil {
		return err
	}
	pods, err := s.client.Watch(client.ResourceOf[*corev1.Pod](s.client), snapshot.Revision())
	if err != nil {
		return err
	}
	s.load(snapshot)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		// Nodes first: a pod's event may name a node that is new.
		if err := s.drain(ctx, nodes, s.nodeEvent); err != nil {
			return err
		}
		if err := s.drain(ctx, pods, s.podEvent); err != nil {
			return err
		}
		s.queue.wake(s.changed)
		s.changed = change{}
		now := time.Now()
		if batch := s.queue.take(batchSize, now); len(batch) > 0 || len(s.ungated) > 0 {
			s.schedule(ctx, batch, now)
			if ctx.Err() == nil {
				continue
			}
		}
		if at, ok := s.queue.next(); ok {
			timer.Reset(time.Until(at))
		} else {
			timer.Stop()
		}
		select {
		case <-nodes.Pending():
		case <-pods.Pending():
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// drain takes in what a watch has, without waiting.
func (s *Scheduler) drain(ctx context.Context, w *client.Watch, take func(client.Event)) error {
	for {
		select {
		case <-w.Pending():
		default:
			return nil
		}
		events, _, err := w.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			take(e)
		}
	}
}

// load builds the columns from a snapshot. Pods that wait keep their back-off, and pods that were bound but are not yet seen bound their room.
func (s *Scheduler) load(snapshot client.Snapshot) {
	before := s.columns
	s.columns = newColumns()
	s.classes = newClasses(s.columns)
	s.picker = newPicker(s.columns)
	for _, n := range client.List[*corev1.Node](s.client, snapshot, "", nil) {
		s.columns.setNode(n)
	}
	waiting := s.queue.entries
	victims := map[types.UID]bool{}
	if before != nil {
		for uid, p := range before.placed {
			victims[uid] = p.victim
		}
	}
	s.queue = newQueue()
	for _, p := range client.List[*corev1.Pod](s.client, snapshot, "", nil) {
		if before != nil && p.Spec.NodeName == "" {
			if old := before.placed[p.UID]; old != nil && old.assumed {
				s.columns.place(&placed{uid: p.UID, node: old.node, class: s.classes.of(p), group: old.group, priority: old.priority, assumed: true, pod: p})
			}
		}
		s.podChanged(p)
		if victims[p.UID] && s.columns.placed[p.UID] != nil {
			s.columns.placed[p.UID].victim = true
		}
		if e, old := s.queue.entries[p.UID], waiting[p.UID]; e != nil && old != nil {
			e.attempts, e.tried, e.refusal, e.told = old.attempts, old.tried, old.refusal, old.told
			s.columns.nominate(e, old.nominated)
		}
	}
}

func (s *Scheduler) nodeEvent(e client.Event) {
	n := e.Item.Object.(*corev1.Node)
	if e.Type == client.Delete {
		s.columns.dropNode(n.Name)
		return
	}
	s.changed.node = s.columns.setNode(n) || s.changed.node
}

func (s *Scheduler) podEvent(e client.Event) {
	p := e.Item.Object.(*corev1.Pod)
	if e.Type == client.Delete {
		s.podGone(p)
		return
	}
	s.podChanged(p)
}

func (s *Scheduler) podGone(p *corev1.Pod) {
	s.dequeue(p.UID)
	s.changed.room = s.columns.remove(p.UID) || s.changed.room
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
	if s.columns.placed[p.UID] != nil {
		return // an older state of a pod that was bound since
	}
	if p.DeletionTimestamp != nil || p.Spec.SchedulerName != corev1.DefaultSchedulerName {
		s.dequeue(p.UID)
		return
	}
	if e := s.queue.put(p, s.classes.of); e.nominated != "" {
		s.columns.nominate(e, e.nominated)
	} else if at := p.Status.NominatedNodeName; at != "" && e.attempts == 0 {
		// A run before this one, or another component, made room for it.
		s.columns.nominate(e, at)
	}
	if len(p.Spec.SchedulingGates) > 0 && conditionDiffers(p, gatedCondition(p)) {
		s.ungated = append(s.ungated, p)
	}
}

// dequeue forgets that a pod waits.
func (s *Scheduler) dequeue(uid types.UID) {
	s.queue.drop(uid)
	if s.columns.nominated[uid] != nil {
		delete(s.columns.nominated, uid)
		s.changed.room = true
	}
}

// podBound counts a pod on its node, unless it is counted there as it is.
func (s *Scheduler) podBound(p *corev1.Pod) {
	s.dequeue(p.UID)
	old := s.columns.placed[p.UID]
	if old != nil && old.node == p.Spec.NodeName && (old.assumed || old.pod.Generation == p.Generation && !resizes(p) && !resizes(old.pod)) {
		old.assumed, old.pod = false, p
		return
	}
	priority := int32(0)
	if p.Spec.Priority != nil {
		priority = *p.Spec.Priority
	}
	now := &placed{uid: p.UID, node: p.Spec.NodeName, class: s.classes.of(p), group: groupOf(p), priority: priority, pod: p}
	if old != nil {
		now.victim = old.victim
		s.changed.room = s.changed.room || old.node != now.node || !slices.Equal(old.class.requests, now.class.requests)
		s.columns.remove(p.UID)
	}
	s.columns.place(now)
	s.changed.added = true
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

// groupOf names the pods that a pod is to be spread with: those of its controller.
func groupOf(p *corev1.Pod) groupKey {
	if owner := metav1.GetControllerOfNoCopy(p); owner != nil {
		return groupKey{p.Namespace, owner.UID}
	}
	return groupKey{}
}

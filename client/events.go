package client

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// How a Recorder keeps a fault that repeats from filling the store. The numbers are those that client-go's correlator uses,
// so that `kubectl describe` shows here what it shows elsewhere.
const (
	similarWindow  = 10 * time.Minute // events that repeat within it are counted, not created
	similarMost    = 10               // different messages of one reason within the window before they are combined
	objectBurst    = 25               // events an object may have at once …
	objectRefill   = 5 * time.Minute  // … and how long until it may have one more
	recorderMemory = 4096             // distinct events and objects remembered
	recorderQueue  = 1000             // events waiting to be written before new ones are dropped
	combinedPrefix = "(combined from similar events): "
)

// Recorder writes Events about objects: repeated ones are counted, floods are cut. It never blocks its caller: events
// wait in a bounded queue that a goroutine drains and ends with. Safe for concurrent use.
type Recorder struct {
	c         *Client
	component string
	host      string
	log       *slog.Logger
	state     *recorderState
}

// recorderState is shared by the recorders that OnHost derives.
type recorderState struct {
	mu       sync.Mutex
	queue    []*corev1.Event
	dropped  int // since the queue was last empty
	draining bool
	known    map[eventKey]*seen
	groups   map[eventKey]*group
	budgets  map[types.UID]*budget
}

type eventKey struct {
	uid                            types.UID
	name, field, typ, reason, note string
}

type seen struct {
	namespace, name string
	count           int32
	first, last     time.Time
}

type group struct {
	messages []string // similarMost at most; most groups have one
	since    time.Time
}

type budget struct {
	left float64
	at   time.Time
}

// NewRecorder returns a recorder that writes events as coming from component ("kubelet", "default-scheduler").
func NewRecorder(c *Client, component string, logger *slog.Logger) *Recorder {
	return &Recorder{c: c, component: component, log: logger, state: &recorderState{
		known: map[eventKey]*seen{}, groups: map[eventKey]*group{}, budgets: map[types.UID]*budget{},
	}}
}

// OnHost returns a recorder whose events name the node that they come from.
func (r *Recorder) OnHost(host string) *Recorder {
	out := *r
	out.host = host
	return &out
}

// Event records something that happened to obj. eventType is corev1.EventTypeNormal or EventTypeWarning, reason a
// CamelCase word, the rest a message for people.
func (r *Recorder) Event(obj Object, eventType, reason, messageFmt string, args ...any) {
	r.EventAt(obj, "", eventType, reason, messageFmt, args...)
}

// EventAt is Event about a part of obj: fieldPath is "spec.containers{name}" for a container.
func (r *Recorder) EventAt(obj Object, fieldPath, eventType, reason, messageFmt string, args ...any) {
	gvk := r.gvk(obj)
	apiVersion, kind := gvk.ToAPIVersionAndKind()
	r.Record(&corev1.ObjectReference{
		APIVersion: apiVersion, Kind: kind, Namespace: obj.GetNamespace(), Name: obj.GetName(), UID: obj.GetUID(),
		ResourceVersion: obj.GetResourceVersion(), FieldPath: fieldPath,
	}, eventType, reason, messageFmt, args...)
}

// Record records something about an object that is known only by reference.
func (r *Recorder) Record(ref *corev1.ObjectReference, eventType, reason, messageFmt string, args ...any) {
	now := metav1.Now()
	namespace := ref.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	event := &corev1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: namespace, Name: eventName(ref.Name, now.UnixNano())},
		InvolvedObject:      *ref,
		Type:                eventType,
		Reason:              reason,
		Message:             fmt.Sprintf(messageFmt, args...),
		Source:              corev1.EventSource{Component: r.component, Host: r.host},
		ReportingController: r.component,
		ReportingInstance:   r.host,
		FirstTimestamp:      now,
		LastTimestamp:       now,
		Count:               1,
	}
	s := r.state
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) >= recorderQueue {
		s.dropped++
		return
	}
	s.queue = append(s.queue, event)
	if !s.draining {
		s.draining = true
		go r.drain()
	}
}

// gvk names the type of obj: objects in memory carry no apiVersion and kind of their own.
func (r *Recorder) gvk(obj Object) schema.GroupVersionKind {
	k := r.c.table.Type(reflect.TypeOf(obj))
	if k == nil {
		return obj.GetObjectKind().GroupVersionKind()
	}
	return schema.GroupVersionKind{Group: k.Group, Version: k.Storage().Name, Kind: k.Kind}
}

// drain writes what waits and ends when nothing does.
func (r *Recorder) drain() {
	s := r.state
	for {
		s.mu.Lock()
		if len(s.queue) == 0 {
			dropped := s.dropped
			s.draining, s.queue, s.dropped = false, nil, 0
			s.mu.Unlock()
			if dropped > 0 {
				r.log.Warn("events dropped: too many were waiting", "dropped", dropped)
			}
			return
		}
		event := s.queue[0]
		s.queue = s.queue[1:]
		count, known := s.correlate(event)
		s.mu.Unlock()
		if count == 0 {
			continue
		}
		if err := r.write(event, count, known); err != nil && !gone(err) {
			r.log.Warn("event not written", "reason", event.Reason, "object", event.InvolvedObject.Name, "err", err)
		}
	}
}

// gone says that there is nothing left to write about: the namespace is going away, or the server is.
func gone(err error) bool {
	return apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || apierrors.IsNotFound(err)
}

func (r *Recorder) write(event *corev1.Event, count int32, known *seen) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if count > 1 {
		patch, err := json.Marshal(map[string]any{"count": count, "lastTimestamp": event.LastTimestamp, "message": event.Message})
		if err != nil {
			return fmt.Errorf("encode event %s: %w", event.Name, err)
		}
		_, err = Patch[*corev1.Event](ctx, r.c, known.namespace, known.name, "", types.MergePatchType, patch)
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
	stamp := event.FirstTimestamp.UnixNano()
	_, err := Create(ctx, r.c, event.DeepCopy())
	for apierrors.IsAlreadyExists(err) {
		// Another event about an object of that name at the very same time.
		stamp++
		event.Name = eventName(event.InvolvedObject.Name, stamp)
		known.name = event.Name
		_, err = Create(ctx, r.c, event.DeepCopy())
	}
	return err
}

// eventName names an event for its object and the time in nanoseconds, as upstream does.
func eventName(object string, stamp int64) string { return fmt.Sprintf("%s.%x", object, stamp) }

// correlate decides what becomes of an event: 0 drops it, 1 creates it, more counts up the one known. The caller holds mu.
func (s *recorderState) correlate(e *corev1.Event) (int32, *seen) {
	now := e.LastTimestamp.Time
	if !s.allowed(e.InvolvedObject.UID, now) {
		return 0, nil
	}
	key := eventKey{uid: e.InvolvedObject.UID, name: e.InvolvedObject.Name, field: e.InvolvedObject.FieldPath, typ: e.Type, reason: e.Reason}
	if len(s.groups) >= recorderMemory {
		clear(s.groups)
	}
	g := s.groups[key]
	if g == nil || now.Sub(g.since) > similarWindow {
		g = &group{since: now}
		s.groups[key] = g
	}
	switch {
	case slices.Contains(g.messages, e.Message):
		key.note = e.Message
	case len(g.messages) < similarMost:
		g.messages = append(g.messages, e.Message)
		key.note = e.Message
	default:
		e.Message = combinedPrefix + e.Message
	}
	if len(s.known) >= recorderMemory {
		clear(s.known)
	}
	known := s.known[key]
	if known == nil || now.Sub(known.last) > similarWindow {
		known = &seen{namespace: e.Namespace, name: e.Name, first: now}
		s.known[key] = known
	}
	known.count++
	known.last = now
	e.Count, e.FirstTimestamp = known.count, metav1.NewTime(known.first)
	return known.count, known
}

// allowed takes one event from the object's budget.
func (s *recorderState) allowed(uid types.UID, now time.Time) bool {
	if len(s.budgets) >= recorderMemory {
		clear(s.budgets)
	}
	b := s.budgets[uid]
	if b == nil {
		b = &budget{left: objectBurst, at: now}
		s.budgets[uid] = b
	}
	b.left = min(objectBurst, b.left+float64(now.Sub(b.at))/float64(objectRefill))
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

package cluster

import (
	"context"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

const (
	// eventTTL is how long an event lives after it was last seen: the default of upstream's --event-ttl.
	eventTTL = time.Hour
	// expiryPause lets events that end near each other go together.
	expiryPause = time.Minute
)

// EventExpiry deletes events an hour after they were last seen. Upstream leaves that to leases of its store; here it is one
// walk over the events, at most once a minute and never while there are none. It acts as the garbage collector, whose role allows it.
func EventExpiry(env controller.Env) *controller.Loop {
	c := env.Client("generic-garbage-collector")
	var armed atomic.Bool
	return env.NewLoop(c, controller.Controller{
		Name:    "event-expiry-controller",
		Workers: 1,
		Watches: []controller.Watch{{Resource: client.ResourceOf[*corev1.Event](c), Keys: func(ev client.Event, add func(controller.Key)) {
			if ev.Type == client.Put && armed.CompareAndSwap(false, true) {
				add(controller.Key{})
			}
		}}},
		Reconcile: func(ctx context.Context, _ controller.Key) (time.Duration, error) {
			// Events that come from here on arm it again if this walk misses them.
			armed.Store(false)
			expired, again := planExpiry(client.List[*corev1.Event](c, c.Snapshot(), "", nil), time.Now())
			if again > 0 {
				armed.Store(true)
			}
			return again, utilerrors.NewAggregate(parallel(expired, func(e *corev1.Event) error {
				err := client.Remove[*corev1.Event](ctx, c, e.Namespace, e.Name, metav1.DeleteOptions{})
				if apierrors.IsNotFound(err) {
					return nil
				}
				return err
			}))
		},
	})
}

// planExpiry returns the events whose time is over, and when to look again; 0 means not until there is a new one.
func planExpiry(events []*corev1.Event, now time.Time) (expired []*corev1.Event, again time.Duration) {
	for _, e := range events {
		left := lastSeen(e, now).Add(eventTTL).Sub(now)
		if left <= 0 {
			expired = append(expired, e)
			continue
		}
		again = controller.Sooner(again, max(left, expiryPause))
	}
	return expired, again
}

// lastSeen is the newest of an event's times that is not in the future: who writes an event chooses them, but for the first,
// and none may make it stay for ever.
func lastSeen(e *corev1.Event, now time.Time) time.Time {
	last := e.CreationTimestamp.Time
	times := []time.Time{e.LastTimestamp.Time, e.EventTime.Time}
	if e.Series != nil {
		times = append(times, e.Series.LastObservedTime.Time)
	}
	for _, t := range times {
		if t.After(last) && !t.After(now) {
			last = t
		}
	}
	return last
}

// Package controller is the reconcile loop that all controllers share: a feed of events from the process's one snapshot, a
// queue of keys with retry, and workers that call the controller's Reconcile. controller/{cluster,workloads,services,storage,
// scaling,autoscale,…} hold the controllers; daemon runs them; nobody else imports them.
//
// What a controller may rely on:
//
//   - Reconcile is called for a key at most once at a time, and again after any event that maps to the key.
//   - Reconcile reads a state at least as new as every write that the process has finished before the call: writes return
//     once the snapshot holds them, and the loop brings the controller's indexes up to date before each call. So a controller
//     never needs to remember what it created or deleted. A transport over a mirror that lags behind the server must keep that rule: a
//     write returns when the mirror has it.
//   - After events were lost (client.ErrCompacted) every object that exists is delivered again, and each Index delivers the
//     deletions that it noticed. A key that matters only because something is gone must therefore be reachable from an object that exists or
//     lie in an Index.
//
// An idle controller holds no worker and no running timer, but for those that its Reconcile asked for.
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/kinds"
)

// Key names what a Reconcile looks at: usually one object, with Resource left empty where a controller has one kind only.
type Key = client.Key

// Controller says what one control loop watches and does. A value, never changed once a Loop runs it.
type Controller struct {
	// Name is upstream's name of the controller: "deployment-controller".
	Name string
	// Workers is how many keys are reconciled at once; 0 means 5, upstream's number for most controllers.
	Workers int
	// Watches are the resources whose events lead to keys.
	Watches []Watch
	// Every, when set, is asked for a Watch of each kind of the table, also of those that custom resources add while the
	// controller runs. With ok false the kind is left out.
	Every func(k *kinds.Kind) (w Watch, ok bool)
	// Reconcile brings the world one step closer to what the key's object wants. A positive duration calls it again after
	// that time, unless an event does so earlier; each answer replaces the one before. An error calls it again after a
	// back-off that doubles with every failure in a row. It runs on several goroutines, for different keys.
	Reconcile func(ctx context.Context, key Key) (again time.Duration, err error)
}

// Watch is one resource that a controller follows.
type Watch struct {
	// Resource is spelled as client.ResourceOf does: "replicasets.apps".
	Resource string
	// Index, when set, holds the resource's objects by group, in step with the feed. An Index belongs to one Watch.
	Index *Index
	// Keys calls add with the keys that an event concerns. It is called by one goroutine at a time and must not block; it
	// may read the snapshot. nil where only the Index is wanted.
	Keys func(ev client.Event, add func(Key))
}

// Env is what the constructors of controllers are given.
type Env struct {
	// Client returns a client that acts as the service account of that name in kube-system. Never nil.
	Client func(identity string) *client.Client
	Logger *slog.Logger
	// Observe, when set, is told of every finished Reconcile. It must not block.
	Observe func(controller string, took time.Duration, err error)
}

// Loop runs one Controller; it is a component of the daemon.
type Loop struct {
	controller Controller
	client     *client.Client
	logger     *slog.Logger
	observe    func(string, time.Duration, error)
}

// NewLoop returns a component that runs ctl, whose events are read through c.
func (e Env) NewLoop(c *client.Client, ctl Controller) *Loop {
	if ctl.Workers == 0 {
		ctl.Workers = 5
	}
	return &Loop{controller: ctl, client: c, logger: e.Logger.With("controller", ctl.Name), observe: e.Observe}
}

// Name is the controller's name.
func (l *Loop) Name() string { return l.controller.Name }

// Run reconciles until ctx ends, then waits for the workers and returns nil. It returns an error when the feed breaks for good.
func (l *Loop) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := &feed{client: l.client, every: l.controller.Every}
	f.queue = newQueue(l.controller.Workers, func(key Key) (time.Duration, error) {
		return l.reconcile(ctx, f, key)
	})
	if err := f.start(l.controller.Watches); err != nil {
		return fmt.Errorf("start controller %s: %w", l.Name(), err)
	}
	f.queue.open()
	err := f.follow(ctx)
	cancel()
	f.queue.close()
	if err != nil {
		return fmt.Errorf("run controller %s: %w", l.Name(), err)
	}
	return nil
}

// reconcile runs one key and sorts its errors: what no retry can mend is dropped, the rest goes to the back-off.
func (l *Loop) reconcile(ctx context.Context, f *feed, key Key) (time.Duration, error) {
	if err := f.catchUp(); err != nil {
		return 0, err
	}
	start := time.Now()
	again, err := l.controller.Reconcile(ctx, key)
	if l.observe != nil {
		l.observe(l.Name(), time.Since(start), err)
	}
	switch {
	case err == nil:
		return again, nil
	case ctx.Err() != nil:
		return 0, nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		// The namespace goes, and all that the controller wanted there with it.
		return 0, nil
	case apierrors.IsConflict(err):
		// Someone else wrote first; the retry sees it.
		l.logger.Debug("reconcile conflict", "key", keyText(key), "err", err)
	default:
		l.logger.Warn("reconcile", "key", keyText(key), "err", err)
	}
	return 0, err
}

// keyText spells a key for a log line.
func keyText(k Key) string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// KeyOf returns the key of an object, without a resource.
func KeyOf(obj client.Object) Key {
	return Key{Namespace: obj.GetNamespace(), Name: obj.GetName()}
}

// Itself maps an event to the key of its own object.
func Itself(ev client.Event, add func(Key)) {
	add(Key{Namespace: ev.Item.Key.Namespace, Name: ev.Item.Key.Name})
}

// Owner maps an event to the object's controlling owner of one kind, before and after the event.
func Owner(gk schema.GroupKind) func(client.Event, func(Key)) {
	return func(ev client.Event, add func(Key)) {
		if key, ok := OwnerOf(ev.Item.Object, gk); ok {
			add(key)
		}
		if ev.Prev != nil {
			if key, ok := OwnerOf(ev.Prev.Object, gk); ok {
				add(key)
			}
		}
	}
}

// OwnerOf returns the key of the object's controlling owner, when it is of that kind.
func OwnerOf(obj client.Object, gk schema.GroupKind) (Key, bool) {
	ref := metav1.GetControllerOfNoCopy(obj)
	if ref == nil || ref.Kind != gk.Kind {
		return Key{}, false
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil || gv.Group != gk.Group {
		return Key{}, false
	}
	return Key{Namespace: obj.GetNamespace(), Name: ref.Name}, true
}

// isCompacted tells a cursor that must start again from one that is broken.
func isCompacted(err error) bool { return errors.Is(err, client.ErrCompacted) }

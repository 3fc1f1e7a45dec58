package controller_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
	"github.com/kebernetes/kebernetes/controller/controllertest"
)

func newAPI() *controllertest.API {
	return controllertest.New(controllertest.Row[corev1.ConfigMap, corev1.ConfigMapList]("", "v1", "configmaps", true))
}

func configMap(name string, labels ...string) *corev1.ConfigMap {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{}}}
	for _, l := range labels {
		cm.Labels[l] = ""
	}
	return cm
}

// calls records the reconciles of one key, with the time since the start.
type calls struct {
	mu    sync.Mutex
	start time.Time
	at    []time.Duration
}

func (c *calls) add() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = append(c.at, time.Since(c.start))
	return len(c.at)
}

func TestBackoffDoublesAndRestartsAfterSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		controllertest.Put(api, configMap("a"))
		c := &calls{start: time.Now()}
		loop := api.Env(t).NewLoop(api.Client(), controller.Controller{
			Name:    "test",
			Watches: []controller.Watch{{Resource: "configmaps", Keys: controller.Itself}},
			Reconcile: func(context.Context, controller.Key) (time.Duration, error) {
				switch c.add() {
				case 1, 2, 3, 5:
					return 0, errors.New("not yet")
				case 4:
					return time.Minute, nil
				}
				return 0, nil
			},
		})
		controllertest.Start(t, loop)
		time.Sleep(time.Hour)
		synctest.Wait()
		const ms = time.Millisecond
		want := []time.Duration{0, 5 * ms, 15 * ms, 35 * ms, time.Minute + 35*ms, time.Minute + 40*ms}
		if !slices.Equal(c.at, want) {
			t.Errorf("reconciled at %v, want %v", c.at, want)
		}
	})
}

func TestKeyIsNeverReconciledTwiceAtOnceNorMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		var mu sync.Mutex
		busy, seen := map[controller.Key]bool{}, map[controller.Key]string{}
		runs := 0
		controllertest.Start(t, api.Env(t).NewLoop(api.Client(), controller.Controller{
			Name:    "test",
			Workers: 3,
			Watches: []controller.Watch{{Resource: "configmaps", Keys: controller.Itself}},
			Reconcile: func(_ context.Context, key controller.Key) (time.Duration, error) {
				mu.Lock()
				if busy[key] {
					t.Errorf("%v is reconciled twice at once", key)
				}
				busy[key] = true
				runs++
				mu.Unlock()
				time.Sleep(time.Millisecond)
				cm, _ := client.From[*corev1.ConfigMap](api.Client(), api.Snapshot(), key.Namespace, key.Name)
				mu.Lock()
				defer mu.Unlock()
				busy[key] = false
				seen[key] = cm.ResourceVersion
				return 0, nil
			},
		}))
		for i := range 200 {
			controllertest.Put(api, configMap(fmt.Sprint(i%10), fmt.Sprint(i)))
			if i%7 == 0 {
				time.Sleep(100 * time.Microsecond)
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for _, cm := range controllertest.All[*corev1.ConfigMap](api) {
			if got := seen[controller.KeyOf(cm)]; got != cm.ResourceVersion {
				t.Errorf("%s: last seen at %s, is at %s", cm.Name, got, cm.ResourceVersion)
			}
		}
		if runs >= 200 {
			t.Errorf("%d reconciles of 200 events: nothing was merged", runs)
		}
	})
}

// A controller that creates what is missing must see its own last write in its index, or it would create twice.
func TestIndexHoldsOwnWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		c := api.Client()
		index := controller.NewIndex(func(obj client.Object, add func(controller.Group)) {
			for l := range obj.GetLabels() {
				add(controller.Group{l})
			}
		})
		controllertest.Start(t, api.Env(t).NewLoop(c, controller.Controller{
			Name: "test",
			Watches: []controller.Watch{{Resource: "configmaps", Index: index, Keys: func(ev client.Event, add func(controller.Key)) {
				add(controller.Key{Name: "all"})
			}}},
			Reconcile: func(ctx context.Context, _ controller.Key) (time.Duration, error) {
				n := index.Len(controller.Group{"wanted"})
				if n == 50 || index.Len(controller.Group{"seed"}) == 0 {
					return 0, nil
				}
				_, err := client.Create(ctx, c, configMap(fmt.Sprintf("w%d", n), "wanted"))
				return time.Nanosecond, err
			},
		}))
		controllertest.Put(api, configMap("seed", "seed"))
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(controllertest.All[*corev1.ConfigMap](api)); n != 51 {
			t.Errorf("%d objects, want 50 and the seed", n)
		}
		controllertest.Drop[*corev1.ConfigMap](api, "ns", "seed")
		synctest.Wait()
		if got := controller.Indexed[*corev1.ConfigMap](index, controller.Group{"seed"}); len(got) != 0 {
			t.Errorf("the index still holds %v", got)
		}
	})
}

func TestIndexNoticesDeletionsAfterLostEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		index := controller.NewIndex(func(obj client.Object, add func(controller.Group)) { add(controller.Group{obj.GetNamespace()}) })
		var mu sync.Mutex
		var gone []string
		release := make(chan struct{})
		blocked := false
		controllertest.Put(api, configMap("first"))
		controllertest.Start(t, api.Env(t).NewLoop(api.Client(), controller.Controller{
			Name: "test",
			Watches: []controller.Watch{{Resource: "configmaps", Index: index, Keys: func(ev client.Event, add func(controller.Key)) {
				if ev.Item.Key.Name == "stop" && !blocked {
					blocked = true
					<-release // events are lost while the feed stands still
				}
				if ev.Type == client.Delete {
					mu.Lock()
					gone = append(gone, ev.Item.Key.Name)
					mu.Unlock()
				}
			}}},
			Reconcile: func(context.Context, controller.Key) (time.Duration, error) { return 0, nil },
		}))
		synctest.Wait()
		controllertest.Put(api, configMap("stop"))
		synctest.Wait()
		controllertest.Drop[*corev1.ConfigMap](api, "ns", "first")
		controllertest.Put(api, configMap("second"))
		api.Compact(api.Snapshot().Revision())
		close(release)
		synctest.Wait()
		if !slices.Equal(gone, []string{"first"}) {
			t.Errorf("deletions seen: %v, want first", gone)
		}
		if n := index.Len(controller.Group{"ns"}); n != 2 {
			t.Errorf("index holds %d objects, want 2", n)
		}
	})
}

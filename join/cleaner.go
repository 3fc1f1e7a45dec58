package join

import (
	"context"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

const (
	// tokenKept is how long a join token stays after it expired: so long whoever comes with it hears why it is refused.
	tokenKept = 24 * time.Hour
	// keyKept is how long the key of a name stays that no node has: a machine that has joined needs a moment to register, and one whose
	// node was deleted by mistake may register again.
	keyKept = time.Hour
)

// Cleaner deletes the Secrets of tokens that have expired, and of the keys of nodes that are gone.
func Cleaner(env controller.Env) *controller.Loop {
	c := env.Client("token-cleaner")
	r := &cleaner{client: c, gone: map[string]time.Time{}}
	return env.NewLoop(c, controller.Controller{
		Name:    "token-cleaner-controller",
		Workers: 1,
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*corev1.Secret](c), Keys: func(ev client.Event, add func(controller.Key)) {
				switch s := ev.Item.Object.(*corev1.Secret); s.Type {
				case auth.JoinTokenType, auth.BootstrapTokenType, KeyType:
					if s.Namespace == metav1.NamespaceSystem {
						controller.Itself(ev, add)
					}
				}
			}},
			{Resource: client.ResourceOf[*corev1.Node](c), Keys: func(ev client.Event, add func(controller.Key)) {
				if ev.Type == client.Delete || ev.Prev == nil {
					add(controller.Key{Namespace: metav1.NamespaceSystem, Name: keyName + ev.Item.Key.Name})
				}
			}},
		},
		Reconcile: r.reconcile,
	})
}

type cleaner struct {
	client *client.Client

	mu   sync.Mutex
	gone map[string]time.Time // since when no node has the name of a key's Secret
}

func (r *cleaner) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	snapshot := r.client.Snapshot()
	s, ok := client.From[*corev1.Secret](r.client, snapshot, key.Namespace, key.Name)
	if !ok {
		r.absent(key.Name, false)
		return 0, nil
	}
	end := tokenEnd(s)
	if s.Type == KeyType {
		_, there := client.From[*corev1.Node](r.client, snapshot, "", strings.TrimPrefix(s.Name, keyName))
		end = time.Time{}
		if since := r.absent(key.Name, !there); !there {
			end = since.Add(keyKept)
		}
	}
	if end.IsZero() {
		return 0, nil
	}
	if left := time.Until(end); left > 0 {
		return left, nil
	}
	err := client.Remove[*corev1.Secret](ctx, r.client, s.Namespace, s.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &s.UID, ResourceVersion: &s.ResourceVersion},
	})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	return 0, err
}

// absent notes whether the node of a key's Secret is absent, and returns since when it is.
func (r *cleaner) absent(name string, is bool) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !is {
		delete(r.gone, name)
		return time.Time{}
	}
	if r.gone[name].IsZero() {
		r.gone[name] = time.Now()
	}
	return r.gone[name]
}

// tokenEnd is when the Secret of a token goes, the zero time for never: upstream's bootstrap tokens as they expire.
func tokenEnd(s *corev1.Secret) time.Time {
	switch s.Type {
	case auth.JoinTokenType:
		if at := auth.JoinTokenExpiry(s); !at.IsZero() {
			return at.Add(tokenKept)
		}
	case auth.BootstrapTokenType:
		text := string(s.Data["expiration"])
		if at, err := time.Parse(time.RFC3339, text); err == nil {
			return at
		} else if text != "" {
			return time.Unix(0, 0) // nobody can use it
		}
	}
	return time.Time{}
}

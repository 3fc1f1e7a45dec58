package cluster

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

const defaultServiceAccount = "default"

// ServiceAccounts gives every namespace the service account "default", and gives it back when it is deleted.
func ServiceAccounts(env controller.Env) *controller.Loop {
	c := env.Client("service-account-controller")
	return env.NewLoop(c, controller.Controller{
		Name: "serviceaccount-controller",
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*corev1.Namespace](c), Keys: controller.Itself},
			{Resource: client.ResourceOf[*corev1.ServiceAccount](c), Keys: func(ev client.Event, add func(controller.Key)) {
				if ev.Type == client.Delete && ev.Item.Key.Name == defaultServiceAccount {
					add(controller.Key{Name: ev.Item.Key.Namespace})
				}
			}},
		},
		Reconcile: func(ctx context.Context, key controller.Key) (time.Duration, error) {
			snap := c.Snapshot()
			if !active(c, snap, key.Name) {
				return 0, nil
			}
			if _, ok := client.From[*corev1.ServiceAccount](c, snap, key.Name, defaultServiceAccount); ok {
				return 0, nil
			}
			_, err := client.Create(ctx, c, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: key.Name, Name: defaultServiceAccount}})
			if apierrors.IsAlreadyExists(err) {
				return 0, nil
			}
			return 0, err
		},
	})
}

// active says whether a namespace exists and is not being deleted.
func active(c *client.Client, snap client.Snapshot, namespace string) bool {
	ns, ok := client.From[*corev1.Namespace](c, snap, "", namespace)
	return ok && ns.DeletionTimestamp == nil
}

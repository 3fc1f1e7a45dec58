package cluster

import (
	"context"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/controller"
)

const (
	rootCAName            = "kube-root-ca.crt"
	rootCAKey             = "ca.crt"
	descriptionAnnotation = "kubernetes.io/description"
	rootCADescription     = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)

// RootCA keeps the certificate authority's bundle in a ConfigMap of every namespace, as the pods' API access needs it.
func RootCA(env controller.Env, bundle []byte) *controller.Loop {
	c := env.Client("root-ca-cert-publisher")
	data := map[string]string{rootCAKey: string(bundle)}
	return env.NewLoop(c, controller.Controller{
		Name: "root-ca-certificate-publisher-controller",
		Watches: []controller.Watch{
			{Resource: client.ResourceOf[*corev1.Namespace](c), Keys: controller.Itself},
			{Resource: client.ResourceOf[*corev1.ConfigMap](c), Keys: func(ev client.Event, add func(controller.Key)) {
				if ev.Item.Key.Name == rootCAName {
					add(controller.Key{Name: ev.Item.Key.Namespace})
				}
			}},
		},
		Reconcile: func(ctx context.Context, key controller.Key) (time.Duration, error) {
			snap := c.Snapshot()
			if !active(c, snap, key.Name) {
				return 0, nil
			}
			old, ok := client.From[*corev1.ConfigMap](c, snap, key.Name, rootCAName)
			if !ok {
				_, err := client.Create(ctx, c, &corev1.ConfigMap{
					ObjectMeta: metav1.ObjectMeta{Namespace: key.Name, Name: rootCAName,
						Annotations: map[string]string{descriptionAnnotation: rootCADescription}},
					Data: maps.Clone(data),
				})
				if apierrors.IsAlreadyExists(err) {
					return 0, nil
				}
				return 0, err
			}
			if maps.Equal(old.Data, data) && len(old.BinaryData) == 0 && old.Annotations[descriptionAnnotation] != "" {
				return 0, nil
			}
			update := old.DeepCopy()
			update.Data, update.BinaryData = maps.Clone(data), nil
			metav1.SetMetaDataAnnotation(&update.ObjectMeta, descriptionAnnotation, rootCADescription)
			_, err := client.Update(ctx, c, update)
			return 0, err
		},
	})
}

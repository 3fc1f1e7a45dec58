package workloads

import (
	"testing"
	"testing/synctest"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	. "github.com/kebernetes/kebernetes/controller/controllertest"
)

func TestRestartOnConfigChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		Start(t, Restarts(api.Env(t), []byte("key")))
		d := deployment(1, "one")
		d.Spec.Template.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{
			{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "env"}}},
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "extra"}, Optional: ptr.To(true)}},
		}
		d.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "files"}}}}
		Put(api, d)
		secret := func(name, value string) *corev1.Secret {
			return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Data: map[string][]byte{"a": []byte(value)}}
		}
		started := ""
		step := func(what string, restarts bool, do func()) {
			t.Helper()
			do()
			synctest.Wait()
			now := get(api).Spec.Template.Annotations[ConfigHash]
			if (now != started) != restarts {
				t.Errorf("%s: restarted is %v, want %v", what, now != started, restarts)
			}
			started = now
		}

		step("a config of a workload that does not ask", false, func() {
			Put(api, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "env"}, Data: map[string]string{"a": "1"}})
		})
		step("asking, while a secret is missing", false, func() {
			Change(api, "ns", "web", func(d *appsv1.Deployment) { d.Annotations[RestartOnChange] = "true" })
		})
		step("the secret comes: this is what the pods wait for", false, func() { Put(api, secret("files", "1")) })
		step("a label of a config", false, func() {
			Change(api, "ns", "env", func(m *corev1.ConfigMap) { m.Labels = map[string]string{"x": "y"} })
		})
		step("a value in the environment", true, func() {
			Change(api, "ns", "env", func(m *corev1.ConfigMap) { m.Data["a"] = "2" })
		})
		step("a file", true, func() {
			Change(api, "ns", "files", func(s *corev1.Secret) { s.Data = map[string][]byte{"a": []byte("2")} })
		})
		step("an optional secret comes", true, func() { Put(api, secret("extra", "1")) })
		step("a secret that nobody reads", false, func() { Put(api, secret("other", "1")) })
		step("a secret goes", false, func() { Drop[*corev1.Secret](api, "ns", "files") })
		step("and comes back as it was", false, func() { Put(api, secret("files", "2")) })
		if events := All[*corev1.Event](api); len(events) != 1 || events[0].Count != 3 {
			t.Errorf("events %q, want one that counts 3", messages(api))
		}
	})
}

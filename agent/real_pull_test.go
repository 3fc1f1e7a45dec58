package agent

import (
	"encoding/base64"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/cri/critest"
)

// testRealPrivateImages: a registry that wants to know who asks gets what the pod's pull secrets say, in both of their forms.
func testRealPrivateImages(t *testing.T, n *realNode) {
	registry := n.host.Registry
	auth := base64.StdEncoding.EncodeToString([]byte(critest.PrivateUser + ":" + critest.PrivatePassword))
	for name, s := range map[string]*corev1.Secret{
		"wrong": {Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{
			corev1.DockerConfigJsonKey: fmt.Appendf(nil, `{"auths":{%q:{"username":%q,"password":"guess"}}}`, registry, critest.PrivateUser)}},
		"config": {Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{
			corev1.DockerConfigJsonKey: fmt.Appendf(nil, `{"auths":{"http://%s":{"auth":%q}}}`, registry, auth)}},
		"older": {Type: corev1.SecretTypeDockercfg, Data: map[string][]byte{
			corev1.DockerConfigKey: fmt.Appendf(nil, `{%q:{"username":%q,"password":%q,"email":"x"}}`, registry, critest.PrivateUser, critest.PrivatePassword)}},
	} {
		s.Namespace, s.Name = "default", name
		if _, err := client.Create(t.Context(), n.client, s); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ name, want string }{
		{"none", "Pending main:ErrImagePull*0"}, {"wrong", "Pending main:ErrImagePull*0"},
		{"config", "Running ready main:running*0"}, {"older", "Running ready main:running*0"},
	} {
		p := n.newPod("private-"+test.name, "run")
		p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = registry+"/private:1", corev1.PullAlways
		if test.name != "none" {
			p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "gone"}, {Name: test.name}}
		}
		n.put(p)
		n.await(p.Name, test.want)
		zero := int64(0)
		if err := client.Remove[*corev1.Pod](t.Context(), n.client, "default", p.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
			t.Fatal(err)
		}
	}
	if !n.events.has("FailedToRetrieveImagePullSecret  Unable to retrieve some image pull secrets (gone); attempting to pull the image may not succeed.") {
		t.Errorf("a secret that is missing is not told of: %q", n.events.list)
	}
}

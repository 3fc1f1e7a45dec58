package join

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/controller/controllertest"
)

func newAPI() *controllertest.API {
	return controllertest.New(
		controllertest.Row[corev1.Secret, corev1.SecretList]("", "v1", "secrets", true),
		controllertest.Row[corev1.Node, corev1.NodeList]("", "v1", "nodes", false),
	)
}

// What is over goes, and nothing else.
func TestCleaner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, start := newAPI(), time.Now()
		put := func(name string, kind corev1.SecretType, data map[string]string) {
			s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: name}, Type: kind, Data: map[string][]byte{}}
			for k, v := range data {
				s.Data[k] = []byte(v)
			}
			controllertest.Put(api, s)
		}
		in := func(d time.Duration) map[string]string {
			return map[string]string{"expiration": start.Add(d).UTC().Format(time.RFC3339)}
		}
		put("join-token-short", auth.JoinTokenType, in(time.Hour))
		put("join-token-long", auth.JoinTokenType, in(1000*time.Hour))
		put("join-token-ever", auth.JoinTokenType, nil)
		put("join-token-none", auth.JoinTokenType, map[string]string{"expiration": "soon"})
		put("bootstrap-token-short", auth.BootstrapTokenType, in(time.Hour))
		put("bootstrap-token-ever", auth.BootstrapTokenType, nil)
		put("bootstrap-token-none", auth.BootstrapTokenType, map[string]string{"expiration": "soon"})
		put("another", corev1.SecretTypeOpaque, in(-time.Hour))
		elsewhere := auth.NewJoinToken(strings.Repeat("0", 64)).Secret(start.Add(-1000*time.Hour), "")
		elsewhere.Namespace, elsewhere.Name = "default", "elsewhere"
		controllertest.Put(api, elsewhere)
		node := func(name string) { controllertest.Put(api, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}) }
		for _, name := range []string{"stays", "deleted", "returns", "unregistered"} {
			put("node-key-"+name, KeyType, nil)
			if name != "unregistered" {
				node(name)
			}
		}
		controllertest.Start(t, Cleaner(api.Env(t)))
		at := func(when time.Duration, want ...string) {
			t.Helper()
			time.Sleep(time.Until(start.Add(when)))
			synctest.Wait()
			var got []string
			for _, s := range controllertest.All[*corev1.Secret](api) {
				got = append(got, s.Name)
			}
			always := []string{"another", "bootstrap-token-ever", "elsewhere", "join-token-ever", "node-key-returns", "node-key-stays"}
			want = append(want, always...)
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("after %s:\n%v, want\n%v", when, got, want)
			}
		}
		const later = time.Second
		at(later, "bootstrap-token-short", "join-token-long", "join-token-short", "node-key-deleted", "node-key-unregistered")
		at(time.Hour+later, "join-token-long", "join-token-short", "node-key-deleted")
		controllertest.Drop[*corev1.Node](api, "", "deleted")
		controllertest.Drop[*corev1.Node](api, "", "returns")
		at(time.Hour+30*time.Minute, "join-token-long", "join-token-short", "node-key-deleted")
		node("returns")
		at(2*time.Hour+2*later, "join-token-long", "join-token-short")
		at(25*time.Hour+later, "join-token-long")
		at(1024*time.Hour + later)
	})
}

package cluster

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	. "github.com/kebernetes/kebernetes/controller/controllertest"
)

func TestQuotaIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := New(append(rows(),
			Row[corev1.ResourceQuota, corev1.ResourceQuotaList]("", "v1", "resourcequotas", true),
			Row[corev1.Service, corev1.ServiceList]("", "v1", "services", true))...)
		hard := func(names ...corev1.ResourceName) corev1.ResourceList {
			out := corev1.ResourceList{}
			for _, n := range names {
				out[n] = resource.MustParse("10")
			}
			return out
		}
		all := &corev1.ResourceQuota{ObjectMeta: meta("a", "all")}
		all.Spec.Hard = hard("pods", "count/pods", "requests.cpu", "limits.memory", "configmaps", "count/replicasets.apps", "services.nodeports", "count/unknown.example.com")
		best := &corev1.ResourceQuota{ObjectMeta: meta("a", "best-effort")}
		best.Spec.Hard = hard("pods")
		best.Spec.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}
		Put(api, all)
		Put(api, best)
		Start(t, ResourceQuotas(api.Env(t)))
		for _, name := range []string{"one", "two"} {
			p := readyPod(name, "n", nil)
			p.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{"cpu": resource.MustParse("250m")}, Limits: corev1.ResourceList{"memory": resource.MustParse("1Gi")}}}}
			Put(api, p)
		}
		plain := readyPod("plain", "n", nil)
		plain.Spec.Containers = []corev1.Container{{}}
		Put(api, plain)
		Put(api, &corev1.ConfigMap{ObjectMeta: meta("a", "c")})
		Put(api, &corev1.ConfigMap{ObjectMeta: meta("b", "c")})
		Put(api, &corev1.Service{ObjectMeta: meta("a", "s"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: make([]corev1.ServicePort, 2)}})
		check := func(when, name string, want map[corev1.ResourceName]string) {
			t.Helper()
			time.Sleep(time.Second)
			synctest.Wait()
			q, _ := get[*corev1.ResourceQuota](api, "a", name)
			for r, n := range want {
				if got := q.Status.Used[r]; got.Cmp(resource.MustParse(n)) != 0 {
					t.Errorf("%s: %s of quota %s is %s, want %s", when, r, name, got.String(), n)
				}
			}
			if len(q.Status.Used) != len(q.Spec.Hard) || len(q.Status.Hard) != len(q.Spec.Hard) {
				t.Errorf("%s: status %+v", when, q.Status)
			}
		}
		check("at first", "all", map[corev1.ResourceName]string{"pods": "3", "count/pods": "3", "requests.cpu": "500m", "limits.memory": "2Gi", "configmaps": "1",
			"count/replicasets.apps": "0", "services.nodeports": "2", "count/unknown.example.com": "0"})
		check("at first", "best-effort", map[corev1.ResourceName]string{"pods": "1"})
		Change(api, "a", "one", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
		Drop[*corev1.ConfigMap](api, "a", "c")
		check("after a pod has finished", "all", map[corev1.ResourceName]string{"pods": "2", "count/pods": "3", "requests.cpu": "250m", "configmaps": "0"})
		// What admission has charged and not yet stored is not given back at once.
		Change(api, "a", "all", func(q *corev1.ResourceQuota) { q.Status.Used["pods"] = resource.MustParse("5") })
		synctest.Wait()
		if q, _ := get[*corev1.ResourceQuota](api, "a", "all"); q.Status.Used.Pods().Value() != 5 {
			t.Errorf("a charge was given back at once: %s", q.Status.Used.Pods())
		}
		check("after a charge that came to nothing", "all", map[corev1.ResourceName]string{"pods": "2"})
		api.Writes()
		Change(api, "a", "two", func(p *corev1.Pod) { p.Status.Message = "x" })
		synctest.Wait()
		if w := api.Writes(); len(w) > 0 {
			t.Errorf("writes %q for what no quota counts", w)
		}
	})
}

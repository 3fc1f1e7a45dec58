//go:build churn

package realnode

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// churnManifests are what a round makes in a namespace of its own, $N, by the path of their lists. $R is a number that an update changes.
var churnManifests = []struct{ path, yaml string }{
	{"/api/v1/namespaces/$N/configmaps", `{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {GREETING: "$R"}}`},
	{"/api/v1/namespaces/$N/secrets", `{apiVersion: v1, kind: Secret, metadata: {name: keys}, stringData: {key: "$R"}}`},
	{"/api/v1/namespaces/$N/services", `{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: NodePort, selector: {app: web}, ports: [{name: http, port: 8$R, targetPort: 8080}]}}`},
	{"/api/v1/namespaces/$N/services", `{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {clusterIP: None, selector: {app: db}, ports: [{port: 80}]}}`},
	{"/apis/networking.k8s.io/v1/namespaces/$N/networkpolicies", `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: db}, spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}, {ipBlock: {cidr: 198.51.$R.0/24}}]}]}}`},
	{"/apis/networking.k8s.io/v1/namespaces/$N/ingresses", `{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: web}, spec: {rules: [{host: $N.example, http: {paths: [{path: /$R, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}}]}}`},
	{"/apis/apps/v1/namespaces/$N/deployments", `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {round: "$R"}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: $IMAGE, command: [hello], envFrom: [{configMapRef: {name: settings}}], volumeMounts: [{name: keys, mountPath: /keys}]}]
      volumes: [{name: keys, secret: {secretName: keys}}]
`},
	{"/apis/apps/v1/namespaces/$N/statefulsets", `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: $IMAGE, volumeMounts: [{name: data, mountPath: /data}]}]
  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}]
`},
	{"/apis/batch/v1/namespaces/$N/jobs", `
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec: {completions: 2, parallelism: 2, template: {spec: {restartPolicy: Never, containers: [{name: main, image: $IMAGE, command: ["true"]}]}}}
`},
}

// TestChurn makes, changes and deletes workloads on three machines for KEB_CHURN_MINUTES, and then counts what is left of them. It is no
// part of the usual tests, as it takes long, and has a build tag therefore: make churn.
func TestChurn(t *testing.T) {
	minutes, err := strconv.ParseFloat(os.Getenv("KEB_CHURN_MINUTES"), 64)
	if err != nil {
		t.Fatalf("KEB_CHURN_MINUTES must say how long: %v", err)
	}
	all := newMachines(t, 3)
	server := all[0]
	server.serve(t)
	token := server.token(t)
	machines := map[string]*node{"n1": server, "n2": all[1], "n3": all[2]}
	for name, m := range machines {
		if m != server {
			m.run(t, "agent", "--data-dir", m.dir, "--node-name", name, "--server", serverURL, "--token", token)
			server.ready(t, name, true)
		}
		m.importImage(t)
	}
	rounds := make([]int, 3)
	churn := func(name string, more func() bool) {
		t.Run(name, func(t *testing.T) {
			for w := range rounds {
				t.Run(strconv.Itoa(w), func(t *testing.T) {
					t.Parallel()
					for first := true; first || !t.Failed() && more(); first = false {
						rounds[w]++
						churnRound(t, server, fmt.Sprintf("churn-%d-%d", w, rounds[w]), rounds[w]%2 == 0)
					}
				})
			}
		})
	}
	churn("first", func() bool { return false }) // what is only made once is there now
	if t.Failed() {
		return
	}
	before := settle(t, server, machines, census{})
	clear(rounds)
	end := time.Now().Add(time.Duration(minutes * float64(time.Minute)))
	churn("long", func() bool { return time.Now().Before(end) })
	if t.Failed() {
		return
	}
	after := settle(t, server, machines, before)
	t.Logf("%v rounds in %g minutes, before and after:\n%s", rounds, minutes, after.table(before))
	if grown := after.grown(before); grown != nil {
		t.Errorf("what did not come back:\n%s\ngoroutines of the server:\n%s", strings.Join(grown, "\n"), server.call(t, http.MethodGet, "/debug/pprof/goroutine?debug=1", "", ""))
	}
}

// settle counts once there is no more than before. That takes a while: the server keeps the history of five minutes, and gives back
// what it took when the collector has run, which on an idle server is every two minutes.
func settle(t *testing.T, n *node, machines map[string]*node, before census) census {
	const rest, limit = time.Minute, 9 * time.Minute
	began := time.Now()
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		n.api.CloseIdleConnections()
		<-tick.C
		took := time.Since(began)
		if took < rest {
			continue
		}
		c := n.count(t, machines)
		if before.numbers == nil || c.grown(before) == nil || took > limit {
			t.Logf("counted %s after the last change", took.Round(time.Second))
			return c
		}
	}
}

// churnRound makes everything in a namespace, uses it, changes it, and deletes it again: piece by piece, or the namespace at once.
func churnRound(t *testing.T, n *node, ns string, pieces bool) {
	const named = "metadata: {name: "
	itself := func(path, yaml string) string {
		name, _, _ := strings.Cut(yaml[strings.Index(yaml, named)+len(named):], "}")
		return path + "/" + name
	}
	apply := func(path, yaml string, revision int) {
		fill := strings.NewReplacer("$N", ns, "$R", strconv.Itoa(revision), "$IMAGE", image).Replace
		n.call(t, http.MethodPatch, fill(itself(path, yaml)+"?fieldManager=churn&force=true"), "application/apply-patch+yaml", fill(yaml))
	}
	apply("/api/v1/namespaces", `{apiVersion: v1, kind: Namespace, metadata: {name: `+ns+`}}`, 0)
	var web appsv1.Deployment
	rolledOut := func() bool {
		n.get(t, "/apis/apps/v1/namespaces/"+ns+"/deployments/web", &web)
		s := web.Status
		return s.ObservedGeneration == web.Generation && s.Replicas == *web.Spec.Replicas && s.UpdatedReplicas == s.Replicas && s.AvailableReplicas == s.Replicas
	}
	for revision := 1; revision <= 2; revision++ {
		for _, m := range churnManifests {
			if revision == 1 || !strings.HasSuffix(m.path, "/jobs") {
				apply(m.path, m.yaml, revision)
			}
		}
		comes(t, ns+": deployment", rolledOut)
		comes(t, ns+": statefulset", func() bool {
			var db appsv1.StatefulSet
			n.get(t, "/apis/apps/v1/namespaces/"+ns+"/statefulsets/db", &db)
			return db.Status.ReadyReplicas == 1
		})
		comes(t, ns+": job", func() bool {
			var once batchv1.Job
			n.get(t, "/apis/batch/v1/namespaces/"+ns+"/jobs/once", &once)
			return once.Status.Succeeded == 2
		})
		var svc corev1.Service
		n.get(t, "/api/v1/namespaces/"+ns+"/services/web", &svc)
		comes(t, ns+": service", func() bool {
			_, err := httpGet(n.outside, fmt.Sprintf("http://%s:%d", nodeIP, svc.Spec.Ports[0].NodePort))
			return err == nil
		})
		var pods corev1.PodList
		n.get(t, "/api/v1/namespaces/"+ns+"/pods?labelSelector=app=db", &pods)
		if out, err := n.try(t, nil, "exec", "-q", "-n", ns, pods.Items[0].Name, "--", "sh", "-c", "echo kept > /data/file"); err != nil {
			t.Fatalf("%s: exec: %v, %s", ns, err, out)
		}
		n.call(t, http.MethodGet, "/api/v1/namespaces/"+ns+"/pods/db-0/log", "", "")
	}
	if pieces {
		for _, m := range churnManifests {
			n.call(t, http.MethodDelete, strings.ReplaceAll(itself(m.path, m.yaml), "$N", ns)+"?propagationPolicy=Background", "", "")
		}
		comes(t, ns+": pods are gone", func() bool {
			var pods corev1.PodList
			n.get(t, "/api/v1/namespaces/"+ns+"/pods", &pods)
			return len(pods.Items) == 0
		})
	}
	n.call(t, http.MethodDelete, "/api/v1/namespaces/"+ns, "", "")
	comes(t, ns+" is gone", func() bool {
		resp, err := n.api.Get(n.url + "/api/v1/namespaces/" + ns)
		must(t, err)
		resp.Body.Close()
		return resp.StatusCode == http.StatusNotFound
	})
}

// call makes a request that must succeed.
func (n *node) call(t *testing.T, method, path, contentType, body string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, n.url+path, bytes.NewReader([]byte(body)))
	must(t, err)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := n.api.Do(req)
	must(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %s", method, path, answer)
	}
	return answer
}

// comes looks every tenth of a second until something is so.
func comes(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for ; !so(); <-tick.C {
		if time.Since(began) > 2*patience {
			t.Fatalf("not within %s: %s", 2*patience, what)
		}
	}
	if took := time.Since(began); took > patience/3 {
		t.Logf("%s only after %s", what, took)
	}
}

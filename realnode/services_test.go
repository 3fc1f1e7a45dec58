package realnode

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/network/networktest"
)

const web = `
apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data: {greeting: Hello}
---
apiVersion: v1
kind: Secret
metadata: {name: web}
stringData: {password: only-an-example}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: main
        image: $IMAGE
        command: [/bin/hello]
        ports: [{name: http, containerPort: 8080}]
        env:
        - {name: GREETING, valueFrom: {configMapKeyRef: {name: web, key: greeting}}}
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        volumeMounts: [{name: secret, mountPath: /etc/hello, readOnly: true}]
        readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1}
        securityContext: {runAsNonRoot: true, runAsUser: 65532, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
      volumes: [{name: secret, secret: {secretName: web}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: $IMAGE
    volumeMounts: [{name: bin, mountPath: /host, readOnly: true}]
  volumes: [{name: bin, hostPath: {path: $DIR/bin, type: Directory}}]
`

// httpGet asks from inside of a network namespace, over a new connection.
func httpGet(ns *networktest.Namespace, url string) (string, error) {
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
		return ns.Dial(network, "", addr)
	}}}
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return string(data), err
}

// answers checks that each line is hello's and returns how many pods are among them.
func answers(t *testing.T, lines string) int {
	t.Helper()
	pods := map[string]bool{}
	for line := range strings.Lines(lines) {
		fields := strings.Fields(line)
		if len(fields) != 5 || !strings.HasPrefix(line, "Hello from web-") || !strings.HasSuffix(line, "(secret 459d1642)\n") {
			t.Errorf("answer %q", line)
			continue
		}
		pods[fields[2]] = true
	}
	return len(pods)
}

func testServices(t *testing.T, n *node) {
	n.apply(t, web)
	n.kubectl(t, "rollout", "status", "deployment/web", "--timeout=30s")
	n.state(t, "client", "Running ready main:running*0")
	var svc corev1.Service
	n.get(t, "/api/v1/namespaces/default/services/web", &svc)

	for name, script := range map[string]string{
		"name":      "fetch http://web",
		"long name": "fetch http://web.default.svc.cluster.local",
		"address":   "fetch http://" + svc.Spec.ClusterIP,
		"node port": "fetch http://" + nodeIP + ":30080",
		"headless":  "fetch http://headless:8080",
	} {
		if got := answers(t, n.sh(t, "client", "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do "+script+"; done")); got < 2 && name != "headless" {
			t.Errorf("%s: %d pods answer a pod", name, got)
		}
	}
	for name, from := range map[string]struct {
		ns  *networktest.Namespace
		url string
	}{
		"address from the machine":   {n.inside, "http://" + svc.Spec.ClusterIP},
		"node port from the machine": {n.inside, "http://" + nodeIP + ":30080"},
		"node port from outside":     {n.outside, "http://" + nodeIP + ":30080"},
	} {
		var all strings.Builder
		for range 12 {
			answer, err := httpGet(from.ns, from.url)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			all.WriteString(answer)
		}
		if got := answers(t, all.String()); got < 2 {
			t.Errorf("%s: %d pods answer", name, got)
		}
	}

	if got := n.sh(t, "client", "nslookup -type=a headless.default.svc.cluster.local | grep -c 'Address: 10.42'"); got != "3\n" {
		t.Errorf("the headless service has %q addresses", got)
	}
	// A pod is somebody: its token, the root certificate and the address of the API make a client work.
	if got := n.sh(t, "client", "KUBECACHEDIR=/tmp /host/kubectl auth whoami -o jsonpath='{.status.userInfo.username}'"); got != "system:serviceaccount:default:default" {
		t.Errorf("in a pod kubectl is %q", got)
	}
	n.outside.ServeName(t, 9999, "beyond")
	if got := n.sh(t, "client", "nc 192.0.2.254 9999"); !strings.HasPrefix(got, "beyond "+nodeIP+":") {
		t.Errorf("outside, a pod is seen as %q; want the node's address", got)
	}
}

// A rolling update loses no request: the old pods leave the Service before they end, the new ones enter it when they are ready.
func testRollout(t *testing.T, n *node) {
	done := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		for count := 0; ; count++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if answer, err := httpGet(n.outside, "http://"+nodeIP+":30080"); err != nil || !strings.Contains(answer, " from web-") {
				done <- err
				return
			}
		}
	}()
	n.kubectl(t, "set", "env", "deployment/web", "ROUND=2")
	n.kubectl(t, "rollout", "status", "deployment/web", "--timeout=30s")
	close(stop)
	if err := <-done; err != nil {
		t.Errorf("a request was lost while the Deployment rolled: %v", err)
	}
}

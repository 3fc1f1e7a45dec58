package realnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/network/networktest"
)

// TestCluster runs two nodes, both of which take pods, through what happens between them. The parts share the nodes, for each
// start costs.
func TestCluster(t *testing.T) {
	machines := newMachines(t, 2)
	n1, n2 := machines[0], machines[1]
	n1.serve(t)
	n2.run(t, "agent", "--data-dir", n2.dir, "--node-name", "n2", "--server", serverURL, "--token", n1.token(t))
	n1.ready(t, "n2", true)
	n1.importImage(t)
	n2.importImage(t)
	for _, part := range []struct {
		name string
		run  func(t *testing.T, server, agent *node)
	}{
		{"rollout", testRolloutAcross},
		{"claims", testClaims},
		{"drain", func(t *testing.T, server, _ *node) { testDrain(t, server) }},
		{"loss", testNodeLoss},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(t, n1, n2) }) {
			return
		}
	}
}

const front = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: front}
spec:
  replicas: 4
  selector: {matchLabels: {app: front}}
  template:
    metadata: {labels: {app: front}}
    spec:
      terminationGracePeriodSeconds: 10
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: front}}, matchLabelKeys: [pod-template-hash]}
      containers:
      - name: main
        image: $IMAGE
        command: [hello]
        env: [{name: GREETING, value: Hello}, {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: front}
spec: {type: NodePort, selector: {app: front}, ports: [{name: http, port: 80, targetPort: http, nodePort: 30090}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: front}
spec:
  rules: [{host: front.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: front, port: {name: http}}}}]}}]
---
apiVersion: v1
kind: Pod
metadata: {name: asker-n1}
spec: {terminationGracePeriodSeconds: 0, nodeName: n1, containers: [{name: main, image: $IMAGE}]}
---
apiVersion: v1
kind: Pod
metadata: {name: asker-n2}
spec: {terminationGracePeriodSeconds: 0, nodeName: n2, containers: [{name: main, image: $IMAGE}]}
`

// testRolloutAcross: a rolling update loses no request, whichever way it comes and on whichever node its pod is.
func testRolloutAcross(t *testing.T, n, agent *node) {
	n.apply(t, front)
	n.kubectl(t, "rollout", "status", "deployment/front", "--timeout=60s")
	var svc corev1.Service
	n.get(t, "/api/v1/namespaces/default/services/front", &svc)
	inPod := func(name string) *networktest.Namespace {
		pod := n.state(t, name, "Running ready main:running*0")
		return networktest.Of(t, pids(t, pod.Status.ContainerStatuses[0])[0])
	}
	loads := map[string]*load{
		"node port of n1":           {from: n.outside, url: "http://192.0.2.1:30090"},
		"node port of n2":           {from: n.outside, url: "http://192.0.2.2:30090"},
		"service from a pod of n1":  {from: inPod("asker-n1"), url: "http://" + svc.Spec.ClusterIP},
		"service from a pod of n2":  {from: inPod("asker-n2"), url: "http://" + svc.Spec.ClusterIP},
		"ingress":                   {from: n.outside, url: "http://192.0.2.1", host: "front.example"},
		"ingress, connections stay": {from: n.outside, url: "http://192.0.2.1", host: "front.example", keep: true},
	}
	for _, l := range loads {
		n.await(t, "the first answer", func() bool { return l.ask() == nil })
		l.start()
	}
	began := time.Now()
	const rounds = 2
	for round := range rounds {
		n.kubectl(t, "set", "env", "deployment/front", fmt.Sprintf("ROUND=%d", round))
		n.kubectl(t, "rollout", "status", "deployment/front", "--timeout=60s")
	}
	testSlowNode(t, n, agent, loads["node port of n2"])
	took := time.Since(began)
	total := 0
	for name, l := range loads {
		failures := l.end()
		total += l.count
		if len(l.pods) < 4*rounds {
			t.Errorf("%s: %d pods answered, want those of each round", name, len(l.pods))
		}
		if len(failures) > 0 {
			t.Errorf("%s: %d of %d requests failed, the first: %v", name, len(failures), l.count, failures[0])
		}
	}
	nodes := map[string]int{}
	for _, p := range n.pods(t, "labelSelector=app=front", func(map[string]*corev1.Pod) bool { return true }) {
		nodes[p.Spec.NodeName]++
	}
	if nodes["n1"] == 0 || nodes["n2"] == 0 {
		t.Errorf("pods on nodes: %v, want some on each", nodes)
	}
	t.Logf("%d requests in %s, %.0f a second", total, took, float64(total)/took.Seconds())
	n.kubectl(t, "delete", "deployment/front", "service/front", "ingress/front", "pod/asker-n1", "pod/asker-n2")
}

// testSlowNode: a pod waits with its end for a node whose rules still lead to it.
func testSlowNode(t *testing.T, n, slow *node, clients *load) {
	pods := n.pods(t, "labelSelector=app=front", func(pods map[string]*corev1.Pod) bool {
		for _, p := range pods {
			if p.DeletionTimestamp != nil {
				return false
			}
		}
		return len(pods) == 4
	})
	must(t, slow.server.Process.Signal(syscall.SIGSTOP))
	for name, p := range pods {
		if p.Spec.NodeName == "n1" {
			n.kubectl(t, "delete", "pod", name, "--wait=false")
			break
		}
	}
	// For half a second, which is less than what a pod's end waits for a node that is silent.
	for asked := clients.asks(); clients.asks() < asked+25; {
		<-time.After(pace)
	}
	must(t, slow.server.Process.Signal(syscall.SIGCONT))
	n.kubectl(t, "rollout", "status", "deployment/front", "--timeout=60s")
}

// load is a client that asks at a steady rate, whether answers come or not.
type load struct {
	from      *networktest.Namespace
	url, host string
	keep      bool // its connections, between requests

	client http.Client
	stop   chan struct{}
	asked  sync.WaitGroup

	mu       sync.Mutex
	count    int
	pods     map[string]bool
	failures []error
}

// pace is the time between two requests of one load.
const pace = 20 * time.Millisecond

func (l *load) start() {
	l.stop, l.count, l.failures, l.pods = make(chan struct{}), 0, nil, map[string]bool{}
	l.asked.Go(func() {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for {
			select {
			case <-l.stop:
				return
			case <-tick.C:
			}
			l.asked.Go(func() {
				err := l.ask()
				l.mu.Lock()
				defer l.mu.Unlock()
				l.count++
				if err != nil {
					l.failures = append(l.failures, fmt.Errorf("%s: %w", time.Now().UTC().Format("15:04:05.000"), err))
				}
			})
		}
	})
}

func (l *load) asks() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

func (l *load) end() []error {
	close(l.stop)
	l.asked.Wait()
	l.client.CloseIdleConnections()
	return l.failures
}

func (l *load) ask() error {
	l.mu.Lock()
	if l.client.Transport == nil {
		l.client = http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
			DisableKeepAlives: !l.keep, MaxIdleConnsPerHost: 100,
			DialContext: func(_ context.Context, network, addr string) (conn net.Conn, err error) {
				err = l.from.Do(func() error {
					conn, err = net.DialTimeout(network, addr, 5*time.Second)
					return err
				})
				return conn, err
			},
		}}
	}
	l.mu.Unlock()
	target := l.url
	if !strings.Contains(strings.TrimPrefix(target, "http://"), ":") {
		target += ":80"
	}
	req, err := http.NewRequest(http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	req.Host = l.host
	resp, err := l.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	words := strings.Fields(string(body))
	if resp.StatusCode != http.StatusOK || len(words) < 3 || words[0] != "Hello" {
		return errors.New(resp.Status + ": " + string(body))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pods != nil {
		l.pods[words[2]] = true
	}
	return nil
}

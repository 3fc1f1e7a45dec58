package realnode

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
)

const joinedIP = "192.0.2.2"

// TestJoinedNode runs a server and an agent on two machines, with all pods on the agent's.
func TestJoinedNode(t *testing.T) {
	machines := newMachines(t, 2)
	n1, n2 := machines[0], machines[1]
	n1.serve(t)
	n2.run(t, "agent", "--data-dir", n2.dir, "--node-name", "n2", "--server", serverURL, "--token", n1.token(t))
	n1.ready(t, "n2", true)
	n2.importImage(t)
	n1.kubectl(t, "cordon", "n1")
	t.Run("config", func(t *testing.T) { testLiveConfig(t, n1) })
	t.Run("ingress", func(t *testing.T) { testJoinedIngress(t, n1, n2) })
	t.Run("address", func(t *testing.T) { testAddress(t, n1, n2) }) // the last: the agent's server is at the old one
}

// swiftly waits until something is so, and logs how long that took.
func swiftly(t *testing.T, limit time.Duration, what string, so func() bool) {
	t.Helper()
	for began := time.Now(); ; {
		if so() {
			t.Logf("%s after %s", what, time.Since(began).Round(time.Millisecond))
			return
		}
		if time.Since(began) > limit {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// Changed ConfigMaps and Secrets reach the volumes of a joined node within seconds, before and after a restart of the server.
func testLiveConfig(t *testing.T, server *node) {
	server.apply(t, `
apiVersion: v1
kind: ConfigMap
metadata: {name: live}
data: {key: "1"}
---
apiVersion: v1
kind: Secret
metadata: {name: live}
stringData: {key: "1"}
---
apiVersion: v1
kind: Pod
metadata: {name: live}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: $IMAGE
    volumeMounts: [{name: map, mountPath: /map}, {name: secret, mountPath: /secret}, {name: later, mountPath: /later}]
  volumes:
  - {name: map, configMap: {name: live}}
  - {name: secret, projected: {sources: [{secret: {name: live}}]}}
  - {name: later, configMap: {name: later, optional: true}}
---
apiVersion: v1
kind: Pod
metadata: {name: waits}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: $IMAGE, envFrom: [{configMapRef: {name: later}}]}]
`)
	server.state(t, "live", "Running ready main:running*0")
	server.state(t, "waits", "Pending main:CreateContainerConfigError*0")
	shows := func(what, want string) {
		t.Helper()
		swiftly(t, 10*time.Second, what+" shows "+want, func() bool {
			return server.sh(t, "live", "cat /map/key; echo; cat /secret/key; echo; cat /later/key 2>/dev/null; true") == want
		})
	}
	shows("the first state", "1\n1\n")
	server.kubectl(t, "patch", "configmap", "live", "-p", `{"data":{"key":"2"}}`)
	shows("the ConfigMap", "2\n1\n")
	server.kubectl(t, "patch", "secret", "live", "-p", `{"stringData":{"key":"2"}}`)
	shows("the Secret", "2\n2\n")
	server.kubectl(t, "create", "configmap", "later", "--from-literal=key=3")
	shows("what was missing", "2\n2\n3")
	server.state(t, "waits", "Running ready main:running*0")

	must(t, server.server.Process.Signal(syscall.SIGKILL))
	<-server.server.ended
	server.serve(t)
	server.await(t, "exec after the server's restart", func() bool {
		_, err := server.try(t, nil, "exec", "live", "--", "true")
		return err == nil
	})
	server.kubectl(t, "patch", "secret", "live", "-p", `{"stringData":{"key":"4"}}`)
	shows("the Secret after a restart of the server", "2\n4\n3")
	server.kubectl(t, "delete", "pod", "live", "waits")
}

// certificate makes a certificate for a name, with a serial number by which it is known.
func certificate(t *testing.T, name string, serial int64) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	must(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

// visit asks an ingress from outside, each time on a new connection.
func (n *node) visit(url, host string) (answer string, serial int64, err error) {
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
			return n.outside.Dial(network, "", addr)
		},
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, ServerName: host},
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "", 0, err
	}
	req.Host = host
	resp, err := c.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.TLS != nil {
		serial = resp.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, bytes.TrimSpace(body)), serial, err
}

// Every node serves Ingresses, with their certificates, and a node that does not is not named in their status and gets no certificate.
func testJoinedIngress(t *testing.T, server, joined *node) {
	rotate := func(serial int64) {
		cert, key := certificate(t, "web.example", serial)
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "crt"), cert, 0o600))
		must(t, os.WriteFile(filepath.Join(dir, "key"), key, 0o600))
		out := server.kubectl(t, "create", "secret", "tls", "web", "--cert="+filepath.Join(dir, "crt"), "--key="+filepath.Join(dir, "key"), "--dry-run=client", "-o", "yaml")
		server.apply(t, out)
	}
	server.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: $IMAGE, command: [hello], env: [{name: POD_NAME, value: web}, {name: GREETING, value: Hi}], ports: [{containerPort: 8080, name: http}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Secret
metadata: {name: other}
stringData: {key: "nobody's business"}
`)
	server.apply(t, strings.Replace(webIngress, "hosts: [web.example]", "hosts: [web.example], secretName: web", 1))
	server.state(t, "web", "Running ready main:running*0")
	addresses := func(want string) {
		t.Helper()
		swiftly(t, patience, "the status names "+want, func() bool {
			var i networkingv1.Ingress
			server.get(t, "/apis/networking.k8s.io/v1/namespaces/default/ingresses/web", &i)
			var ips []string
			for _, at := range i.Status.LoadBalancer.Ingress {
				ips = append(ips, at.IP)
			}
			return strings.Join(ips, " ") == want
		})
	}
	addresses(nodeIP + " " + joinedIP)
	serves := func(ip string, serial int64) {
		t.Helper()
		swiftly(t, 10*time.Second, fmt.Sprintf("%s serves certificate %d", ip, serial), func() bool {
			answer, got, err := server.visit("https://"+ip, "web.example")
			return err == nil && strings.HasPrefix(answer, "200 Hi from web") && got == serial
		})
	}
	for _, ip := range []string{nodeIP, joinedIP} {
		swiftly(t, 10*time.Second, ip+" serves", func() bool {
			answer, _, err := server.visit("http://"+ip, "web.example")
			return err == nil && strings.HasPrefix(answer, "200 Hi from web")
		})
	}
	for _, serial := range []int64{1001, 1002} { // the Secret comes later than the Ingress, and changes
		rotate(serial)
		serves(joinedIP, serial)
		serves(nodeIP, serial)
	}
	// What the node may read with its own certificate.
	const typed = "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dweb%2Ctype%3Dkubernetes.io%2Ftls"
	joined.mayRead(t, typed, true)
	for _, path := range []string{
		"/api/v1/secrets", "/api/v1/namespaces/default/secrets", "/api/v1/namespaces/default/secrets/web", "/api/v1/namespaces/default/secrets/other",
		"/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dother", "/api/v1/namespaces/default/secrets?fieldSelector=type%3Dkubernetes.io%2Ftls",
		"/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dother%2Ctype%3Dkubernetes.io%2Ftls",
	} {
		joined.mayRead(t, path, false)
	}

	restart := func(flags ...string) {
		must(t, joined.server.Process.Signal(syscall.SIGTERM))
		<-joined.server.ended
		joined.run(t, append([]string{"agent", "--data-dir", joined.dir}, flags...)...)
	}
	restart("--ingress-http", "off", "--ingress-https", "off")
	addresses(nodeIP)
	joined.mayRead(t, typed, false)
	if answer, _, err := server.visit("http://"+joinedIP, "web.example"); err == nil {
		t.Errorf("a node whose ingress is off answers %q", answer)
	}
	restart()
	addresses(nodeIP + " " + joinedIP)
	serves(joinedIP, 1002)
	// An administrator's word goes over the node's own.
	server.kubectl(t, "label", "node", "n2", "node-restriction.kubernetes.io/keb-ingress=off")
	addresses(nodeIP)
	joined.mayRead(t, typed, false)
	server.kubectl(t, "label", "node", "n2", "node-restriction.kubernetes.io/keb-ingress-")
	addresses(nodeIP + " " + joinedIP)
	server.kubectl(t, "delete", "ingress/web", "service/web", "pod/web", "secret/web", "secret/other")
}

// mayRead asks the server with the node's own certificate.
func (n *node) mayRead(t *testing.T, path string, want bool) {
	t.Helper()
	pair, err := tls.X509KeyPair([]byte(n.hostFile(t, "agent/node.pem")), []byte(n.hostFile(t, "agent/node.pem")))
	must(t, err)
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
			return n.inside.Dial(network, "", addr)
		},
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}}, DisableKeepAlives: true,
	}}
	resp, err := c.Get(serverURL + path)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	switch {
	case want && resp.StatusCode != http.StatusOK, !want && resp.StatusCode != http.StatusForbidden:
		t.Errorf("%s: %s, want it allowed: %t\n%s", path, resp.Status, want, body)
	case want && !bytes.Contains(body, []byte("tls.crt")):
		t.Errorf("%s: %s", path, body)
	}
}

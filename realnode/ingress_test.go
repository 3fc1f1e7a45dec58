package realnode

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

const webIngress = `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  tls: [{hosts: [web.example]}]
  rules:
  - host: web.example
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}
`

// A client outside reaches pods by name through the node's ports 80 and 443, and loses no request while they are replaced.
func testIngress(t *testing.T, n *node) {
	n.apply(t, webIngress)
	n.kubectl(t, "wait", "--for=jsonpath={.status.loadBalancer.ingress[0].ip}="+nodeIP, "ingress/web", "--timeout=30s")
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
			return n.outside.Dial(network, "", addr)
		},
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true,
	}}
	defer c.CloseIdleConnections()
	ask := func(url, host string) (string, error) {
		req, err := http.NewRequest("GET", url, nil)
		if err != nil {
			return "", err
		}
		req.Host = host
		resp, err := c.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return fmt.Sprintf("%d %s", resp.StatusCode, body), err
	}
	for _, url := range []string{"http://" + nodeIP, "https://" + nodeIP} {
		var all strings.Builder
		for range 12 {
			answer, err := ask(url, "web.example")
			if err != nil {
				t.Fatal(err)
			}
			all.WriteString(strings.TrimPrefix(answer, "200 "))
		}
		if got := answers(t, all.String()); got != 3 {
			t.Errorf("%s: %d pods answer, want all 3", url, got)
		}
		if answer, err := ask(url, "other.example"); err != nil || !strings.HasPrefix(answer, "404 ") {
			t.Errorf("%s for a host of nobody: %q %v", url, answer, err)
		}
	}
	stop, lost := make(chan struct{}), make(chan string, 1)
	go func() {
		defer close(lost)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if answer, err := ask("http://"+nodeIP, "web.example"); err != nil || !strings.Contains(answer, "200 Hello from web-") {
				lost <- fmt.Sprint(answer, err)
				return
			}
		}
	}()
	n.kubectl(t, "set", "env", "deployment/web", "ROUND=ingress")
	n.kubectl(t, "rollout", "status", "deployment/web", "--timeout=30s")
	close(stop)
	if what, ok := <-lost; ok {
		t.Errorf("a request was lost while the Deployment rolled: %s", what)
	}
}

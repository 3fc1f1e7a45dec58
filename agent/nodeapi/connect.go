package nodeapi

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// dialTimeout bounds how long a pod's port may take to accept a connection.
const dialTimeout = 30 * time.Second

// connect opens a connection to a port of one of this node's pods, for an API server that has no way of its own to them: the CONNECT
// method of HTTP. No other address is reached through it.
func (a *API) connect(w http.ResponseWriter, r *http.Request) {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		fail(w, apierrors.NewBadRequest(fmt.Sprintf("connect to %q: %v", r.Host, err)))
		return
	}
	if !slices.ContainsFunc(a.bound(), func(p *corev1.Pod) bool { return hasAddress(p, host) }) {
		fail(w, apierrors.NewForbidden(corev1.Resource("pods"), "", fmt.Errorf("no pod of node %s has the address %s", a.NodeName, host)))
		return
	}
	pod, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(r.Context(), "tcp", r.Host)
	if err != nil {
		fail(w, apierrors.NewServiceUnavailable(err.Error()))
		return
	}
	defer pod.Close()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		fail(w, apierrors.NewInternalError(fmt.Errorf("connect to %s: %w", r.Host, err)))
		return
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("HTTP/1.1 200 OK\r\n\r\n")); err != nil {
		return // the API server is gone
	}
	// When one direction ends, the other is closed too: half a connection is no use to a proxy of requests.
	done := make(chan struct{}, 2)
	go func() { _, _ = io.Copy(pod, buffered); done <- struct{}{} }()
	go func() { _, _ = io.Copy(conn, pod); done <- struct{}{} }()
	<-done
	_ = conn.Close()
	_ = pod.Close()
	<-done
}

func hasAddress(p *corev1.Pod, ip string) bool {
	return slices.ContainsFunc(p.Status.PodIPs, func(i corev1.PodIP) bool { return i.IP == ip })
}

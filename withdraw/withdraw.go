// Package withdraw keeps new connections from pods that end: before a container gets SIGTERM its pod's addresses have left the
// service rules and the ingress of every node, not only of its own. The pod's node waits for its own parts first, then asks the
// server, which asks the other nodes over their connections. Only daemon imports it; it imports client.
package withdraw

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
)

const (
	// Path is where the server takes the requests of agents: POST, with a podRef.
	Path = "/keb/v1/withdraw"
	// NodePath is where a node's API takes those of the server: POST, with a question. The answer is a line for each address, as
	// soon as nothing new is sent there.
	NodePath = "/withdraw"

	// answerLimit bounds how long a pod's end waits for other nodes. One that is well answers within milliseconds, and an agent that
	// starts anew within a second or two; a dead one never does, and is marked so less than a minute later.
	answerLimit = 3 * time.Second
	// arrivalTime is what a request may take to arrive whose client connected just before: the way back and forth of a client on
	// another continent. A server that is told to end meanwhile may close the connection unread, as Go's does.
	arrivalTime = 250 * time.Millisecond
	// mostMessage bounds a message, in bytes: far more than the addresses of all pods that end in one moment.
	mostMessage = 1 << 20
)

// Part sends new connections or requests to pods; see proxy.Proxy and ingress.Server.
type Part interface {
	// WaitWithdrawn waits until nothing new is sent to any of the addresses.
	WaitWithdrawn(ctx context.Context, addrs ...netip.Addr) error
}

// podRef names the pod that ends.
type podRef struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid"`
}

// question is what the server asks a node.
type question struct {
	// Revision is the server's, at which EndpointSlices hold the addresses; the node's rules must be at it first.
	Revision int64 `json:"revision"`
	// Addresses are those of pods that end.
	Addresses []netip.Addr `json:"addresses"`
}

// addresses are those of a pod that others may send to; none on the node's network, whose address others serve at: nobody
// could wait for it to be out of use.
func addresses(pod *corev1.Pod) []netip.Addr {
	var out []netip.Addr
	if pod.Spec.HostNetwork {
		return nil
	}
	for _, ip := range pod.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			out = append(out, addr)
		}
	}
	return out
}

// Agent makes the ends of a node's pods wait. Safe for concurrent use.
type Agent struct {
	// Client reads EndpointSlices.
	Client *client.Client
	// Parts are the node's own.
	Parts []Part
	// Others waits for the other nodes: Server.Withdraw, or Ask where the server is another process.
	Others func(ctx context.Context, pod *corev1.Pod) error
	Logger *slog.Logger
}

// Withdraw returns once nothing new is sent to a pod that ends. ctx ends with the pod's grace, of which it takes half at most: what the
// pod does to end well needs the rest. When it returns early the pod must end whatever the others do.
func (a *Agent) Withdraw(ctx context.Context, pod *corev1.Pod) {
	addrs := addresses(pod)
	if len(addrs) == 0 {
		return
	}
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
	}
	served := len(endpoints(a.Client, a.Client.Snapshot(), pod)) > 0
	// One after the other: what this node has seen leave the server knows of, so the others only have to catch up with it.
	for _, part := range a.Parts {
		if part.WaitWithdrawn(ctx, addrs...) != nil {
			return
		}
	}
	limited, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	if err := a.Others(limited, pod); err != nil {
		a.Logger.Warn("other nodes may still send connections to a pod that ends", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
	if !served {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(arrivalTime):
	}
}

// Ask is an Agent's Others over the API: post sends a body to a path of the server.
func Ask(post func(ctx context.Context, path string, body []byte) error) func(context.Context, *corev1.Pod) error {
	return func(ctx context.Context, pod *corev1.Pod) error {
		body, err := json.Marshal(podRef{pod.Namespace, pod.Name, pod.UID})
		if err != nil {
			return fmt.Errorf("encode pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		return post(ctx, Path, body)
	}
}

// decode reads a message, and answers when it is none.
func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	if r.Method != http.MethodPost {
		http.Error(w, "POST only", http.StatusMethodNotAllowed)
		return false
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, mostMessage)).Decode(into); err != nil {
		code := http.StatusBadRequest
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			code = http.StatusRequestEntityTooLarge
		}
		http.Error(w, "read message: "+err.Error(), code)
		return false
	}
	return true
}

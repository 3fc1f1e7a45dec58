// Package stream serves the subresources that lead somewhere else: log, exec, attach, port-forward and the proxies to pods,
// services and nodes. The API server calls it once a request is authorised and admitted. Only daemon imports it.
package stream

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kebernetes/kebernetes/apiserver"
	"github.com/kebernetes/kebernetes/store"
)

// Nodes finds the kubelet API of a node: in this process, or behind the connection that the node's agent keeps.
type Nodes interface {
	// Node returns the handler that answers for a node, or an error that says why it cannot be reached now.
	Node(name string) (http.Handler, error)
	// Pods returns the way to the addresses of a node's pods through its agent, nil when they are reached directly.
	Pods(name string) http.RoundTripper
}

// Options are what Streams are made of; both are required.
type Options struct {
	Reader store.Reader
	Nodes  Nodes
}

// Streams connects requests to nodes, pods and services. Safe for concurrent use.
type Streams struct {
	Options
	direct http.RoundTripper
}

const (
	dialTimeout = 30 * time.Second
	idleConns   = 16 // kept open to one pod, for clients that ask often
)

// New returns Streams.
func New(o Options) *Streams {
	return &Streams{Options: o, direct: &http.Transport{
		MaxIdleConnsPerHost: idleConns,
		IdleConnTimeout:     90 * time.Second,
		TLSHandshakeTimeout: dialTimeout,
		// Pods and services have no certificate of the cluster's; the proxy is a convenience of whom RBAC lets use it.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		Proxy:           nil,
	}}
}

// Connect serves the request, or returns the error to answer with when nothing was written yet.
func (s *Streams) Connect(w http.ResponseWriter, r *http.Request, c *apiserver.Connection) error {
	switch c.Kind.Resource + "/" + c.Subresource {
	case "pods/log":
		return s.log(w, r, c)
	case "pods/exec", "pods/attach":
		return s.command(w, r, c)
	case "pods/portforward":
		return s.portForward(w, r, c)
	case "pods/proxy":
		return s.proxyPod(w, r, c)
	case "services/proxy":
		return s.proxyService(w, r, c)
	case "nodes/proxy":
		if s.Reader.Snapshot().Get(store.Key{Resource: "nodes", Name: c.Name}) == nil {
			return apierrors.NewNotFound(corev1.Resource("nodes"), c.Name)
		}
		return s.toNode(w, r, c.Name, "/"+c.Path, r.URL.Query())
	}
	return apierrors.NewBadRequest(fmt.Sprintf("%s has no subresource %s to connect to", c.Kind.Resource, c.Subresource))
}

// toNode hands the request to a node's API under a path and query of that API.
func (s *Streams) toNode(w http.ResponseWriter, r *http.Request, node, path string, query url.Values) error {
	handler, err := s.Nodes.Node(node)
	if err != nil {
		return apierrors.NewServiceUnavailable(err.Error())
	}
	out := r.Clone(r.Context())
	out.URL.Path, out.URL.RawPath, out.URL.RawQuery = path, "", query.Encode()
	out.RequestURI = ""
	out.Header.Del("Authorization") // the client's credentials are not the node's business
	handler.ServeHTTP(w, out)
	return nil
}

func (s *Streams) pod(namespace, name string) (*corev1.Pod, error) {
	item := s.Reader.Snapshot().Get(store.Key{Resource: "pods", Namespace: namespace, Name: name})
	if item == nil {
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
	}
	return item.Object.(*corev1.Pod), nil
}

// containerOf picks the container that a request means: the one named, or the only one.
func containerOf(pod *corev1.Pod, name string) (string, error) {
	var regular, initial, all []string
	for _, c := range pod.Spec.Containers {
		regular = append(regular, c.Name)
	}
	for _, c := range pod.Spec.InitContainers {
		initial = append(initial, c.Name)
	}
	all = append(append(all, regular...), initial...)
	for _, c := range pod.Spec.EphemeralContainers {
		all = append(all, c.Name)
	}
	if name == "" {
		if len(regular) == 1 && len(all) == 1 {
			return regular[0], nil
		}
		text := fmt.Sprintf("a container name must be specified for pod %s, choose one of: %v", pod.Name, regular)
		if len(initial) > 0 {
			text += fmt.Sprintf(" or one of the init containers: %v", initial)
		}
		if len(all) > len(regular)+len(initial) {
			text += fmt.Sprintf(" or one of the ephemeral containers: %v", all[len(regular)+len(initial):])
		}
		return "", apierrors.NewBadRequest(text)
	}
	for _, c := range all {
		if c == name {
			return name, nil
		}
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
}

func (s *Streams) command(w http.ResponseWriter, r *http.Request, c *apiserver.Connection) error {
	pod, err := s.pod(c.Namespace, c.Name)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	container, err := containerOf(pod, q.Get("container"))
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	if c.Subresource == "exec" && len(q["command"]) == 0 {
		return apierrors.NewBadRequest("you must specify at least 1 command for the container")
	}
	// The kubelet's API has other names for the same parameters.
	out := url.Values{"command": q["command"]}
	for ours, theirs := range map[string]string{"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"} {
		if v := strings.ToLower(q.Get(ours)); v == "1" || v == "true" {
			out.Set(theirs, "1")
		}
	}
	path := fmt.Sprintf("/%s/%s/%s/%s/%s", c.Subresource, pod.Namespace, pod.Name, pod.UID, container)
	return s.toNode(w, r, pod.Spec.NodeName, path, out)
}

func (s *Streams) portForward(w http.ResponseWriter, r *http.Request, c *apiserver.Connection) error {
	pod, err := s.pod(c.Namespace, c.Name)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	out := url.Values{}
	for _, p := range r.URL.Query()["ports"] {
		for port := range strings.SplitSeq(p, ",") {
			out.Add("port", port)
		}
	}
	return s.toNode(w, r, pod.Spec.NodeName, fmt.Sprintf("/portForward/%s/%s/%s", pod.Namespace, pod.Name, pod.UID), out)
}

package apiserver

import (
	"net/http"

	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/admission"
	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/kinds"
)

// Connection is a request that leads somewhere else: into a container, to a pod's port, to a node.
type Connection struct {
	User        *auth.User
	Kind        *kinds.Kind
	Subresource string
	Namespace   string
	Name        string
	// Path is what follows the subresource in the request's path, without the slash between.
	Path string
}

// Connector serves connections.
type Connector interface {
	// Connect is called once a request is authorised and admitted, and serves it, or returns the error to answer with when
	// nothing has been written yet.
	Connect(w http.ResponseWriter, r *http.Request, c *Connection) error
}

// connect hands the request to what serves connections.
func (rq *request) connect() error {
	if rq.s.Streams == nil {
		return pathUnknown()
	}
	if err := rq.mayCommand(); err != nil {
		return err
	}
	ns, name := rq.storedName()
	w := &write{user: rq.user, kind: rq.kind, served: rq.served, sub: rq.sub, namespace: ns, name: name, warn: rq.warn}
	if rq.subresource != "log" { // reading a log connects nobody
		ar := w.admissionRequest(admission.Connect, nil, nil)
		if err := rq.s.Admission.Mutate(rq.ctx, ar); err != nil {
			return err
		}
		if err := rq.s.Admission.Validate(rq.ctx, ar); err != nil {
			return err
		}
	}
	err := rq.s.Streams.Connect(rq.w, rq.r, &Connection{
		User: rq.user, Kind: rq.kind, Subresource: rq.subresource, Namespace: ns, Name: name, Path: rq.rest,
	})
	if err == nil {
		rq.code = http.StatusOK // what it was is between the two ends
	}
	return err
}

// mayCommand asks more of whom WebSocket makes open a way into a pod by GET: as by POST, they must be allowed to create it, as
// the right to get things is often given for looking only.
func (rq *request) mayCommand() error {
	if rq.verb != "get" || rq.kind.GroupResource() != corev1.Resource("pods") {
		return nil
	}
	switch rq.subresource {
	case "exec", "attach", "portforward":
	default:
		return nil
	}
	a := rq.attributes(rq.user)
	a.Verb = "create"
	if ok, reason := rq.s.Authorizer.Authorize(&a); !ok {
		return auth.Forbidden(&a, reason)
	}
	return nil
}

package apiserver

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/kebernetes/kebernetes/apiserver/wire"
	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// request is one HTTP request on its way through the filters to its verb. Verbs are methods of it.
type request struct {
	route
	s    *Server
	w    http.ResponseWriter
	r    *http.Request
	ctx  context.Context
	user *auth.User

	kind   *kinds.Kind
	served *kinds.Version
	sub    *kinds.Subresource

	query    url.Values
	warnings []string
	code     int // of the answer, once it was given
}

// values is the parsed query.
func (rq *request) values() url.Values {
	if rq.query == nil && rq.r.URL.RawQuery != "" {
		rq.query = rq.r.URL.Query()
	}
	return rq.query
}

// streams says whether the request may last: a watch or a connection.
func (rq *request) streams() bool {
	if rq.verb == "watch" {
		return true
	}
	switch rq.subresource {
	case "exec", "attach", "portforward", "proxy", "log":
		return true
	}
	return false
}

const (
	// maxWarnings bounds the bytes of all warnings of one answer, maxWarning those of each: upstream's limits.
	maxWarnings = 4096
	maxWarning  = 256
)

// warn adds a warning to the answer, once.
func (rq *request) warn(text string) {
	for _, w := range rq.warnings {
		if w == text {
			return
		}
	}
	rq.warnings = append(rq.warnings, text)
}

// warningHeaders are the warnings as header values; when they are too many bytes, each is cut, and then the rest dropped.
func (rq *request) warningHeaders() []string {
	total := 0
	for _, w := range rq.warnings {
		total += len(w)
	}
	cut := total > maxWarnings
	total = 0
	var out []string
	for _, w := range rq.warnings {
		if cut {
			if r := []rune(w); len(r) > maxWarning {
				w = string(r[:maxWarning])
			}
			if total += len(w); total > maxWarnings {
				break
			}
		}
		if h, err := utilnet.NewWarningHeader(299, "-", w); err == nil {
			out = append(out, h)
		}
	}
	return out
}

// head writes the header of an answer. Negative length is unknown.
func (rq *request) head(code int, contentType []string, length int) {
	h := rq.w.Header()
	h["Content-Type"] = contentType
	h["Cache-Control"] = noCache
	if len(rq.warnings) > 0 {
		h["Warning"] = rq.warningHeaders()
	}
	if length >= 0 {
		h["Content-Length"] = []string{strconv.Itoa(length)}
	}
	rq.code = code
	rq.w.WriteHeader(code)
}

var noCache = []string{"no-cache, private"}

// maxBody is the most that a request's body may hold; upstream's limit.
const maxBody = 3 << 20

// body reads the request's body, within the request's time: a client that sends it drop by drop holds a seat of its level
// no longer than others. The caller gives the buffer back when nothing refers to it any more.
func (rq *request) body() (*wire.Buffer, error) {
	if end, ok := rq.ctx.Deadline(); ok {
		_ = http.NewResponseController(rq.w).SetReadDeadline(end) // what has no connection needs none
	}
	b := wire.GetBuffer()
	r := io.LimitReader(rq.r.Body, maxBody+1)
	if n := rq.r.ContentLength; n > int64(cap(b.B)) && n <= maxBody {
		b.B = make([]byte, 0, n+1)
	}
	for {
		if len(b.B) == cap(b.B) {
			b.B = append(b.B, 0)[:len(b.B)]
		}
		n, err := r.Read(b.B[len(b.B):cap(b.B)])
		b.B = b.B[:len(b.B)+n]
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			b.Free()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil, context.DeadlineExceeded
			}
			return nil, apierrors.NewBadRequest("read the request's body: " + err.Error())
		}
	}
	if len(b.B) > maxBody {
		b.Free()
		return nil, apierrors.NewRequestEntityTooLargeError("limit is " + strconv.Itoa(maxBody))
	}
	return b, nil
}

// manager is the name under which the request's changes are recorded: asked for, or the first word of the client's name.
func (rq *request) manager(asked string) string {
	if asked != "" {
		return asked
	}
	agent, _, _ := strings.Cut(rq.r.UserAgent(), "/")
	if len(agent) > 128 {
		agent = agent[:128]
	}
	return agent
}

// storedName is the place in the store of the object that the request names. A Namespace, though its path makes it lie in
// itself, is stored like all cluster-scoped objects.
func (rq *request) storedName() (namespace, name string) {
	if !rq.kind.Namespaced {
		return "", rq.name
	}
	return rq.namespace, rq.name
}

// key is the key of an object of a kind.
func key(k *kinds.Kind, namespace, name string) store.Key {
	if !k.Namespaced {
		namespace = ""
	}
	return store.Key{Resource: k.StorageResource().String(), Namespace: namespace, Name: name}
}

// dryRun says whether options ask for nothing to be stored.
func dryRun(o []string) bool { return len(o) == 1 && o[0] == metav1.DryRunAll }

// pretty says whether JSON is to be indented: asked for, or read by a person through curl, wget or a browser.
func (rq *request) pretty() bool {
	if p := rq.values().Get("pretty"); p != "" {
		on, err := strconv.ParseBool(p)
		return err == nil && on
	}
	agent := rq.r.UserAgent()
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}

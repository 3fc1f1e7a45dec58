// Package apiserver is the wire: it turns HTTP requests, and the calls of components in the same process, into reads and
// writes of the store, with upstream's names, answers and texts. One router serves all rows of the kinds table; each verb is
// one file. Only daemon imports it (and testcluster, through daemon); it imports store, kinds, auth and admission.
package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/admission"
	"github.com/kebernetes/kebernetes/apiserver/addresses"
	"github.com/kebernetes/kebernetes/apiserver/fields"
	"github.com/kebernetes/kebernetes/apiserver/view"
	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

// Authenticator says who sent a request.
type Authenticator interface {
	// Authenticate returns the user, nil when the request carries no credentials, or an error: a Status error is the answer
	// (a refused impersonation), any other makes a 401. It is called once per request, concurrently.
	Authenticate(r *http.Request) (*auth.User, error)
}

// TokenReviewer checks a bearer token for TokenReview.
type TokenReviewer interface {
	// Review returns the token's user and the audiences that both the token and the asker name (all of the server's when
	// the asker names none). An error means that the token is not good; its text goes into the answer.
	Review(ctx context.Context, token string, audiences []string) (*auth.User, []string, error)
}

// TokenIssuer signs service account tokens for the token subresource.
type TokenIssuer interface {
	// Issue grants tr for the service account: it fills in what tr leaves open, checks it, and sets its status. bound is
	// the object that tr names, nil when it names none or there is no such object. Errors are Status errors.
	Issue(ctx context.Context, account, bound kinds.Object, tr *authenticationv1.TokenRequest) error
}

// Options are what a Server is made of. Table, Store, Authenticator and Authorizer are required.
type Options struct {
	Table         *kinds.Table
	Store         store.Store
	Authenticator Authenticator
	Authorizer    auth.Authorizer
	// Admission looks at every write, in order.
	Admission admission.Chain
	// Bootstrap are the objects that must exist (RBAC roles and bindings); Run creates them, and adds to existing roles
	// and bindings what they lack, unless they opt out by the annotation rbac.authorization.kubernetes.io/autoupdate=false.
	Bootstrap []kinds.Object

	// Tokens and Reviewer serve the token subresource and TokenReview; nil answers 404 and an error in the review.
	Tokens   TokenIssuer
	Reviewer TokenReviewer
	// Streams serves the subresources that connect somewhere (exec, log, proxy); nil answers 404.
	Streams Connector
	// Computed answers reads of the virtual kinds that can be read, by resource.
	Computed map[schema.GroupResource]Computed
	// OpenAPI serves /openapi/; nil answers 404.
	OpenAPI http.Handler
	// Paths are further non-resource paths, by exact path, or by prefix when they end in "/".
	Paths map[string]http.Handler

	// ServiceCIDR is the range of cluster IPs; its first address is the API's own. Default 10.43.0.0/16.
	ServiceCIDR netip.Prefix
	// NodePorts are the first and last node port. Default 30000-32767.
	NodePorts [2]int32
	// Advertise is the address that the Service kubernetes leads to, until SetAdvertise. The zero value publishes no endpoints.
	Advertise netip.AddrPort

	// Ready are further checks of /readyz, by name; each returns nil once it is fulfilled.
	Ready map[string]func() error
	// Registerer takes the metrics; nil keeps them unregistered. Logger gets failures and, at debug level, every request;
	// nil discards.
	Registerer prometheus.Registerer
	Logger     *slog.Logger
	// Now is the clock of timestamps; nil means time.Now.
	Now func() time.Time
}

// Server answers the Kubernetes API. It implements http.Handler; all methods are safe for concurrent use.
type Server struct {
	Options
	handler   handler
	fields    *fields.Managers
	addresses *addresses.Pool
	limits    *limits
	metrics   *metrics
	crowds    view.Crowds // of watchers
	advertise atomic.Pointer[netip.AddrPort]
	started   chan struct{} // closed once the bootstrap objects exist
	stop      context.Context
	halt      context.CancelFunc
}

// New checks the options and returns a server that can answer at once; /readyz waits for Run.
func New(o Options) (*Server, error) {
	switch {
	case o.Table == nil || o.Store == nil:
		return nil, errors.New("new apiserver: Table and Store are required")
	case o.Authenticator == nil || o.Authorizer == nil:
		return nil, errors.New("new apiserver: Authenticator and Authorizer are required")
	}
	if !o.ServiceCIDR.IsValid() {
		o.ServiceCIDR = netip.MustParsePrefix("10.43.0.0/16")
	}
	if o.NodePorts == [2]int32{} {
		o.NodePorts = [2]int32{30000, 32767}
	}
	if o.NodePorts[0] < 1 || o.NodePorts[1] > 65535 || o.NodePorts[0] > o.NodePorts[1] {
		return nil, fmt.Errorf("new apiserver: node port range %d-%d is not a range of ports", o.NodePorts[0], o.NodePorts[1])
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{Options: o, limits: newLimits(), metrics: newMetrics(o.Registerer), started: make(chan struct{})}
	s.advertise.Store(&o.Advertise)
	s.stop, s.halt = context.WithCancel(context.Background())
	s.fields = fields.New()
	s.addresses = addresses.New(o.Store, o.ServiceCIDR, o.NodePorts)
	s.handler = chain(s.serve, s.filters())
	return s, nil
}

// Name is the component's name.
func (s *Server) Name() string { return "apiserver" }

// Started is closed once the objects that every cluster has are there, which the other components rely on.
func (s *Server) Started() <-chan struct{} { return s.started }

// Run makes the objects that every cluster has, reports ready, and waits for ctx. When ctx ends, open watches end too.
func (s *Server) Run(ctx context.Context) error {
	defer s.halt()
	if err := s.bootstrap(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("bootstrap the API: %w", err)
	}
	close(s.started)
	<-ctx.Done()
	return nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet { // a watch would hold the room for as long as it lasts
		growStack(0)
	}
	s.handler(&request{s: s, w: w, r: r})
}

// growStack makes room for the calls of a write. HTTP/2 gives each request a goroutine, whose small stack would be copied
// three times on the way, each time with more on it: copies of stacks were 5 % of the server's time.
//
//go:noinline
func growStack(i int) byte {
	var room [12 << 10]byte
	return room[i]
}

// now is the present as objects store it: to the second, in UTC.
func (s *Server) now() time.Time { return s.Now().UTC().Truncate(time.Second) }

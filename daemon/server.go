package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/admission"
	"github.com/kebernetes/kebernetes/apiserver"
	"github.com/kebernetes/kebernetes/apiserver/openapi"
	"github.com/kebernetes/kebernetes/apiserver/stream"
	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/auth/pki"
	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/config"
	"github.com/kebernetes/kebernetes/controller"
	"github.com/kebernetes/kebernetes/controller/autoscale"
	"github.com/kebernetes/kebernetes/controller/certificates"
	"github.com/kebernetes/kebernetes/controller/cluster"
	"github.com/kebernetes/kebernetes/controller/scaling"
	"github.com/kebernetes/kebernetes/controller/services"
	"github.com/kebernetes/kebernetes/controller/storage"
	"github.com/kebernetes/kebernetes/controller/workloads"
	"github.com/kebernetes/kebernetes/ingress"
	"github.com/kebernetes/kebernetes/join"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/kinds/builtin"
	"github.com/kebernetes/kebernetes/scheduler"
	"github.com/kebernetes/kebernetes/store"
	"github.com/kebernetes/kebernetes/store/local"
	"github.com/kebernetes/kebernetes/tunnel"
	"github.com/kebernetes/kebernetes/withdraw"
)

const (
	// issuer names the cluster in service account tokens; upstream's usual value, which clients in pods expect.
	issuer = "https://kubernetes.default.svc"
	// adminLifetime is how long the administrator's certificate is good; each start of the server writes a new one.
	adminLifetime = 365 * 24 * time.Hour
)

// System is one server process: its parts, in the order in which they start.
type System struct {
	config     config.Config
	log        *slog.Logger
	table      *kinds.Table
	store      *local.Local
	authority  *pki.Authority
	api        *apiserver.Server
	nodes      *nodes
	tunnels    *tunnel.Hub
	podUsage   autoscale.Usage // nil for an API that runs alone
	leaving    *withdraw.Server
	registry   *prometheus.Registry
	socket     net.Listener
	components []Component
}

// Serve runs a server until ctx is done. c is complete and valid.
func Serve(ctx context.Context, c config.Config, log *slog.Logger) error {
	start := time.Now()
	if err := checkLocal(c); err != nil {
		return err
	}
	// The port first: nothing has changed yet when it is taken.
	socket, err := listen(c.Listen)
	if err != nil {
		return err
	}
	defer socket.Close()
	held, err := takeLock(c.DataDir)
	if err != nil {
		return err
	}
	defer held.release()
	s, err := New(ctx, c, socket, log)
	if err != nil {
		return err
	}
	s.Add(trimmer{log})
	log.Info("keb serves", "address", s.url(), "data", c.DataDir, "took", time.Since(start).Round(time.Millisecond))
	return s.Run(ctx)
}

// New opens what is on disk and wires the parts. Nothing runs yet. The caller owns the data directory. A nil
// socket serves only this process. ctx ends what was connected when it is done.
func New(ctx context.Context, c config.Config, socket net.Listener, log *slog.Logger) (*System, error) {
	s := &System{config: c, log: log, socket: socket, table: builtin.Table(), registry: prometheus.NewRegistry()}
	var err error
	if s.authority, err = pki.Open(filepath.Join(c.DataDir, "pki")); err != nil {
		return nil, err
	}
	if s.store, err = openStore(c.DataDir, s.table, log); err != nil {
		return nil, err
	}
	if err := s.addAll(ctx); err != nil {
		ended, cancel := context.WithCancel(ctx)
		cancel()
		return nil, errors.Join(err, s.store.Run(ended)) // closes it
	}
	return s, nil
}

// addAll adds the parts that the configuration wants.
func (s *System) addAll(ctx context.Context) error {
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := s.addAPI(); err != nil {
		return err
	}
	if !s.config.APIOnly {
		if err := s.addControllers(); err != nil {
			return err
		}
	}
	switch moved := s.readvertise(); {
	case s.config.APIOnly:
	case !s.config.NoAgent:
		return s.addNode(ctx)
	case moved != nil:
		at := newAddresses(s.config, s.log)
		at.moved = moved
		s.Add(at)
	}
	return nil
}

// Run runs all parts until ctx is done or one of them fails.
func (s *System) Run(ctx context.Context) error { return supervise(ctx, s.log, s.components) }

// Started is closed once the API has the objects that every cluster has.
func (s *System) Started() <-chan struct{} { return s.api.Started() }

// Add appends a part that starts after, and stops before, those that are there.
func (s *System) Add(c Component) { s.components = append(s.components, c) }

// AddNode adds a node: its parts, in the order in which they start, and the API by which the API server reaches it.
func (s *System) AddNode(name string, api http.Handler, parts ...Component) {
	s.nodes.set(name, api)
	s.components = append(s.components, parts...)
}

// openStore opens the store of a data directory. Secrets are encrypted on disk; events and leases may be lost in a crash.
func openStore(dataDir string, table *kinds.Table, log *slog.Logger) (*local.Local, error) {
	volatile := func(resource string) bool {
		k := table.Resource(schema.ParseGroupResource(resource))
		return k != nil && k.Volatile
	}
	return local.Open(local.Options{
		Dir:      filepath.Join(dataDir, "store"),
		Codec:    codec{table},
		Encrypt:  func(resource string) bool { return resource == "secrets" },
		Volatile: volatile,
		Logger:   log,
	})
}

func (s *System) addAPI() error {
	c := s.config
	tokens, err := auth.NewTokens(auth.TokenOptions{Reader: s.store, Issuer: issuer, Keys: s.authority.SigningKeys()})
	if err != nil {
		return err
	}
	discovery, err := tokens.Discovery(s.url())
	if err != nil {
		return err
	}
	policy := auth.NewPolicy(s.store)
	authenticator := auth.NewAuthenticator(auth.AuthenticatorOptions{
		Reader: s.store, Roots: s.authority.Pool(), Tokens: tokens, Authorizer: policy, Target: apiserver.Attributes, Logger: s.log,
	})
	steps, err := admission.Default(admission.Options{Store: s.store, Policy: policy})
	if err != nil {
		return err
	}
	joining := s.newJoining()
	s.tunnels = &tunnel.Hub{Identify: nodeOf, Logger: s.log}
	s.nodes = &nodes{hub: s.tunnels}
	computed, err := s.measure(policy)
	if err != nil {
		return err
	}
	s.leaving = withdraw.NewServer(withdraw.Options{Node: s.nodes.Node, Identify: nodeOf, Logger: s.log})
	s.api, err = apiserver.New(apiserver.Options{
		Table:         s.table,
		Store:         s.store,
		Authenticator: authenticator,
		Authorizer:    policy,
		Admission:     steps,
		Bootstrap:     s.bootstrap(),
		Tokens:        tokens,
		Reviewer:      authenticator,
		Streams:       stream.New(stream.Options{Reader: s.store, Nodes: s.nodes}),
		Computed:      computed,
		OpenAPI:       openapi.Handler(s.table),
		Paths: map[string]http.Handler{
			"/metrics":                          promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}),
			"/.well-known/openid-configuration": discovery,
			"/openid/v1/jwks":                   discovery,
			"/debug/pprof/":                     profiles(),
			RotateKeyPath:                       rotateKey(s.store, s.log),
			join.Path:                           joining,
			tunnel.Path:                         s.tunnels,
			withdraw.Path:                       s.leaving,
		},
		ServiceCIDR: netip.MustParsePrefix(c.ServiceCIDR),
		Advertise:   s.advertise(),
		Registerer:  s.registry,
		Logger:      s.log,
	})
	if err != nil {
		return err
	}
	names, ips := pki.ServerNames(c.ClusterDomain, c.APIServiceAddress(), append(c.CertificateNames, c.NodeName, c.NodeIP, c.AdvertiseIP)...)
	joining.Client = s.As(&auth.User{Name: "system:apiserver", Groups: []string{auth.GroupMasters, auth.GroupAuthenticated}})
	s.leaving.Client = joining.Client
	s.Add(s.store)
	if s.socket != nil { // without one, a cluster inside a test process
		s.Add(&listener{socket: s.socket, handler: s.api, tls: s.authority.Server(names, ips).TLSConfig(), log: s.log})
		if err := s.writeKubeconfigs(); err != nil {
			return err
		}
	}
	s.Add(s.api)
	s.Add(s.tunnels)
	s.Add(s.leaving)
	return nil
}

// bootstrap are the objects that a cluster has from the start, besides those of the API itself.
func (s *System) bootstrap() []kinds.Object {
	objects := auth.BootstrapObjects()
	if !s.config.APIOnly {
		objects = append(append(objects, s.dnsService(), localClass(), usageRole()), slices.Concat(restartRole(), addressRole(), provisionerRole(), nodeRoles())...)
		if ingressOn(s.config) {
			objects = append(objects, ingressRole()...)
		}
	}
	return objects
}

// dnsService reserves the address of the cluster's DNS and shows it under the name that everybody looks for. No proxy serves
// it: on every node the address is the node's own, where its DNS server listens.
func (s *System) dnsService() kinds.Object {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "kube-dns", Labels: map[string]string{
			"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
			"service.kubernetes.io/service-proxy-name": "keb-dns",
		}},
		Spec: corev1.ServiceSpec{
			ClusterIP: s.config.DNSAddress().String(),
			Ports: []corev1.ServicePort{
				{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP},
				{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP},
			},
		},
	}
}

// profiles serves the Go runtime's profiles, as upstream's API server does, to whom RBAC lets see them.
func profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// advertise is where the Service kubernetes leads to. An API that runs without controllers and nodes publishes no endpoints,
// nor does one on a loopback address: endpoints may not be there, and no pod could reach it.
func (s *System) advertise() netip.AddrPort {
	ip := netip.MustParseAddr(s.config.AdvertiseIP)
	if s.config.APIOnly || ip.IsLoopback() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip, uint16(s.port()))
}

// port is where the API listens; without a socket, where it would by default.
func (s *System) port() int {
	if s.socket == nil {
		return 6443
	}
	return s.socket.Addr().(*net.TCPAddr).Port
}

// url is how processes on this machine reach the API.
func (s *System) url() string {
	host, _, err := net.SplitHostPort(s.config.Listen)
	if err != nil || host == "" || netip.MustParseAddr(host).IsUnspecified() {
		host = "127.0.0.1"
	}
	return "https://" + net.JoinHostPort(host, strconv.Itoa(s.port()))
}

// writeKubeconfigs writes the administrator's kubeconfig into the data directory, and where else it is wanted.
func (s *System) writeKubeconfigs() error {
	k, err := s.kubeconfig()
	if err != nil {
		return err
	}
	for _, file := range []string{AdminKubeconfig(s.config.DataDir), s.config.WriteKubeconfig} {
		if file == "" {
			continue
		}
		if err := k.Write(file); err != nil {
			return err
		}
	}
	return nil
}

// As returns a client that acts as a user, with all the checks of the API and none of its wire.
func (s *System) As(user *auth.User) *client.Client { return client.New(s.api.Client(user), s.table) }

// kubeconfig is a new one of the administrator.
func (s *System) kubeconfig() (pki.Kubeconfig, error) {
	admin, err := s.authority.Client("admin", []string{auth.GroupMasters}, adminLifetime)
	if err != nil {
		return pki.Kubeconfig{}, err
	}
	return pki.Kubeconfig{Name: "keb", Server: s.url(), CA: s.authority.CA(), User: "admin", Client: admin}, nil
}

// nodePorts are the TCP ports at which nodes serve the cluster itself.
func (s *System) nodePorts() map[int32]string {
	ports := map[int32]string{int32(s.port()): "the API"}
	for _, at := range []string{s.config.IngressHTTP, s.config.IngressHTTPS} {
		if _, port, err := net.SplitHostPort(at); err == nil {
			if n, err := strconv.ParseUint(port, 10, 16); err == nil {
				ports[int32(n)] = "Ingresses"
			}
		}
	}
	return ports
}

// component is the identity of a part of the control plane with a user name of its own.
func component(name string) *auth.User {
	return &auth.User{Name: "system:" + name, Groups: []string{auth.GroupAuthenticated}}
}

func (s *System) addControllers() error {
	env := controller.Env{
		Client: func(identity string) *client.Client { return s.As(auth.Controller(identity)) },
		Logger: s.log,
	}
	loops := cluster.Controllers(env, cluster.Options{
		RootCA:      s.authority.CA(),
		ClusterCIDR: []netip.Prefix{netip.MustParsePrefix(s.config.ClusterCIDR)},
	})
	loops = append(loops, workloads.Controllers(env)...)
	loops = append(loops, services.Controllers(env, s.nodePorts())...)
	loops = append(append(loops, scaling.Controllers(env)...), autoscale.Controller(env, s.podUsage))
	loops = append(loops, certificates.Controllers(env, s.authority.SignRequest)...)
	loops = append(loops, storage.Controllers(env)...)
	loops = append(loops, storage.DriverControllers(env, s.driver)...)
	restartKey, err := s.authority.Derive(workloads.ConfigHash)
	if err != nil {
		return err
	}
	loops = append(loops, workloads.Restarts(env, restartKey))
	loops = append(loops, join.Cleaner(env))
	for _, l := range loops {
		s.Add(l)
	}
	if ingressOn(s.config) {
		s.Add(ingress.NewController(ingress.ControllerOptions{Client: s.As(auth.Controller(ingressIdentity)), Logger: s.log}))
	}
	binder, err := scheduler.New(scheduler.Options{Client: s.As(component("kube-scheduler")), Logger: s.log})
	if err != nil {
		return err
	}
	s.Add(binder)
	return nil
}

var (
	_ store.Store      = (*local.Local)(nil)
	_ client.Transport = (*apiserver.Local)(nil)
)

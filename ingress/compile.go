package ingress

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/kinds"
)

const (
	// ControllerName is what an IngressClass says in spec.controller to be ours.
	ControllerName = kinds.IngressController
	// ClassName is the IngressClass that the Controller makes.
	ClassName = "keb"

	// sslRedirect sends plain requests to HTTPS. The other two are what most Ingresses in the field say instead; the first of
	// them counts only for hosts that the Ingress has TLS for.
	sslRedirect           = "keb.dev/ssl-redirect"
	nginxSSLRedirect      = "nginx.ingress.kubernetes.io/ssl-redirect"
	nginxForceSSLRedirect = "nginx.ingress.kubernetes.io/force-ssl-redirect"
)

// world is what a table is made from.
type world struct {
	ingresses []*networkingv1.Ingress
	classes   []*networkingv1.IngressClass
	// service returns a Service, nil when there is none.
	service func(types.NamespacedName) *corev1.Service
	// certificate returns what is to be used of a Secret, and what is wrong with it.
	certificate func(types.NamespacedName) (*tls.Certificate, error)
	// backend returns the one backend of a key.
	backend func(backendKey) *backend
}

// worldOf is the world of a snapshot.
func worldOf(c *client.Client, s client.Snapshot, certs certificates, backend func(backendKey) *backend) world {
	return world{
		ingresses: client.List[*networkingv1.Ingress](c, s, "", nil),
		classes:   client.List[*networkingv1.IngressClass](c, s, "", nil),
		backend:   backend,
		service: func(key types.NamespacedName) *corev1.Service {
			svc, _ := client.From[*corev1.Service](c, s, key.Namespace, key.Name)
			return svc
		},
		certificate: func(key types.NamespacedName) (*tls.Certificate, error) {
			secret, _ := client.From[*corev1.Secret](c, s, key.Namespace, key.Name)
			return certs.of(key, secret)
		},
	}
}

// fault is what is wrong with an Ingress, in words for the person who wrote it. The rest of the Ingress works.
type fault struct {
	object  client.Object // the Ingress
	secret  types.NamespacedName
	reason  string
	message string
}

// compiled is the outcome of compile.
type compiled struct {
	table *table
	// ours are the Ingresses that are ours, the oldest first.
	ours     []*networkingv1.Ingress
	faults   []fault
	backends map[backendKey]bool
	secrets  map[types.NamespacedName]bool
}

// compile makes the table of all Ingresses that are ours. Where two want the same, the older one has it.
func compile(w world) compiled {
	c := compiler{world: w, compiled: compiled{
		table: &table{hosts: map[string]*site{}, wildcards: map[string]*site{}, certificates: map[string]*tls.Certificate{},
			wildcardCertificates: map[string]*tls.Certificate{}},
		backends: map[backendKey]bool{}, secrets: map[types.NamespacedName]bool{},
	}, holders: map[claim]types.NamespacedName{}}
	classes := kinds.NewIngressClasses(w.classes)
	for _, i := range w.ingresses {
		ours, missing := classes.Own(i)
		if missing {
			c.fault(i, "ClassNotFound", "ingress class %q does not exist", *i.Spec.IngressClassName)
		}
		if ours {
			c.ours = append(c.ours, i)
		}
	}
	slices.SortFunc(c.ours, func(a, b *networkingv1.Ingress) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	for _, i := range c.ours {
		c.ingress(i)
	}
	// An Ingress without rules is there for nothing but its default backend: it goes before those that have one besides.
	for _, catchAll := range []bool{true, false} {
		for _, i := range c.ours {
			if i.Spec.DefaultBackend != nil && (len(i.Spec.Rules) == 0) == catchAll {
				c.fallback(i)
			}
		}
	}
	return c.compiled
}

// claim is what only one Ingress can have.
type claim struct{ kind, host, path string }

type compiler struct {
	world
	compiled
	holders map[claim]types.NamespacedName
}

func (c *compiler) fault(i *networkingv1.Ingress, reason, format string, args ...any) {
	c.faults = append(c.faults, fault{object: i, reason: reason, message: fmt.Sprintf(format, args...)})
}

// take claims something for an Ingress, and says who has it already when another does.
func (c *compiler) take(what claim, i *networkingv1.Ingress) (holder types.NamespacedName, ok bool) {
	own := types.NamespacedName{Namespace: i.Namespace, Name: i.Name}
	if holder, taken := c.holders[what]; taken {
		return holder, false
	}
	c.holders[what] = own
	return own, true
}

func (c *compiler) ingress(i *networkingv1.Ingress) {
	covered := map[string]bool{}
	for n := range i.Spec.TLS {
		c.tls(i, &i.Spec.TLS[n], covered)
	}
	for n := range i.Spec.Rules {
		rule := &i.Spec.Rules[n]
		s := c.table.siteOf(rule.Host)
		if i.Spec.DefaultBackend != nil && s.fallback == nil && rule.Host != "" {
			s.fallback = c.route(i, i.Spec.DefaultBackend, redirects(i, covers(covered, rule.Host)))
		}
		if rule.HTTP == nil {
			continue
		}
		redirect := redirects(i, covers(covered, rule.Host))
		for m := range rule.HTTP.Paths {
			c.path(i, s, rule.Host, &rule.HTTP.Paths[m], redirect)
		}
	}
}

func (c *compiler) path(i *networkingv1.Ingress, s *site, host string, p *networkingv1.HTTPIngressPath, redirect bool) {
	at := cmp.Or(p.Path, "/")
	exact := p.PathType != nil && *p.PathType == networkingv1.PathTypeExact
	kind := "exact"
	if !exact {
		kind, at = "prefix", strings.TrimRight(at, "/")
	}
	if holder, ok := c.take(claim{kind, host, at}, i); !ok {
		c.fault(i, "PathConflict", "path %q of host %q already belongs to ingress %s", cmp.Or(p.Path, "/"), cmp.Or(host, "*"), holder)
		return
	}
	r := c.route(i, &p.Backend, redirect)
	if exact {
		s.exact[at] = r
		return
	}
	s.prefixes[at] = r
	s.longest = max(s.longest, len(at))
}

// route is the route to a backend, whether or not it can be reached: a request for something broken must not end up elsewhere.
func (c *compiler) route(i *networkingv1.Ingress, b *networkingv1.IngressBackend, redirect bool) *route {
	r := &route{ingress: types.NamespacedName{Namespace: i.Namespace, Name: i.Name}, redirect: redirect}
	if b.Service == nil {
		if b.Resource != nil {
			c.fault(i, "UnsupportedBackend", "resource backends are not supported: %s %q; name a service", b.Resource.Kind, b.Resource.Name)
		}
		return r
	}
	key := backendKey{service: types.NamespacedName{Namespace: i.Namespace, Name: b.Service.Name}, port: b.Service.Port}
	c.backends[key] = true
	r.backend = c.backend(key)
	if reason, message := explainService(c.service(key.service), key); reason != "" {
		c.fault(i, reason, "%s", message)
	}
	return r
}

// explainService tells why a backend cannot work, with "" when it can.
func explainService(svc *corev1.Service, key backendKey) (reason, message string) {
	switch {
	case svc == nil:
		return "ServiceNotFound", fmt.Sprintf("service %q does not exist", key.service.Name)
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		return "UnsupportedBackend", fmt.Sprintf("service %q is of type ExternalName and has no endpoints", key.service.Name)
	case portOf(svc, key.port) == nil:
		return "ServicePortNotFound", fmt.Sprintf("service %q has no TCP port %s", key.service.Name, portString(key.port))
	}
	return "", ""
}

// fallback makes the default backend of an Ingress the one for all requests that nothing matches, unless there is one.
func (c *compiler) fallback(i *networkingv1.Ingress) {
	holder, ok := c.take(claim{kind: "fallback"}, i)
	if ok {
		c.table.fallback = c.route(i, i.Spec.DefaultBackend, redirects(i, false))
	} else if len(i.Spec.Rules) == 0 {
		c.fault(i, "DefaultBackendConflict", "requests that match no rule already belong to ingress %s", holder)
	}
}

// tls adds the certificates of one TLS section, and the hosts that it covers.
func (c *compiler) tls(i *networkingv1.Ingress, section *networkingv1.IngressTLS, covered map[string]bool) {
	var cert *tls.Certificate
	hosts := section.Hosts
	if section.SecretName != "" {
		key := types.NamespacedName{Namespace: i.Namespace, Name: section.SecretName}
		c.secrets[key] = true
		var err error
		if cert, err = c.certificate(key); err != nil {
			instead := "the default certificate is used"
			if cert != nil {
				instead = "the certificate before it stays in use"
			}
			c.faults = append(c.faults, fault{object: i, secret: key, reason: "InvalidCertificate", message: fmt.Sprintf("%v; %s", err, instead)})
		}
		if len(hosts) == 0 && cert != nil {
			hosts = cert.Leaf.DNSNames
		}
	}
	for _, host := range hosts {
		host = strings.ToLower(host)
		covered[host] = true
		if cert == nil {
			continue
		}
		names, name := c.table.certificates, host
		if rest, ok := strings.CutPrefix(host, "*."); ok {
			names, name = c.table.wildcardCertificates, rest
		}
		if holder, ok := c.take(claim{kind: "tls", host: host}, i); !ok {
			if names[name] != cert {
				c.fault(i, "CertificateConflict", "the certificate of host %q already comes from ingress %s", host, holder)
			}
			continue
		}
		names[name] = cert
	}
}

// covers says whether a TLS section is for the host of a rule.
func covers(covered map[string]bool, host string) bool {
	_, rest, _ := strings.Cut(host, ".")
	return covered[host] || covered["*."+rest]
}

// redirects says whether plain requests for a host are sent to HTTPS.
func redirects(i *networkingv1.Ingress, covered bool) bool {
	return i.Annotations[sslRedirect] == "true" || i.Annotations[nginxForceSSLRedirect] == "true" ||
		covered && i.Annotations[nginxSSLRedirect] == "true"
}

// siteOf returns the site of a rule's host, and makes it when it is new.
func (t *table) siteOf(host string) *site {
	fresh := func() *site { return &site{exact: map[string]*route{}, prefixes: map[string]*route{}} }
	if host == "" {
		if t.any == nil {
			t.any = fresh()
		}
		return t.any
	}
	sites, name := t.hosts, host
	if rest, ok := strings.CutPrefix(host, "*."); ok {
		sites, name = t.wildcards, rest
	}
	if sites[name] == nil {
		sites[name] = fresh()
	}
	return sites[name]
}

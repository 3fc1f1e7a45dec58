// Package config holds keb's one configuration: one versioned file, one struct. Flags override single fields; after Default
// and Validate it is never changed. It imports nothing else of this module; cli, daemon and testcluster import it.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// APIVersion is what a configuration file must say it is.
const APIVersion = "keb/v1"

// Config is all that can be set. The zero value means the default everywhere.
type Config struct {
	// APIVersion is "keb/v1"; required in a file.
	APIVersion string `json:"apiVersion"`
	// DataDir holds everything that keb keeps: the store, keys, images, containers. Default /var/lib/keb.
	DataDir string `json:"dataDir,omitempty"`
	// Listen is the API's address. Default ":6443". Port 0 takes a free one.
	Listen string `json:"listen,omitempty"`
	// AdvertiseIP is the address under which clients and pods reach the API. Default: NodeIP.
	AdvertiseIP string `json:"advertiseIP,omitempty"`
	// CertificateNames are further names and addresses that the API's certificate is for.
	CertificateNames []string `json:"certificateNames,omitempty"`
	// WriteKubeconfig is a file to write the administrator's kubeconfig to, beside DataDir/admin.kubeconfig. Default: none.
	WriteKubeconfig string `json:"writeKubeconfig,omitempty"`
	// NodeName is this machine's name in the cluster, a DNS-1123 subdomain. Default: the host name, lower-case.
	NodeName string `json:"nodeName,omitempty"`
	// NodeIP is this machine's address in the cluster. Default: the address of the interface with the default route.
	NodeIP string `json:"nodeIP,omitempty"`
	// ClusterCIDR is the range of pod addresses; each node gets a /24 of it. Default 10.42.0.0/16.
	ClusterCIDR string `json:"clusterCIDR,omitempty"`
	// ServiceCIDR is the range of Service addresses; its first is the API's, its tenth the DNS server's. Default 10.43.0.0/16.
	ServiceCIDR string `json:"serviceCIDR,omitempty"`
	// ClusterDomain is the DNS suffix of the cluster. Default cluster.local.
	ClusterDomain string `json:"clusterDomain,omitempty"`
	// DNSForward maps domains to the name servers, as IP or IP:PORT, that this node asks for names in them; the longest domain
	// wins. Default: none, so that all names outside of the cluster go to the servers of /etc/resolv.conf.
	DNSForward map[string][]string `json:"dnsForward,omitempty"`
	// NoAgent runs API, controllers and scheduler without a node on this machine; it needs no privileges. Default false.
	NoAgent bool `json:"noAgent,omitempty"`
	// APIOnly runs the API alone: no controllers, no scheduler, no node. It needs no privileges. Default false.
	APIOnly bool `json:"apiOnly,omitempty"`
	// RuntimeEndpoint is the CRI socket of a container runtime that is already there. Default: the bundled containerd.
	RuntimeEndpoint string `json:"runtimeEndpoint,omitempty"`
	// Store is where objects are kept: "local", in DataDir. Default local.
	Store string `json:"store,omitempty"`
	// IngressHTTP and IngressHTTPS are the addresses at which the node takes requests for Ingresses, or "off". Default ":80" and ":443".
	IngressHTTP  string `json:"ingressHTTP,omitempty"`
	IngressHTTPS string `json:"ingressHTTPS,omitempty"`
	// Server is the URL of the server that an agent belongs to, "https://HOST:6443"; for an agent alone. Default: that of its last run.
	Server string `json:"server,omitempty"`
	// Token is what an agent joins with; for an agent alone. Default: none, which is enough once it has joined.
	Token string `json:"token,omitempty"`
	// NodeIPFound and AdvertiseIPFound say that Default found these addresses, so that they may follow the machine's. Not to be set.
	NodeIPFound      bool `json:"-"`
	AdvertiseIPFound bool `json:"-"`
	// LogLevel is debug, info, warn or error. Default info.
	LogLevel string `json:"logLevel,omitempty"`
}

// Defaults that other code refers to.
const (
	DefaultDataDir = "/var/lib/keb"
	DefaultListen  = ":6443"
	// Off in the place of an address switches off what would listen there.
	Off = "off"
)

// Load reads a configuration file. Unknown keys and a wrong apiVersion are errors that name them; so is an absent file.
func Load(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read config: %w", err)
	}
	var c Config
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return Config{}, fmt.Errorf("read config %s: %w", path, cleanYAMLError(err))
	}
	if c.APIVersion != APIVersion {
		return Config{}, fmt.Errorf("read config %s: apiVersion is %q, want %q", path, c.APIVersion, APIVersion)
	}
	return c, nil
}

// cleanYAMLError drops the library's own layers from the message.
func cleanYAMLError(err error) error {
	text := err.Error()
	for _, prefix := range []string{"error converting YAML to JSON: ", "error unmarshaling JSON: ", "while decoding JSON: ", "json: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	return errors.New(text)
}

// Default returns c with every empty field filled in. It asks the system for the host name and the address of the default route.
func Default(c Config) (Config, error) {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&c.APIVersion, APIVersion)
	set(&c.DataDir, DefaultDataDir)
	set(&c.Listen, DefaultListen)
	set(&c.ClusterCIDR, "10.42.0.0/16")
	set(&c.ServiceCIDR, "10.43.0.0/16")
	set(&c.ClusterDomain, "cluster.local")
	set(&c.Store, "local")
	set(&c.IngressHTTP, ":80")
	set(&c.IngressHTTPS, ":443")
	set(&c.LogLevel, "info")
	if c.NodeName == "" {
		host, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("find the node's name: %w; set nodeName (--node-name)", err)
		}
		c.NodeName = strings.ToLower(host)
	}
	if c.NodeIP == "" {
		ip, err := OutboundIP(c.Server)
		if err != nil && !c.NoAgent && !c.APIOnly {
			return c, fmt.Errorf("find the node's address: %w; set nodeIP (--node-ip)", err)
		}
		if err != nil {
			ip = "127.0.0.1"
		}
		c.NodeIP, c.NodeIPFound = ip, err == nil
	}
	if c.AdvertiseIP == "" {
		c.AdvertiseIP, c.AdvertiseIPFound = c.NodeIP, c.NodeIPFound
	}
	dir, err := filepath.Abs(c.DataDir)
	if err != nil {
		return c, fmt.Errorf("dataDir %s: %w", c.DataDir, err)
	}
	c.DataDir = dir
	return c, nil
}

// resolveTimeout bounds how long the server's name may take to resolve.
const resolveTimeout = 5 * time.Second

// OutboundIP is the source address that the kernel would choose for traffic to the server of a URL, or else to the outside. No
// packet is sent.
func OutboundIP(server string) (string, error) {
	// 192.0.2.1 is a documentation address (RFC 5737): only its route is looked up.
	to := "192.0.2.1"
	if u, err := url.Parse(server); err == nil && u.Hostname() != "" {
		to = u.Hostname()
	}
	conn, err := (&net.Dialer{Timeout: resolveTimeout}).Dial("udp4", net.JoinHostPort(to, "9"))
	if err == nil {
		defer conn.Close()
		return conn.LocalAddr().(*net.UDPAddr).IP.String(), nil
	}
	addrs, listErr := net.InterfaceAddrs()
	if listErr != nil {
		return "", listErr
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String(), nil
		}
	}
	return "", errors.New("no route to the outside and no address but loopback")
}

// Validate returns every fault of a complete configuration, each naming the field, what is wrong and how to mend it.
func (c Config) Validate() error {
	var faults []error
	bad := func(field, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	if msgs := validation.IsDNS1123Subdomain(c.NodeName); len(msgs) > 0 {
		bad("nodeName", "%q is no valid node name: %s", c.NodeName, msgs[0])
	}
	if _, port, err := net.SplitHostPort(c.Listen); err != nil || port == "" {
		bad("listen", "%q is no address; want HOST:PORT or :PORT", c.Listen)
	}
	for field, at := range map[string]string{"ingressHTTP": c.IngressHTTP, "ingressHTTPS": c.IngressHTTPS} {
		if _, port, err := net.SplitHostPort(at); at != Off && (err != nil || port == "") {
			bad(field, "%q is no address; want HOST:PORT, :PORT or off", at)
		}
	}
	for field, ip := range map[string]string{"nodeIP": c.NodeIP, "advertiseIP": c.AdvertiseIP} {
		if _, err := netip.ParseAddr(ip); err != nil {
			bad(field, "%q is no IP address", ip)
		}
	}
	pods, podErr := prefix(c.ClusterCIDR, 24)
	if podErr != nil {
		bad("clusterCIDR", "%v", podErr)
	}
	services, serviceErr := prefix(c.ServiceCIDR, 28)
	if serviceErr != nil {
		bad("serviceCIDR", "%v", serviceErr)
	}
	if podErr == nil && serviceErr == nil && pods.Overlaps(services) {
		bad("serviceCIDR", "%s overlaps clusterCIDR %s; choose ranges apart", services, pods)
	}
	if node, err := netip.ParseAddr(c.NodeIP); err == nil && podErr == nil && serviceErr == nil && (pods.Contains(node) || services.Contains(node)) {
		bad("nodeIP", "%s lies in the range of pods or services; choose another clusterCIDR or serviceCIDR", node)
	}
	if msgs := validation.IsDNS1123Subdomain(c.ClusterDomain); len(msgs) > 0 {
		bad("clusterDomain", "%q is no domain: %s", c.ClusterDomain, msgs[0])
	}
	c.validateForward(bad)
	if c.RuntimeEndpoint != "" && !strings.HasPrefix(c.RuntimeEndpoint, "unix:///") {
		bad("runtimeEndpoint", "%q is no unix socket; want unix:///PATH", c.RuntimeEndpoint)
	}
	if c.Store != "local" {
		bad("store", "%q is unknown; want local", c.Store)
	}
	switch c.LogLevel {
	case "debug", "info", "warn", "error":
	default:
		bad("logLevel", "%q is unknown; want debug, info, warn or error", c.LogLevel)
	}
	if c.APIOnly && c.NoAgent {
		bad("apiOnly", "runs no node either; set only one of apiOnly and noAgent")
	}
	if info, err := os.Stat(c.DataDir); err == nil && !info.IsDir() {
		bad("dataDir", "%s is no directory", c.DataDir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		bad("dataDir", "%v", err)
	}
	return errors.Join(faults...)
}

func (c Config) validateForward(bad func(field, format string, args ...any)) {
	for domain, servers := range c.DNSForward {
		field := fmt.Sprintf("dnsForward[%s]", domain)
		if msgs := validation.IsDNS1123Subdomain(domain); len(msgs) > 0 {
			bad(field, "no domain: %s", msgs[0])
		}
		if domain == c.ClusterDomain || strings.HasSuffix(domain, "."+c.ClusterDomain) {
			bad(field, "lies in clusterDomain %s, whose names the cluster itself answers", c.ClusterDomain)
		}
		if len(servers) == 0 {
			bad(field, "names no server; want addresses like 10.0.0.2 or 10.0.0.2:5353")
		}
		for _, s := range servers {
			if _, err := nameServer(s); err != nil {
				bad(field, "%v", err)
			}
		}
	}
}

// nameServer parses a server of DNSForward: an address, of port 53 unless it names another.
func nameServer(s string) (netip.AddrPort, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(addr, 53), nil
	}
	at, err := netip.ParseAddrPort(s)
	if err != nil || at.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("%q is no address; want one like 10.0.0.2 or 10.0.0.2:5353", s)
	}
	return at, nil
}

// prefix parses an address range that has at most the given prefix length.
func prefix(s string, longest int) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%q is no address range; want one like 10.42.0.0/16", s)
	}
	if p != p.Masked() {
		return p, fmt.Errorf("%s has bits set behind its length; did you mean %s?", s, p.Masked())
	}
	if !p.Addr().Is4() {
		return p, fmt.Errorf("%s is no IPv4 range", s)
	}
	if p.Bits() > longest {
		return p, fmt.Errorf("%s is too small; want a length of at most /%d", s, longest)
	}
	return p, nil
}

// DNSAddress is the address of the cluster's DNS server: the tenth of the service range.
func (c Config) DNSAddress() netip.Addr {
	addr := netip.MustParsePrefix(c.ServiceCIDR).Addr()
	for range 10 {
		addr = addr.Next()
	}
	return addr
}

// NameServers is DNSForward of a valid configuration.
func (c Config) NameServers() map[string][]netip.AddrPort {
	out := map[string][]netip.AddrPort{}
	for domain, servers := range c.DNSForward {
		for _, s := range servers {
			if at, err := nameServer(s); err == nil {
				out[domain] = append(out[domain], at)
			}
		}
	}
	return out
}

// APIServiceAddress is the address of the Service default/kubernetes: the first of the service range.
func (c Config) APIServiceAddress() netip.Addr {
	return netip.MustParsePrefix(c.ServiceCIDR).Addr().Next()
}

// Merge lays the fields that are set in over onto base.
func Merge(base, over Config) Config {
	b, o := reflect.ValueOf(&base).Elem(), reflect.ValueOf(over)
	for i := range b.NumField() {
		if !o.Field(i).IsZero() {
			b.Field(i).Set(o.Field(i))
		}
	}
	return base
}

package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

func open(t *testing.T, dir string) *Authority {
	t.Helper()
	a, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestOpenKeepsWhatItMade(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	first := open(t, dir)
	second := open(t, dir)
	if !bytes.Equal(first.CA(), second.CA()) || !bytes.Equal(first.FrontProxyCA(), second.FrontProxyCA()) || first.Hash() != second.Hash() {
		t.Error("a second start made another CA")
	}
	if first.cluster.certs[0].Equal(first.frontProxy.certs[0]) {
		t.Error("front proxy and cluster share a CA")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
		info, _ := e.Info()
		if strings.HasSuffix(e.Name(), ".key") && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
	}
	if got, want := strings.Join(names, " "), "ca.crt ca.key front-proxy-ca.crt front-proxy-ca.key service-account.key"; got != want {
		t.Errorf("files %s, want %s", got, want)
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		damage func(dir string) error
		want   string
	}{
		"readable key":    {func(d string) error { return os.Chmod(d+"/ca.key", 0o640) }, "chmod 600"},
		"lost key":        {func(d string) error { return os.Remove(d + "/ca.key") }, "its key is not"},
		"damaged key":     {func(d string) error { return os.WriteFile(d+"/service-account.key", []byte("x"), 0o600) }, "service-account.key"},
		"damaged cert":    {func(d string) error { return os.WriteFile(d+"/ca.crt", []byte("x"), 0o600) }, "ca.crt"},
		"foreign key":     {func(d string) error { return os.Rename(d+"/service-account.key", d+"/ca.key") }, "is not the key of"},
		"symlinked key":   {func(d string) error { os.Remove(d + "/ca.key"); return os.Symlink("service-account.key", d+"/ca.key") }, "regular"},
		"expired CA":      {func(d string) error { return expire(d) }, "expired on"},
		"unwritable spot": {func(d string) error { os.RemoveAll(d); return os.WriteFile(d, nil, 0o600) }, "create pki directory"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "pki")
			open(t, dir)
			if err := tc.damage(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

// expire replaces ca.crt by one of the same key that has expired.
func expire(dir string) error {
	keys, err := openKeys(dir + "/ca.key")
	if err != nil {
		return err
	}
	cert, err := selfSigned(keys[0], "kubernetes", time.Now().Add(-11*365*24*time.Hour))
	if err != nil {
		return err
	}
	return os.WriteFile(dir+"/ca.crt", encodeCerts([]*x509.Certificate{cert}), 0o644)
}

func TestRotation(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	a, b := open(t, dir), open(t, other)
	oldCert, _ := os.ReadFile(dir + "/ca.crt")
	oldKey, _ := os.ReadFile(dir + "/service-account.key")
	newCert, _ := os.ReadFile(other + "/ca.crt")
	newKey, _ := os.ReadFile(other + "/service-account.key")
	caKey, _ := os.ReadFile(other + "/ca.key")
	for file, data := range map[string][]byte{
		"ca.crt": append(newCert, oldCert...), "ca.key": caKey, "service-account.key": append(newKey, oldKey...),
	} {
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rotated := open(t, dir)
	if rotated.Hash() != b.Hash() || len(rotated.SigningKeys()) != 2 {
		t.Error("the first certificate and key do not lead")
	}
	old, err := a.Client("u", nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	certs, _ := parseCerts(old.Cert)
	if _, err := certs[0].Verify(x509.VerifyOptions{Roots: rotated.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("a certificate of the old CA is refused: %v", err)
	}
}

func TestServerAndKubeconfig(t *testing.T) {
	a := open(t, t.TempDir())
	names, ips := ServerNames("cluster.local", netip.MustParseAddr("10.43.0.1"), "box", "192.0.2.7", "::ffff:192.0.2.7")
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := r.TLS.PeerCertificates[0]
		if _, err := c.Verify(x509.VerifyOptions{Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Error(err)
		}
		w.Write([]byte(c.Subject.CommonName + " of " + strings.Join(c.Subject.Organization, ",")))
	}))
	cert := a.Server(names, ips)
	server.Listener = tls.NewListener(server.Listener, cert.TLSConfig())
	server.Start()
	defer server.Close()
	url := strings.Replace(server.URL, "http:", "https:", 1)

	admin, err := a.Client("admin", []string{"system:masters"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "sub", "config")
	if err := (Kubeconfig{Name: "keb", Server: url, CA: a.CA(), User: "admin", Client: admin}).Write(file); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(file); info.Mode().Perm() != 0o600 {
		t.Errorf("kubeconfig has mode %v", info.Mode())
	}
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(config.CertData, config.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(config.CAData)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	body.ReadFrom(resp.Body)
	if body.String() != "admin of system:masters" {
		t.Errorf("server saw %q", body.String())
	}

	leaf := resp.TLS.PeerCertificates[0]
	for _, host := range []string{"kubernetes.default.svc.cluster.local", "localhost", "127.0.0.1", "::1", "10.43.0.1", "box", "192.0.2.7"} {
		if err := leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if Hash(resp.TLS.PeerCertificates[1]) != a.Hash() {
		t.Error("the server does not send the CA that joining nodes check by its hash")
	}
}

func TestServerRenews(t *testing.T) {
	s := open(t, t.TempDir()).Server([]string{"a"}, nil)
	now := time.Now()
	serial := func(at time.Time) string {
		c, err := s.certificate(nil, at)
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf.SerialNumber.String()
	}
	first := serial(now)
	if serial(now.Add(59*24*time.Hour)) != first {
		t.Error("signed again too early")
	}
	renewed := serial(now.Add(61 * 24 * time.Hour))
	if renewed == first {
		t.Error("not renewed")
	}
	at := func(ip string) *x509.Certificate {
		c, err := s.certificate(&net.TCPAddr{IP: net.ParseIP(ip), Port: 6443}, now)
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf
	}
	at("127.0.0.2")
	moved := at("192.0.2.9")
	if moved.VerifyHostname("192.0.2.9") != nil || moved.VerifyHostname("a") != nil {
		t.Error("an address that a client came to is not in the certificate")
	}
	if at("192.0.2.9").SerialNumber.Cmp(moved.SerialNumber) != 0 || moved.VerifyHostname("127.0.0.2") == nil {
		t.Error("signed again without a new address")
	}
}

func TestSignNode(t *testing.T) {
	a := open(t, t.TempDir())
	csr, err := requestOf("n1")
	if err != nil {
		t.Fatal(err)
	}
	certPEM, err := a.SignNode(csr, "n1", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	certs, _ := parseCerts(certPEM)
	if _, err := certs[0].Verify(x509.VerifyOptions{Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if s := certs[0].Subject; s.CommonName != "system:node:n1" || s.Organization[0] != "system:nodes" || certs[0].IsCA {
		t.Errorf("signed %v", s)
	}

	node := pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes"}}
	weak, _ := rsa.GenerateKey(rand.Reader, 1024)
	for name, tc := range map[string]struct {
		csr  x509.CertificateRequest
		weak bool
		want string
	}{
		"other node":   {csr: x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n2", Organization: node.Organization}}, want: "common name"},
		"masters":      {csr: x509.CertificateRequest{Subject: pkix.Name{CommonName: node.CommonName, Organization: []string{"system:masters"}}}, want: "organization"},
		"second group": {csr: x509.CertificateRequest{Subject: pkix.Name{CommonName: node.CommonName, Organization: []string{"system:nodes", "system:masters"}}}, want: "organization"},
		"locality":     {csr: x509.CertificateRequest{Subject: pkix.Name{CommonName: node.CommonName, Organization: node.Organization, Locality: []string{"x"}}}, want: "more than"},
		"server name":  {csr: x509.CertificateRequest{Subject: node, DNSNames: []string{"kubernetes"}}, want: "alternative names"},
		"weak key":     {csr: x509.CertificateRequest{Subject: node}, weak: true, want: "1024 bits"},
	} {
		t.Run(name, func(t *testing.T) {
			var key any = weak
			if !tc.weak {
				key, _ = newKey()
			}
			der, err := x509.CreateCertificateRequest(rand.Reader, &tc.csr, key)
			if err != nil {
				t.Fatal(err)
			}
			_, err = a.SignNode(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), "n1", time.Hour)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	bad := bytes.Clone(csr)
	block, _ := pem.Decode(bad)
	block.Bytes[len(block.Bytes)-1] ^= 1
	if _, err := a.SignNode(pem.EncodeToMemory(block), "n1", time.Hour); err == nil {
		t.Error("a request with a broken signature was signed")
	}
}

func FuzzParseRequest(f *testing.F) {
	csr, _ := requestOf("n")
	f.Add(csr)
	f.Fuzz(func(t *testing.T, data []byte) {
		if csr, err := ParseRequest(data); err == nil {
			CheckNode(csr, "n")
		}
	})
}

// requestOf is the request of a node with a new key.
func requestOf(node string) ([]byte, error) {
	key, err := NewNodeKey()
	if err != nil {
		return nil, err
	}
	return NodeRequest(node, key)
}

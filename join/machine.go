package join

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/auth/pki"
)

// joinTimeout bounds a request to the server, from the first packet to the answer.
const joinTimeout = 30 * time.Second

// Options say what a machine joins as what. All are needed.
type Options struct {
	// Dir keeps the identity: the agent's own part of the data directory.
	Dir string
	// Server is the URL of the API: "https://host:6443".
	Server string
	Token  auth.JoinToken
	Node   string
}

// Join makes the machine a node of the server's cluster. A key that an earlier Join made is used again, so that a machine whose
// certificate has expired can come back under its name. When the server refuses, nothing stays behind of a first join. Errors
// are one line, for the user.
func Join(ctx context.Context, o Options) (*Identity, error) {
	if err := CheckServer(o.Server); err != nil {
		return nil, err
	}
	i := &Identity{dir: o.Dir, Server: strings.TrimSuffix(o.Server, "/"), Node: o.Node}
	first, err := i.openKey()
	if err != nil {
		return nil, err
	}
	answer, err := i.ask(ctx, promisedBy(o.Token), o.Token.String())
	if err != nil {
		// The key stays when it is not known whether the server took it.
		if refused := apierrors.APIStatus(nil); first && (errors.As(err, &refused) || notSent(err)) {
			_ = os.Remove(filepath.Join(o.Dir, keyFile))
			_ = os.Remove(o.Dir) // unless something else is in there
		}
		return nil, err
	}
	i.Cluster = answer.Cluster
	return i, i.save(answer)
}

// CheckServer says what is wrong with the URL of a server, if anything.
func CheckServer(server string) error {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return fmt.Errorf("server %q is no address of a server; want https://HOST:6443", server)
	}
	return nil
}

// openKey reads the machine's key, or makes it. first says that it was made now.
func (i *Identity) openKey() (first bool, err error) {
	file := filepath.Join(i.dir, keyFile)
	pem, err := os.ReadFile(file)
	if err == nil {
		if i.key, err = pki.OnlyKey(pem); err != nil {
			return false, fmt.Errorf("read %s: %w", file, err)
		}
		return false, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("read the node's key: %w", err)
	}
	if i.key, err = pki.NewNodeKey(); err != nil {
		return false, err
	}
	if err := os.MkdirAll(i.dir, 0o700); err != nil {
		return false, fmt.Errorf("keep the node's key: %w", err)
	}
	return true, pki.WriteFile(file, i.key, 0o600)
}

// ask requests a certificate for the key, with a token or with the certificate that there is.
func (i *Identity) ask(ctx context.Context, config *tls.Config, token string) (*Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	csr, err := pki.NodeRequest(i.Node, i.key)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(Request{Node: i.Node, CSR: string(csr), Time: time.Now()})
	if err != nil {
		return nil, err
	}
	rq, err := http.NewRequestWithContext(ctx, http.MethodPost, i.Server+Path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	rq.Header.Set("Content-Type", "application/json")
	if token != "" {
		rq.Header.Set("Authorization", "Bearer "+token)
	}
	transport := i.transport
	if transport == nil {
		transport = &http.Transport{TLSClientConfig: config, DisableKeepAlives: true, ForceAttemptHTTP2: true}
	}
	resp, err := (&http.Client{
		Transport: transport,
		// The token goes to the server that was named, and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}).Do(rq)
	if err != nil {
		return nil, explain(i.Server, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
	if err != nil {
		return nil, explain(i.Server, err)
	}
	if resp.StatusCode == http.StatusOK {
		var a Answer
		if err := json.Unmarshal(data, &a); err != nil {
			return nil, fmt.Errorf("server %s: its answer cannot be read: %w", i.Server, err)
		}
		return &a, nil
	}
	var status metav1.Status
	if json.Unmarshal(data, &status) == nil && status.Status == metav1.StatusFailure {
		return nil, &apierrors.StatusError{ErrStatus: status}
	}
	return nil, fmt.Errorf("server %s answered %s to the request to join; is it a keb server?", i.Server, resp.Status)
}

// otherServer says that the server is not the one that a token promises.
type otherServer struct{ hash string }

func (o otherServer) Error() string { return "certificate authority " + o.hash }

// promisedBy verifies servers by the hash of their CA that a token carries: the server shows its CA beside its certificate.
func promisedBy(token auth.JoinToken) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Verified below: the machine does not have the CA yet.
		InsecureSkipVerify: true,
		VerifyConnection: func(c tls.ConnectionState) error {
			last := ""
			for _, cert := range c.PeerCertificates {
				last = pki.Hash(cert)
				if cert.IsCA && last == "sha256:"+token.CAHash {
					roots := x509.NewCertPool()
					roots.AddCert(cert)
					return verify(c, roots)
				}
			}
			return otherServer{last}
		},
	}
}

// notSent says that a request failed before anything of it left the machine.
func notSent(err error) bool {
	var u unreachable
	return errors.As(err, &u)
}

// unreachable is why no server that may be trusted could be asked.
type unreachable struct {
	text string
	err  error
}

func (u unreachable) Error() string { return u.text }
func (u unreachable) Unwrap() error { return u.err }

// explain words for the user why the server could not be asked.
func explain(server string, err error) error {
	var other otherServer
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var op *net.OpError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &other):
		return unreachable{fmt.Sprintf("server %s is not the one that the token is for: it belongs to another cluster (%s); nothing was sent to it", server, other.hash), err}
	case errors.As(err, &name):
		return unreachable{fmt.Sprintf("server %s: its certificate is not for that name; give the server --certificate-name %s, or use an address of its own", server, name.Host), err}
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return unreachable{fmt.Sprintf("server %s: its certificate is good from %s to %s, and the clock of this machine says %s; set the clock that is wrong, then join again",
			server, invalid.Cert.NotBefore.UTC().Format(time.RFC3339), invalid.Cert.NotAfter.UTC().Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339)), err}
	case errors.As(err, &record) || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return unreachable{fmt.Sprintf("server %s does not speak TLS; is it a keb server?", server), err}
	case errors.As(err, &op) && op.Op == "dial":
		return unreachable{fmt.Sprintf("server %s cannot be reached: %v", server, op.Err), err}
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("server %s does not answer within %s", server, joinTimeout)
	}
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Errorf("server %s: %w", server, err)
}

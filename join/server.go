package join

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/auth/pki"
	"github.com/kebernetes/kebernetes/client"
)

const (
	// KeyType is the type of the Secrets of kube-system that say which key a node joined with.
	KeyType corev1.SecretType = "keb.dev/node-key"
	// keyName, and the node's name, is the name of such a Secret.
	keyName = "node-key-"
	keyHash = "public-key"

	// CertificateLifetime is upstream's of a kubelet's client certificate; it is renewed when a third of it is left.
	CertificateLifetime = 365 * 24 * time.Hour
)

// Server grants the names of nodes. It is an http.Handler for Path, behind the API's authentication and authorisation: the
// user in the request's context is a join token's, or a node that renews. Safe for concurrent use.
type Server struct {
	Authority *pki.Authority
	// Client reads nodes and keeps the keys; it may do both.
	Client  *client.Client
	Cluster Cluster
	// Connected says whether the agent of a node is connected now.
	Connected func(node string) bool
	Logger    *slog.Logger
	// Lifetime is that of the certificates; 0 means CertificateLifetime.
	Lifetime time.Duration
}

// ServeHTTP answers one request to join or to renew.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, err := s.answer(w, r)
	if err != nil {
		status := apierrors.NewInternalError(err).Status()
		if known := apierrors.APIStatus(nil); errors.As(err, &known) {
			status = known.Status()
		} else {
			s.Logger.Error("join", "remote", r.RemoteAddr, "err", err)
		}
		status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
		write(w, int(status.Code), status)
		return
	}
	write(w, http.StatusOK, answer)
}

func write(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // a client that went away asks again
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request) (*Answer, error) {
	if r.Method != http.MethodPost {
		return nil, apierrors.NewMethodNotSupported(corev1.Resource("nodes"), r.Method)
	}
	user := auth.UserFrom(r.Context())
	var rq Request
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxMessage)).Decode(&rq); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("read the request to join: %v", err))
	}
	renews, err := mayAsk(user, rq.Node)
	if err != nil {
		return nil, err
	}
	if err := checkRequest(&rq, time.Now()); err != nil {
		return nil, err
	}
	csr, err := pki.ParseRequest([]byte(rq.CSR))
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if err := s.claim(r.Context(), rq.Node, csr, renews); err != nil {
		return nil, err
	}
	lifetime := s.Lifetime
	if lifetime == 0 {
		lifetime = CertificateLifetime
	}
	cert, err := s.Authority.SignNode([]byte(rq.CSR), rq.Node, lifetime)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	s.Logger.Info("node certificate signed", "node", rq.Node, "for", user.Name, "remote", r.RemoteAddr)
	return &Answer{Certificate: string(cert), CA: string(s.Authority.CA()), Cluster: s.Cluster}, nil
}

// mayAsk says whether a user may ask for the certificate of a node: a token's for any, a node for its own.
func mayAsk(user *auth.User, node string) (renews bool, err error) {
	if user == nil {
		return false, apierrors.NewUnauthorized("Unauthorized")
	}
	if own, ok := auth.NodeOf(user); ok {
		if own != node {
			return false, apierrors.NewForbidden(corev1.Resource("nodes"), node, fmt.Errorf("node %s can only renew its own certificate", own))
		}
		return true, nil
	}
	if slices.Contains(user.Groups, auth.BootstrapGroup) {
		return false, nil
	}
	return false, apierrors.NewForbidden(corev1.Resource("nodes"), node, errors.New("machines join with a join token"))
}

// checkRequest looks at what can be judged without the cluster.
func checkRequest(rq *Request, now time.Time) error {
	if msgs := validation.IsDNS1123Subdomain(rq.Node); len(msgs) > 0 {
		return apierrors.NewBadRequest(fmt.Sprintf("%q is no valid node name: %s", rq.Node, msgs[0]))
	}
	skew := rq.Time.Sub(now)
	if skew.Abs() <= maxSkew {
		return nil
	}
	side := "ahead of"
	if skew < 0 {
		side = "behind"
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the clock of this machine (%s) is %s %s the server's; set it, then join again",
		rq.Time.UTC().Format(time.RFC3339), skew.Abs().Round(time.Second), side))
}

// claim gives the name to the key of the request, or says who has it.
func (s *Server) claim(ctx context.Context, name string, csr *x509.CertificateRequest, renews bool) error {
	if err := pki.CheckNode(csr, name); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	snapshot := s.Client.Snapshot()
	node, _ := client.From[*corev1.Node](s.Client, snapshot, "", name)
	kept, _ := client.From[*corev1.Secret](s.Client, snapshot, metav1.NamespaceSystem, keyName+name)
	key := pki.KeyHash(csr.RawSubjectPublicKeyInfo)
	had := ""
	if kept != nil {
		had = string(kept.Data[keyHash])
	}
	if err := decide(name, node, had, key, renews, s.Connected(name)); err != nil || had == key {
		return err
	}
	var err error
	data := map[string][]byte{keyHash: []byte(key)}
	if kept == nil {
		_, err = client.Create(ctx, s.Client, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: keyName + name}, Type: KeyType, Data: data,
		})
	} else {
		changed := kept.DeepCopy()
		changed.Data = data
		_, err = client.Update(ctx, s.Client, changed)
	}
	if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
		return taken(fmt.Sprintf("another machine joins as node %s at this moment; choose another --node-name", name))
	}
	return err
}

// decide says whether a name may go to a key: to the one that had it before, or to any when no node of that name is there or alive. had
// is the key that has the name, "" for none.
func decide(name string, node *corev1.Node, had, key string, renews, connected bool) error {
	switch {
	case had == key, renews && had == "":
		return nil
	case connected, node != nil && ready(node):
		return taken(fmt.Sprintf("node %s is already in the cluster, and alive; choose another --node-name", name))
	case node != nil:
		return taken(fmt.Sprintf("node %s is already in the cluster, with the key of another machine; if that machine is gone for good, "+
			"delete the node (keb kubectl delete node %s), else choose another --node-name", name, name))
	case renews:
		return taken(fmt.Sprintf("another machine joined as node %s; this one must join anew", name))
	}
	return nil
}

func taken(text string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusConflict, Reason: metav1.StatusReasonConflict, Message: text,
	}}
}

func ready(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

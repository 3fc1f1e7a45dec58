package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/kebernetes/kebernetes/store"
)

// Texts of refused tokens, as TokenReview shows them.
var (
	errInvalidBearer = errors.New("invalid bearer token")
	errExpired       = errors.New("service account token has expired")
	errNotYetValid   = errors.New("service account token is not valid yet")
	errInvalidated   = errors.New("service account token has been invalidated")
)

// Tokens issues and verifies the tokens of service accounts: JWTs bound to the account, and often to a pod, a node or a secret, which end
// with the object that they are bound to. Safe for concurrent use.
type Tokens struct {
	reader    store.Reader
	issuer    string
	audiences []string
	signer    jose.Signer
	keys      map[string]crypto.PublicKey // by key ID
	jwks      jose.JSONWebKeySet
	verified  *cache[[sha256.Size]byte, *verifiedToken]
}

// TokenOptions are what Tokens needs; all of them are required.
type TokenOptions struct {
	Reader store.Reader
	// Issuer is the "iss" of tokens, and the only audience of the API server: "https://kubernetes.default.svc".
	Issuer string
	// Keys are ECDSA P-256 keys; the first signs, all of them verify.
	Keys []crypto.Signer
}

// claims is the payload of a token; the names are upstream's.
type claims struct {
	Issuer     string           `json:"iss"`
	Subject    string           `json:"sub"`
	Audience   []string         `json:"aud"` // always a list, as upstream writes it
	Expiry     *jwt.NumericDate `json:"exp"`
	NotBefore  *jwt.NumericDate `json:"nbf,omitempty"`
	IssuedAt   *jwt.NumericDate `json:"iat,omitempty"`
	ID         string           `json:"jti,omitempty"`
	Kubernetes *boundClaims     `json:"kubernetes.io,omitempty"`
}

type boundClaims struct {
	Namespace      string           `json:"namespace,omitempty"`
	Node           *boundRef        `json:"node,omitempty"`
	Pod            *boundRef        `json:"pod,omitempty"`
	Secret         *boundRef        `json:"secret,omitempty"`
	ServiceAccount boundRef         `json:"serviceaccount,omitempty"`
	WarnAfter      *jwt.NumericDate `json:"warnafter,omitempty"`
}

type boundRef struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

// verifiedToken is a token whose signature and issuer hold, and the user it stands for.
type verifiedToken struct {
	claims claims
	user   *User
}

// NewTokens returns the issuer and verifier of a cluster's tokens.
func NewTokens(o TokenOptions) (*Tokens, error) {
	t := &Tokens{
		reader:    o.Reader,
		issuer:    o.Issuer,
		audiences: []string{o.Issuer},
		keys:      map[string]crypto.PublicKey{},
		verified:  newCache[[sha256.Size]byte, *verifiedToken](verifiedLimit),
	}
	for i, key := range o.Keys {
		if _, ok := key.Public().(*ecdsa.PublicKey); !ok {
			return nil, fmt.Errorf("use signing key: %T is not an ECDSA key", key.Public())
		}
		id, err := keyID(key.Public())
		if err != nil {
			return nil, fmt.Errorf("use signing key: %w", err)
		}
		t.keys[id] = key.Public()
		t.jwks.Keys = append(t.jwks.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: id, Algorithm: string(jose.ES256), Use: "sig"})
		if i > 0 {
			continue
		}
		t.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil)
		if err != nil {
			return nil, fmt.Errorf("use signing key: %w", err)
		}
	}
	if t.signer == nil {
		return nil, errors.New("use signing key: there is none")
	}
	return t, nil
}

// keyID is upstream's: the digest of the public key info.
func keyID(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// authenticate returns the user of a token for one of the audiences (none: the API server), and which of them the token is for.
func (t *Tokens) authenticate(token string, audiences []string, now time.Time) (*User, []string, error) {
	if len(audiences) == 0 {
		audiences = t.audiences
	}
	v, err := t.verify(token)
	if err != nil {
		return nil, nil, err
	}
	if err := checkTimes(&v.claims, now); err != nil {
		return nil, nil, err
	}
	both := intersect(v.claims.Audience, audiences)
	if len(both) == 0 {
		return nil, nil, fmt.Errorf("token audiences %q is invalid for the target audiences %q", v.claims.Audience, audiences)
	}
	if err := t.checkBound(v.claims.Kubernetes, now); err != nil {
		return nil, nil, err
	}
	return v.user, both, nil
}

// verify checks signature, issuer and form, once for each token.
func (t *Tokens) verify(token string) (*verifiedToken, error) {
	sum := sha256.Sum256([]byte(token))
	if v, ok := t.verified.get(sum); ok {
		return v, nil
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil || len(parsed.Headers) != 1 {
		return nil, errInvalidBearer
	}
	key, ok := t.keys[parsed.Headers[0].KeyID]
	if !ok {
		return nil, errInvalidBearer
	}
	v := &verifiedToken{}
	if err := parsed.Claims(key, &v.claims); err != nil || v.claims.Issuer != t.issuer {
		return nil, errInvalidBearer
	}
	k := v.claims.Kubernetes
	if k == nil || k.Namespace == "" || k.ServiceAccount.Name == "" || k.ServiceAccount.UID == "" || v.claims.Expiry == nil {
		return nil, errInvalidBearer
	}
	if v.claims.Subject != ServiceAccountPrefix+k.Namespace+":"+k.ServiceAccount.Name {
		return nil, errInvalidBearer
	}
	v.user = tokenUser(&v.claims)
	t.verified.add(sum, v)
	return v, nil
}

func checkTimes(c *claims, now time.Time) error {
	switch {
	case now.Add(-jwt.DefaultLeeway).After(c.Expiry.Time()):
		return errExpired
	case c.NotBefore != nil && now.Add(jwt.DefaultLeeway).Before(c.NotBefore.Time()):
		return errNotYetValid
	}
	return nil
}

// ServiceAccountGroups are the groups of all service accounts of a namespace.
func ServiceAccountGroups(namespace string) []string {
	return []string{GroupServiceAccounts, GroupServiceAccounts + ":" + namespace}
}

// SplitServiceAccount takes a user name apart that stands for a service account.
func SplitServiceAccount(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, ServiceAccountPrefix)
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	return namespace, name, ok && namespace != "" && name != "" && !strings.Contains(name, ":")
}

func tokenUser(c *claims) *User {
	k := c.Kubernetes
	u := &User{
		Name:   c.Subject,
		UID:    k.ServiceAccount.UID,
		Groups: withAuthenticated(ServiceAccountGroups(k.Namespace)),
		Extra:  map[string][]string{},
	}
	if c.ID != "" {
		u.Extra[ExtraCredentialID] = []string{"JTI=" + c.ID}
	}
	if k.Pod != nil {
		u.Extra[ExtraPodName], u.Extra[ExtraPodUID] = []string{k.Pod.Name}, []string{k.Pod.UID}
	}
	if k.Node != nil {
		u.Extra[ExtraNodeName] = []string{k.Node.Name}
		if k.Node.UID != "" {
			u.Extra[ExtraNodeUID] = []string{k.Node.UID}
		}
	}
	return u
}

// checkBound says whether everything that a token is bound to still exists, the very same object, and is not being deleted for
// longer than the leeway.
func (t *Tokens) checkBound(k *boundClaims, now time.Time) error {
	snapshot := t.reader.Snapshot()
	live := func(resource, namespace, kind string, ref *boundRef) error {
		item := snapshot.Get(store.Key{Resource: resource, Namespace: namespace, Name: ref.Name})
		if item == nil {
			return errInvalidated
		}
		if gone := item.Object.GetDeletionTimestamp(); gone != nil && gone.Time.Before(now.Add(-jwt.DefaultLeeway)) {
			return errInvalidated
		}
		if uid := string(item.Object.GetUID()); uid != ref.UID {
			return fmt.Errorf("%s UID (%s) does not match claim (%s)", kind, uid, ref.UID)
		}
		return nil
	}
	if err := live("serviceaccounts", k.Namespace, "service account", &k.ServiceAccount); err != nil {
		return err
	}
	if k.Secret != nil {
		if err := live("secrets", k.Namespace, "secret", k.Secret); err != nil {
			return err
		}
	}
	if k.Pod != nil {
		// A token of a pod goes on while its node is gone: the pod's own end will follow.
		return live("pods", k.Namespace, "pod", k.Pod)
	}
	if k.Node != nil {
		return live("nodes", "", "node", k.Node)
	}
	return nil
}

// sign makes the token of a service account, expiring at the given time.
func (t *Tokens) sign(sa *corev1.ServiceAccount, k *boundClaims, audiences []string, id string, now time.Time, expires time.Time) (string, error) {
	k.Namespace = sa.Namespace
	k.ServiceAccount = boundRef{Name: sa.Name, UID: string(sa.UID)}
	return jwt.Signed(t.signer).Claims(claims{
		Issuer:     t.issuer,
		Subject:    ServiceAccountPrefix + sa.Namespace + ":" + sa.Name,
		Audience:   audiences,
		Expiry:     jwt.NewNumericDate(expires),
		NotBefore:  jwt.NewNumericDate(now),
		IssuedAt:   jwt.NewNumericDate(now),
		ID:         id,
		Kubernetes: k,
	}).Serialize()
}

func refOf(obj metav1.Object) *boundRef {
	return &boundRef{Name: obj.GetName(), UID: string(obj.GetUID())}
}

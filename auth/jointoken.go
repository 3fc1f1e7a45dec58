package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/store"
)

// A join token lets machines join as nodes. Unlike a bootstrap token of upstream's form it is kept as a hash, so that nobody
// who reads the Secret, or a copy of it, can join with what stands there.
const (
	// JoinTokenType is the type of the Secrets of kube-system that join tokens are kept in.
	JoinTokenType corev1.SecretType = "keb.dev/join-token"

	joinTokenVersion = "keb1"
	joinTokenSecret  = "join-token-" // and the id: the Secret's name
	joinTokenHash    = "secret-sha256"
	joinTokenExpires = "expiration"
	joinTokenIDBytes = 5  // 8 characters
	joinTokenBytes   = 20 // 160 bits, 32 characters
)

// joinToken and joinTokenLetters are read only.
var (
	joinToken        = regexp.MustCompile(`^keb1\.([0-9a-f]{64})\.([a-z2-7]{8})\.([a-z2-7]{32})$`)
	joinTokenLetters = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
)

// JoinToken is a token in the hands of its user: "keb1.<CA hash>.<id>.<secret>".
type JoinToken struct {
	// CAHash is the hexadecimal SHA-256 of the public key info of the CA that the server must show before it gets the token.
	CAHash string
	// ID names the token; it is no secret.
	ID     string
	secret string
}

// NewJoinToken makes a token for the cluster whose CA has the hash, as pki.Authority.Hash writes it.
func NewJoinToken(caHash string) JoinToken {
	id, secret := make([]byte, joinTokenIDBytes), make([]byte, joinTokenBytes)
	_, _ = rand.Read(id) // never fails: it ends the process instead
	_, _ = rand.Read(secret)
	return JoinToken{strings.TrimPrefix(caHash, "sha256:"), joinTokenLetters.EncodeToString(id), joinTokenLetters.EncodeToString(secret)}
}

// ParseJoinToken reads a token. The error does not repeat it.
func ParseJoinToken(text string) (JoinToken, error) {
	parts := joinToken.FindStringSubmatch(strings.TrimSpace(text))
	if parts == nil {
		return JoinToken{}, errors.New("this is no join token (`keb token create` on the server's machine prints one)")
	}
	return JoinToken{parts[1], parts[2], parts[3]}, nil
}

// String is the whole token, secret included.
func (t JoinToken) String() string {
	return strings.Join([]string{joinTokenVersion, t.CAHash, t.ID, t.secret}, ".")
}

// hash is what the cluster keeps of the secret. A secret that nobody chose needs no slow hash.
func (t JoinToken) hash() string {
	sum := sha256.Sum256([]byte(t.secret))
	return hex.EncodeToString(sum[:])
}

// Secret is the object that makes the token valid until it expires; the zero time is never.
func (t JoinToken) Secret(expires time.Time, description string) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: ControllerNamespace, Name: JoinTokenSecretName(t.ID)},
		Type:       JoinTokenType,
		Data:       map[string][]byte{joinTokenHash: []byte(t.hash())},
	}
	if !expires.IsZero() {
		s.Data[joinTokenExpires] = []byte(expires.UTC().Format(time.RFC3339))
	}
	if description != "" {
		s.Data["description"] = []byte(description)
	}
	return s
}

// JoinTokenSecretName is the name of the Secret of a token.
func JoinTokenSecretName(id string) string { return joinTokenSecret + id }

// JoinTokenID is the id of the token that a Secret keeps, "" when it keeps none.
func JoinTokenID(s *corev1.Secret) string {
	id, ok := strings.CutPrefix(s.Name, joinTokenSecret)
	if !ok || s.Type != JoinTokenType {
		return ""
	}
	return id
}

// JoinTokenExpiry returns when the token of a Secret expires, the zero time when never. What cannot be read expired long ago.
func JoinTokenExpiry(s *corev1.Secret) time.Time {
	text := s.Data[joinTokenExpires]
	if len(text) == 0 {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339, string(text))
	if err != nil {
		return time.Unix(0, 0)
	}
	return at
}

// joinUser returns the user of a join token. Only who holds the right secret hears that it has expired. ok says whether the text is
// a join token at all.
func joinUser(s store.Snapshot, text string, now time.Time) (user *User, ok bool, err error) {
	if !strings.HasPrefix(text, joinTokenVersion+".") {
		return nil, false, nil
	}
	wrong := apierrors.NewUnauthorized("the join token is wrong or was revoked; `keb token create` on the server's machine makes a new one")
	token, err := ParseJoinToken(text)
	if err != nil {
		return nil, true, wrong
	}
	item := s.Get(store.Key{Resource: "secrets", Namespace: ControllerNamespace, Name: JoinTokenSecretName(token.ID)})
	if item == nil {
		return nil, true, wrong
	}
	secret := item.Object.(*corev1.Secret)
	if secret.DeletionTimestamp != nil || JoinTokenID(secret) != token.ID ||
		subtle.ConstantTimeCompare(secret.Data[joinTokenHash], []byte(token.hash())) != 1 {
		return nil, true, wrong
	}
	if at := JoinTokenExpiry(secret); !at.IsZero() && !now.Before(at) {
		return nil, true, apierrors.NewUnauthorized(fmt.Sprintf(
			"the join token %s expired at %s; `keb token create` on the server's machine makes a new one", token.ID, at.UTC().Format(time.RFC3339)))
	}
	return &User{Name: BootstrapUserPrefix + token.ID, Groups: withAuthenticated([]string{BootstrapGroup})}, true, nil
}

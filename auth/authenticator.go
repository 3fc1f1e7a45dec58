package auth

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kebernetes/kebernetes/store"
)

// ErrUnauthorized is the answer to credentials that do not hold; the API turns it into 401.
var ErrUnauthorized = errors.New("unauthorized")

// verifiedLimit bounds each generation of the caches of verified certificates and tokens: at about 1 kB an entry, 8 MB at the most.
const verifiedLimit = 2048

// AuthenticatorOptions are what an Authenticator needs; all but Logger are required.
type AuthenticatorOptions struct {
	Reader store.Reader
	// Roots verify client certificates.
	Roots  *x509.CertPool
	Tokens *Tokens
	// Authorizer says who may impersonate whom.
	Authorizer Authorizer
	// Target returns what a request wants to do, for rules that allow impersonation only for some requests.
	Target func(*http.Request) Attributes
	// Logger gets the reasons of refusals at debug level; nil discards.
	Logger *slog.Logger
}

// Authenticator says who a request comes from. Safe for concurrent use.
type Authenticator struct {
	AuthenticatorOptions
	certificates certificates
}

// NewAuthenticator returns an authenticator of client certificates, of service-account tokens, and of the bootstrap tokens that the
// store holds. Requests without credentials are anonymous.
func NewAuthenticator(o AuthenticatorOptions) *Authenticator {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Authenticator{
		AuthenticatorOptions: o,
		certificates:         certificates{roots: o.Roots, verified: newCache[[sha256.Size]byte, verifiedCert](verifiedLimit)},
	}
}

// Authenticate returns the user of a request, the one that it asks to impersonate if it may. The error is ErrUnauthorized, or a
// Status error of a refused impersonation or join token. It takes credentials and impersonation out of the request's headers, so that
// nothing further on can log them or send them along.
func (a *Authenticator) Authenticate(r *http.Request) (*User, error) {
	user, err := a.identify(r)
	if err != nil {
		a.Logger.LogAttrs(r.Context(), slog.LevelDebug, "request refused", slog.Any("error", err))
		if status := apierrors.APIStatus(nil); errors.As(err, &status) {
			return nil, err
		}
		return nil, ErrUnauthorized
	}
	// Whatever kind of credentials it held: a proxied request must not carry them to a pod.
	r.Header.Del("Authorization")
	return a.impersonate(user, r)
}

// identify goes by what a request shows: a certificate first, then a token.
func (a *Authenticator) identify(r *http.Request) (*User, error) {
	var refused error
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		user, err := a.certificates.authenticate(r.TLS.PeerCertificates, time.Now())
		if err == nil {
			return user, nil
		}
		refused = err
	}
	if token, ok := takeBearer(r.Header); ok {
		user, _, err := a.authenticateToken(token, nil)
		if err == nil {
			return user, nil
		}
		refused = err
	}
	if refused != nil {
		return nil, refused
	}
	return &User{Name: Anonymous, Groups: []string{GroupUnauthenticated}}, nil
}

// authenticateToken accepts tokens of service accounts, join tokens and bootstrap tokens. audiences are those that the token must be for
// one of, nil for the API server's own; it returns those that match.
func (a *Authenticator) authenticateToken(token string, audiences []string) (*User, []string, error) {
	user, ok, err := joinUser(a.Reader.Snapshot(), token, time.Now())
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		user, ok = bootstrapUser(a.Reader.Snapshot(), token, time.Now())
	}
	if ok {
		own := a.Tokens.audiences
		if len(audiences) == 0 {
			return user, own, nil
		}
		if both := intersect(audiences, own); len(both) > 0 {
			return user, both, nil
		}
		return nil, nil, errInvalidBearer
	}
	return a.Tokens.authenticate(token, audiences, time.Now())
}

// webSocketBearer prefixes a token in the list of WebSocket protocols, as browsers cannot set other headers.
const webSocketBearer = "base64url.bearer.authorization.k8s.io."

// takeBearer removes the bearer token from the headers and returns it.
func takeBearer(h http.Header) (string, bool) {
	scheme, token, _ := strings.Cut(strings.TrimSpace(h.Get("Authorization")), " ")
	if strings.EqualFold(scheme, "bearer") {
		h.Del("Authorization")
		token = strings.TrimSpace(token)
		return token, token != ""
	}
	return takeWebSocketBearer(h)
}

// takeWebSocketBearer finds a token among the WebSocket protocols. It counts only when another protocol is asked for too, which
// the answer can then name.
func takeWebSocketBearer(h http.Header) (string, bool) {
	var protocols []string
	for _, line := range h.Values("Sec-Websocket-Protocol") {
		for p := range strings.SplitSeq(line, ",") {
			protocols = append(protocols, strings.TrimSpace(p))
		}
	}
	at := slices.IndexFunc(protocols, func(p string) bool { return strings.HasPrefix(p, webSocketBearer) })
	if at < 0 || len(protocols) < 2 {
		return "", false
	}
	token, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(protocols[at], webSocketBearer))
	if err != nil || len(token) == 0 {
		return "", false
	}
	h.Set("Sec-Websocket-Protocol", strings.Join(slices.Delete(protocols, at, at+1), ","))
	return string(token), true
}

func intersect(a, b []string) []string {
	var out []string
	for _, s := range a {
		if slices.Contains(b, s) {
			out = append(out, s)
		}
	}
	return out
}

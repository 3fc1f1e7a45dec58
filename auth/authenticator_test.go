package auth

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/go-jose/go-jose/v4"
	"github.com/kebernetes/kebernetes/auth/pki"
	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

const issuer = "https://kubernetes.default.svc"

func (w *world) token(namespace, name string, spec authenticationv1.TokenRequestSpec) string {
	w.t.Helper()
	req := &authenticationv1.TokenRequest{Spec: spec}
	if err := w.issue(namespace, name, req); err != nil {
		w.t.Fatal(err)
	}
	return req.Status.Token
}

// issue looks up account and bound object as the API server does.
func (w *world) issue(namespace, name string, req *authenticationv1.TokenRequest) error {
	var bound kinds.Object
	s := w.store.Snapshot()
	if ref := req.Spec.BoundObjectRef; ref != nil {
		if item := s.Get(store.Key{Resource: boundResources[ref.Kind], Namespace: namespace, Name: ref.Name}); item != nil {
			bound = item.Object
		}
	}
	return w.tokens.Issue(w.t.Context(), s.Get(store.Key{Resource: "serviceaccounts", Namespace: namespace, Name: name}).Object, bound, req)
}

func payload(t *testing.T, token string) map[string]any {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestTokenClaims(t *testing.T) {
	w := newWorld(t, account("ns", "sa"), pod("p", "n", "sa"), &corev1.Node{ObjectMeta: meta("", "n")})
	seconds := int64(ProjectedTokenSeconds)
	now := time.Now()
	claims := payload(t, w.token("ns", "sa", authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &seconds, BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p"},
	}))
	private := claims["kubernetes.io"].(map[string]any)
	if warn := private["warnafter"].(float64) - claims["iat"].(float64); warn != ProjectedTokenSeconds {
		t.Errorf("warnafter is %v s after iat", warn)
	}
	if life := claims["exp"].(float64) - claims["iat"].(float64); life != 365*24*3600 {
		t.Errorf("lives %v s", life)
	}
	if at := claims["iat"].(float64); at < float64(now.Unix()) || claims["nbf"] != claims["iat"] {
		t.Errorf("iat %v, nbf %v", at, claims["nbf"])
	}
	delete(private, "warnafter")
	got, _ := json.Marshal(map[string]any{"aud": claims["aud"], "iss": claims["iss"], "sub": claims["sub"], "kubernetes.io": private})
	want := `{"aud":["https://kubernetes.default.svc"],"iss":"https://kubernetes.default.svc","kubernetes.io":{"namespace":"ns",` +
		`"node":{"name":"n","uid":"uid-of-n"},"pod":{"name":"p","uid":"uid-of-p"},"serviceaccount":{"name":"sa","uid":"uid-of-sa"}},"sub":"system:serviceaccount:ns:sa"}`
	if string(got) != want {
		t.Errorf("claims\n%s\nwant\n%s", got, want)
	}
	if id, ok := claims["jti"].(string); !ok || len(id) != 36 {
		t.Errorf("jti %v", claims["jti"])
	}
}

func TestTokenRequestRefusals(t *testing.T) {
	w := newWorld(t, account("ns", "sa"), pod("p", "n", "other"), pod("mine", "", "sa"))
	ref := func(apiVersion, kind, name, uid string) authenticationv1.TokenRequestSpec {
		r := &authenticationv1.BoundObjectReference{APIVersion: apiVersion, Kind: kind, Name: name}
		r.UID = meta("", uid).UID
		if uid == "" {
			r.UID = ""
		}
		return authenticationv1.TokenRequestSpec{BoundObjectRef: r}
	}
	life := func(s int64) authenticationv1.TokenRequestSpec {
		return authenticationv1.TokenRequestSpec{ExpirationSeconds: &s}
	}
	for _, tc := range []struct {
		spec    authenticationv1.TokenRequestSpec
		code    int32
		message string
	}{
		{life(5), 422, `TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes`},
		{life(1<<32 + 1), 422, `TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds`},
		{ref("v1", "Pod", "none", ""), 404, `pods "none" not found`},
		{ref("v1", "Pod", "p", ""), 400, `cannot bind token for serviceaccount "sa" to pod running with different serviceaccount name.`},
		{ref("v1", "Pod", "mine", "x"), 409, `Operation cannot be fulfilled on Pod "mine": the UID in the bound object reference (uid-of-x) does not match the UID in record. The object might have been deleted and then recreated`},
		{ref("apps/v1", "Deployment", "d", ""), 400, `cannot bind token to object of type apps/v1, Kind=Deployment`},
	} {
		err := w.issue("ns", "sa", &authenticationv1.TokenRequest{Spec: tc.spec})
		var status *apierrors.StatusError
		if !errors.As(err, &status) || status.ErrStatus.Code != tc.code || status.ErrStatus.Message != tc.message {
			t.Errorf("got %v, want %d %s", err, tc.code, tc.message)
		}
	}
}

// TestTokenEnds asks the same token again and again, from the cache too, while what it is bound to changes.
func TestTokenEnds(t *testing.T) {
	recreated := account("ns", "sa")
	recreated.UID = "other"
	long := metav1.NewTime(time.Now().Add(-2 * time.Minute))
	short := metav1.NewTime(time.Now().Add(-10 * time.Second))
	deleting := func(at metav1.Time) *corev1.Pod {
		p := pod("p", "n", "sa")
		p.DeletionTimestamp = &at
		return p
	}
	for name, tc := range map[string]struct {
		change func(*world)
		after  time.Duration
		err    string
	}{
		"nothing":           {func(*world) {}, 0, ""},
		"account removed":   {func(w *world) { w.remove(account("ns", "sa")) }, 0, "service account token has been invalidated"},
		"account recreated": {func(w *world) { w.put(recreated) }, 0, "service account UID (other) does not match claim (uid-of-sa)"},
		"pod removed":       {func(w *world) { w.remove(pod("p", "n", "sa")) }, 0, "service account token has been invalidated"},
		"pod long gone":     {func(w *world) { w.put(deleting(long)) }, 0, "service account token has been invalidated"},
		"pod terminating":   {func(w *world) { w.put(deleting(short)) }, 0, ""},
		"expired":           {func(*world) {}, 3600*time.Second + 61*time.Second, "service account token has expired"},
		"within the leeway": {func(*world) {}, 3600*time.Second + 58*time.Second, ""},
		"clock behind":      {func(*world) {}, -2 * time.Minute, "service account token is not valid yet"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, account("ns", "sa"), pod("p", "n", "sa"))
			token := w.token("ns", "sa", authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p"}})
			if _, _, err := w.tokens.authenticate(token, nil, time.Now()); err != nil {
				t.Fatal(err)
			}
			tc.change(w)
			_, _, err := w.tokens.authenticate(token, nil, time.Now().Add(tc.after))
			if (err == nil) != (tc.err == "") || (err != nil && err.Error() != tc.err) {
				t.Errorf("got %v, want %q", err, tc.err)
			}
		})
	}
}

func TestForeignTokens(t *testing.T) {
	w, foreign := newWorld(t, account("ns", "sa")), newWorld(t, account("ns", "sa"))
	own := w.token("ns", "sa", authenticationv1.TokenRequestSpec{})
	parts := strings.Split(own, ".")
	tampered := parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"`+issuer+`"}`)) + "." + parts[2]
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	for name, token := range map[string]string{
		"other cluster": foreign.token("ns", "sa", authenticationv1.TokenRequestSpec{}),
		"tampered":      tampered, "no signature": none, "nonsense": "nonsense", "long": strings.Repeat("a.", 1<<16),
	} {
		if _, _, err := w.tokens.authenticate(token, nil, time.Now()); !errors.Is(err, errInvalidBearer) {
			t.Errorf("%s: %v", name, err)
		}
	}
	vault := w.token("ns", "sa", authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}})
	_, _, err := w.tokens.authenticate(vault, nil, time.Now())
	if want := `token audiences ["vault"] is invalid for the target audiences ["https://kubernetes.default.svc"]`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestReview(t *testing.T) {
	w := newWorld(t, account("ns", "sa"))
	token := w.token("ns", "sa", authenticationv1.TokenRequestSpec{Audiences: []string{"vault", issuer}})
	for _, tc := range []struct {
		token     string
		audiences []string
		want      string
	}{
		{token, nil, "system:serviceaccount:ns:sa uid-of-sa [https://kubernetes.default.svc]"},
		{token, []string{"x", "vault"}, "system:serviceaccount:ns:sa uid-of-sa [vault]"},
		{"nonsense", nil, "invalid bearer token"},
		{token, []string{"x"}, `[invalid bearer token, token audiences ["vault" "https://kubernetes.default.svc"] is invalid for the target audiences ["x"]]`},
	} {
		u, audiences, err := w.authenticator.Review(t.Context(), tc.token, tc.audiences)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = fmt.Sprint(u.Name, " ", u.UID, " ", audiences)
			info := UserInfo(u)
			if id := info.Extra[ExtraCredentialID]; len(id) != 1 || !strings.HasPrefix(id[0], "JTI=") {
				t.Errorf("credential id %v", id)
			}
		}
		if got != tc.want {
			t.Errorf("got %s, want %s", got, tc.want)
		}
	}
}

func clientCert(t testing.TB, c pki.Client, err error) *tls.ConnectionState {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(c.Cert)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
}

func TestAuthenticate(t *testing.T) {
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-abcdef"},
		Type:       BootstrapTokenType,
		Data: map[string][]byte{"token-id": []byte("abcdef"), "token-secret": []byte("0123456789abcdef"),
			"usage-bootstrap-authentication": []byte("true"), "auth-extra-groups": []byte("system:bootstrappers:w")},
	}
	expired := secret.DeepCopy()
	expired.Name, expired.Data["token-id"], expired.Data["expiration"] = "bootstrap-token-expire", []byte("expire"), []byte("2020-01-01T00:00:00Z")
	w, foreign := newWorld(t, account("ns", "sa"), secret, expired), newWorld(t)
	var logged bytes.Buffer
	w.authenticator.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))

	admin, err := w.authority.Client("admin", []string{GroupMasters}, time.Hour)
	adminTLS := clientCert(t, admin, err)
	expiredCert, err := w.authority.Client("admin", nil, -time.Minute)
	expiredTLS := clientCert(t, expiredCert, err)
	other, err := foreign.authority.Client("admin", []string{GroupMasters}, time.Hour)
	otherTLS := clientCert(t, other, err)
	token := w.token("ns", "sa", authenticationv1.TokenRequestSpec{})
	inProtocols := webSocketBearer + base64.RawURLEncoding.EncodeToString([]byte(token))

	for name, tc := range map[string]struct {
		tls           *tls.ConnectionState
		authorization string
		protocols     string
		user          string
		group         string
	}{
		"certificate":               {tls: adminTLS, user: "admin", group: GroupMasters},
		"certificate, once more":    {tls: adminTLS, user: "admin", group: GroupAuthenticated},
		"certificate and token":     {tls: adminTLS, authorization: "Bearer " + token, user: "admin", group: GroupMasters},
		"expired certificate":       {tls: expiredTLS},
		"foreign certificate":       {tls: otherTLS},
		"token":                     {authorization: "Bearer " + token, user: "system:serviceaccount:ns:sa", group: "system:serviceaccounts:ns"},
		"token, lower case":         {authorization: "bearer  " + token, user: "system:serviceaccount:ns:sa", group: GroupAuthenticated},
		"token despite certificate": {tls: otherTLS, authorization: "Bearer " + token, user: "system:serviceaccount:ns:sa", group: GroupAuthenticated},
		"token in protocols":        {protocols: "v4.channel.k8s.io, " + inProtocols, user: "system:serviceaccount:ns:sa", group: GroupAuthenticated},
		"token alone in protocols":  {protocols: inProtocols, user: Anonymous, group: GroupUnauthenticated},
		"bootstrap token":           {authorization: "Bearer abcdef.0123456789abcdef", user: "system:bootstrap:abcdef", group: "system:bootstrappers:w"},
		"wrong bootstrap token":     {authorization: "Bearer abcdef.0123456789abcdeg"},
		"expired bootstrap token":   {authorization: "Bearer expire.0123456789abcdef"},
		"nonsense":                  {authorization: "Bearer nonsense"},
		"basic":                     {authorization: "Basic YTpi", user: Anonymous, group: GroupUnauthenticated},
		"empty bearer":              {authorization: "Bearer ", user: Anonymous, group: GroupUnauthenticated},
		"nothing":                   {user: Anonymous, group: GroupUnauthenticated},
	} {
		t.Run(name, func(t *testing.T) {
			r := &http.Request{Header: http.Header{}, TLS: tc.tls}
			if tc.authorization != "" {
				r.Header.Set("Authorization", tc.authorization)
			}
			if tc.protocols != "" {
				r.Header.Set("Sec-Websocket-Protocol", tc.protocols)
			}
			u, err := w.authenticator.Authenticate(r)
			if tc.user == "" {
				if !errors.Is(err, ErrUnauthorized) {
					t.Errorf("got %v, %v", u, err)
				}
				return
			}
			if err != nil || u.Name != tc.user || !slices.Contains(u.Groups, tc.group) {
				t.Fatalf("got %+v, %v", u, err)
			}
			if len(r.Header["Authorization"]) > 0 {
				t.Error("the header is still there")
			}
			if u.Name != Anonymous && strings.Contains(strings.Join(append(r.Header.Values("Authorization"), r.Header.Values("Sec-Websocket-Protocol")...), " "), token) {
				t.Error("the token is still in the headers")
			}
		})
	}
	for _, s := range []string{token, "0123456789abcde", "nonsense"} {
		if strings.Contains(logged.String(), s) {
			t.Errorf("the log holds a secret: %s", logged.String())
		}
	}
}

func TestImpersonate(t *testing.T) {
	rule := func(verb, group, resource string, names ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: names}
	}
	role := func(name string, rules ...rbacv1.PolicyRule) []store.Object {
		return []store.Object{
			&rbacv1.ClusterRole{ObjectMeta: meta("", name), Rules: rules},
			&rbacv1.ClusterRoleBinding{ObjectMeta: meta("", name), RoleRef: roleRef("ClusterRole", name), Subjects: []rbacv1.Subject{{Kind: "User", Name: name}}},
		}
	}
	w := newWorld(t)
	w.put(role("classic", rule("impersonate", "", "users", "ann"), rule("impersonate", "authentication.k8s.io", "userextras/scopes", "a"))...)
	w.put(role("limited", rule("impersonate:user-info", "authentication.k8s.io", "users"), rule("impersonate-on:user-info:list", "", "pods"),
		rule("impersonate:arbitrary-node", "authentication.k8s.io", "nodes"), rule("impersonate-on:arbitrary-node:list", "", "pods"))...)
	admin := &User{Name: "admin", Groups: []string{GroupMasters}}
	list, get := can(nil, "list pods ns"), can(nil, "get pods ns")
	for name, tc := range map[string]struct {
		as      *User
		headers string // "Name: value" lines
		target  *Attributes
		want    string // user, groups, uid and extra, or the message
	}{
		"nothing":         {admin, "", list, "admin [system:masters]  map[]"},
		"everything":      {admin, "User: ann\nGroup: g1\nGroup: g2\nUid: 7\nExtra-Scopes: a\nExtra-Acme.com%2fx: b", list, "ann [g1 g2 system:authenticated] 7 map[acme.com/x:[b] scopes:[a]]"},
		"service account": {admin, "User: system:serviceaccount:ns:sa", list, "system:serviceaccount:ns:sa [system:serviceaccounts system:serviceaccounts:ns system:authenticated]  map[]"},
		"anonymous":       {admin, "User: system:anonymous", list, "system:anonymous [system:unauthenticated]  map[]"},
		"no user":         {admin, "Group: g", list, `requested &user.DefaultInfo{Name:"", UID:"", Groups:[]string{"g"}, Extra:map[string][]string(nil)} without impersonating a user name`},
		"classic":         {&User{Name: "classic"}, "User: ann\nExtra-Scopes: a", get, "ann [system:authenticated]  map[scopes:[a]]"},
		"classic, other":  {&User{Name: "classic"}, "User: bob", get, `users "bob" is forbidden: User "classic" cannot impersonate resource "users" in API group "" at the cluster scope`},
		"classic, group":  {&User{Name: "classic"}, "User: ann\nGroup: g", get, `groups "g" is forbidden: User "classic" cannot impersonate resource "groups" in API group "" at the cluster scope`},
		"classic, account": {&User{Name: "classic"}, "User: system:serviceaccount:ns:sa", get,
			`serviceaccounts "sa" is forbidden: User "classic" cannot impersonate resource "serviceaccounts" in API group "" in the namespace "ns"`},
		"classic, extra": {&User{Name: "classic"}, "User: ann\nExtra-Scopes: b", get,
			`userextras.authentication.k8s.io "b" is forbidden: User "classic" cannot impersonate resource "userextras/scopes" in API group "authentication.k8s.io" at the cluster scope`},
		"limited":             {&User{Name: "limited"}, "User: ann", list, "ann [system:authenticated]  map[]"},
		"limited, other verb": {&User{Name: "limited"}, "User: ann", get, `users "ann" is forbidden: User "limited" cannot impersonate resource "users" in API group "" at the cluster scope`},
		"limited, masters":    {&User{Name: "limited"}, "User: ann\nGroup: system:masters", list, `users "ann" is forbidden: User "limited" cannot impersonate resource "users" in API group "" at the cluster scope`},
		"limited, node":       {&User{Name: "limited"}, "User: system:node:n", list, "system:node:n [system:nodes system:authenticated]  map[]"},
	} {
		t.Run(name, func(t *testing.T) {
			h := http.Header{}
			for line := range strings.SplitSeq(tc.headers, "\n") {
				if key, value, ok := strings.Cut(line, ": "); ok {
					h.Add("Impersonate-"+key, value)
				}
			}
			w.authenticator.Target = func(*http.Request) Attributes { return *tc.target }
			u, err := w.authenticator.impersonate(tc.as, &http.Request{Header: h})
			got := ""
			if err != nil {
				got = err.Error()
			} else {
				got = u.Name + " " + fmtUser(u)
			}
			if got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
			if len(h) > 0 {
				t.Errorf("headers left: %v", h)
			}
		})
	}
}

func fmtUser(u *User) string {
	extra, _ := json.Marshal(u.Extra)
	text := strings.NewReplacer(`"`, "", `{`, "map[", `}`, "]", `],`, `] `, "null", "map[]").Replace(string(extra))
	return "[" + strings.Join(u.Groups, " ") + "] " + u.UID + " " + text
}

func TestReviewedAttributes(t *testing.T) {
	node := authorizationv1.SubjectAccessReviewSpec{User: "system:node:n", Groups: []string{GroupNodes},
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Resource: "pods", FieldSelector: &authorizationv1.FieldSelectorAttributes{
			Requirements: []metav1.FieldSelectorRequirement{{Key: "spec.nodeName", Operator: "In", Values: []string{"n"}}}}}}
	raw := *node.DeepCopy()
	raw.ResourceAttributes.FieldSelector = &authorizationv1.FieldSelectorAttributes{RawSelector: "spec.nodeName=n"}
	bare := *node.DeepCopy()
	bare.ResourceAttributes.FieldSelector = nil
	path := authorizationv1.SubjectAccessReviewSpec{User: "x", Groups: []string{GroupAuthenticated},
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/version"}}
	w := newWorld(t, bootstrapObjects()...)
	for name, tc := range map[string]struct {
		spec authorizationv1.SubjectAccessReviewSpec
		want bool
	}{"requirements": {node, true}, "raw": {raw, true}, "no selector": {bare, false}, "path": {path, true}} {
		allowed, _ := w.policy.Authorize(ReviewedAttributes(ReviewedUser(&tc.spec), tc.spec.ResourceAttributes, tc.spec.NonResourceAttributes))
		if allowed != tc.want {
			t.Errorf("%s: %v", name, allowed)
		}
	}
}

func TestDiscovery(t *testing.T) {
	w := newWorld(t, account("ns", "sa"))
	h, err := w.tokens.Discovery("https://192.0.2.1:6443")
	if err != nil {
		t.Fatal(err)
	}
	get := func(path, contentType string, into any) {
		t.Helper()
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		if got := rec.Header().Get("Content-Type"); got != contentType {
			t.Errorf("%s: %s", path, got)
		}
		if err := json.Unmarshal(rec.Body.Bytes(), into); err != nil {
			t.Fatal(err)
		}
	}
	var config struct{ Issuer, JWKS_URI string }
	get(OIDCConfigurationPath, "application/json", &config)
	if config.Issuer != issuer || config.JWKS_URI != "https://192.0.2.1:6443/openid/v1/jwks" {
		t.Errorf("configuration %+v", config)
	}
	var keys jose.JSONWebKeySet
	get(JWKSPath, "application/jwk-set+json", &keys)
	signed, err := jose.ParseSigned(w.token("ns", "sa", authenticationv1.TokenRequestSpec{}), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signed.Verify(keys); err != nil {
		t.Errorf("the published keys do not verify a token: %v", err)
	}
	if !keys.Keys[0].IsPublic() {
		t.Error("a private key is published")
	}
}

func FuzzAuthenticate(f *testing.F) {
	w := newWorld(f, account("ns", "sa"))
	f.Add("Bearer "+w.token("ns", "sa", authenticationv1.TokenRequestSpec{}), "v4.channel.k8s.io, "+webSocketBearer+"eA")
	f.Add("Bearer abcdef.0123456789abcdef", "")
	f.Add("Basic YTpi", ",,")
	f.Fuzz(func(t *testing.T, authorization, protocols string) {
		h := http.Header{"Authorization": {authorization}, "Sec-Websocket-Protocol": {protocols}}
		u, err := w.authenticator.Authenticate(&http.Request{Header: h})
		if err == nil && u.Name != Anonymous && u.Name != "system:serviceaccount:ns:sa" {
			t.Errorf("%q %q made %q", authorization, protocols, u.Name)
		}
	})
}

func BenchmarkAuthenticate(b *testing.B) {
	w := newWorld(b, account("ns", "sa"), pod("p", "n", "sa"))
	token := w.token("ns", "sa", authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p"}})
	client, err := w.authority.Client("admin", []string{GroupMasters}, time.Hour)
	cert := clientCert(b, client, err)
	b.Run("token", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.authenticator.Authenticate(&http.Request{Header: http.Header{"Authorization": {"Bearer " + token}}})
		}
	})
	b.Run("token first time", func(b *testing.B) {
		for b.Loop() {
			w.tokens.verified = newCache[[32]byte, *verifiedToken](verifiedLimit)
			w.authenticator.Authenticate(&http.Request{Header: http.Header{"Authorization": {"Bearer " + token}}})
		}
	})
	b.Run("certificate", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.authenticator.Authenticate(&http.Request{Header: http.Header{}, TLS: cert})
		}
	})
}

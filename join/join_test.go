package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/auth/pki"
	"github.com/kebernetes/kebernetes/controller/controllertest"
)

// Who gets a name.
func TestDecide(t *testing.T) {
	node := func(ready corev1.ConditionStatus) *corev1.Node {
		return &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}
	}
	for name, tc := range map[string]struct {
		node              *corev1.Node
		had               string
		renews, connected bool
		refused           string
	}{
		"new name":                            {nil, "", false, false, ""},
		"name of a node that was deleted":     {nil, "other", false, false, ""},
		"own name again":                      {node(corev1.ConditionTrue), "key", false, true, ""},
		"own name after a long time":          {node(corev1.ConditionUnknown), "key", false, false, ""},
		"renewal":                             {node(corev1.ConditionTrue), "key", true, true, ""},
		"renewal before keys were kept":       {node(corev1.ConditionTrue), "", true, true, ""},
		"renewal, node deleted":               {nil, "", true, false, ""},
		"alive":                               {node(corev1.ConditionTrue), "other", false, false, "and alive"},
		"alive, key unknown":                  {node(corev1.ConditionTrue), "", false, false, "and alive"},
		"connected, not registered yet":       {nil, "other", false, true, "and alive"},
		"dead":                                {node(corev1.ConditionUnknown), "other", false, false, "delete the node (keb kubectl delete node n1)"},
		"renewal of a name that another took": {nil, "other", true, false, "another machine joined as node n1"},
		"renewal, another is alive":           {node(corev1.ConditionTrue), "other", true, true, "and alive"},
	} {
		err := decide("n1", tc.node, tc.had, "key", tc.renews, tc.connected)
		if (err == nil) != (tc.refused == "") || err != nil && (!strings.Contains(err.Error(), tc.refused) || !apierrors.IsConflict(err)) {
			t.Errorf("%s: %v, want %q", name, err, tc.refused)
		}
	}
}

// A clock that is far off is named, with the side.
func TestClocks(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		node string
		skew time.Duration
		want string
	}{
		"right":          {"n1", 0, ""},
		"a bit ahead":    {"n1", maxSkew, ""},
		"a bit behind":   {"n1", -maxSkew, ""},
		"far ahead":      {"n1", time.Hour, "the clock of this machine (2026-11-23T13:00:00Z) is 1h0m0s ahead of the server's; set it, then join again"},
		"far behind":     {"n1", -maxSkew - time.Second, "the clock of this machine (2026-11-23T11:54:59Z) is 5m1s behind the server's; set it, then join again"},
		"never set":      {"n1", time.Unix(0, 0).Sub(now), "the clock of this machine (1970-01-01T00:00:00Z) is 498732h0m0s behind the server's; set it, then join again"},
		"no name":        {"", 0, `"" is no valid node name: `},
		"name of a path": {"../n1", 0, `"../n1" is no valid node name: `},
	} {
		err := checkRequest(&Request{Node: tc.node, Time: now.Add(tc.skew)}, now)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if (text == "") != (tc.want == "") || !strings.HasPrefix(text, tc.want) || err != nil && !apierrors.IsBadRequest(err) {
			t.Errorf("%s: %q, want %q", name, text, tc.want)
		}
	}
}

// Who may ask for which certificate.
func TestMayAsk(t *testing.T) {
	node := &auth.User{Name: "system:node:n1", Groups: []string{auth.GroupNodes, auth.GroupAuthenticated}}
	for name, tc := range map[string]struct {
		user    *auth.User
		node    string
		renews  bool
		refused func(error) bool
	}{
		"a token":         {&auth.User{Name: "system:bootstrap:abc", Groups: []string{auth.BootstrapGroup}}, "n1", false, nil},
		"a node, its own": {node, "n1", true, nil},
		"a node, another": {node, "n2", false, apierrors.IsForbidden},
		"an admin":        {&auth.User{Name: "admin", Groups: []string{auth.GroupMasters}}, "n1", false, apierrors.IsForbidden},
		"nobody":          {nil, "n1", false, apierrors.IsUnauthorized},
	} {
		renews, err := mayAsk(tc.user, tc.node)
		if renews != tc.renews || (err == nil) != (tc.refused == nil) || err != nil && !tc.refused(err) {
			t.Errorf("%s: %t, %v", name, renews, err)
		}
	}
}

// What the user is told when the server cannot be asked; only what was surely not sent lets the key go.
func TestExplain(t *testing.T) {
	dial := func(err error) error { return &url.Error{Op: "Post", Err: &net.OpError{Op: "dial", Err: err}} }
	expired := x509.CertificateInvalidError{Reason: x509.Expired, Cert: &x509.Certificate{NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1e9, 0)}}
	for name, tc := range map[string]struct {
		err    error
		want   string
		unsent bool
	}{
		"another cluster": {&url.Error{Err: otherServer{"sha256:00"}}, "server S is not the one that the token is for: it belongs to another cluster (sha256:00); nothing was sent to it", true},
		"another name":    {&url.Error{Err: x509.HostnameError{Host: "h", Certificate: &x509.Certificate{}}}, "server S: its certificate is not for that name; give the server --certificate-name h, ", true},
		"clock":           {&url.Error{Err: expired}, "server S: its certificate is good from 1970-01-01T00:00:00Z to 2001-09-09T01:46:40Z, and the clock of this machine says ", true},
		"no TLS":          {&url.Error{Err: tls.RecordHeaderError{}}, "server S does not speak TLS; is it a keb server?", true},
		"HTTP":            {errors.New("http: server gave HTTP response to HTTPS client"), "server S does not speak TLS; is it a keb server?", true},
		"refused":         {dial(syscall.ECONNREFUSED), "server S cannot be reached: connection refused", true},
		"silent":          {&url.Error{Err: context.DeadlineExceeded}, "server S does not answer within 30s", false},
		"broken off":      {&url.Error{Op: "Post", URL: "x", Err: syscall.ECONNRESET}, "server S: connection reset by peer", false},
	} {
		err := explain("S", tc.err)
		if !strings.HasPrefix(err.Error(), tc.want) || notSent(err) != tc.unsent || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q (not sent: %t), want %q", name, err, notSent(err), tc.want)
		}
	}
}

// cluster is a server that a machine reaches without a network.
type cluster struct {
	*Server
	down  atomic.Bool
	asked atomic.Int32
}

func newCluster(t *testing.T) *cluster {
	authority, err := pki.Open(filepath.Join(t.TempDir(), "pki"))
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{Server: &Server{Authority: authority, Client: newAPI().Client(), Cluster: Cluster{Domain: "cluster.local"},
		Connected: func(string) bool { return false }, Logger: slog.New(slog.DiscardHandler)}}
}

// machine returns a machine of the cluster, which has joined.
func (c *cluster) machine(t *testing.T, name string) *Identity {
	i := &Identity{Server: "https://server", Node: name, dir: t.TempDir()}
	i.transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		c.asked.Add(1)
		if c.down.Load() {
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		}
		user := &auth.User{Name: "system:bootstrap:abc", Groups: []string{auth.BootstrapGroup}}
		if r.Header.Get("Authorization") == "" {
			if time.Now().After(i.NotAfter()) {
				return nil, errors.New("remote error: tls: expired certificate")
			}
			user = &auth.User{Name: i.Certificate().Leaf.Subject.CommonName, Groups: i.Certificate().Leaf.Subject.Organization}
		}
		rec := httptest.NewRecorder()
		c.ServeHTTP(rec, r.WithContext(auth.WithUser(r.Context(), user)))
		return rec.Result(), nil
	})
	if _, err := i.openKey(); err != nil {
		t.Fatal(err)
	}
	answer, err := i.ask(t.Context(), nil, "token")
	if err == nil {
		err = i.save(answer)
	}
	if err != nil {
		t.Fatal(err)
	}
	return i
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

const day = 24 * time.Hour

// Over five years a certificate is renewed well before its end, once in seven to eight months, with the key that it had; a server that
// is away for weeks is waited for; what is on disk is what is in use.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		i := c.machine(t, "n1")
		key := pki.KeyHash(i.Certificate().Leaf.RawSubjectPublicKeyInfo)
		var renewed []time.Time
		r := &Renewer{Identity: i, Renewed: func() { renewed = append(renewed, time.Now()) }, Logger: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		start := time.Now()
		for n := range 5 * 365 {
			c.down.Store(n%365 >= 200 && n%365 < 260)
			time.Sleep(day)
			synctest.Wait()
			if left := time.Until(i.NotAfter()); left < 60*day {
				t.Fatalf("after %s the certificate has %s left", time.Since(start), left)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := len(renewed); n < 6 || n > 9 {
			t.Errorf("renewed %d times in five years: %v", n, renewed)
		}
		// An hour after the last failure at most, so that an outage costs 24 requests a day.
		if n := c.asked.Load(); n > 5*60*24+50 {
			t.Errorf("asked %d times", n)
		}
		again, err := Open(i.dir)
		if err != nil {
			t.Fatal(err)
		}
		if !again.NotAfter().Equal(i.NotAfter()) || pki.KeyHash(again.Certificate().Leaf.RawSubjectPublicKeyInfo) != key || again.Cluster != c.Cluster {
			t.Errorf("on disk: %+v until %s, in use until %s", again.Cluster, again.NotAfter(), i.NotAfter())
		}
	})
}

// A machine whose clock ran far ahead is told so, and keeps asking until the clock is right.
func TestRenewalWithWrongClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		i := c.machine(t, "n1")
		was := i.NotAfter()
		inner, wrong := i.transport, atomic.Bool{}
		wrong.Store(true)
		i.transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			if wrong.Load() {
				body := fmt.Sprintf(`{"node":"n1","time":%q}`, time.Now().Add(-time.Hour).UTC().Format(time.RFC3339))
				r = httptest.NewRequest(r.Method, r.URL.Path, strings.NewReader(body))
			}
			return inner.RoundTrip(r)
		})
		renewed := 0
		var log strings.Builder
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		r := &Renewer{Identity: i, Renewed: func() { renewed++ }, Logger: slog.New(slog.NewTextHandler(&log, nil))}
		go func() { done <- r.Run(ctx) }()
		time.Sleep(250 * day)
		synctest.Wait()
		if renewed != 0 || !i.NotAfter().Equal(was) || !regexp.MustCompile(`is 1h0m[01]s behind the server's`).MatchString(log.String()) {
			t.Errorf("renewed %d times, until %s; log:\n%.500s", renewed, i.NotAfter(), log.String())
		}
		wrong.Store(false)
		time.Sleep(lastRetry)
		synctest.Wait()
		if renewed != 1 || !i.NotAfter().After(was) {
			t.Errorf("renewed %d times, until %s", renewed, i.NotAfter())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A machine keeps its name against others for as long as its node is there.
func TestNames(t *testing.T) {
	c := newCluster(t)
	i := c.machine(t, "n1")
	other := &Identity{Server: "https://server", Node: "n1", dir: t.TempDir(), transport: i.transport}
	if _, err := other.openKey(); err != nil {
		t.Fatal(err)
	}
	if _, err := i.ask(t.Context(), nil, "token"); err != nil {
		t.Errorf("the machine itself, once more: %v", err)
	}
	controllertest.Put(c.Client.Transport.(*controllertest.API), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	if _, err := other.ask(t.Context(), nil, "token"); !apierrors.IsConflict(err) {
		t.Errorf("another machine: %v", err)
	}
	controllertest.Drop[*corev1.Node](c.Client.Transport.(*controllertest.API), "", "n1")
	if _, err := other.ask(t.Context(), nil, "token"); err != nil {
		t.Errorf("another machine, the node deleted: %v", err)
	}
	if _, err := i.ask(t.Context(), nil, ""); !apierrors.IsConflict(err) {
		t.Errorf("the first machine renews: %v", err)
	}
}

// Renewals spread over a sixteenth of the certificate's life, in the last two fifths of it.
func TestRenewAt(t *testing.T) {
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	cert := &x509.Certificate{NotBefore: from, NotAfter: from.Add(100 * time.Hour)}
	for chance, want := range map[float64]time.Duration{0: 60 * time.Hour, 0.5: 63 * time.Hour, 1: 66 * time.Hour} {
		if got := renewAt(cert, chance).Sub(from); (got - want).Abs() > time.Second {
			t.Errorf("by chance %g after %s, want %s", chance, got, want)
		}
	}
}

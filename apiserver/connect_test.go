package apiserver

import (
	"net/http"
	"testing"

	"github.com/kebernetes/kebernetes/auth"
)

// getter may get everything, and do nothing else.
type getter struct{ everyone }

func (getter) Authenticate(*http.Request) (*auth.User, error) { return &auth.User{Name: "getter"}, nil }
func (getter) Authorize(a *auth.Attributes) (bool, string)    { return a.Verb == "get", "" }

// connected answers every connection with 200.
type connected struct{}

func (connected) Connect(w http.ResponseWriter, _ *http.Request, _ *Connection) error {
	w.WriteHeader(http.StatusOK)
	return nil
}

// The right to get is one to look: it opens logs, but no way into a pod.
func TestGetOpensNoWayIntoAPod(t *testing.T) {
	s := newTestServer(t)
	s.Authenticator, s.Authorizer, s.Streams = getter{}, getter{}, connected{}
	for subresource, want := range map[string]int{
		"log": http.StatusOK, "exec": http.StatusForbidden, "attach": http.StatusForbidden, "portforward": http.StatusForbidden,
	} {
		if code, body := send(t, s, "GET", "/api/v1/namespaces/default/pods/p/"+subresource, ""); code != want {
			t.Errorf("%s: %d, want %d: %s", subresource, code, want, body)
		}
	}
}

package apiserver

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestRoute(t *testing.T) {
	for _, tc := range []struct{ method, target, want string }{
		{"GET", "/api/v1/pods", "list /v1 pods"},
		{"GET", "/api/v1/namespaces/a/pods", "list /v1 a pods"},
		{"GET", "/api/v1/namespaces/a/pods?watch=true", "watch /v1 a pods"},
		{"GET", "/api/v1/namespaces/a/pods?watch=false", "list /v1 a pods"},
		{"GET", "/api/v1/namespaces/a/pods/p?watch=1", "get /v1 a pods p"},
		{"GET", "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dp", "list /v1 a pods p"},
		{"GET", "/api/v1/watch/namespaces/a/pods/p", "watch /v1 a pods p"},
		{"POST", "/apis/apps/v1/namespaces/a/deployments", "create apps/v1 a deployments"},
		{"PUT", "/apis/apps/v1/namespaces/a/deployments/d/status", "update apps/v1 a deployments d status"},
		{"PATCH", "/api/v1/nodes/n", "patch /v1 nodes n"},
		{"DELETE", "/api/v1/nodes", "deletecollection /v1 nodes"},
		{"DELETE", "/api/v1/nodes/n", "delete /v1 nodes n"},
		{"GET", "/api/v1/namespaces/a", "get /v1 a namespaces a"},
		{"PUT", "/api/v1/namespaces/a/finalize", "update /v1 a namespaces a finalize"},
		{"GET", "/api/v1/namespaces/a/services/s:http/proxy/x/y/", "get /v1 a services s:http proxy x/y/"},
		{"POST", "/version", "post /version"},
		{"GET", "/apis/apps/v1", "get /apis/apps/v1"},
		{"GET", "/apis/apps/v1/", "get /apis/apps/v1/"},
	} {
		rt := parseRoute(httptest.NewRequest(tc.method, tc.target, nil))
		got := rt.verb + " " + rt.path
		if rt.resourceRequest {
			got = fmt.Sprintf("%s %s/%s", rt.verb, rt.group, rt.version)
			for _, part := range []string{rt.namespace, rt.resource, rt.name, rt.subresource, rt.rest} {
				if part != "" {
					got += " " + part
				}
			}
		}
		if got != tc.want {
			t.Errorf("%s %s: %q, want %q", tc.method, tc.target, got, tc.want)
		}
	}
}

func FuzzRoute(f *testing.F) {
	f.Add("GET", "/api/v1/namespaces/a/pods/p/status", "watch=1&fieldSelector=a%3Db")
	f.Add("DELETE", "/apis///x", "limit=%zz")
	s := newTestServer(f)
	f.Fuzz(func(t *testing.T, method, path, query string) {
		switch method {
		case "GET", "POST", "PUT", "PATCH", "DELETE":
		default:
			return
		}
		r := httptest.NewRequest(method, "/", nil)
		r.URL.Path, r.URL.RawQuery = path, query
		if r.URL.Query().Has("watch") || r.URL.Path == "" {
			return
		}
		if rt := parseRoute(r); rt.legacyWatch {
			return // a watch does not end
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code == http.StatusInternalServerError && w.Body.String() == panicText+"\n" {
			t.Fatalf("%s %s?%s panics", method, path, query)
		}
	})
}

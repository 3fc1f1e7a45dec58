package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/version"

	"github.com/kebernetes/kebernetes/apiserver/discovery"
	"github.com/kebernetes/kebernetes/apiserver/wire"
)

// GitVersion is the version that clients compare themselves with: Kubernetes' own, marked as ours.
const GitVersion = "v1.37.2+keb"

// servePath answers paths that name no resource.
func (s *Server) servePath(rq *request) {
	if h := s.pathHandler(rq.path); h != nil {
		h.ServeHTTP(rq, rq.r.WithContext(rq.ctx))
		return
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(rq.path, "/"), "/")
	var serve func() error
	switch {
	case first == "api" || first == "apis":
		serve = rq.serveDiscovery
	case first == "version" && strings.Trim(rq.path, "/") == first:
		serve = rq.serveVersion
	case healthPath(rq.path):
		serve = rq.serveHealth
	case rq.path == "/" || rq.path == "/index.html":
		serve = rq.servePaths
	default:
		rq.pathNotFound()
		return
	}
	if rq.r.Method != http.MethodGet && rq.r.Method != http.MethodHead {
		rq.fail(methodNotAllowed())
		return
	}
	if err := serve(); err != nil {
		rq.fail(err)
	}
}

// pathHandler finds the handler that was given for a path: the path itself, or the longest prefix.
func (s *Server) pathHandler(path string) http.Handler {
	if h := s.Paths[path]; h != nil {
		return h
	}
	if s.OpenAPI != nil && (path == "/openapi/v2" || path == "/openapi/v3" || strings.HasPrefix(path, "/openapi/")) {
		return s.OpenAPI
	}
	var found http.Handler
	longest := 0
	for p, h := range s.Paths {
		if strings.HasSuffix(p, "/") && strings.HasPrefix(path, p) && len(p) > longest {
			found, longest = h, len(p)
		}
	}
	return found
}

// The request is the ResponseWriter of handlers that are not the API's own, so that their answers are counted too.

// Header returns the answer's header.
func (rq *request) Header() http.Header { return rq.w.Header() }

// Write writes to the answer's body.
func (rq *request) Write(b []byte) (int, error) {
	if rq.code == 0 {
		rq.code = http.StatusOK
	}
	return rq.w.Write(b)
}

// WriteHeader starts the answer.
func (rq *request) WriteHeader(code int) {
	if rq.code == 0 {
		rq.code = code
	}
	rq.w.WriteHeader(code)
}

// Unwrap lets http.ResponseController reach the connection.
func (rq *request) Unwrap() http.ResponseWriter { return rq.w }

func (rq *request) serveVersion() error {
	j, err := json.MarshalIndent(version.Info{
		Major: "1", Minor: "37", EmulationMajor: "1", EmulationMinor: "37", MinCompatibilityMajor: "1", MinCompatibilityMinor: "36",
		GitVersion: GitVersion, GitTreeState: "clean", GoVersion: runtime.Version(), Compiler: runtime.Compiler,
		Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}, "", "  ")
	if err != nil {
		return err
	}
	rq.head(http.StatusOK, wire.TypeJSON, len(j))
	_, _ = rq.w.Write(j)
	return nil
}

// servePaths lists the paths that there are.
func (rq *request) servePaths() error {
	paths := []string{"/api", "/api/v1", "/apis", "/healthz", "/livez", "/readyz", "/version"}
	for _, g := range discovery.Groups(rq.s.Table) {
		if g.Name == "" {
			continue
		}
		paths = append(paths, "/apis/"+g.Name)
		for _, v := range g.Versions {
			paths = append(paths, "/apis/"+g.Name+"/"+v)
		}
	}
	for p := range rq.s.Paths {
		paths = append(paths, p)
	}
	if rq.s.OpenAPI != nil {
		paths = append(paths, "/openapi/v2", "/openapi/v3")
	}
	for _, c := range rq.s.checks("readyz") {
		paths = append(paths, "/healthz/"+c.name, "/livez/"+c.name, "/readyz/"+c.name)
	}
	slices.Sort(paths)
	j, err := json.MarshalIndent(map[string][]string{"paths": paths}, "", "  ")
	if err != nil {
		return err
	}
	rq.head(http.StatusOK, wire.TypeJSON, len(j))
	_, _ = rq.w.Write(j)
	return nil
}

// check is one reason why the server may not be well.
type check struct {
	name string
	err  func() error
}

// healthPath says whether a path asks about the server's health.
func healthPath(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return first == "healthz" || first == "livez" || first == "readyz"
}

// checks are those of one of the three health paths. Only readiness waits for the bootstrap objects, and for others.
func (s *Server) checks(path string) []check {
	ok := func() error { return nil }
	out := []check{{"ping", ok}, {"log", ok}, {"etcd", s.storeAlive}}
	if path == "livez" {
		return out
	}
	out = append(out, check{"poststarthook/bootstrap-objects", s.bootstrapped})
	if path == "readyz" {
		for name, f := range s.Ready {
			out = append(out, check{name, f})
		}
		out = append(out, check{"shutdown", s.stop.Err})
		slices.SortStableFunc(out[4:], func(a, b check) int { return strings.Compare(a.name, b.name) })
	}
	return out
}

func (s *Server) storeAlive() error {
	_, err := s.Store.Watch("services", s.Store.Snapshot().Revision())
	return err
}

func (s *Server) bootstrapped() error {
	select {
	case <-s.started:
		return nil
	default:
		return fmt.Errorf("the objects that every cluster has are not there yet")
	}
}

// serveHealth answers /healthz, /livez, /readyz and the single checks below them
// (https://kubernetes.io/docs/reference/using-api/health-checks/).
func (rq *request) serveHealth() error {
	path, single, _ := strings.Cut(strings.Trim(rq.path, "/"), "/")
	checks := rq.s.checks(path)
	if single != "" {
		checks = slices.DeleteFunc(checks, func(c check) bool { return c.name != single })
		if len(checks) == 0 {
			rq.pathNotFound()
			return nil
		}
	}
	_, verbose := rq.values()["verbose"]
	text, failed := report(path, checks, rq.values()["exclude"])
	switch {
	case failed:
		rq.s.Logger.Warn("not healthy", "path", path, "report", text)
		http.Error(rq, text, http.StatusInternalServerError)
		return nil
	case !verbose:
		text = "ok"
	}
	rq.w.Header()["X-Content-Type-Options"] = []string{"nosniff"}
	rq.head(http.StatusOK, wire.TypeText, len(text))
	_, _ = rq.w.Write([]byte(text))
	return nil
}

// report runs the checks and says how each went. Why one failed is for the log alone, as these paths are open to anyone.
func report(path string, checks []check, exclude []string) (text string, failed bool) {
	var b strings.Builder
	left := slices.Clone(exclude)
	for _, c := range checks {
		if slices.Contains(exclude, c.name) {
			fmt.Fprintf(&b, "[+]%s excluded: ok\n", c.name)
			left = slices.DeleteFunc(left, func(e string) bool { return e == c.name })
			continue
		}
		if err := c.err(); err != nil {
			failed = true
			fmt.Fprintf(&b, "[-]%s failed: reason withheld\n", c.name)
			continue
		}
		fmt.Fprintf(&b, "[+]%s ok\n", c.name)
	}
	if len(left) > 0 {
		fmt.Fprintf(&b, "warn: some health checks cannot be excluded: no matches for %q\n", left)
	}
	if failed {
		fmt.Fprintf(&b, "%s check failed", path)
	} else {
		fmt.Fprintf(&b, "%s check passed\n", path)
	}
	return b.String(), failed
}

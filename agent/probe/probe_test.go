package probe

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/cri/fake"
)

func TestHTTP(t *testing.T) {
	var seen *http.Request
	mux := http.NewServeMux()
	mux.HandleFunc("/code/{code}", func(w http.ResponseWriter, r *http.Request) {
		seen = r
		n, _ := strconv.Atoi(r.PathValue("code"))
		w.WriteHeader(n)
	})
	mux.Handle("/away", http.RedirectHandler("http://elsewhere.invalid/", http.StatusFound))
	mux.Handle("/near", http.RedirectHandler("/code/200", http.StatusFound))
	server := httptest.NewServer(mux)
	defer server.Close()
	secure := httptest.NewTLSServer(mux)
	defer secure.Close()
	port := func(s *httptest.Server) intstr.IntOrString {
		u, _ := url.Parse(s.URL)
		return intstr.Parse(u.Port())
	}
	c := &Checker{UserAgent: "kube-probe/1.37"}
	target := Target{IP: "127.0.0.1", Container: &corev1.Container{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: port(server).IntVal}}}}
	for _, test := range []struct {
		get    corev1.HTTPGetAction
		want   Result
		output string
	}{
		{corev1.HTTPGetAction{Path: "/code/200?a=b", Port: port(server)}, Success, ""},
		{corev1.HTTPGetAction{Path: "code/204", Port: intstr.FromString("web")}, Success, ""},
		{corev1.HTTPGetAction{Path: "/code/500", Port: port(server)}, Failure, "HTTP probe failed with statuscode: 500"},
		{corev1.HTTPGetAction{Path: "/code/404", Port: port(server)}, Failure, "HTTP probe failed with statuscode: 404"},
		{corev1.HTTPGetAction{Path: "/near", Port: port(server)}, Success, ""},
		{corev1.HTTPGetAction{Path: "/away", Port: port(server)}, Warning, "Probe terminated redirects"},
		{corev1.HTTPGetAction{Path: "/code/200", Port: port(secure), Scheme: corev1.URISchemeHTTPS}, Success, ""},
		{corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(1)}, Failure, "connect: connection refused"},
	} {
		got, output, err := c.Check(t.Context(), &corev1.ProbeHandler{HTTPGet: &test.get}, target, 5*time.Second)
		if err != nil || got != test.want || !strings.Contains(output, test.output) {
			t.Errorf("%s: %v %q %v", test.get.Path, got, output, err)
		}
	}
	if _, _, err := c.Check(t.Context(), &corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("no")}}, target, time.Second); err == nil {
		t.Error("an unknown port name was asked")
	}
	get := corev1.HTTPGetAction{Path: "/code/200", Port: port(server), HTTPHeaders: []corev1.HTTPHeader{{Name: "Host", Value: "my.host"}, {Name: "X-A", Value: "b"}}}
	if _, _, err := c.Check(t.Context(), &corev1.ProbeHandler{HTTPGet: &get}, target, time.Second); err != nil || seen.Host != "my.host" || seen.Header.Get("X-A") != "b" || seen.UserAgent() != "kube-probe/1.37" {
		t.Errorf("request %+v, %v", seen, err)
	}
}

func TestTCPAndGRPC(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	status := health.NewServer()
	status.SetServingStatus("sick", healthpb.HealthCheckResponse_NOT_SERVING)
	healthpb.RegisterHealthServer(server, status)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	defer func() { server.Stop(); <-done }()
	port := int32(listener.Addr().(*net.TCPAddr).Port)
	c, target, sick := &Checker{}, Target{IP: "127.0.0.1", Container: &corev1.Container{}}, "sick"
	for _, test := range []struct {
		h      corev1.ProbeHandler
		want   Result
		output string
	}{
		{corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(port)}}, Success, ""},
		{corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(1)}}, Failure, "dial tcp 127.0.0.1:1: connect: connection refused"},
		{corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: port}}, Success, "service healthy"},
		{corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: port, Service: &sick}}, Failure, `service unhealthy (responded with "NOT_SERVING")`},
		{corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: 1}}, Failure, `error: failed to connect service at "127.0.0.1:1"`},
	} {
		got, output, err := c.Check(t.Context(), &test.h, target, 5*time.Second)
		if err != nil || got != test.want || !strings.Contains(output, test.output) {
			t.Errorf("%+v: %v %q %v", test.h, got, output, err)
		}
	}
}

// TestWatch reads what a container answers, one letter a probe (g good, b bad, e error), and when verdicts come: seconds after its
// start and + or -.
func TestWatch(t *testing.T) {
	for _, test := range []struct {
		kind               Kind
		delay, period      int32
		failures, sucesses int32
		answers, want      string
	}{
		{Readiness, 0, 10, 3, 1, "ggg", "0+"},
		{Readiness, 5, 10, 3, 1, "bgbbbg", "15+ 45- 55+"},
		{Readiness, 0, 10, 3, 2, "gbggbb", "30+"},
		{Liveness, 0, 10, 3, 1, "gbbgbbbb", "0+ 60-"},
		{Liveness, 0, 10, 1, 1, "ggb", "0+ 20-"},
		{Startup, 0, 1, 3, 1, "bbg", "2+"},
		{Startup, 0, 1, 3, 1, "bbbg", "2-"},
		{Liveness, 0, 10, 2, 1, "gbeeeb", "0+ 30-"}, // what could not be asked counts neither way, after two more tries
	} {
		t.Run(fmt.Sprintf("%s %s", test.kind, test.answers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				next := 0
				runtime := fake.New(fake.Options{Behave: func(*rt.PodSandboxConfig, *rt.ContainerConfig) fake.Behaviour {
					return fake.Behaviour{Exec: func([]string) (string, int32, error) {
						if next == len(test.answers) {
							cancel()
							return "", 0, context.Canceled
						}
						next++
						switch test.answers[next-1] {
						case 'b':
							return "bad", 1, nil
						case 'e':
							return "", 0, fmt.Errorf("cannot ask")
						}
						return "", 0, nil
					}}
				}})
				sandbox, err := runtime.RunPodSandbox(ctx, &rt.PodSandboxConfig{}, "")
				if err != nil {
					t.Fatal(err)
				}
				if _, err := runtime.PullImage(ctx, &rt.ImageSpec{Image: "a"}, nil, nil); err != nil {
					t.Fatal(err)
				}
				id, err := runtime.CreateContainer(ctx, sandbox, &rt.ContainerConfig{Image: &rt.ImageSpec{Image: "a"}}, nil)
				if err != nil {
					t.Fatal(err)
				}
				if err := runtime.StartContainer(ctx, id); err != nil {
					t.Fatal(err)
				}
				started := time.Now()
				var got []string
				p := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}, InitialDelaySeconds: test.delay,
					PeriodSeconds: test.period, TimeoutSeconds: 1, FailureThreshold: test.failures, SuccessThreshold: test.sucesses}
				(&Checker{Runtime: runtime}).Watch(ctx, test.kind, p, Target{ID: id, Container: &corev1.Container{}}, started, func(ok bool, _ string) {
					sign := "-"
					if ok {
						sign = "+"
					}
					got = append(got, fmt.Sprintf("%v%s", time.Since(started).Seconds(), sign))
				}, func(string, string) {})
				if s := strings.Join(got, " "); s != test.want {
					t.Errorf("%s, want %s", s, test.want)
				}
			})
		})
	}
}

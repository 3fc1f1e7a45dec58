package image

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/cri/fake"
)

func TestEnsure(t *testing.T) {
	for _, test := range []struct {
		image  string
		policy corev1.PullPolicy
		there  bool
		pull   error
		fails  string
		pulled bool
	}{
		{"a.invalid/x:1", corev1.PullIfNotPresent, true, nil, "", false},
		{"a.invalid/x:1", corev1.PullIfNotPresent, false, nil, "", true},
		{"a.invalid/x:1", corev1.PullAlways, true, nil, "", true},
		{"a.invalid/x:1", corev1.PullNever, true, nil, "", false},
		{"a.invalid/x:1", corev1.PullNever, false, nil, `ErrImageNeverPull: Container image "a.invalid/x:1" is not present with pull policy of Never`, false},
		{"a.invalid/x:1", corev1.PullAlways, false, errors.New("down"), "ErrImagePull: down", true},
		{"UPPER", corev1.PullAlways, false, nil, `InvalidImageName: Failed to apply default image tag "UPPER": couldn't parse image name "UPPER": invalid reference format`, false},
	} {
		pulls := 0
		o := fake.Options{Pull: func(context.Context, string, *rt.AuthConfig) error { pulls++; return test.pull }}
		if test.there {
			o.Images = []string{test.image}
		}
		p := &Puller{Runtime: fake.New(o)}
		ref, _, err := p.Ensure(t.Context(), Request{Image: test.image, Policy: test.policy}, func(string, string, string) {})
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != test.fails || (ref == "") != (test.fails != "") || (pulls > 0) != test.pulled {
			t.Errorf("%s %s: %q %q, %d pulls", test.image, test.policy, ref, got, pulls)
		}
	}
}

func TestOnePullForMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pulls := 0
		p := &Puller{Runtime: fake.New(fake.Options{Pull: func(ctx context.Context, _ string, _ *rt.AuthConfig) error {
			pulls++
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Minute):
				return nil
			}
		}})}
		first, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		failures := make(chan *Error, 3)
		for _, ctx := range []context.Context{first, t.Context(), t.Context()} {
			wait.Go(func() {
				_, _, err := p.Ensure(ctx, Request{Image: "a.invalid/x", Policy: corev1.PullAlways}, func(string, string, string) {})
				failures <- err
			})
			synctest.Wait()
		}
		if pulls != 1 {
			t.Errorf("%d pulls at once", pulls)
		}
		cancel() // the pod that pulled goes away; the others still want the image
		wait.Wait()
		bad := 0
		for range 3 {
			if <-failures != nil {
				bad++
			}
		}
		if bad != 1 || pulls != 2 {
			t.Errorf("%d failures, %d pulls", bad, pulls)
		}
	})
}

// TestPullsAtATime: the downloads of seven images, a minute each, come four at a time, and nobody is told that his took longer.
func TestPullsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now, most := 0, 0
		p := &Puller{Runtime: fake.New(fake.Options{Pull: func(context.Context, string, *rt.AuthConfig) error {
			now++
			most = max(most, now)
			time.Sleep(time.Minute)
			now--
			return nil
		}})}
		start := time.Now()
		var wait sync.WaitGroup
		texts := make(chan string, 14)
		for i := range 7 {
			wait.Go(func() {
				_, _, err := p.Ensure(t.Context(), Request{Image: "a.invalid/x:" + strconv.Itoa(i)}, func(_, reason, text string) {
					if reason == "Pulled" {
						_, took, _ := strings.Cut(text, " in ")
						texts <- took
					}
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		close(texts)
		got := map[string]int{}
		for text := range texts {
			got[text[:strings.Index(text, ")")+1]]++
		}
		if most != 4 || time.Since(start) != 2*time.Minute || got["1m0s (1m0s including waiting)"] != 4 || got["1m0s (2m0s including waiting)"] != 3 {
			t.Errorf("%d at once, %v in all, %v", most, time.Since(start), got)
		}
	})
}

func TestCredentials(t *testing.T) {
	secret := &corev1.Secret{Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":{
		"https://index.docker.io/v1/":{"auth":"aHViOnB3"},"*.corp.example":{"username":"glob","password":"x"},"reg.corp.example/team":{"username":"team","password":"y"}}}`)}}
	older := &corev1.Secret{Data: map[string][]byte{corev1.DockerConfigKey: []byte(`{"http://old.example:5000":{"username":"old","password":"z"}}`)}}
	for name, want := range map[string]string{
		"old.example:5000/app": "old", "nginx:1": "hub", "docker.io/library/nginx": "hub", "reg.corp.example/team/app": "team glob", "reg.corp.example/app": "glob", "corp.example/app": "", "a.b.corp.example/app": "", "other.invalid/app": "",
	} {
		var got []string
		for _, a := range credentials(name, []*corev1.Secret{secret, older, {Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte("{")}}}) {
			got = append(got, a.Username)
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: %q, want %q", name, s, want)
		}
	}
}

func TestCollect(t *testing.T) {
	r := fake.New(fake.Options{Images: []string{"a.invalid/old:1", "a.invalid/used:1", "a.invalid/young:1"}})
	sandbox, err := r.RunPodSandbox(t.Context(), &rt.PodSandboxConfig{}, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.CreateContainer(t.Context(), sandbox, &rt.ContainerConfig{Image: &rt.ImageSpec{Image: "a.invalid/used:1"}}, nil); err != nil {
		t.Fatal(err)
	}
	available := uint64(50 << 20)
	c := &Collector{Runtime: r, Logger: slog.New(slog.DiscardHandler), Usage: func(string) (uint64, uint64, error) { return 100 << 20, available, nil }}
	young, err := r.ImageStatus(t.Context(), &rt.ImageSpec{Image: "a.invalid/young:1"})
	if err != nil || young == nil {
		t.Fatal(err)
	}
	if err := r.RemoveImage(t.Context(), &rt.ImageSpec{Image: "a.invalid/young:1"}); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	count := func() int {
		images, err := r.ListImages(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(images)
	}
	if err := c.Collect(t.Context(), now); err != nil || count() != 2 {
		t.Errorf("with room: %v, %d left", err, count())
	}
	if _, err := r.PullImage(t.Context(), &rt.ImageSpec{Image: "a.invalid/young:1"}, nil, nil); err != nil {
		t.Fatal(err)
	}
	available = 10 << 20
	if err := c.Collect(t.Context(), now.Add(10*time.Minute)); err == nil || count() != 2 {
		t.Errorf("full: %v, %d left; the old image must go, the one in use and the young one stay, and it is not enough", err, count())
	}
	if there, _ := r.ImageStatus(t.Context(), &rt.ImageSpec{Image: "a.invalid/old:1"}); there != nil {
		t.Error("the old image stays")
	}
}

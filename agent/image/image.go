// Package image sees to it that containers' images are there, by their pull policies, and removes what nobody uses when the
// disk fills up. Only agent imports it.
package image

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/cri"
)

// Error is why an image is not there, as a container's status says it.
type Error struct{ Reason, Message string }

func (e *Error) Error() string { return e.Reason + ": " + e.Message }

// parallelPulls is how many images are pulled at a time; the others wait in the order in which they came. Upstream pulls one at a
// time unless told otherwise (serializeImagePulls, maxParallelImagePulls), so that one slow registry holds up every pod of the
// node. Four of containerd's pulls, each of up to three layers at a time, keep a disk and a line busy.
const parallelPulls = 4

// Puller satisfies pull policies. Several containers that want one image at a time share one pull. Safe for concurrent use.
type Puller struct {
	Runtime cri.Images

	mu    sync.Mutex
	pulls map[string]*pull
	slots chan struct{} // holds a token per download
}

// pull is one download that several may wait for.
type pull struct {
	done chan struct{}
	ref  string
	took time.Duration // of the download, without the wait for others
	err  error
}

// Request is one container's want.
type Request struct {
	Image   string
	Policy  corev1.PullPolicy
	Secrets []*corev1.Secret
	Sandbox *rt.PodSandboxConfig
}

// reference is the grammar of image names (https://github.com/distribution/reference): domain, path, tag and digest.
var reference = regexp.MustCompile(`^(?:(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[a-fA-F0-9:]+\])(?::[0-9]+)?/)?` +
	`[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*` +
	`(?::[\w][\w.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?$`)

// Ensure returns the reference to create containers from and what the runtime knows of the image. event is called with
// what users shall see.
func (p *Puller) Ensure(ctx context.Context, r Request, event func(eventType, reason, message string)) (string, *rt.Image, *Error) {
	if !reference.MatchString(r.Image) {
		message := fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: invalid reference format", r.Image, r.Image)
		event(corev1.EventTypeWarning, "InspectFailed", message)
		return "", nil, &Error{"InvalidImageName", message}
	}
	name := withTag(r.Image)
	spec := &rt.ImageSpec{Image: name}
	there, err := p.Runtime.ImageStatus(ctx, spec)
	if err != nil {
		message := fmt.Sprintf("Failed to inspect image %q: %v", name, err)
		event(corev1.EventTypeWarning, "InspectFailed", message)
		return "", nil, &Error{"ImageInspectError", message}
	}
	if there != nil && r.Policy != corev1.PullAlways {
		event(corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", r.Image))
		return there.Id, there, nil
	}
	if r.Policy == corev1.PullNever {
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", r.Image)
		event(corev1.EventTypeWarning, "ErrImageNeverPull", message)
		return "", nil, &Error{"ErrImageNeverPull", message}
	}
	event(corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", r.Image))
	began := time.Now()
	ref, took, err := p.pull(ctx, spec, r)
	if err != nil {
		event(corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", r.Image, err))
		return "", nil, &Error{"ErrImagePull", err.Error()}
	}
	there, err = p.Runtime.ImageStatus(ctx, &rt.ImageSpec{Image: ref})
	if err != nil || there == nil {
		there = &rt.Image{Id: ref}
	}
	event(corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.",
		r.Image, took.Truncate(time.Millisecond), time.Since(began).Truncate(time.Millisecond), there.Size))
	return ref, there, nil
}

// pull downloads, or waits for another's download with the same credentials' key: the image name and its secrets.
func (p *Puller) pull(ctx context.Context, spec *rt.ImageSpec, r Request) (ref string, took time.Duration, err error) {
	key := spec.Image
	for _, s := range r.Secrets {
		key += "\x00" + string(s.UID) + s.ResourceVersion
	}
	p.mu.Lock()
	if other := p.pulls[key]; other != nil {
		p.mu.Unlock()
		select {
		case <-other.done:
			if errors.Is(other.err, context.Canceled) || status.Code(other.err) == codes.Canceled {
				return p.pull(ctx, spec, r) // its pod went away; this one is still here
			}
			return other.ref, other.took, other.err
		case <-ctx.Done():
			return "", 0, ctx.Err()
		}
	}
	mine := &pull{done: make(chan struct{})}
	if p.pulls == nil {
		p.pulls, p.slots = map[string]*pull{}, make(chan struct{}, parallelPulls)
	}
	p.pulls[key] = mine
	p.mu.Unlock()
	p.download(ctx, mine, spec, r)
	p.mu.Lock()
	delete(p.pulls, key)
	p.mu.Unlock()
	close(mine.done)
	return mine.ref, mine.took, mine.err
}

// download pulls when there is room for one more.
func (p *Puller) download(ctx context.Context, mine *pull, spec *rt.ImageSpec, r Request) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		mine.err = ctx.Err()
		return
	}
	began := time.Now()
	mine.ref, mine.err = p.try(ctx, spec, r)
	mine.took = time.Since(began)
}

// try pulls with each credential that fits, and without any when there is none.
func (p *Puller) try(ctx context.Context, spec *rt.ImageSpec, r Request) (string, error) {
	auths := credentials(spec.Image, r.Secrets)
	if len(auths) == 0 {
		return p.Runtime.PullImage(ctx, spec, nil, r.Sandbox)
	}
	var last error
	for _, a := range auths {
		ref, err := p.Runtime.PullImage(ctx, spec, a, r.Sandbox)
		if err == nil {
			return ref, nil
		}
		last = err
	}
	return "", last
}

// withTag adds :latest to a name without tag and digest.
func withTag(name string) string {
	if strings.Contains(name, "@") || strings.Contains(name[strings.LastIndex(name, "/")+1:], ":") {
		return name
	}
	return name + ":latest"
}

// credentials finds what pull secrets hold for an image's registry, the most specific path first.
func credentials(name string, secrets []*corev1.Secret) []*rt.AuthConfig {
	type entry struct {
		Username      string `json:"username"`
		Password      string `json:"password"`
		Auth          string `json:"auth"`
		IdentityToken string `json:"identitytoken"`
		RegistryToken string `json:"registrytoken"`
	}
	var out []*rt.AuthConfig
	longest := -1
	for _, s := range secrets {
		entries := map[string]entry{}
		if data := s.Data[corev1.DockerConfigJsonKey]; data != nil {
			file := struct {
				Auths map[string]entry `json:"auths"`
			}{}
			if json.Unmarshal(data, &file) != nil {
				continue
			}
			entries = file.Auths
		} else if data := s.Data[corev1.DockerConfigKey]; data == nil || json.Unmarshal(data, &entries) != nil {
			continue
		}
		for registry, e := range entries {
			n, ok := match(registry, name)
			if !ok {
				continue
			}
			if e.Username == "" && e.Auth != "" {
				if plain, err := base64.StdEncoding.DecodeString(e.Auth); err == nil {
					e.Username, e.Password, _ = strings.Cut(string(plain), ":")
				}
			}
			auth := &rt.AuthConfig{Username: e.Username, Password: strings.TrimRight(e.Password, "\x00"), IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
			if n > longest {
				out, longest = append([]*rt.AuthConfig{auth}, out...), n
			} else {
				out = append(out, auth)
			}
		}
	}
	return out
}

// match says whether a registry of a docker config is for an image, and how specific it is. Hosts may hold globs that do not span dots;
// a path is a prefix.
func match(registry, image string) (specific int, ok bool) {
	registry = strings.TrimPrefix(strings.TrimPrefix(registry, "https://"), "http://")
	registry = strings.TrimSuffix(registry, "/")
	registry = strings.TrimSuffix(strings.TrimSuffix(registry, "/v1"), "/v2")
	wantHost, wantPath, _ := strings.Cut(registry, "/")
	first, rest, found := strings.Cut(image, "/")
	if !found || !strings.ContainsAny(first, ".:") && first != "localhost" {
		first, rest = "docker.io", image
	}
	if wantHost == "index.docker.io" || wantHost == "registry-1.docker.io" {
		wantHost = "docker.io"
	}
	want, have := strings.Split(wantHost, "."), strings.Split(first, ".")
	if len(want) != len(have) {
		return 0, false
	}
	for i := range want {
		if ok, err := path.Match(want[i], have[i]); err != nil || !ok {
			return 0, false
		}
	}
	return len(registry), strings.HasPrefix(rest, wantPath)
}

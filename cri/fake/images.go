package fake

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// normal is the full name of an image, as runtimes spell it in repoTags.
func normal(name string) string {
	if strings.HasPrefix(name, "sha256:") || strings.Contains(name, "@") {
		return name
	}
	if first, _, found := strings.Cut(name, "/"); !found {
		name = "docker.io/library/" + name
	} else if !strings.ContainsAny(first, ".:") && first != "localhost" {
		name = "docker.io/" + name
	}
	if !strings.Contains(name[strings.LastIndex(name, "/"):], ":") {
		name += ":latest"
	}
	return name
}

func (r *Runtime) addImage(name string) *rt.Image {
	full := normal(name)
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(full)))
	repo, _, _ := strings.Cut(full, "@")
	if i := strings.LastIndex(repo, ":"); i > strings.LastIndex(repo, "/") {
		repo = repo[:i]
	}
	image := &rt.Image{Id: digest, RepoDigests: []string{repo + "@" + digest}, Size: 1 << 20, Uid: &rt.Int64Value{}}
	if !strings.Contains(full, "@") {
		image.RepoTags = []string{full}
	}
	r.images[digest] = image
	return image
}

// findImage looks an image up by id, tag or digest; the caller holds the lock.
func (r *Runtime) findImage(name string) *rt.Image {
	if image := r.images[name]; image != nil {
		return image
	}
	full := normal(name)
	for _, image := range r.images {
		if slices.Contains(image.RepoTags, full) || slices.Contains(image.RepoDigests, full) {
			return image
		}
	}
	return nil
}

func imageName(image *rt.Image) string {
	if len(image.RepoTags) > 0 {
		return image.RepoTags[0]
	}
	return image.Id
}

func imageRef(image *rt.Image) string {
	if len(image.RepoDigests) > 0 {
		return image.RepoDigests[0]
	}
	return image.Id
}

// ImageStatus implements cri.Images.
func (r *Runtime) ImageStatus(_ context.Context, image *rt.ImageSpec) (*rt.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.findImage(image.GetImage()), nil
}

// ListImages implements cri.Images.
func (r *Runtime) ListImages(context.Context) ([]*rt.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*rt.Image, 0, len(r.images))
	for _, image := range r.images {
		out = append(out, image)
	}
	slices.SortFunc(out, func(a, b *rt.Image) int { return strings.Compare(a.Id, b.Id) })
	return out, nil
}

// PullImage implements cri.Images.
func (r *Runtime) PullImage(ctx context.Context, image *rt.ImageSpec, auth *rt.AuthConfig, _ *rt.PodSandboxConfig) (string, error) {
	if err := r.opts.Pull(ctx, image.GetImage(), auth); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if there := r.findImage(image.GetImage()); there != nil {
		return there.Id, nil
	}
	return r.addImage(image.GetImage()).Id, nil
}

// RemoveImage implements cri.Images.
func (r *Runtime) RemoveImage(_ context.Context, image *rt.ImageSpec) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if there := r.findImage(image.GetImage()); there != nil {
		delete(r.images, there.Id)
	}
	return nil
}

// ImageFsInfo implements cri.Images.
func (r *Runtime) ImageFsInfo(context.Context) (*rt.ImageFsInfoResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var used uint64
	for _, image := range r.images {
		used += image.Size
	}
	usage := []*rt.FilesystemUsage{{
		Timestamp: time.Now().UnixNano(), FsId: &rt.FilesystemIdentifier{Mountpoint: "/"},
		UsedBytes: &rt.UInt64Value{Value: used}, InodesUsed: &rt.UInt64Value{Value: uint64(len(r.images))},
	}}
	return &rt.ImageFsInfoResponse{ImageFilesystems: usage, ContainerFilesystems: usage}, nil
}

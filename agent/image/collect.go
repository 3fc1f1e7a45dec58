package image

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/cri"
)

// The disk thresholds, in percent, and the age below which an image is never removed: upstream's defaults.
const (
	highPercent = 85
	lowPercent  = 80
	minAge      = 2 * time.Minute
)

// Collector removes unused images, the least recently used first. Safe for concurrent use.
type Collector struct {
	Runtime cri.Runtime
	Logger  *slog.Logger
	// Usage tells a file system's size and what is available, in bytes; nil asks the kernel.
	Usage func(mountpoint string) (capacity, available uint64, err error)
	// Mounted, when set, names the images that pods have as volumes, of which the runtime's list of containers tells nothing.
	Mounted func() []string

	mu   sync.Mutex
	seen map[string]*record
}

type record struct{ first, used time.Time }

func statfs(mountpoint string) (capacity, available uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(mountpoint, &st); err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", mountpoint, err)
	}
	return st.Blocks * uint64(st.Bsize), st.Bavail * uint64(st.Bsize), nil
}

// Collect looks once, at now. It returns an error when the disk stays fuller than it may.
func (c *Collector) Collect(ctx context.Context, now time.Time) error {
	images, inUse, err := c.look(ctx, now)
	if err != nil {
		return err
	}
	info, err := c.Runtime.ImageFsInfo(ctx)
	if err != nil {
		return fmt.Errorf("image file system: %w", err)
	}
	if len(info.GetImageFilesystems()) == 0 {
		return nil
	}
	usage := c.Usage
	if usage == nil {
		usage = statfs
	}
	capacity, available, err := usage(info.ImageFilesystems[0].GetFsId().GetMountpoint())
	if err != nil {
		return err
	}
	if capacity == 0 || 100-available*100/capacity < highPercent {
		return nil
	}
	want := capacity*(100-lowPercent)/100 - min(available, capacity*(100-lowPercent)/100)
	freed, err := c.free(ctx, images, inUse, want, now)
	if err == nil && freed < want {
		err = fmt.Errorf("free %d bytes of images: only %d bytes are unused", want, freed)
	}
	return err
}

// RemoveUnused removes all images that nobody uses and that are older than two minutes, and returns how many bytes they said to have.
func (c *Collector) RemoveUnused(ctx context.Context, now time.Time) (uint64, error) {
	images, inUse, err := c.look(ctx, now)
	if err != nil {
		return 0, err
	}
	return c.free(ctx, images, inUse, math.MaxUint64, now)
}

// look notes which images are there and in use.
func (c *Collector) look(ctx context.Context, now time.Time) ([]*rt.Image, map[string]bool, error) {
	images, err := c.Runtime.ListImages(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("list images: %w", err)
	}
	containers, err := c.Runtime.ListContainers(ctx, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("list containers: %w", err)
	}
	inUse := map[string]bool{}
	for _, k := range containers {
		inUse[k.GetImageRef()], inUse[k.GetImageId()], inUse[k.GetImage().GetImage()] = true, true, true
	}
	if c.Mounted != nil {
		for _, ref := range c.Mounted() {
			inUse[ref] = true
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	fresh := make(map[string]*record, len(images))
	for _, i := range images {
		r := c.seen[i.Id]
		if r == nil {
			r = &record{first: now}
		}
		if used(i, inUse) {
			r.used = now
		}
		fresh[i.Id] = r
	}
	c.seen = fresh
	return images, inUse, nil
}

func used(i *rt.Image, inUse map[string]bool) bool {
	return inUse[i.Id] || slices.ContainsFunc(i.RepoTags, func(t string) bool { return inUse[t] }) ||
		slices.ContainsFunc(i.RepoDigests, func(d string) bool { return inUse[d] })
}

func (c *Collector) free(ctx context.Context, images []*rt.Image, inUse map[string]bool, want uint64, now time.Time) (freed uint64, err error) {
	c.mu.Lock()
	seen := c.seen
	c.mu.Unlock()
	slices.SortFunc(images, func(a, b *rt.Image) int {
		return cmp.Or(seen[a.Id].used.Compare(seen[b.Id].used), seen[a.Id].first.Compare(seen[b.Id].first))
	})
	for _, i := range images {
		if freed >= want {
			break
		}
		if i.Pinned || used(i, inUse) || now.Sub(seen[i.Id].first) < minAge {
			continue
		}
		if err := c.Runtime.RemoveImage(ctx, &rt.ImageSpec{Image: i.Id}); err != nil {
			return freed, fmt.Errorf("remove image %s: %w", i.Id, err)
		}
		c.Logger.Info("image removed to free disk space", "image", i.Id, "tags", i.RepoTags, "bytes", i.Size)
		freed += i.Size
	}
	return freed, nil
}

package scheduler

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// How much of a pod's images must be on a node to count at all, and how much of each container's counts at most. Upstream's numbers.
const (
	leastImages  = 23 << 20
	mostPerImage = 1000 << 20
)

// images tells which nodes have which images.
type images struct {
	on map[string][]imageOn
	// epoch changes with every change of it, and of the number of nodes.
	epoch uint64
}

type imageOn struct {
	slot int32
	size int64
}

func (x *images) add(i int32, list []corev1.ContainerImage) {
	x.epoch++
	for _, image := range list {
		for _, name := range image.Names {
			x.on[name] = append(x.on[name], imageOn{i, image.SizeBytes})
		}
	}
}

func (x *images) remove(i int32, list []corev1.ContainerImage) {
	x.epoch++
	for _, image := range list {
		for _, name := range image.Names {
			x.on[name] = slices.DeleteFunc(x.on[name], func(on imageOn) bool { return on.slot == i })
			if len(x.on[name]) == 0 {
				delete(x.on, name)
			}
		}
	}
}

func sameImages(a, b []corev1.ContainerImage) bool {
	return slices.EqualFunc(a, b, func(a, b corev1.ContainerImage) bool {
		return a.SizeBytes == b.SizeBytes && slices.Equal(a.Names, b.Names)
	})
}

// imagesOf returns the names of all images that a pod needs, as nodes report them: with a tag or a digest.
func imagesOf(spec *corev1.PodSpec) []string {
	var out []string
	add := func(name string) {
		if strings.LastIndexByte(name, ':') <= strings.LastIndexByte(name, '/') {
			name += ":latest"
		}
		out = append(out, name)
	}
	for i := range spec.InitContainers {
		add(spec.InitContainers[i].Image)
	}
	for i := range spec.Containers {
		add(spec.Containers[i].Image)
	}
	for i := range spec.Volumes {
		if v := spec.Volumes[i].Image; v != nil {
			add(v.Reference)
		}
	}
	return out
}

// imageScores returns what each slot is worth for the images that it has: 0 to best. An image counts for less the fewer nodes
// have it, lest all pods that need it go to these. It returns nil when no node has any.
func (c *columns) imageScores(names []string) []float64 {
	var sums []float64
	for _, name := range names {
		on := c.images.on[name]
		for _, o := range on {
			if sums == nil {
				sums = make([]float64, len(c.nodes))
			}
			sums[o.slot] += float64(o.size) * float64(len(on)) / float64(c.len())
		}
	}
	most := float64(mostPerImage * len(names))
	for i, sum := range sums {
		sums[i] = best * (min(max(sum, leastImages), most) - leastImages) / (most - leastImages)
	}
	return sums
}

// locality is what a node is worth for the images that it has.
func locality(r *run, _ *columns, i int32) float64 {
	if r.class.local == nil {
		return 0
	}
	return r.class.local[i]
}

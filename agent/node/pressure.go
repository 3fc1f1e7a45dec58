package node

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// What the node keeps free: upstream's hard eviction thresholds (evictionHard), of which there is none for process ids. The two
// percentages of image space also count where images lie on the node's main file system, as upstream's do.
const (
	evictionMemory     = 100 << 20 // bytes, memory.available
	evictionDisk       = 10        // percent, nodefs.available
	evictionInodes     = 5         // percent, nodefs.inodesFree and imagefs.inodesFree
	evictionImageSpace = 15        // percent, imagefs.available
)

// pressureHold is how long a condition stays after the shortage was last seen, so that it does not flap: upstream's
// evictionPressureTransitionPeriod.
const pressureHold = 5 * time.Minute

// Signals are what a node has left.
type Signals struct {
	// Memory that can be given to new uses without swapping, in bytes, and all there is; 0 of all: unknown.
	Memory, MemoryTotal int64
	// Disk holds the node's data, Images what the runtime unpacks; Shared says that both are one.
	Disk, Images Filesystem
	Shared       bool
}

// Filesystem is the space of one, in bytes and inodes; without size or inodes: not known, or not counted there. What the file system
// reserves for root belongs to neither Free nor Size, as in df's percentages: percent of it would be percent of what no pod can have.
type Filesystem struct{ Free, Size, InodesFree, Inodes int64 }

// ReadSignals asks the kernel. disk is a directory of the node's data; images is where the runtime keeps what it unpacks, empty: there, too.
func ReadSignals(disk, images string) Signals {
	s := Signals{Memory: Meminfo("MemAvailable"), MemoryTotal: Meminfo("MemTotal"), Shared: true}
	var device uint64
	s.Disk, device = filesystem(disk)
	s.Images = s.Disk
	if images != "" {
		var other uint64
		s.Images, other = filesystem(images)
		s.Shared = other == device
	}
	return s
}

func filesystem(dir string) (f Filesystem, device uint64) {
	var space unix.Statfs_t
	var at unix.Stat_t
	if unix.Statfs(dir, &space) != nil || unix.Stat(dir, &at) != nil {
		return Filesystem{}, 0
	}
	f = Filesystem{Free: int64(space.Bavail) * space.Bsize, Size: int64(space.Blocks-space.Bfree+space.Bavail) * space.Bsize, InodesFree: int64(space.Ffree), Inodes: int64(space.Files)}
	return f, at.Dev
}

// Shortage is a threshold that is not kept.
type Shortage struct {
	Signal    string // "memory.available"
	Condition corev1.NodeConditionType
	// Resource is what is short, as events and statuses call it: memory, ephemeral-storage or inodes.
	Resource             corev1.ResourceName
	Threshold, Available resource.Quantity
	// Layers and Files say what of pods lies on a file system that is short: what containers wrote over their images; volumes and logs.
	Layers, Files bool
}

// Shortages compares what is left with the thresholds. Memory comes first, for it is the most pressing.
func (s Signals) Shortages() (out []Shortage) {
	check := func(of Shortage, left, least int64, format resource.Format) {
		if left < least {
			of.Threshold, of.Available = *resource.NewQuantity(least, format), *resource.NewQuantity(left, format)
			out = append(out, of)
		}
	}
	if s.MemoryTotal > 0 {
		check(Shortage{Signal: "memory.available", Condition: corev1.NodeMemoryPressure, Resource: corev1.ResourceMemory}, s.Memory, evictionMemory, resource.BinarySI)
	}
	part := func(all, percent int64) int64 { return int64(float64(all) * float64(percent) / 100) }
	for _, f := range []struct {
		Filesystem
		name          string
		space         int64
		layers, files bool
	}{{s.Disk, "nodefs", evictionDisk, s.Shared, true}, {s.Images, "imagefs", evictionImageSpace, true, s.Shared}} {
		of := Shortage{Signal: f.name + ".available", Condition: corev1.NodeDiskPressure, Resource: corev1.ResourceEphemeralStorage, Layers: f.layers, Files: f.files}
		check(of, f.Free, part(f.Size, f.space), resource.BinarySI)
		of.Signal, of.Resource = f.name+".inodesFree", "inodes"
		check(of, f.InodesFree, part(f.Inodes, evictionInodes), resource.DecimalSI)
	}
	return out
}

// Observe takes in what the node has left, and reports when that changes its conditions. It returns what is short.
func (k *Keeper) Observe(s Signals, now time.Time) []Shortage {
	short := s.Shortages()
	before := k.Pressure(now)
	k.mu.Lock()
	for _, one := range short {
		if k.short == nil {
			k.short = map[corev1.NodeConditionType]time.Time{}
		}
		k.short[one.Condition] = now
	}
	k.mu.Unlock()
	if !slices.Equal(before, k.Pressure(now)) {
		k.Report()
	}
	return short
}

// Pressure lists the conditions of pressure that the node is under, in order of name.
func (k *Keeper) Pressure(now time.Time) (out []corev1.NodeConditionType) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for condition, seen := range k.short {
		if now.Sub(seen) < pressureHold {
			out = append(out, condition)
		}
	}
	slices.Sort(out)
	return out
}

package node

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// plenty is a node that lacks nothing.
func plenty() Signals {
	f := Filesystem{Free: 50 << 30, Size: 100 << 30, InodesFree: 500, Inodes: 1000}
	return Signals{Memory: 4 << 30, MemoryTotal: 8 << 30, Disk: f, Images: f}
}

func TestShortages(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Signals)
		want   string
	}{
		"plenty":             {func(*Signals) {}, ""},
		"nothing is known":   {func(s *Signals) { *s = Signals{} }, ""},
		"memory":             {func(s *Signals) { s.Memory = 99 << 20 }, "memory.available memory 100Mi 99Mi false false"},
		"disk":               {func(s *Signals) { s.Disk.Free = 9 << 30 }, "nodefs.available ephemeral-storage 10Gi 9Gi false true"},
		"inodes":             {func(s *Signals) { s.Disk.InodesFree = 49 }, "nodefs.inodesFree inodes 50 49 false true"},
		"inodes uncounted":   {func(s *Signals) { s.Disk.InodesFree, s.Disk.Inodes = 0, 0 }, ""},
		"images":             {func(s *Signals) { s.Images.Free = 14 << 30 }, "imagefs.available ephemeral-storage 15Gi 14Gi true false"},
		"inodes of images":   {func(s *Signals) { s.Images.InodesFree = 1 }, "imagefs.inodesFree inodes 50 1 true false"},
		"memory comes first": {func(s *Signals) { s.Memory, s.Disk.Free = 0, 0 }, "memory.available memory 100Mi 0 false false; nodefs.available ephemeral-storage 10Gi 0 false true"},
		"one disk for all":   {func(s *Signals) { s.Shared, s.Images.Free = true, 0 }, "imagefs.available ephemeral-storage 15Gi 0 true true"},
	} {
		s := plenty()
		c.change(&s)
		var got []string
		for _, short := range s.Shortages() {
			got = append(got, fmt.Sprint(short.Signal, " ", short.Resource, " ", short.Threshold.String(), " ", short.Available.String(), " ", short.Layers, " ", short.Files))
		}
		if strings.Join(got, "; ") != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestPressureHolds: a condition stays five minutes after the shortage was last seen, and its coming is reported at once.
func TestPressureHolds(t *testing.T) {
	k := &Keeper{poke: make(chan struct{}, 1)}
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	low := plenty()
	low.Disk.Free = 0
	k.Observe(plenty(), now)
	if len(k.poke) != 0 || len(k.Pressure(now)) != 0 {
		t.Error("pressure without a shortage")
	}
	k.Observe(low, now)
	if len(k.poke) != 1 || !slices.Equal(k.Pressure(now), []corev1.NodeConditionType{corev1.NodeDiskPressure}) {
		t.Errorf("pressure %v, reported %d times", k.Pressure(now), len(k.poke))
	}
	k.Observe(plenty(), now.Add(4*time.Minute))
	if len(k.Pressure(now.Add(pressureHold-1))) != 1 || len(k.Pressure(now.Add(pressureHold))) != 0 {
		t.Error("the condition does not stay for five minutes")
	}
}

// TestRead: this machine has memory and a disk.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	s := ReadSignals(dir, dir)
	if s.Memory <= 0 || s.MemoryTotal < s.Memory || s.Disk.Free <= 0 || s.Disk.Size < s.Disk.Free || !s.Shared {
		t.Errorf("%+v", s)
	}
	if other := ReadSignals(dir, "/proc"); other.Shared {
		t.Errorf("%+v", other)
	}
}

// BenchmarkReadSignals is what a node that lacks nothing spends every ten seconds.
func BenchmarkReadSignals(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		if short := ReadSignals(dir, dir).Shortages(); len(short) > 3 {
			b.Fatal(short)
		}
	}
}

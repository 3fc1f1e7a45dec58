package volume

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMeasure: what is in the tree counts once, what is elsewhere not at all.
func TestMeasure(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	write := func(path string, size int) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil { // blocks are given when they are written
			t.Fatal(err)
		}
		f.Close()
	}
	measured := func() Used {
		t.Helper()
		u, err := Measure(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	empty := measured()
	if empty.Inodes != 1 {
		t.Errorf("an empty directory has %d inodes", empty.Inodes)
	}
	write(filepath.Join(dir, "a", "b", "file"), 1<<20)
	write(filepath.Join(elsewhere, "big"), 4<<20)
	full := measured()
	if got := full.Bytes - empty.Bytes; got < 1<<20 || got > 1<<20+64<<10 || full.Inodes != 4 {
		t.Errorf("a file of 1 MiB in two directories takes %d bytes and %d inodes", got, full.Inodes)
	}
	for name, make := range map[string]func() error{
		"second name":   func() error { return os.Link(filepath.Join(dir, "a", "b", "file"), filepath.Join(dir, "again")) },
		"link":          func() error { return os.Symlink(filepath.Join(elsewhere, "big"), filepath.Join(dir, "link")) },
		"directory":     func() error { return os.Symlink(elsewhere, filepath.Join(dir, "a", "way-out")) },
		"file of holes": func() error { return sparse(filepath.Join(dir, "holes")) },
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		if got := measured().Bytes - full.Bytes; got > 64<<10 {
			t.Errorf("with a %s the tree takes %d bytes more", name, got)
		}
	}
	if os.Geteuid() == 0 {
		at := filepath.Join(dir, "mounted")
		if err := os.Mkdir(at, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(elsewhere, at, "", unix.MS_BIND, ""); err != nil {
			t.Skip("no mounts here: ", err)
		}
		defer func() {
			if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}()
		if got := measured().Bytes - full.Bytes; got > 64<<10 {
			t.Errorf("with a mount the tree takes %d bytes more", got)
		}
	}
	if _, err := Measure(t.Context(), filepath.Join(dir, "link")); err == nil {
		t.Error("a link was measured")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Measure(ended, dir); err == nil {
		t.Error("measured beyond the end")
	}
}

func sparse(path string) error {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	return os.Truncate(path, 1<<30)
}

// TestMeasureDeep: nesting beyond all reason takes no descriptors without end.
func TestMeasureDeep(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range deepest + 100 {
		if err := unix.Mkdirat(fd, "d", 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
	u, err := Measure(t.Context(), dir)
	if err != nil || u.Inodes != deepest+2 {
		t.Errorf("%d inodes, %v", u.Inodes, err)
	}
}

// BenchmarkMeasure counts 10,000 files in 100 directories.
func BenchmarkMeasure(b *testing.B) {
	dir := b.TempDir()
	for d := range 100 {
		at := filepath.Join(dir, strconv.Itoa(d))
		if err := os.Mkdir(at, 0o755); err != nil {
			b.Fatal(err)
		}
		for f := range 100 {
			if err := os.WriteFile(filepath.Join(at, strconv.Itoa(f)), []byte("x"), 0o600); err != nil {
				b.Fatal(err)
			}
		}
	}
	for b.Loop() {
		if _, err := Measure(b.Context(), dir); err != nil {
			b.Fatal(err)
		}
	}
}

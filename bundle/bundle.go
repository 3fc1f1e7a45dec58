// Package bundle carries the third-party executables that keb needs on a node (containerd, its shim, runc), the CNI plugin,
// the pause program and kubectl, compressed inside the binary, and puts them on disk. keb links none of their code: linked
// in, they would cost every keb process tens of megabytes. daemon and cli may import it.
package bundle

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

//go:embed all:assets
var assets embed.FS

// The executables of the bundle. Shim is containerd's with a sandbox of our own, whose process is Pause; it looks for it beside itself.
const (
	Containerd = "containerd"
	Shim       = "containerd-shim-runc-v2"
	Runc       = "runc"
	Kubectl    = "kubectl"
	CNI        = "keb-cni"
	Pause      = "pause"
)

// ErrEmpty says that keb was compiled before the executables were made.
var ErrEmpty = errors.New("this keb was built without its bundled executables: build it with `make build`")

// Unpack makes sure that the named executables lie in dir, which it makes, and returns at once when they already do.
// A file of another version is replaced by renaming, so that processes which run the old one go on. Callers share dir between processes safely.
func Unpack(dir string, names ...string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("unpack executables: %w", err)
	}
	var g errgroup.Group
	for _, name := range names {
		g.Go(func() error {
			if err := unpack(dir, name); err != nil {
				return fmt.Errorf("unpack %s: %w", name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func unpack(dir, name string) error {
	// The stamp that the build made names the version: reading it touches nothing of the executable itself.
	version, err := assets.ReadFile("assets/." + name + ".stamp")
	if errors.Is(err, fs.ErrNotExist) {
		return ErrEmpty
	}
	if err != nil {
		return err
	}
	target, mark := filepath.Join(dir, name), filepath.Join(dir, "."+name+".version")
	if have, err := os.ReadFile(mark); err == nil && bytes.Equal(have, version) {
		if _, err := os.Stat(target); err == nil {
			return nil
		}
	}
	packed, err := open(name)
	if err != nil {
		return err
	}
	defer packed.Close()
	if err := replace(target, packed, 0o755); err != nil {
		return err
	}
	return replace(mark, bytes.NewReader(version), 0o644)
}

// replace writes a file aside and renames it: a crash leaves the old file or the new one.
func replace(path string, content io.Reader, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := io.Copy(f, content); err != nil {
		f.Close()
		return err
	}
	if err := f.Chmod(mode); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// open returns an executable's contents, decompressed as they are read: a node keeps no copy of them in memory.
func open(name string) (io.ReadCloser, error) {
	f, err := assets.Open("assets/" + name + ".zst")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrEmpty
	}
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return z.IOReadCloser(), nil
}

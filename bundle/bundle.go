// Package bundle carries the third-party executables that keb needs on a node (containerd, its shim, runc), the CNI plugin,
// the pause program and kubectl, compressed inside the binary, and puts them on disk. keb links none of their code: linked
// in, they would cost every keb process tens of megabytes. daemon and cli may import it.
package bundle

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

//go:embed assets
var assets embed.FS

// The executables of the bundle.
const (
	Containerd = "containerd"
	Shim       = "containerd-shim-runc-v2"
	Runc       = "runc"
	Kubectl    = "kubectl"
	CNI        = "keb-cni"
	pause      = "pause"
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
	packed, err := read(name)
	if err != nil {
		return err
	}
	// The digest of the packed form names the version: reading it costs no decompression.
	sum := sha256.Sum256(packed)
	version := hex.EncodeToString(sum[:])
	target, mark := filepath.Join(dir, name), filepath.Join(dir, "."+name+".version")
	if have, err := os.ReadFile(mark); err == nil && string(have) == version {
		if _, err := os.Stat(target); err == nil {
			return nil
		}
	}
	z, err := zstd.NewReader(nil)
	if err != nil {
		return err
	}
	defer z.Close()
	data, err := z.DecodeAll(packed, nil)
	if err != nil {
		return err
	}
	if err := replace(target, data, 0o755); err != nil {
		return err
	}
	return replace(mark, []byte(version), 0o644)
}

func read(name string) ([]byte, error) {
	packed, err := assets.ReadFile("assets/" + name + ".zst")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrEmpty
	}
	return packed, err
}

// replace writes a file aside and renames it: a crash leaves the old file or the new one.
func replace(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(data); err != nil {
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

// executable returns an executable's contents.
func executable(name string) ([]byte, error) {
	packed, err := read(name)
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(nil)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return z.DecodeAll(packed, nil)
}

// PauseImage is the name under which WritePauseImage's image is imported.
const PauseImage = "keb.local/pause:1"

// WritePauseImage writes the image of the pods' sandbox process as an OCI archive, so that no node ever pulls one.
func WritePauseImage(w io.Writer) error {
	data, err := executable(pause)
	if err != nil {
		return err
	}
	return WriteImage(w, Image{Name: PauseImage, Entrypoint: []string{"/pause"}, Files: []File{{Path: "pause", Mode: 0o755, Data: data}}, User: "65535:65535"})
}

// Command build makes the executables of package bundle: it compiles them at the versions that bundle/pins/go.mod fixes,
// compresses them and writes them to bundle/assets. It is run from the repository's root by `make bundle`, and does only what is not
// up to date: an asset is rebuilt when its sources, its pins or this recipe changed.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/klauspost/compress/zstd"
)

const (
	pins   = "bundle/pins"
	assets = "bundle/assets"

	kubernetesVersion = "v1.37.2" // of the bundled kubectl; must fit k8s.io/kubectl in pins/go.mod
	versionFlags      = "-X k8s.io/component-base/version.gitVersion=" + kubernetesVersion +
		" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37" +
		" -X k8s.io/component-base/version.gitTreeState=clean"
	static = "osusergo netgo static_build urfave_cli_no_docs"
)

// recipe says how one executable is made.
type recipe struct {
	name    string
	dir     string   // where the command runs
	sources []string // what the result depends on, beside this program
	cgo     string   // CGO_ENABLED
	command []string // OUT stands for the result
}

func recipes() []recipe {
	gobuild := func(tags, ldflags, pkg string) []string {
		return []string{"go", "build", "-trimpath", "-tags", tags, "-ldflags", "-s -w " + ldflags, "-o", "OUT", pkg}
	}
	pinned := []string{pins + "/go.mod", pins + "/go.sum"}
	return []recipe{
		{"containerd", pins, append(pinned, pins+"/containerd"), "0", gobuild(static, "", "./containerd")},
		{"containerd-shim-runc-v2", pins, append(pinned, pins+"/shim"), "0", gobuild(static+" no_grpc", "", "./shim")},
		{"runc", pins, pinned, "1", gobuild(static+" seccomp", "-linkmode external -extldflags -static", "github.com/opencontainers/runc")},
		{"kubectl", pins, append(pinned, pins+"/kubectl"), "0", gobuild("", versionFlags, "./kubectl")},
		{"pause", pins, []string{pins + "/pause.c"}, "1", []string{"gcc", "-Os", "-static", "-s", "-o", "OUT", "pause.c"}},
		{"keb-cni", ".", []string{"cmd/keb-cni"}, "0", gobuild("osusergo netgo", "", "./cmd/keb-cni")},
	}
}

func main() {
	for _, r := range recipes() {
		if err := make1(r); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n", r.name, err)
			os.Exit(1)
		}
	}
}

// make1 makes one asset unless the stamp beside it says that nothing changed.
func make1(r recipe) error {
	want, err := fingerprint(r)
	if err != nil {
		return err
	}
	asset := filepath.Join(assets, r.name+".zst")
	stamp := filepath.Join(assets, "."+r.name+".stamp")
	if have, err := os.ReadFile(stamp); err == nil && string(have) == want {
		if _, err := os.Stat(asset); err == nil {
			return nil
		}
	}
	fmt.Println("building", r.name)
	tmp, err := os.MkdirTemp("", "keb-bundle-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	out := filepath.Join(tmp, r.name)
	args := make([]string, len(r.command))
	for i, a := range r.command {
		args[i] = strings.ReplaceAll(a, "OUT", out)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+r.cgo)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(args[:2], " "), err)
	}
	if err := compress(out, asset); err != nil {
		return err
	}
	return os.WriteFile(stamp, []byte(want), 0o644)
}

// fingerprint covers the recipe, the toolchain and the contents of all sources.
func fingerprint(r recipe) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOOS, runtime.GOARCH, r.command, r.cgo)
	for _, s := range r.sources {
		err := filepath.WalkDir(s, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			fmt.Fprintln(h, path)
			_, err = io.Copy(h, f)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func compress(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(to), ".zst-")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	// Best compression is slow but done once per version; decompression costs the same at any level.
	z, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		return err
	}
	if _, err := io.Copy(z, in); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	if err := out.Chmod(0o644); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Rename(out.Name(), to)
}

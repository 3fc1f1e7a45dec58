package critest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/kebernetes/kebernetes/cri"
	"github.com/kebernetes/kebernetes/cri/containerd"
)

// BinariesEnv names a directory that holds containerd, containerd-shim-runc-v2, pause and runc, to be used instead of the bundle's.
const BinariesEnv = "KEB_TEST_CONTAINERD"

// executables that a containerd needs.
var executables = []string{"containerd", "containerd-shim-runc-v2", "pause", "runc"}

// Host is a containerd that runs for one test.
type Host struct {
	Runtime cri.Runtime
	// Endpoint of its CRI socket.
	Endpoint string
	// Image holds /app (critest/app) and can be pulled from Registry.
	Image string
	// Registry is the address of a registry that serves Image, the same as private:1 to PrivateUser alone, and nothing else.
	Registry string
}

// Who may pull private images from a Host's Registry.
const (
	PrivateUser     = "joe"
	PrivatePassword = "sesame"
)

// Containerd starts a containerd of its own for a test, with a network that only hands out addresses, and removes all of
// it afterwards. The test is skipped, with the reason, where it cannot run.
func Containerd(t testing.TB) *Host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containerd needs root")
	}
	if testing.Short() {
		t.Skip("containerd is left out of short tests")
	}
	// Sockets have short paths, so not t.TempDir.
	dir, err := os.MkdirTemp("", "critest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unmountBelow(t, dir)
		removeGroups(t)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	bin := filepath.Join(dir, "bin")
	if err := unpack(bin); err != nil {
		t.Skipf("no containerd to test with: %v (run `make bundle`, or set %s)", err, BinariesEnv)
	}
	registry := serve(t, build(t, dir))
	h := &Host{Registry: registry, Image: registry + "/app:1", Endpoint: "unix://" + filepath.Join(dir, "containerd.sock")}
	if err := configure(dir, bin, registry); err != nil {
		t.Fatal(err)
	}
	h.start(t, dir, bin)
	return h
}

// unpack finds the executables: in BinariesEnv's directory, else in the bundle of this source tree.
func unpack(bin string) error {
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	if from := os.Getenv(BinariesEnv); from != "" {
		for _, name := range executables {
			if err := os.Symlink(filepath.Join(from, name), filepath.Join(bin, name)); err != nil {
				return err
			}
		}
		return nil
	}
	z, err := zstd.NewReader(nil)
	if err != nil {
		return err
	}
	defer z.Close()
	for _, name := range executables {
		packed, err := os.ReadFile(filepath.Join(root(), "bundle", "assets", name+".zst"))
		if err != nil {
			return err
		}
		data, err := z.DecodeAll(packed, nil)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(bin, name), data, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// root is the source tree.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// build compiles the test application.
func build(t testing.TB, dir string) []byte {
	t.Helper()
	out := filepath.Join(dir, "app")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w", "-o", out, "./cri/critest/app")
	cmd.Dir, cmd.Env = root(), append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the test application: %v\n%s", err, text)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// serve runs a registry with one image of one file, by the OCI distribution specification.
func serve(t testing.TB, app []byte) string {
	var plain, packed bytes.Buffer
	tw := tar.NewWriter(&plain)
	for _, h := range []*tar.Header{
		{Name: "app", Mode: 0o755, Size: int64(len(app)), Typeflag: tar.TypeReg},
		{Name: "tmp", Mode: 0o1777, Typeflag: tar.TypeDir},
		{Name: "etc", Mode: 0o755, Typeflag: tar.TypeDir},
	} {
		must(t, tw.WriteHeader(h))
		if h.Name == "app" {
			_, err := tw.Write(app)
			must(t, err)
		}
	}
	must(t, tw.Close())
	zw := gzip.NewWriter(&packed)
	_, err := zw.Write(plain.Bytes())
	must(t, err)
	must(t, zw.Close())
	blobs := map[string][]byte{}
	add := func(data []byte) string {
		d := fmt.Sprintf("sha256:%x", sha256.Sum256(data))
		blobs[d] = data
		return d
	}
	layer := add(packed.Bytes())
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"Entrypoint": []string{"/app"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(plain.Bytes()))}},
	})
	must(t, err)
	const manifestType = "application/vnd.oci.image.manifest.v1+json"
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType,
		"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": add(config), "size": len(config)},
		"layers": []any{map[string]any{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": packed.Len()}},
	})
	must(t, err)
	top := add(manifest)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		repository, at, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/")
		if user, password, _ := r.BasicAuth(); repository == "private" && (user != PrivateUser || password != PrivatePassword) {
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		kind, ref, _ := strings.Cut(at, "/")
		if ref == "1" {
			ref = top
		}
		data := blobs[ref]
		switch {
		case r.URL.Path == "/v2/":
		case data == nil || repository != "app" && repository != "private":
			http.NotFound(w, r)
		default:
			w.Header().Set("Content-Type", "application/octet-stream")
			if kind == "manifests" {
				w.Header().Set("Content-Type", manifestType)
			}
			w.Header().Set("Docker-Content-Digest", ref)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
		}
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// network is a CNI plugin that links nothing: each sandbox gets an address of its own in its result.
const network = `#!/bin/sh
case "$CNI_COMMAND" in
ADD)
	n=$(printf '%s' "$CNI_CONTAINERID" | cksum | cut -d' ' -f1)
	echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],"ips":[{"address":"10.88.'$((n / 256 % 256)).$((n % 254 + 1))'/16","interface":0}]}'
	;;
VERSION)
	echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}'
	;;
esac
`

func configure(dir, bin, registry string) error {
	text, err := containerd.Config{
		Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Socket: filepath.Join(dir, "containerd.sock"), Bin: bin,
		CNIConf: filepath.Join(dir, "cni"), Snapshotter: "overlayfs", Certs: filepath.Join(dir, "registries"),
	}.TOML()
	if err != nil {
		return err
	}
	hosts := "server = \"http://" + registry + "\"\n[host.\"http://" + registry + "\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
	for name, data := range map[string]string{
		"config.toml":                            string(text),
		"bin/critest":                            network,
		"cni/10-test.conflist":                   `{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"critest"}]}`,
		"registries/" + registry + "/hosts.toml": hosts,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(data), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// start runs containerd until the test ends, and takes its pods down first.
func (h *Host) start(t testing.TB, dir, bin string) {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, "log"))
	must(t, err)
	cmd := exec.Command(filepath.Join(bin, "containerd"), "--config", filepath.Join(dir, "config.toml"), "--log-level", "warn")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"PATH=" + bin + ":/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		h.empty(ctx, t)
		cancel()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		_ = log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			var lines []string
			for line := range strings.SplitSeq(string(text), "\n") {
				// On cgroup v1 an ending shim repeats this some thousand times.
				if !strings.Contains(line, "cgroups: epoll wait") {
					lines = append(lines, line)
				}
			}
			t.Logf("containerd's log:\n%s", strings.Join(lines[max(len(lines)-50, 0):], "\n"))
		}
	})
	h.Runtime, err = cri.Connect(ctx, h.Endpoint)
	must(t, err)
	wait, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	if _, err := h.Runtime.Version(wait); err != nil {
		t.Fatalf("containerd does not answer: %v", err)
	}
}

// empty removes every sandbox, so that no shim and no mount outlives the test.
func (h *Host) empty(ctx context.Context, t testing.TB) {
	if h.Runtime == nil {
		return
	}
	sandboxes, err := h.Runtime.ListPodSandbox(ctx, nil)
	if err != nil {
		t.Errorf("list sandboxes: %v", err)
	}
	for _, s := range sandboxes {
		if err := errors.Join(h.Runtime.StopPodSandbox(ctx, s.Id), h.Runtime.RemovePodSandbox(ctx, s.Id)); err != nil {
			t.Errorf("remove sandbox: %v", err)
		}
	}
}

// removeGroups removes the control groups of the suite's pods, deepest first.
func removeGroups(t testing.TB) {
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		tops, _ := filepath.Glob(mount + cgroupRoot)
		for _, top := range tops {
			var dirs []string
			_ = filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for i := len(dirs) - 1; i >= 0; i-- {
				if err := os.Remove(dirs[i]); err != nil {
					t.Errorf("remove control group: %v", err)
				}
			}
		}
	}
}

// unmountBelow detaches what is still mounted in the test's directory.
func unmountBelow(t testing.TB, dir string) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	lines := strings.Split(string(data), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if f := strings.Fields(lines[i]); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			if err := unix.Unmount(f[4], unix.MNT_DETACH); err != nil {
				t.Errorf("unmount %s: %v", f[4], err)
			}
		}
	}
}

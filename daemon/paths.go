package daemon

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"

	"github.com/kebernetes/kebernetes/config"
)

// The places in the data directory that other processes on this machine may look for.

// AdminKubeconfig is the administrator's kubeconfig that the server of a data directory keeps.
func AdminKubeconfig(dataDir string) string { return filepath.Join(dataDir, "admin.kubeconfig") }

// IsDataDir says whether a directory is empty, or holds what a server or an unfinished reset leaves in a data directory.
// Whatever else a name given by mistake leads to is not keb's to remove.
func IsDataDir(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	return len(entries) == 0 || slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		return slices.Contains([]string{filepath.Base(lockPath(dir)), "store", "pki", "agent", "pods", "containerd"}, e.Name())
	}), nil
}

// RuntimeEndpoint is the CRI socket of the bundled containerd of a data directory.
func RuntimeEndpoint(dataDir string) string {
	return "unix://" + filepath.Join(dataDir, "run", "containerd", "containerd.sock")
}

// Snapshotter is how the bundled containerd of a data directory lays out root file systems.
func Snapshotter(dataDir string) string { return snapshotterFor(dataDir) }

// cgroupRoot is the cgroup below which the pods of a data directory live, so that several nodes on one machine do not mix.
func cgroupRoot(dataDir string) string {
	if dataDir == config.DefaultDataDir {
		return "keb"
	}
	sum := sha256.Sum256([]byte(dataDir))
	return "keb-" + hex.EncodeToString(sum[:4])
}

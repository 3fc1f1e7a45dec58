package daemon

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"

	"github.com/kebernetes/kebernetes/config"
)

// The places in the data directory that other processes on this machine may look for.

// AdminKubeconfig is the administrator's kubeconfig that the server of a data directory keeps.
func AdminKubeconfig(dataDir string) string { return filepath.Join(dataDir, "admin.kubeconfig") }

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

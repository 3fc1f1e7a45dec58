package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/kebernetes/kebernetes/config"
	"github.com/kebernetes/kebernetes/network/lan"
)

// A local cluster is one of several nodes on this machine, which `keb up` makes. The data directory is that of the server, which is
// the first node; the others have theirs below it.

// MaxLocalNodes is how many nodes a local cluster may have.
const MaxLocalNodes = lan.MaxNodes

// LocalNode is a node of a local cluster.
type LocalNode struct {
	Name    string
	DataDir string
	Address netip.Addr
}

// LocalNodes returns the nodes of the local cluster in a data directory, the server's first; none where there is no such cluster.
func LocalNodes(dataDir string) ([]LocalNode, error) {
	l, err := openLocal(dataDir)
	if err != nil || l == nil {
		return nil, err
	}
	return l.nodes(), nil
}

// localCluster is what is recorded of a local cluster before anything of it is made, so that whoever comes after a crash knows what to look for.
type localCluster struct {
	dir string
	// Nodes is how many there are.
	Nodes int `json:"nodes"`
	// Subnet has their addresses.
	Subnet netip.Prefix `json:"subnet"`
	// Forward is the machine's link that is told to forward.
	Forward string `json:"forward,omitempty"`
}

func localRecord(dir string) string { return filepath.Join(dir, "up.json") }
func localLock(dir string) string   { return filepath.Join(dir, "up.lock") }

// openLocal reads the record of a data directory; nil when there is none.
func openLocal(dir string) (*localCluster, error) {
	data, err := os.ReadFile(localRecord(dir))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what `keb up` made: %w", err)
	}
	l := &localCluster{dir: dir}
	if err := json.Unmarshal(data, l); err != nil {
		return nil, fmt.Errorf("read what `keb up` made: %s: %w", localRecord(dir), err)
	}
	if l.Nodes < 1 || l.Nodes > lan.MaxNodes || !l.Subnet.Addr().Is4() || l.Subnet.Bits() != 24 {
		return nil, fmt.Errorf("read what `keb up` made: %s does not hold what it wrote", localRecord(dir))
	}
	return l, nil
}

// write records the cluster durably.
func (l *localCluster) write() error {
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return writeFile(localRecord(l.dir), append(data, '\n'))
}

// writeFile replaces a file of the data directory as a whole.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), path)
}

// claimLocal keeps others from changing the local cluster of a data directory, which is there, until the lock is released.
func claimLocal(dir string) (*lock, error) {
	held, by, err := lockFile(localLock(dir))
	if errors.Is(err, unix.EAGAIN) {
		return nil, fmt.Errorf("another `keb up` or `keb down` (process %d) works on %s; wait until it is done", by, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return held, nil
}

// mayBecomeLocal says why a data directory without a local cluster is not to get one.
func mayBecomeLocal(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	// `keb kubectl` puts the executable that it needs where others will follow.
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return e.Name() == "bin" || e.Name() == filepath.Base(localLock(dir)) })
	if len(entries) == 0 {
		return nil
	}
	if ours, err := IsDataDir(dir); err == nil && ours {
		return fmt.Errorf("%s holds the cluster of `keb server`; choose another --data-dir, or remove that cluster with `keb reset`", dir)
	}
	return fmt.Errorf("%s holds other files, as %s; choose another --data-dir", dir, entries[0].Name())
}

// checkLocal refuses to run the server of a local cluster outside of its network.
func checkLocal(c config.Config) error {
	nodes, err := LocalNodes(c.DataDir)
	if err != nil || len(nodes) == 0 || nodes[0].Address.String() == c.NodeIP {
		return err
	}
	return fmt.Errorf("data directory %s is that of a cluster of %d nodes on this machine; `keb up` starts it", c.DataDir, len(nodes))
}

func (l *localCluster) lan() lan.LAN {
	return lan.LAN{Name: cgroupRoot(l.dir), Subnet: l.Subnet, Nodes: l.Nodes, Forward: l.Forward}
}

func (l *localCluster) nodes() []LocalNode {
	out := make([]LocalNode, l.Nodes)
	for i := range out {
		out[i] = LocalNode{Name: "node-" + strconv.Itoa(i+1), DataDir: l.dir, Address: l.lan().Address(i)}
		if i > 0 {
			out[i].DataDir = filepath.Join(l.dir, "nodes", out[i].Name)
		}
	}
	return out
}

package network

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Attachment names one link that the runtime asks for.
type Attachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
	// NetNS is the path of the sandbox's network namespace.
	NetNS string `json:"netns"`
	// PodNamespace, PodName and PodUID say whose it is; empty when the runtime did not tell.
	PodNamespace string `json:"podNamespace,omitempty"`
	PodName      string `json:"podName,omitempty"`
	PodUID       string `json:"podUID,omitempty"`
}

// sandbox is a linked sandbox, as it stands in its file. The file is written before the link is made and removed after the link
// is gone; it is not synced, since nothing it speaks of outlives the machine.
type sandbox struct {
	Attachment
	Link      string       `json:"link"` // the node's end
	Addresses []netip.Addr `json:"addresses"`
}

// validName is what the CNI specification allows for container ids, and what is safe as a file name. Interface names pass too.
var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

func (a *Attachment) validate() error {
	if !validName.MatchString(a.ContainerID) || len(a.ContainerID) > 200 {
		return fmt.Errorf("container id %q is not valid", a.ContainerID)
	}
	if !validName.MatchString(a.IfName) || len(a.IfName) >= unix.IFNAMSIZ {
		return fmt.Errorf("interface name %q is not valid", a.IfName)
	}
	return nil
}

func (a *Attachment) id() string { return a.ContainerID + "." + a.IfName }

// linkName is the name of the node's end of the link: "keb" and twelve digits, all that an interface name has room for.
func (a *Attachment) linkName() string {
	sum := sha256.Sum256([]byte(a.id()))
	return "keb" + hex.EncodeToString(sum[:6])
}

// podLink is what linkName returns.
var podLink = regexp.MustCompile(`^keb[0-9a-f]{12}$`)

func isPodLink(name string) bool { return podLink.MatchString(name) }

func (n *Network) sandboxFile(id string) string { return filepath.Join(n.opts.Dir, id+".json") }

func (n *Network) saveSandbox(s *sandbox) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	file := n.sandboxFile(s.id())
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return fmt.Errorf("save sandbox: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("save sandbox: %w", err)
	}
	return nil
}

// recover reads the files of all sandboxes, keeps those that live, and removes what the others left, links without a
// file included. n.mu is held.
func (n *Network) recover() error {
	entries, err := os.ReadDir(n.opts.Dir)
	if err != nil {
		return fmt.Errorf("network state: %w", err)
	}
	links, err := n.node.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	linked := map[string]bool{}
	for _, link := range links {
		if link.Attrs().MasterIndex == n.bridge && link.Type() == "veth" {
			linked[link.Attrs().Name] = true
		}
	}
	live := map[string]bool{}
	for _, entry := range entries {
		file := filepath.Join(n.opts.Dir, entry.Name())
		s, err := loadSandbox(file)
		if err != nil {
			n.logger.Warn("network state of a sandbox is unreadable: removing it", "file", file, "error", err)
		} else if linked[s.Link] && isNetNS(s.NetNS) {
			n.keep(s)
			live[s.Link] = true
			continue
		}
		if err := os.Remove(file); err != nil {
			return fmt.Errorf("network state: %w", err)
		}
	}
	if err := n.forgetDead(); err != nil {
		return err
	}
	for _, link := range links {
		name := link.Attrs().Name
		if !linked[name] || live[name] {
			continue
		}
		if err := ignoreMissingLink(n.node.LinkDel(link)); err != nil {
			return fmt.Errorf("remove link %s of a dead sandbox: %w", name, err)
		}
		n.logger.Info("removed the link of a dead sandbox", "link", name)
	}
	return nil
}

// forgetDead removes the neighbours that are no live sandbox's. n.mu is held.
func (n *Network) forgetDead() error {
	neighbours, err := n.node.NeighList(n.bridge, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	live := map[netip.Addr]bool{}
	for _, s := range n.sandboxes {
		for _, addr := range s.Addresses {
			live[addr] = true
		}
	}
	for _, nb := range neighbours {
		if addr, ok := netip.AddrFromSlice(nb.IP); ok && nb.State == netlink.NUD_PERMANENT && !live[addr.Unmap()] && !addr.IsMulticast() {
			if err := n.forget([]netip.Addr{addr.Unmap()}); err != nil {
				return err
			}
		}
	}
	return nil
}

// keep takes a live sandbox into the books. n.mu is held.
func (n *Network) keep(s *sandbox) {
	n.sandboxes[s.id()] = s
	for _, addr := range s.Addresses {
		for _, p := range n.pools {
			p.claim(addr)
		}
	}
}

func loadSandbox(file string) (*sandbox, error) {
	if !strings.HasSuffix(file, ".json") {
		return nil, errors.New("left over from an unfinished write")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var s sandbox
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, err
	}
	if err := s.validate(); err != nil {
		return nil, err
	}
	return &s, nil
}

// isNetNS says whether a namespace is mounted at path: runtimes unmount it when the sandbox ends.
func isNetNS(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

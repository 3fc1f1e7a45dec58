package daemon

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Check is one thing that a node needs of its machine. Err, when not nil, says what is missing and how to mend it.
type Check struct {
	Name string
	Err  error
}

// CheckMachine tries what a node needs. It changes nothing: links and rules are tried in a network namespace of its own.
func CheckMachine() []Check {
	checks := []struct {
		name string
		try  func() error
	}{
		{"root", isRoot},
		{"cgroups", hasCgroups},
		{"overlayfs", func() error { return hasFilesystem("overlay") }},
		{"bridge and veth links", func() error { return apart(tryLinks) }},
		{"nftables with NAT maps", func() error { return apart(tryRules) }},
	}
	out := make([]Check, 0, len(checks))
	for _, c := range checks {
		out = append(out, Check{c.name, c.try()})
	}
	return out
}

func isRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("a node needs root: run it with sudo, or use --no-agent")
	}
	return nil
}

func hasCgroups() error {
	mounts, err := cgroupMounts()
	if err != nil {
		return err
	}
	if len(mounts) == 0 {
		return errors.New("no cgroup file system is mounted: mount -t cgroup2 none /sys/fs/cgroup")
	}
	return nil
}

func hasFilesystem(name string) error {
	data, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		if strings.TrimSpace(strings.TrimPrefix(line, "nodev")) == name {
			return nil
		}
	}
	return fmt.Errorf("the kernel does not know %s: modprobe %s", name, name)
}

// apart runs f on a thread of its own in a new network namespace, which ends with the thread.
func apart(f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the runtime ends the thread, and with it the namespace.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("no network namespace to be had: %w (CAP_SYS_ADMIN)", err)
			return
		}
		done <- f()
	}()
	return <-done
}

func tryLinks() error {
	for _, l := range []netlink.Link{
		&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "try-br"}},
		&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "try-a"}, PeerName: "try-b"},
	} {
		if err := netlink.LinkAdd(l); err != nil {
			return fmt.Errorf("the kernel makes no %s: %w (modprobe %s)", l.Type(), err, l.Type())
		}
	}
	return nil
}

func tryRules() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Name: "try", Family: nftables.TableFamilyINet})
	conn.AddChain(&nftables.Chain{Name: "try", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
	if err := conn.AddSet(&nftables.Set{Table: table, Name: "try", IsMap: true, Concatenation: true, KeyType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService), DataType: nftables.TypeVerdict}, nil); err != nil {
		return err
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("the kernel takes no nftables NAT rules: %w (modprobe nf_tables nft_chain_nat)", err)
	}
	return nil
}

package main

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// podConfig is what a sandbox needs of the runtime interface's PodSandboxConfig. It is read by hand: linked in, the whole interface would cost the
// shim of every pod memory and time.
type podConfig struct {
	hostname                   string
	hasDNS                     bool
	servers, searches, options []string
	cgroupParent               string
	sysctls                    map[string]string
	hostNetwork, hostIPC       bool
	sharedPID, hostPID         bool
}

// Values of the interface's NamespaceMode.
const (
	modePod  = 0
	modeNode = 2
)

// parsePod reads a PodSandboxConfig (k8s.io/cri-api/pkg/apis/runtime/v1/api.proto).
func parsePod(data []byte) (*podConfig, error) {
	// A value of zero is not written: without a word, containers join the pod's namespaces.
	c := &podConfig{sysctls: map[string]string{}, sharedPID: true}
	err := fields(data, func(number protowire.Number, text []byte, _ uint64) error {
		switch number {
		case 2:
			c.hostname = string(text)
		case 4:
			c.hasDNS = true
			return c.parseDNS(text)
		case 8:
			return c.parseLinux(text)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read pod's configuration: %w", err)
	}
	return c, c.setSysctls()
}

func (c *podConfig) parseDNS(data []byte) error {
	return fields(data, func(number protowire.Number, text []byte, _ uint64) error {
		switch number {
		case 1:
			c.servers = append(c.servers, string(text))
		case 2:
			c.searches = append(c.searches, string(text))
		case 3:
			c.options = append(c.options, string(text))
		}
		return nil
	})
}

func (c *podConfig) parseLinux(data []byte) error {
	return fields(data, func(number protowire.Number, text []byte, _ uint64) error {
		switch number {
		case 1:
			c.cgroupParent = string(text)
		case 2:
			return fields(text, func(number protowire.Number, text []byte, _ uint64) error {
				if number == 1 {
					return c.parseNamespaces(text)
				}
				return nil
			})
		case 3:
			var key, value string
			err := fields(text, func(number protowire.Number, text []byte, _ uint64) error {
				if number == 1 {
					key = string(text)
				} else {
					value = string(text)
				}
				return nil
			})
			c.sysctls[key] = value
			return err
		}
		return nil
	})
}

func (c *podConfig) parseNamespaces(data []byte) error {
	return fields(data, func(number protowire.Number, text []byte, value uint64) error {
		switch number {
		case 1:
			c.hostNetwork = value == modeNode
		case 2:
			c.sharedPID, c.hostPID = value == modePod, value == modeNode
		case 3:
			c.hostIPC = value == modeNode
		case 5:
			mode := uint64(modePod)
			err := fields(text, func(number protowire.Number, _ []byte, value uint64) error {
				if number == 1 {
					mode = value
				}
				return nil
			})
			if err == nil && mode != modeNode {
				err = errors.New("user namespaces are not offered")
			}
			return err
		}
		return nil
	})
}

// fields calls each for every field of a message, with its text or its number, whichever its type has.
func fields(data []byte, each func(number protowire.Number, text []byte, value uint64) error) error {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		var text []byte
		var value uint64
		switch kind {
		case protowire.BytesType:
			text, n = protowire.ConsumeBytes(data)
		case protowire.VarintType:
			value, n = protowire.ConsumeVarint(data)
		default:
			n = protowire.ConsumeFieldValue(number, kind, data)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := each(number, text, value); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// ipcSysctls are those that each IPC namespace has for itself, beside all below fs/mqueue (ipc_namespaces(7)).
var ipcSysctls = []string{"kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall", "kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced"}

// setSysctls turns names into paths below /proc/sys, refuses those that would change the machine, and adds what every pod with a network of its own
// has: ports below 1024 and ping without privileges.
func (c *podConfig) setSysctls() error {
	named := c.sysctls
	c.sysctls = map[string]string{}
	if !c.hostNetwork {
		c.sysctls["net/ipv4/ip_unprivileged_port_start"] = "0"
		c.sysctls["net/ipv4/ping_group_range"] = "0 2147483647"
	}
	for name, value := range named {
		file := name
		// A name may have slashes instead of dots, so that the name of a link may have dots (sysctl.d(5)).
		if dot, slash := strings.IndexByte(name, '.'), strings.IndexByte(name, '/'); slash < 0 || dot >= 0 && dot < slash {
			file = strings.Map(func(r rune) rune {
				switch r {
				case '.':
					return '/'
				case '/':
					return '.'
				}
				return r
			}, name)
		}
		own := strings.HasPrefix(file, "net/") && !c.hostNetwork || file == "kernel/domainname" && !c.hostNetwork ||
			(slices.Contains(ipcSysctls, file) || strings.HasPrefix(file, "fs/mqueue/")) && !c.hostIPC
		if !own || path.Clean(file) != file || strings.ContainsRune(name+value, 0) {
			return fmt.Errorf("sysctl %q is not in a namespace of the pod", name)
		}
		c.sysctls[file] = value
	}
	return nil
}

// resolvConf is the pod's resolv.conf.
func (c *podConfig) resolvConf() string {
	var b strings.Builder
	if len(c.searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(c.searches, " "))
	}
	for _, s := range c.servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(c.options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(c.options, " "))
	}
	return b.String()
}

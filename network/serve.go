package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// The CNI plugin sends six strings, each ended by a zero byte (CNI_COMMAND, CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_ARGS,
// CNI_PATH), then its standard input, and closes its side. The answer is one byte, '0' for success, and what the plugin prints.
const requestStrings = 6

// maxRequest bounds a request; the largest one is GC with the names of all sandboxes of a node.
const maxRequest = 4 << 20

// requestTime bounds one exchange. The kernel's part takes milliseconds.
const requestTime = 30 * time.Second

// Error codes of the CNI specification.
const (
	codeIncompatible = 1
	codeInvalidEnv   = 4
	codeDecode       = 6
	codeOurs         = 100
)

// cniVersions are the versions of the CNI specification that our results follow; in the form that we use they are alike.
var cniVersions = []string{"1.0.0", "1.1.0"}

// serve answers the CNI plugin until ctx ends, then waits for the requests under way.
func (n *Network) serve(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(n.opts.Socket), 0o700); err != nil {
		return fmt.Errorf("network socket: %w", err)
	}
	if err := os.Remove(n.opts.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("network socket: %w", err)
	}
	listener, err := net.Listen("unix", n.opts.Socket)
	if err != nil {
		return fmt.Errorf("network socket: %w", err)
	}
	if err := os.Chmod(n.opts.Socket, 0o600); err != nil {
		listener.Close()
		return fmt.Errorf("network socket: %w", err)
	}
	if n.opts.ConfDir != "" {
		if err := WriteConf(n.opts.ConfDir, n.opts.Socket); err != nil {
			listener.Close()
			return err
		}
	}
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	var requests sync.WaitGroup
	defer requests.Wait()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			listener.Close()
			return fmt.Errorf("network socket: %w", err)
		}
		requests.Go(func() {
			defer conn.Close()
			if err := n.serveConn(ctx, conn); err != nil {
				n.logger.Warn("CNI request was cut short", "error", err)
			}
		})
	}
}

func (n *Network) serveConn(ctx context.Context, conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(requestTime)); err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(conn, maxRequest))
	if err != nil {
		return err
	}
	// A request that has begun is finished even when ctx ends: half a link helps nobody.
	result, failure := n.answer(context.WithoutCancel(ctx), data)
	out := []byte{'0'}
	if failure != nil {
		n.logger.Warn("CNI request failed", "error", failure.Msg)
		out, result = []byte{'1'}, failure
	}
	if result != nil {
		text, err := json.Marshal(result)
		if err != nil {
			return err
		}
		out = append(out, text...)
	}
	_, err = conn.Write(out)
	return err
}

// cniError is an error as the CNI specification wants it printed.
type cniError struct {
	CNIVersion string `json:"cniVersion"`
	Code       int    `json:"code"`
	Msg        string `json:"msg"`
}

// conf is what we read of the configuration that the runtime hands to the plugin.
type conf struct {
	CNIVersion string `json:"cniVersion"`
	Valid      []struct {
		ContainerID string `json:"containerID"`
		IfName      string `json:"ifname"`
	} `json:"cni.dev/valid-attachments"`
}

// answer carries one request out. It returns what the plugin prints, which may be nothing.
func (n *Network) answer(ctx context.Context, request []byte) (any, *cniError) {
	fields := bytes.SplitN(request, []byte{0}, requestStrings+1)
	if len(fields) != requestStrings+1 {
		return nil, &cniError{CNIVersion: cniVersions[0], Code: codeDecode, Msg: "request is cut short"}
	}
	var c conf
	if err := json.Unmarshal(fields[requestStrings], &c); err != nil {
		return nil, &cniError{CNIVersion: cniVersions[0], Code: codeDecode, Msg: "decode network configuration: " + err.Error()}
	}
	failure := func(code int, err error) *cniError {
		return &cniError{CNIVersion: c.CNIVersion, Code: code, Msg: err.Error()}
	}
	if c.CNIVersion != cniVersions[0] && c.CNIVersion != cniVersions[1] {
		return nil, &cniError{CNIVersion: cniVersions[0], Code: codeIncompatible,
			Msg: fmt.Sprintf("CNI version %q is not one of %s", c.CNIVersion, strings.Join(cniVersions, ", "))}
	}
	a := Attachment{ContainerID: string(fields[1]), NetNS: string(fields[2]), IfName: string(fields[3])}
	readArgs(&a, string(fields[4]))
	command := string(fields[0])
	switch command {
	case "ADD", "DEL", "CHECK":
		if err := a.validate(); err != nil {
			return nil, failure(codeInvalidEnv, err)
		}
	}
	var err error
	switch command {
	case "ADD":
		var link *Link
		if link, err = n.Attach(ctx, a); err == nil {
			return n.addResult(c.CNIVersion, a, link), nil
		}
	case "DEL":
		err = n.Detach(ctx, a)
	case "CHECK":
		err = n.Check(ctx, a)
	case "GC":
		var valid []Attachment
		for _, v := range c.Valid {
			valid = append(valid, Attachment{ContainerID: v.ContainerID, IfName: v.IfName})
		}
		err = n.DetachExcept(ctx, valid)
	case "STATUS": // that we answer is the answer
	default:
		return nil, failure(codeInvalidEnv, fmt.Errorf("CNI command %q is unknown", command))
	}
	if err != nil {
		return nil, failure(codeOurs, err)
	}
	return nil, nil
}

// readArgs takes the pod's identity from CNI_ARGS: "K8S_POD_NAME=web;K8S_POD_NAMESPACE=default;…".
func readArgs(a *Attachment, args string) {
	for arg := range strings.SplitSeq(args, ";") {
		switch key, value, _ := strings.Cut(arg, "="); key {
		case "K8S_POD_NAMESPACE":
			a.PodNamespace = value
		case "K8S_POD_NAME":
			a.PodName = value
		case "K8S_POD_UID":
			a.PodUID = value
		}
	}
}

type cniInterface struct {
	Name    string `json:"name"`
	MAC     string `json:"mac,omitempty"`
	MTU     int    `json:"mtu,omitempty"`
	Sandbox string `json:"sandbox,omitempty"`
}

type cniIP struct {
	Interface int    `json:"interface"`
	Address   string `json:"address"`
	Gateway   string `json:"gateway"`
}

type cniRoute struct {
	Dst string `json:"dst"`
	GW  string `json:"gw"`
}

type cniResult struct {
	CNIVersion string         `json:"cniVersion"`
	Interfaces []cniInterface `json:"interfaces"`
	IPs        []cniIP        `json:"ips"`
	Routes     []cniRoute     `json:"routes"`
}

// addResult is the answer to ADD.
func (n *Network) addResult(version string, a Attachment, link *Link) *cniResult {
	mtu := link.MTU
	if version == cniVersions[0] {
		mtu = 0 // the field came with 1.1.0
	}
	r := &cniResult{CNIVersion: version, Interfaces: []cniInterface{
		{Name: link.Name, MAC: link.HardwareAddr.String(), MTU: mtu},
		{Name: a.IfName, MAC: link.PodHardwareAddr.String(), MTU: mtu, Sandbox: a.NetNS},
	}}
	for _, addr := range link.Addresses {
		dst := "0.0.0.0/0"
		if addr.Address.Is6() {
			dst = "::/0"
		}
		r.IPs = append(r.IPs, cniIP{Interface: 1, Address: fmt.Sprintf("%s/%d", addr.Address, addr.Address.BitLen()), Gateway: addr.Gateway.String()})
		r.Routes = append(r.Routes, cniRoute{Dst: dst, GW: addr.Gateway.String()})
	}
	return r
}

// WriteConf writes the CNI network configuration into dir, where the runtime looks for it. The plugin keb-cni must be in the
// runtime's plugin folder; it finds the node's socket in the configuration. Runtimes that know CNI 1.1.0 choose it from
// cniVersions, older ones use cniVersion.
func WriteConf(dir, socket string) error {
	text, err := json.MarshalIndent(map[string]any{
		"cniVersion":  cniVersions[0],
		"cniVersions": cniVersions,
		"name":        "keb",
		"plugins":     []any{map[string]any{"type": "keb-cni", "socket": socket}},
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("CNI configuration: %w", err)
	}
	file := confFile(dir)
	if err := os.WriteFile(file+".new", append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("CNI configuration: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("CNI configuration: %w", err)
	}
	return nil
}

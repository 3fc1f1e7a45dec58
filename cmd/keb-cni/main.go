// Command keb-cni is the CNI plugin of a Kebernetes node. The runtime executes it for each sandbox; it hands what it was given to
// the node's process over a unix socket and prints the answer. It uses little of the standard library, as its size and its
// start are paid for on every pod.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// versions is the answer to VERSION.
const versions = `{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}`

// Error codes of the CNI specification.
const (
	codeDecode      = 6
	codeConf        = 7
	codeTryAgain    = 11
	codeUnavailable = 50
)

// env lists what is handed on, in this order.
var env = [...]string{"CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"}

func main() { os.Exit(run(os.Stdin, os.Stdout)) }

func run(in io.Reader, out io.Writer) int {
	command := os.Getenv(env[0])
	if command == "VERSION" {
		fmt.Fprintln(out, versions)
		return 0
	}
	stdin, err := io.ReadAll(in)
	if err != nil {
		return fail(out, "", codeDecode, "read network configuration: "+err.Error())
	}
	var conf struct {
		CNIVersion string `json:"cniVersion"`
		Socket     string `json:"socket"`
	}
	if err := json.Unmarshal(stdin, &conf); err != nil {
		return fail(out, "", codeDecode, "decode network configuration: "+err.Error())
	}
	if conf.Socket == "" {
		return fail(out, conf.CNIVersion, codeConf, "network configuration names no socket")
	}
	answer, err := ask(conf.Socket, stdin)
	switch {
	case err == nil && len(answer) > 0:
		out.Write(answer[1:])
		if answer[0] == '0' {
			return 0
		}
		return 1
	case command == "DEL" && (errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)):
		// The link goes with its namespace, and the node's process looks for such sandboxes when it starts.
		return 0
	case command == "STATUS":
		return fail(out, conf.CNIVersion, codeUnavailable, "keb does not answer")
	case err == nil:
		err = io.ErrUnexpectedEOF
	}
	return fail(out, conf.CNIVersion, codeTryAgain, fmt.Sprintf("ask keb at %s: %v", conf.Socket, err))
}

// ask sends the request and returns the answer: '0' or '1', then what to print.
func ask(socket string, stdin []byte) ([]byte, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	conn := os.NewFile(uintptr(fd), socket)
	defer conn.Close()
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket}); err != nil {
		return nil, err
	}
	var request []byte
	for _, name := range env {
		request = append(append(request, os.Getenv(name)...), 0)
	}
	if _, err := conn.Write(append(request, stdin...)); err != nil {
		return nil, err
	}
	if err := syscall.Shutdown(fd, syscall.SHUT_WR); err != nil {
		return nil, err
	}
	return io.ReadAll(conn)
}

// fail prints an error as the CNI specification wants it.
func fail(out io.Writer, version string, code int, msg string) int {
	if version == "" {
		version = "1.0.0"
	}
	text, err := json.Marshal(struct {
		CNIVersion string `json:"cniVersion"`
		Code       int    `json:"code"`
		Msg        string `json:"msg"`
	}{version, code, msg})
	if err == nil {
		fmt.Fprintln(out, string(text))
	}
	return 1
}

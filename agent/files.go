package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/agent/spec"
)

// How much of a container's last words is kept (k8s.io/api core/v1 Container.TerminationMessagePath and -Policy).
const (
	maxMessage      = 4096
	maxMessageLog   = 2048
	maxMessageLines = 80
)

// ownFiles makes the files that every container gets: the pod's hosts file and the file for the termination message.
func (w *worker) ownFiles(pod *corev1.Pod, c *corev1.Container, attempt uint32, hosts bool) ([]*rt.Mount, error) {
	var out []*rt.Mount
	dir := filepath.Join(w.a.Dir, string(pod.UID))
	if hosts {
		path := filepath.Join(dir, "etc-hosts")
		var ips []string
		for _, ip := range pod.Status.PodIPs {
			ips = append(ips, ip.IP)
		}
		var node []byte
		if pod.Spec.HostNetwork {
			var err error
			if node, err = os.ReadFile("/etc/hosts"); err != nil {
				return nil, fmt.Errorf("hosts file: %w", err)
			}
		}
		if err := writeOnce(path, spec.Hosts(pod, ips, w.a.ClusterDomain, node), 0o644); err != nil {
			return nil, fmt.Errorf("hosts file: %w", err)
		}
		readOnly := c.SecurityContext != nil && c.SecurityContext.ReadOnlyRootFilesystem != nil && *c.SecurityContext.ReadOnlyRootFilesystem
		out = append(out, &rt.Mount{ContainerPath: "/etc/hosts", HostPath: path, Readonly: readOnly})
	}
	if c.TerminationMessagePath != "" {
		path := w.a.messageFile(pod.UID, c.Name, int32(attempt))
		if err := writeOnce(path, nil, 0o666); err != nil {
			return nil, fmt.Errorf("termination message file: %w", err)
		}
		out = append(out, &rt.Mount{ContainerPath: c.TerminationMessagePath, HostPath: path})
	}
	return out, nil
}

// messageFile is where a container leaves its termination message.
func (a *Agent) messageFile(pod types.UID, container string, attempt int32) string {
	return filepath.Join(a.Dir, string(pod), "containers", container, strconv.Itoa(int(attempt)))
}

// writeOnce writes a file of exactly this mode in place, as running containers have it mounted; the same content is left alone.
func writeOnce(path string, data []byte, mode fs.FileMode) error {
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, data) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// lastWords is the termination message of an ended container: its file's, or with the policy to fall back, after a failure,
// the end of its log.
func (a *Agent) lastWords(s *rt.ContainerStatus, known spec.Remembered) string {
	for _, m := range s.GetMounts() {
		if known.MessagePath == "" || m.ContainerPath != known.MessagePath {
			continue
		}
		if text, err := head(m.HostPath, maxMessage); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Sprintf("Error on reading termination log %s: %v", m.HostPath, err)
		} else if text != "" {
			return text
		}
	}
	if known.MessagePolicy == corev1.TerminationMessageFallbackToLogsOnError && s.ExitCode != 0 && s.LogPath != "" {
		if text := tail(s.LogPath); text != "" {
			return text
		}
	}
	return s.Message
}

// head reads the beginning of a file that a container could write: nothing but a regular file is read, and no link followed.
func head(path string, most int64) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0) // without waiting for a pipe's other end
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, most))
	return string(data), err
}

// tail returns the last lines of a container's log without the runtime's prefixes.
func tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	// Prefixes are at most as long again as the shortest lines, so four times the wanted text is enough.
	from := max(info.Size()-4*maxMessageLog, 0)
	data, err := io.ReadAll(io.NewSectionReader(f, from, 4*maxMessageLog))
	if err != nil {
		return ""
	}
	lines := strings.SplitAfter(string(data), "\n")
	if from > 0 && len(lines) > 0 {
		lines = lines[1:]
	}
	var out []string
	for _, l := range lines {
		// timestamp, stream, tags, text
		if parts := strings.SplitN(l, " ", 4); len(parts) == 4 {
			text := parts[3]
			if strings.HasPrefix(parts[2], "P") {
				text = strings.TrimSuffix(text, "\n")
			}
			out = append(out, text)
		}
	}
	if len(out) > maxMessageLines {
		out = out[len(out)-maxMessageLines:]
	}
	text := strings.Join(out, "")
	if len(text) > maxMessageLog {
		text = text[len(text)-maxMessageLog:]
	}
	return text
}

package daemon

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// settled is how long after its start a process has done all that it does only once.
const settled = 5 * time.Second

// trimmer gives back, once, what only the start needed: buffers of unpacking and recovery, and the pages of the executable
// that hold the packed programs. It halves the resident memory of an idle server.
type trimmer struct{ log *slog.Logger }

func (t trimmer) Name() string { return "trimmer" }

// Run waits until the start is over, trims, and waits for ctx.
func (t trimmer) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(settled):
	}
	debug.FreeOSMemory()
	if err := dropExecutablePages(); err != nil {
		t.log.Warn("memory not trimmed", "err", err)
	}
	<-ctx.Done()
	return nil
}

// mapping is one entry of /proc/self/smaps (proc_pid_smaps(5)).
type mapping struct {
	start, end uintptr
	writable   bool
	path       string
	private    bool // has pages of its own, which the file could not give back
}

// dropExecutablePages lets go of the executable's read-only pages. Those in use come back from the page cache, many at a
// fault; those that were read once do not.
func dropExecutablePages() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := readMappings()
	if err != nil {
		return err
	}
	for _, m := range maps {
		// A page that the loader changed exists nowhere else: such mappings stay as they are.
		if m.path != exe || m.writable || m.private {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("let go of pages: %w", errno)
		}
	}
	return nil
}

func readMappings() ([]mapping, error) {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []mapping
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 5 && strings.Contains(fields[0], "-") {
			from, to, _ := strings.Cut(fields[0], "-")
			start, err1 := strconv.ParseUint(from, 16, 64)
			end, err2 := strconv.ParseUint(to, 16, 64)
			if err1 != nil || err2 != nil {
				return nil, fmt.Errorf("read mappings: %q", lines.Text())
			}
			m := mapping{start: uintptr(start), end: uintptr(end), writable: strings.Contains(fields[1], "w")}
			if len(fields) > 5 {
				m.path = fields[5]
			}
			out = append(out, m)
			continue
		}
		if len(fields) == 3 && len(out) > 0 && (fields[0] == "Anonymous:" || fields[0] == "Private_Dirty:") && fields[1] != "0" {
			out[len(out)-1].private = true
		}
	}
	return out, lines.Err()
}

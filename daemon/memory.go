package daemon

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// settled is how long after its start a process has done all that it does only once.
	settled = 5 * time.Second
	// restAfter is how long a busy process is watched before it counts as at rest again, restBytes how little it allocates in
	// that time when it is: an idle server needs less than a tenth of it.
	restAfter = 5 * time.Second
	restBytes = 4 << 20
	// worthBytes is the least that is worth a collection: it takes some ten milliseconds for each 10 MB that stay.
	worthBytes = 16 << 20
)

// trimmer gives back what only the start, or a busy time, needed: buffers of unpacking and recovery, what the collector left
// for the next burst, and the pages of the executable that were read once. While nothing happens, nothing wakes it.
type trimmer struct{ log *slog.Logger }

func (t trimmer) Name() string { return "trimmer" }

// Run trims when the start is over, and then after each busy time, until ctx is done. A collection says that there is one.
func (t trimmer) Run(ctx context.Context) error {
	collected := make(chan struct{}, 1)
	look := time.NewTimer(settled)
	defer look.Stop()
	looking, started := true, false
	var before uint64
	onCollection(collected)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-collected:
			onCollection(collected)
			if !looking {
				looking, before = true, readHeap().allocated
				look.Reset(restAfter)
			}
		case <-look.C:
			heap := readHeap()
			looking = started && heap.allocated-before > restBytes
			if looking {
				before = heap.allocated
				look.Reset(restAfter)
				continue
			}
			if !started || heap.spare > worthBytes {
				t.trim()
			}
			started = true
		}
	}
}

func (t trimmer) trim() {
	debug.FreeOSMemory()
	if err := dropExecutablePages(); err != nil {
		t.log.Warn("memory not trimmed", "err", err)
	}
}

// onCollection puts a token into c after the next collection, unless there is one already.
func onCollection(c chan<- struct{}) {
	witness := new([64]byte) // garbage at once
	runtime.AddCleanup(witness, func(c chan<- struct{}) {
		select {
		case c <- struct{}{}:
		default:
		}
	}, c)
}

// heapState is how the heap stands, in bytes.
type heapState struct {
	allocated uint64 // since the process began
	spare     uint64 // held from the system, but not by what the last collection found alive
}

func readHeap() heapState {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	var v [5]uint64
	for i, s := range samples {
		if s.Value.Kind() == metrics.KindUint64 {
			v[i] = s.Value.Uint64()
		}
	}
	return heapState{allocated: v[0], spare: max(v[1], v[2]+v[3]+v[4]) - v[1]}
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
		if len(fields) == 3 && len(out) > 0 && fields[0] == "Anonymous:" && fields[1] != "0" {
			out[len(out)-1].private = true
		}
	}
	return out, lines.Err()
}

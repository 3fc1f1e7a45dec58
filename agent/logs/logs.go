// Package logs keeps containers' log files from growing without bound: a file that is full is set aside and compressed, and
// only the newest few are kept. Only agent imports it.
package logs

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Rotator rotates one container's log at a time. The zero value has upstream's limits.
type Rotator struct {
	// MaxSize is when a log is rotated, in bytes; default 10 MiB.
	MaxSize int64
	// MaxFiles is how many files are kept, the current one included; default 5.
	MaxFiles int
}

func (r Rotator) limits() (int64, int) {
	size, files := r.MaxSize, r.MaxFiles
	if size == 0 {
		size = 10 << 20
	}
	if files == 0 {
		files = 5
	}
	return size, max(files, 2)
}

// The suffixes of files that are being made and that are done.
const (
	tmpSuffix = ".tmp"
	gzSuffix  = ".gz"
)

// Rotate looks at a running container's log and rotates it when it is full. reopen makes the runtime write to a new file.
// The newest rotated file stays plain, as the runtime or a reader may still be at it; older ones are compressed.
func (r Rotator) Rotate(ctx context.Context, path string, now time.Time, reopen func(context.Context) error) error {
	size, files := r.limits()
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		// A crash between rename and reopen leaves no current file.
		return reopen(ctx)
	}
	if err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	if info.Size() < size {
		return nil
	}
	old, err := rotated(path)
	if err != nil {
		return err
	}
	// With the file that is about to be set aside, there may be files-1 beside the current one.
	for len(old) > files-2 {
		if err := os.Remove(old[0]); err != nil {
			return fmt.Errorf("rotate log: %w", err)
		}
		old = old[1:]
	}
	for _, name := range old {
		if !strings.HasSuffix(name, gzSuffix) {
			if err := compress(name); err != nil {
				return err
			}
		}
	}
	aside := path + "." + now.Format("20060102-150405")
	if err := os.Rename(path, aside); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	if err := reopen(ctx); err != nil {
		return errors.Join(fmt.Errorf("reopen log %s: %w", path, err), os.Rename(aside, path))
	}
	return nil
}

// rotated lists the files set aside, oldest first, and removes what a crash left half made.
func rotated(path string) ([]string, error) {
	names, err := filepath.Glob(path + ".*")
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range names {
		if strings.HasSuffix(n, tmpSuffix) {
			if err := os.Remove(n); err != nil {
				return nil, err
			}
			continue
		}
		out = append(out, n)
	}
	slices.Sort(out)
	return out, nil
}

func compress(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("compress log: %w", err)
	}
	defer in.Close()
	tmp := path + gzSuffix + tmpSuffix
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("compress log: %w", err)
	}
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, in)
	err = errors.Join(err, z.Close(), out.Close())
	if err == nil {
		err = os.Rename(tmp, path+gzSuffix)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("compress log %s: %w", path, err), os.Remove(tmp))
	}
	return os.Remove(path)
}

package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// boundedLog is a log file of bounded size: a full one is renamed to path.1, which replaces the one before. It is opened at the
// first write, which sets aside what an earlier run wrote. One goroutine may use it.
type boundedLog struct {
	path string
	most int64 // bytes

	file *os.File
	size int64
}

// Write implements io.Writer. p is not split between files.
func (l *boundedLog) Write(p []byte) (int, error) {
	if l.file == nil || l.size > 0 && l.size+int64(len(p)) > l.most {
		if err := l.turn(); err != nil {
			return 0, err
		}
	}
	n, err := l.file.Write(p)
	l.size += int64(n)
	return n, err
}

// turn begins a new file.
func (l *boundedLog) turn() error {
	if err := l.Close(); err != nil {
		return err
	}
	if err := os.Rename(l.path, l.path+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("set log aside: %w", err)
	}
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	l.file, l.size = file, 0
	return nil
}

// Close implements io.Closer. Repeatable.
func (l *boundedLog) Close() error {
	if l.file == nil {
		return nil
	}
	file := l.file
	l.file = nil
	return file.Close()
}

package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Down stops the local cluster of a data directory and removes its network and, unless they are to be kept, its files. It may be
// repeated, also after it was killed. Kept files are what a machine has that was switched off: Up goes on with them.
func Down(dataDir string, keepData bool, log *slog.Logger) error {
	if l, err := openLocal(dataDir); err != nil {
		return err
	} else if l == nil {
		return fmt.Errorf("`keb up` made no cluster in %s", dataDir)
	}
	held, err := claimLocal(dataDir)
	if err != nil {
		return err
	}
	defer held.release()
	l, err := openLocal(dataDir)
	if err != nil || l == nil {
		return err // nil: another one was first
	}
	if err := l.stop(log); err != nil {
		return err
	}
	if err := l.lan().Remove(); err != nil {
		return err
	}
	if keepData {
		return nil
	}
	real, err := filepath.EvalSymlinks(dataDir)
	if err != nil {
		return fmt.Errorf("find data directory: %w", err)
	}
	if err := nothingMounted(real); err != nil {
		return err
	}
	// The record last: while it is there, what is left can be found.
	entries, err := os.ReadDir(real)
	if err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return e.Name() == filepath.Base(localRecord(dataDir)) })
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(real, e.Name())))
	}
	return errors.Join(append(errs, removeFiles(real, dataDir))...)
}

// stop ends the processes and containers of all nodes and removes what the kernel holds of them but the network, so that the
// nodes' files are as after the machine was switched off.
func (l *localCluster) stop(log *slog.Logger) error {
	nodes := l.nodes()
	errs := make([]error, len(nodes))
	var wait sync.WaitGroup
	for i, n := range nodes {
		wait.Go(func() { errs[i] = stopHolder(n.DataDir, resetGrace) })
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	// The server's directory holds the others.
	for i, n := range slices.Backward(nodes) {
		real, err := filepath.EvalSymlinks(n.DataDir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = removeContainers(n.DataDir, real, log)
		}
		if err == nil {
			err = os.RemoveAll(filepath.Join(n.DataDir, "run"))
		}
		if err != nil {
			errs[i] = fmt.Errorf("%s: %w", n.Name, err)
		}
	}
	return errors.Join(errs...)
}

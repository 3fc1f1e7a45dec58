package daemon

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kebernetes/kebernetes/kinds/builtin"
	"github.com/kebernetes/kebernetes/store/local"
)

// A backup is a tar archive: the keys as they lie in the data directory, and last the store's snapshot under this name. The
// snapshot knows its own end, so that a file that was cut short never passes for a whole one.
const (
	backupSnapshot = "store.snapshot"
	pkiDir         = "pki"
	maxKeyFile     = 1 << 20
)

// Backup writes the objects and the keys of a data directory that no server is using.
func Backup(dataDir string, out io.Writer) error {
	if _, err := os.Stat(filepath.Join(dataDir, "store")); err != nil {
		return fmt.Errorf("backup: no cluster in %s: %w", dataDir, err)
	}
	held, err := takeLock(dataDir)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer held.release()
	s, err := openStore(dataDir, builtin.Table(), slog.New(slog.DiscardHandler))
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	var snapshot bytes.Buffer
	err = s.WriteBackup(&snapshot)
	closing, cancel := context.WithCancel(context.Background())
	cancel()
	if err := errors.Join(err, s.Run(closing)); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	t := tar.NewWriter(out)
	err = filepath.WalkDir(filepath.Join(dataDir, pkiDir), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return writeTar(t, pkiDir+"/"+e.Name(), data)
	})
	if err != nil {
		return fmt.Errorf("backup keys: %w", err)
	}
	if err := writeTar(t, backupSnapshot, snapshot.Bytes()); err != nil {
		return err
	}
	if err := t.Close(); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}

func writeTar(t *tar.Writer, name string, data []byte) error {
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data)), ModTime: time.Unix(0, 0)}); err != nil {
		return fmt.Errorf("backup %s: %w", name, err)
	}
	if _, err := t.Write(data); err != nil {
		return fmt.Errorf("backup %s: %w", name, err)
	}
	return nil
}

// Restore fills a data directory that holds no cluster from a backup.
func Restore(dataDir string, in io.Reader) error {
	for _, dir := range []string{"store", pkiDir} {
		if _, err := os.Stat(filepath.Join(dataDir, dir)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("restore: %s holds a cluster already; choose another --data-dir or reset it", dataDir)
		}
	}
	held, err := takeLock(dataDir)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	defer held.release()
	if err := unpackBackup(dataDir, tar.NewReader(in)); err != nil {
		// Half a cluster is none: what was restored goes again.
		return errors.Join(fmt.Errorf("restore: %w", err), os.RemoveAll(filepath.Join(dataDir, "store")), os.RemoveAll(filepath.Join(dataDir, pkiDir)))
	}
	return nil
}

func unpackBackup(dataDir string, t *tar.Reader) error {
	restored, keys := false, 0
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read backup: %w", err)
		}
		name, isKey := strings.CutPrefix(h.Name, pkiDir+"/")
		switch {
		case h.Name == backupSnapshot:
			if err := local.Restore(filepath.Join(dataDir, "store"), t); err != nil {
				return err
			}
			restored = true
		case isKey && filepath.IsLocal(name) && !strings.Contains(name, "/"):
			if err := restoreKey(filepath.Join(dataDir, pkiDir, name), t); err != nil {
				return err
			}
			keys++
		default:
			return fmt.Errorf("%q does not belong in a backup", h.Name)
		}
	}
	switch {
	case !restored:
		return errors.New("the file holds no store: it is no backup, or was cut short")
	case keys == 0:
		return errors.New("the file holds no keys: it is no whole backup")
	}
	return nil
}

func restoreKey(path string, r io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(r, maxKeyFile+1))
	if err != nil {
		return fmt.Errorf("read key: %w", err)
	}
	if len(data) > maxKeyFile {
		return fmt.Errorf("%s is no key: it is larger than %d bytes", filepath.Base(path), maxKeyFile)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

package daemon

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/auth/pki"
	"github.com/kebernetes/kebernetes/kinds/builtin"
	"github.com/kebernetes/kebernetes/store"
)

// What a backup held is there again after a restore. A file that ends too early anywhere restores nothing at all.
func TestBackup(t *testing.T) {
	const hidden = "correct-horse-battery-staple"
	dir := t.TempDir()
	authority, err := pki.Open(filepath.Join(dir, pkiDir))
	if err != nil {
		t.Fatal(err)
	}
	key := store.Key{Resource: "secrets", Namespace: "default", Name: "s"}
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Data: map[string][]byte{"k": []byte(hidden)}}
	inStore(t, dir, func(l store.Store) {
		if res := l.Commit(t.Context(), store.Write{Key: key, Object: s}); res[0].Err != nil {
			t.Fatal(res[0].Err)
		}
	})
	var backup bytes.Buffer
	if err := Backup(dir, &backup); err != nil {
		t.Fatal(err)
	}
	whole := backup.Bytes()
	if bytes.Contains(whole, []byte(hidden)) || bytes.Contains(whole, []byte(base64.StdEncoding.EncodeToString([]byte(hidden)))) {
		t.Error("a Secret is in the backup as it is")
	}
	// A tar archive is made of blocks of 512 bytes; it ends in blocks of nothing, which a copy may well be without.
	for end := 0; end <= len(bytes.TrimRight(whole, "\x00")); end += 512 {
		into := t.TempDir()
		if err := Restore(into, bytes.NewReader(whole[:end])); err == nil {
			t.Errorf("a backup of %d bytes was restored from its first %d", len(whole), end)
		}
		for _, name := range []string{"store", pkiDir} {
			if _, err := os.Stat(filepath.Join(into, name)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s was left behind: %v", name, err)
			}
		}
	}
	into := t.TempDir()
	if err := Restore(into, bytes.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	if again, err := pki.Open(filepath.Join(into, pkiDir)); err != nil || again.Hash() != authority.Hash() {
		t.Errorf("the restored authority is another: %v", err)
	}
	inStore(t, into, func(l store.Store) {
		item := l.Snapshot().Get(key)
		if item == nil || string(item.Object.(*corev1.Secret).Data["k"]) != hidden {
			t.Errorf("restored: %+v", item)
		}
	})
}

// inStore opens the store of a data directory for the time of a call.
func inStore(t *testing.T, dir string, f func(store.Store)) {
	t.Helper()
	l, err := openStore(dir, builtin.Table(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	f(l)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Run(ended); err != nil {
		t.Fatal(err)
	}
}

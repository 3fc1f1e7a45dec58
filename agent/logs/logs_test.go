package logs

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRotate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	r := Rotator{MaxSize: 10, MaxFiles: 3}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	reopen := func(context.Context) error { return os.WriteFile(path, nil, 0o640) }
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	write("short")
	if err := r.Rotate(t.Context(), path, now, reopen); err != nil {
		t.Fatal(err)
	}
	if names(t, path) != "0.log" {
		t.Errorf("a log that is not full was rotated: %s", names(t, path))
	}
	for i, text := range []string{"first full log", "second full log", "third full log", "fourth full log"} {
		write(text)
		if err := r.Rotate(t.Context(), path, now.Add(time.Duration(i)*time.Second), reopen); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(t, path); got != "0.log 0.log.20260101-000002.gz 0.log.20260101-000003" {
		t.Errorf("files %s", got)
	}
	packed, err := os.ReadFile(path + ".20260101-000002.gz")
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(z); err != nil || string(text) != "third full log" {
		t.Errorf("%q, %v", text, err)
	}
	write("a runtime that is away")
	if err := r.Rotate(t.Context(), path, now.Add(time.Minute), func(context.Context) error { return errors.New("away") }); err == nil {
		t.Error("no error")
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "a runtime that is away" {
		t.Errorf("the log was not put back: %q, %v", text, err)
	}
}

func names(t *testing.T, path string) string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

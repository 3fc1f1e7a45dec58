package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// line is a command line as the shim writes it.
func line(dir string, rest ...string) []string {
	return append([]string{"runc", "--root", dir, "--log", filepath.Join(dir, "bundle", "log.json"), "--log-format", "json"}, rest...)
}

func TestItself(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"box", "bundle", "created"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	fifo := filepath.Join(dir, "created", "exec.fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	// The container waits until somebody reads.
	wrote := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(fifo, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString("0")
			err = errors.Join(err, f.Close())
		}
		wrote <- err
	}()
	if err := os.WriteFile(filepath.Join(dir, "bundle", "init.pid"), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		t.Fatal(err)
	}
	if !itself(line(dir, "start", "created")) {
		t.Error("a created container is not started")
	}
	if err := <-wrote; err != nil {
		t.Errorf("the container: %v", err)
	}
	if _, err := os.Lstat(fifo); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the fifo is left: %v", err)
	}
	if !itself(line(dir, "delete", "--force", "gone")) {
		t.Error("a container that is gone is deleted by runc")
	}
	for _, left := range [][]string{
		line(dir, "start", "created"), // it runs already
		line(dir, "start", "gone"),
		line(dir, "delete", "--force", "box"),
		line(dir, "delete", "gone"),
		line(dir, "kill", "box", "9"),
		{"runc", "start", "created"},
		{"runc"},
	} {
		if itself(left) {
			t.Errorf("%v is not left to runc", left)
		}
	}
}

// A container that died at the fifo will never write.
func TestStartOfTheDead(t *testing.T) {
	dir := t.TempDir()
	fifo, pid := filepath.Join(dir, "exec.fifo"), filepath.Join(dir, "init.pid")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	dead := exec.Command("/proc/self/exe", "-test.run=^$")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pid, []byte(strconv.Itoa(dead.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := start(fifo, pid); !errors.Is(err, unix.ESRCH) {
		t.Errorf("start: %v", err)
	}
}

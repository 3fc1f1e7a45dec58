package daemon

import (
	"os"
	"path/filepath"
	"testing"
)

func TestBoundedLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	read := func(path string) string {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	write := func(l *boundedLog, lines ...string) {
		for _, line := range lines {
			if n, err := l.Write([]byte(line)); err != nil || n != len(line) {
				t.Fatal(n, err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	write(&boundedLog{path: path, most: 10}, "one\n", "two\n", "three\n", "four\n", "a line that is longer than the file\n")
	if now, before := read(path), read(path+".1"); now != "a line that is longer than the file\n" || before != "four\n" {
		t.Errorf("after turning: %q, before it %q", now, before)
	}
	write(&boundedLog{path: path, most: 10}, "again\n")
	if now, before := read(path), read(path+".1"); now != "again\n" || before != "a line that is longer than the file\n" {
		t.Errorf("after a new start: %q, before it %q", now, before)
	}
}

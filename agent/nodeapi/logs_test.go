package nodeapi

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const sample = `2026-01-02T03:04:05.000000001Z stdout F one
2026-01-02T03:04:06.000000001Z stderr F two
2026-01-02T03:04:07.000000001Z stdout P thr
2026-01-02T03:04:07.000000002Z stdout P e
2026-01-02T03:04:07.000000003Z stdout F e
2026-01-02T03:04:08.000000001Z stdout F four
`

func TestLogOptions(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 9, 0, time.UTC)
	for _, tc := range []struct{ query, want string }{
		{"", "one\ntwo\nthree\nfour\n"},
		{"tailLines=0", ""},
		{"tailLines=1", "four\n"},
		{"tailLines=2", "three\nfour\n"},
		{"tailLines=3", "two\nthree\nfour\n"},
		{"tailLines=99", "one\ntwo\nthree\nfour\n"},
		{"limitBytes=5", "one\nt"},
		{"stream=Stderr", "two\n"},
		{"sinceSeconds=2", "three\nfour\n"},
		{"sinceTime=2026-01-02T03:04:08Z", "four\n"},
		{"timestamps=true&tailLines=2", "2026-01-02T03:04:07.000000001Z three\n2026-01-02T03:04:08.000000001Z four\n"},
	} {
		t.Run(tc.query, func(t *testing.T) {
			if got := readLog(t, sample, tc.query, now); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func readLog(t *testing.T, text, query string, now time.Time) string {
	t.Helper()
	q, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	o, err := parseLogOptions(q, now)
	if err != nil {
		t.Fatal(err)
	}
	file := logFile(t, text)
	if o.tail >= 0 {
		from, err := tailOffset(file, o.tail)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.Seek(from, io.SeekStart); err != nil {
			t.Fatal(err)
		}
	}
	var got bytes.Buffer
	out := &logWriter{w: bufio.NewWriter(&got), o: o, left: o.limit}
	if err := out.copy(newLineReader(file)); err != nil && !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	out.flush()
	return got.String()
}

func logFile(t *testing.T, text string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// A tail must come out the same wherever the blocks that it is read in are cut.
func TestTailAcrossBlocks(t *testing.T) {
	var text, plain strings.Builder
	for i := range 5000 {
		line := fmt.Sprintf("line %d %s", i, strings.Repeat("x", i%97))
		fmt.Fprintf(&text, "2026-01-02T03:04:05.%09dZ stdout F %s\n", i, line)
		fmt.Fprintln(&plain, line)
	}
	all := strings.SplitAfter(strings.TrimSuffix(plain.String(), "\n"), "\n")
	for _, n := range []int{1, 10, 1000, 4999, 5000} {
		want := strings.TrimSuffix(strings.Join(all[len(all)-n:], ""), "\n") + "\n"
		if got := readLog(t, text.String(), fmt.Sprintf("tailLines=%d", n), time.Now()); got != want {
			t.Errorf("tail %d: got %d bytes, want %d", n, len(got), len(want))
		}
	}
}

func TestLogOptionsRefused(t *testing.T) {
	for _, query := range []string{"tailLines=-1", "limitBytes=x", "sinceSeconds=0", "sinceTime=yesterday", "stream=Sideways"} {
		q, _ := url.ParseQuery(query)
		if _, err := parseLogOptions(q, time.Now()); err == nil || !strings.Contains(err.Error(), strings.Split(query, "=")[0]) {
			t.Errorf("%s: got %v, want an error that names it", query, err)
		}
	}
}

// What a runtime writes is outside input: whatever it is, reading it ends and does not panic.
func FuzzLogReader(f *testing.F) {
	f.Add([]byte(sample), int64(2))
	f.Add([]byte("no record\n\n   \nP"), int64(1))
	f.Fuzz(func(t *testing.T, text []byte, tail int64) {
		path := filepath.Join(t.TempDir(), "0.log")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		from, err := tailOffset(file, max(0, tail))
		if err != nil {
			t.Fatal(err)
		}
		if from < 0 || from > int64(len(text)) {
			t.Fatalf("offset %d of %d", from, len(text))
		}
		if _, err := file.Seek(from, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		out := &logWriter{w: bufio.NewWriter(io.Discard), o: logOptions{timestamps: true}, left: -1}
		if err := out.copy(newLineReader(file)); err != nil {
			t.Fatal(err)
		}
	})
}

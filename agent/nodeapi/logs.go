package nodeapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/fsnotify/fsnotify"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// logOptions are the parameters of a log request (core/v1 PodLogOptions).
type logOptions struct {
	follow, previous, timestamps bool
	tail                         int64 // lines from the end; negative: all
	limit                        int64 // bytes; negative: no limit
	since                        time.Time
	stream                       string // "stdout", "stderr" or "" for both
}

func parseLogOptions(q url.Values, now time.Time) (logOptions, error) {
	o := logOptions{tail: -1, limit: -1}
	truth := func(name string) bool { v, _ := strconv.ParseBool(q.Get(name)); return v }
	o.follow, o.previous, o.timestamps = truth("follow"), truth("previous"), truth("timestamps")
	for name, field := range map[string]*int64{"tailLines": &o.tail, "limitBytes": &o.limit} {
		if v := q.Get(name); v != "" {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil || n < 0 {
				return o, apierrors.NewBadRequest(fmt.Sprintf("%s: %q is no count", name, v))
			}
			*field = n
		}
	}
	if v := q.Get("sinceSeconds"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n <= 0 {
			return o, apierrors.NewBadRequest(fmt.Sprintf("sinceSeconds: %q is no number of seconds", v))
		}
		o.since = now.Add(-time.Duration(n) * time.Second)
	}
	if v := q.Get("sinceTime"); v != "" {
		t, err := time.Parse(time.RFC3339, v)
		if err != nil {
			return o, apierrors.NewBadRequest(fmt.Sprintf("sinceTime: %q is no RFC 3339 time", v))
		}
		o.since = t
	}
	switch v := q.Get("stream"); v {
	case "", "All":
	case "Stdout":
		o.stream = "stdout"
	case "Stderr":
		o.stream = "stderr"
	default:
		return o, apierrors.NewBadRequest(fmt.Sprintf("stream: %q is neither All, Stdout nor Stderr", v))
	}
	return o, nil
}

func (a *API) logs(w http.ResponseWriter, r *http.Request) {
	o, err := parseLogOptions(r.URL.Query(), time.Now())
	if err != nil {
		fail(w, err)
		return
	}
	c, err := a.container(r.Context(), r.PathValue("namespace"), r.PathValue("pod"), "", r.PathValue("container"), o.previous)
	if err != nil {
		fail(w, err)
		return
	}
	status, err := a.Runtime.ContainerStatus(r.Context(), c.Id)
	if err != nil {
		fail(w, apierrors.NewInternalError(fmt.Errorf("container status: %w", err)))
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	out := &logWriter{w: bufio.NewWriterSize(w, 32<<10), o: o, left: o.limit}
	if f, ok := w.(http.Flusher); ok && o.follow {
		out.flusher = f
	}
	if err := a.copyLog(r.Context(), status, o, out); err != nil && !errors.Is(err, errEnough) && r.Context().Err() == nil {
		a.Logger.Warn("log not read to its end", "container", c.Id, "err", err)
	}
	out.flush()
}

// copyLog writes the log that lies at the container's log path, and with follow what is added to it until the container has ended.
func (a *API) copyLog(ctx context.Context, status *rt.ContainerStatus, o logOptions, out *logWriter) error {
	path := status.LogPath
	var watch *fsnotify.Watcher
	if o.follow {
		var err error
		if watch, err = fsnotify.NewWatcher(); err != nil {
			return fmt.Errorf("follow %s: %w", path, err)
		}
		defer watch.Close()
		if err := watch.Add(filepath.Dir(path)); err != nil {
			return fmt.Errorf("follow %s: %w", path, err)
		}
	}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && !o.follow {
		return nil // nothing was ever written
	}
	if err != nil {
		return err
	}
	defer func() { file.Close() }()
	if o.tail >= 0 {
		from, err := tailOffset(file, o.tail)
		if err != nil {
			return err
		}
		if _, err := file.Seek(from, io.SeekStart); err != nil {
			return err
		}
	}
	lines := newLineReader(file)
	ended := status.State == rt.ContainerState_CONTAINER_EXITED
	for {
		if err := out.copy(lines); err != nil {
			return err
		}
		if !o.follow || ended {
			return nil
		}
		out.flush()
		if next := rotated(file, path); next != nil {
			// The old file may have grown between the last read and the rotation.
			if err := out.copy(lines); err != nil {
				next.Close()
				return err
			}
			file.Close()
			file, lines = next, newLineReader(next)
			continue
		}
		if ended, err = a.awaitLog(ctx, watch, path, status.Id); err != nil {
			return err
		}
	}
}

// endedCheck is how often a silent log is checked for its container's end: the write events of the log itself come at once.
const endedCheck = time.Second

// awaitLog waits until the log changes or the container has ended. Its directory also holds the logs of the container's other
// runs: a busy successor must not hide that this one has ended.
func (a *API) awaitLog(ctx context.Context, watch *fsnotify.Watcher, path, id string) (ended bool, err error) {
	timer := time.NewTimer(endedCheck)
	defer timer.Stop()
	for waiting := true; waiting; {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case err := <-watch.Errors:
			return false, err
		case e := <-watch.Events:
			if e.Name == path {
				return false, nil
			}
		case <-timer.C:
			waiting = false
		}
	}
	status, err := a.Runtime.ContainerStatus(ctx, id)
	if err != nil {
		return true, nil //nolint:nilerr // a container that is gone has ended; what it logged is read once more
	}
	return status.State == rt.ContainerState_CONTAINER_EXITED, nil
}

// rotated returns the file now at path when it is another one than file.
func rotated(file *os.File, path string) *os.File {
	have, err := file.Stat()
	if err != nil {
		return nil
	}
	next, err := os.Open(path)
	if err != nil {
		return nil
	}
	if now, err := next.Stat(); err != nil || os.SameFile(have, now) {
		next.Close()
		return nil
	}
	return next
}

// tailBlock is how much tailOffset reads at a time.
const tailBlock = 64 << 10

// tailOffset finds where the last n lines of a CRI log begin. A line that the runtime cut into parts counts once: only the
// last part, tagged F, ends it.
func tailOffset(file *os.File, n int64) (int64, error) {
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return end, err
	}
	var rest []byte // what was read of a record whose start lies in an earlier block
	full := int64(0)
	start := end
	for pos := end; pos > 0; {
		size := min(tailBlock, pos)
		pos -= size
		block := make([]byte, size, int(size)+len(rest))
		if _, err := file.ReadAt(block, pos); err != nil {
			return 0, err
		}
		block = append(block, rest...)
		for {
			cut := bytes.LastIndexByte(bytes.TrimSuffix(block, []byte("\n")), '\n') + 1
			if cut == 0 && pos > 0 {
				rest = block
				break
			}
			if rec, ok := parseRecord(block[cut:]); ok && !rec.partial {
				if full++; full > n {
					return start, nil
				}
			}
			start = pos + int64(cut)
			block = block[:cut]
			if cut == 0 {
				rest = nil
				break
			}
		}
	}
	return 0, nil
}

// record is one line of a CRI log: "2016-10-06T00:17:09.669794202Z stdout F text" (KEP-1602 calls P a part, F the end of a line).
type record struct {
	time    []byte
	stream  []byte
	partial bool
	text    []byte // with its newline when full
}

func parseRecord(line []byte) (record, bool) {
	stamp, rest, ok1 := bytes.Cut(line, []byte{' '})
	stream, rest, ok2 := bytes.Cut(rest, []byte{' '})
	tags, text, ok3 := bytes.Cut(rest, []byte{' '})
	if !ok1 || !ok2 || !ok3 || len(tags) == 0 {
		return record{}, false
	}
	rec := record{time: stamp, stream: stream, partial: tags[0] == 'P', text: text}
	if rec.partial {
		rec.text = bytes.TrimSuffix(text, []byte{'\n'})
	}
	return rec, true
}

// lineReader returns whole lines of a file that grows: a line whose end is not written yet is kept until it is.
type lineReader struct {
	r    *bufio.Reader
	held []byte
}

func newLineReader(f io.Reader) *lineReader { return &lineReader{r: bufio.NewReaderSize(f, 64<<10)} }

// next returns io.EOF when there is no further whole line yet. The line is valid until the next call.
func (l *lineReader) next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	if err == nil && len(l.held) == 0 {
		return line, nil
	}
	l.held = append(l.held, line...)
	if errors.Is(err, bufio.ErrBufferFull) {
		return l.next()
	}
	if err != nil {
		return nil, err
	}
	line, l.held = l.held, nil
	return line, nil
}

// errEnough ends a copy when limitBytes are written.
var errEnough = errors.New("byte limit reached")

// logWriter applies the options to records and writes what remains.
type logWriter struct {
	w       *bufio.Writer
	flusher http.Flusher
	o       logOptions
	left    int64
	inLine  bool // the last record was a part: its continuation gets no timestamp
}

// copy writes all whole lines that lines has.
func (l *logWriter) copy(lines *lineReader) error {
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		rec, ok := parseRecord(line)
		if !ok || (l.o.stream != "" && l.o.stream != string(rec.stream)) || l.tooOld(rec) {
			continue
		}
		if err := l.write(rec); err != nil {
			return err
		}
	}
}

func (l *logWriter) tooOld(rec record) bool {
	if l.o.since.IsZero() {
		return false
	}
	t, err := time.Parse(time.RFC3339Nano, string(rec.time))
	return err == nil && t.Before(l.o.since)
}

func (l *logWriter) write(rec record) error {
	if l.o.timestamps && !l.inLine {
		if err := l.bytes(append(bytes.Clone(rec.time), ' ')); err != nil {
			return err
		}
	}
	l.inLine = rec.partial
	return l.bytes(rec.text)
}

func (l *logWriter) bytes(p []byte) error {
	if l.left >= 0 && int64(len(p)) >= l.left {
		_, err := l.w.Write(p[:l.left])
		l.left = 0
		return errors.Join(err, errEnough)
	}
	if l.left >= 0 {
		l.left -= int64(len(p))
	}
	_, err := l.w.Write(p)
	return err
}

func (l *logWriter) flush() {
	if l.w.Flush() == nil && l.flusher != nil {
		l.flusher.Flush()
	}
}

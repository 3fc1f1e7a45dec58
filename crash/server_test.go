package crash

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kebernetes/kebernetes/cli"
)

// asKeb makes the test binary act as keb.
const asKeb = "KEB_CRASH_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(asKeb) != "" {
		os.Exit(cli.Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// keb returns the command line of a server on a data directory. It dies with the test.
func keb(dir string, flags ...string) *exec.Cmd {
	args := append([]string{"server", "--api-only", "--data-dir", dir, "--node-name", "server", "--node-ip", "127.0.0.1"}, flags...)
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asKeb+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// server is a running child.
type server struct {
	t     testing.TB
	cmd   *exec.Cmd
	url   string
	tls   *tls.Config // the administrator's
	http  *http.Client
	log   *tail
	ended chan error
}

// spawn starts a child without waiting for it.
func spawn(t testing.TB, dir string) *server {
	t.Helper()
	s := &server{t: t, cmd: keb(dir, "--listen", "127.0.0.1:0"), log: &tail{serves: make(chan struct{})}, ended: make(chan error, 1)}
	s.cmd.Stderr = s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		s.ended <- s.cmd.Wait()
		close(s.ended)
	}()
	t.Cleanup(s.kill)
	return s
}

// start starts a child and waits until it is ready.
func start(t testing.TB, dir string) *server {
	t.Helper()
	s := spawn(t, dir)
	if err := s.ready(dir); err != nil {
		t.Fatalf("%v\n%s", err, s.log)
	}
	return s
}

// kill ends the child at once, and waits until it is gone.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	<-s.ended
}

// ready waits until the server answers.
func (s *server) ready(dir string) error {
	select {
	case <-s.log.serves:
	case err := <-s.ended:
		return fmt.Errorf("server ended: %w", err)
	case <-time.After(patience):
		return errors.New("server does not come up")
	}
	c, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "admin.kubeconfig"))
	if err != nil {
		return err
	}
	if s.tls, err = rest.TLSConfigFor(c); err != nil {
		return err
	}
	s.url, s.http = c.Host, newClient(s.tls)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		code, _, err := s.do(context.Background(), http.MethodGet, "/readyz", nil)
		if err != nil {
			return fmt.Errorf("readyz: %w", err)
		}
		if code == http.StatusOK {
			return nil
		}
	}
	return errors.New("server does not become ready")
}

func newClient(config *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config.Clone(), ForceAttemptHTTP2: true, DisableCompression: true}}
}

// do sends one request, with alternating names and values of header fields. The code is 0 when none came.
func (s *server) do(ctx context.Context, method, path string, body []byte, header ...string) (code int, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// resident is the child's memory in bytes: what the kernel counts as VmRSS, or at most so far as VmHWM.
func (s *server) resident(field string) int64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), field+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return n << 10
		}
	}
	s.t.Fatalf("no %s", field)
	return 0
}

// tail keeps what a child logs, and notices that it serves.
type tail struct {
	mu     sync.Mutex
	text   bytes.Buffer
	serves chan struct{}
	told   bool
}

func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	if !l.told && bytes.Contains(l.text.Bytes(), []byte(`msg="keb serves"`)) {
		l.told = true
		close(l.serves)
	}
	return len(p), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

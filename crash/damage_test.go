package crash

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// secretText is what may stand in no file.
const secretText = "tHe-PlAiNtExT-oF-a-SeCrEt"

// filled makes a data directory with a snapshot, a log after it and Secrets in both, left behind by a server that was killed.
func filled(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	s := start(t, dir)
	post := func(resource string, obj any) {
		t.Helper()
		data, err := json.Marshal(obj)
		if err != nil {
			t.Fatal(err)
		}
		if code, answer, err := s.do(t.Context(), http.MethodPost, "/api/v1/namespaces/default/"+resource, data); code != http.StatusCreated {
			t.Fatalf("%d %v %s", code, err, answer)
		}
	}
	secret := func(name string) {
		post("secrets", &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: secretText}},
			Data:       map[string][]byte{"a": []byte(secretText)}, StringData: map[string]string{"b": "with " + secretText},
		})
	}
	secret("early")
	random := make([]byte, 600<<10)
	rand.Read(random)
	padding := base64.StdEncoding.EncodeToString(random)
	for i := range 14 {
		post("configmaps", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("large", i)}, Data: map[string]string{"v": padding}})
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		if _, err := os.Stat(filepath.Join(dir, "store", "snapshot")); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no snapshot")
		}
	}
	secret("late")
	post("configmaps", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "last"}})
	s.kill()
	return dir
}

// copied returns a copy of a data directory, in which files are their owner's alone.
func copied(t *testing.T, original string) string {
	t.Helper()
	dir := t.TempDir()
	err := os.CopyFS(dir, os.DirFS(original))
	if err == nil {
		err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			return os.Chmod(path, 0o600)
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// refused runs a server that must refuse to start, and returns its one line.
func refused(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	timer.Stop()
	exit := &exec.ExitError{}
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("ended with %v", err)
	}
	line, rest, _ := strings.Cut(out.String(), "\n")
	if rest != "" || !strings.HasPrefix(line, "keb: ") {
		t.Errorf("said more, or else, than one line:\n%s", out.String())
	}
	return line
}

// tree describes all files of a directory: what they hold and who may read it. Locks are of no account.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Name() == "lock" || e.Name() == "keb.lock" {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		content := []byte{}
		if !e.IsDir() {
			if content, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		files[strings.TrimPrefix(path, dir)] = fmt.Sprintf("%v %x", info.Mode(), sha256.Sum256(content))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func sameTree(t *testing.T, before, after map[string]string) {
	t.Helper()
	for path, was := range before {
		if after[path] != was {
			t.Errorf("%s was changed", path)
		}
	}
	for path := range after {
		if _, there := before[path]; !there {
			t.Errorf("%s was made", path)
		}
	}
}

// segment is the newest segment of the log, and where its last byte is that is not zero.
func segment(t *testing.T, dir string) (path string, data []byte, last int) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "store", "log", "*.wal"))
	if err != nil || len(paths) == 0 {
		t.Fatal("no log", err)
	}
	path = paths[len(paths)-1]
	if data, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	for last = len(data) - 1; data[last] == 0; last-- {
	}
	return path, data, last
}

// What is damaged, lost or open to others is named in one line, and left as it is.
func TestDamageIsRefused(t *testing.T) {
	original := filled(t)
	t.Run("no secret in the clear", func(t *testing.T) { noPlaintext(t, original) })
	alter := func(path string, f func([]byte) []byte) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, path)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, f(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	flip := func(data []byte) []byte { data[len(data)/2] ^= 0x10; return data }
	half := func(data []byte) []byte { return data[:len(data)/2] }
	remove := func(path string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, path)); err != nil {
				t.Fatal(err)
			}
		}
	}
	open := func(path string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, path), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		damage func(t *testing.T, dir string)
		named  string
	}{
		"snapshot":                   {alter("store/snapshot", flip), "/store/snapshot"},
		"snapshot cut short":         {alter("store/snapshot", half), "/store/snapshot"},
		"snapshot lost":              {remove("store/snapshot"), "/store/log"},
		"middle of the log":          {damageLog, ".wal"},
		"encryption keys lost":       {remove("store/keys.json"), "/store/keys.json"},
		"encryption keys damaged":    {alter("store/keys.json", half), "/store/keys.json"},
		"encryption keys for all":    {open("store/keys.json"), "/store/keys.json"},
		"CA key for all":             {open("pki/ca.key"), "/pki/ca.key"},
		"CA key lost":                {remove("pki/ca.key"), "/pki/ca.key"},
		"CA key of another CA":       {alter("pki/ca.key", otherKey(original)), "/pki/ca.key"},
		"CA certificate damaged":     {alter("pki/ca.crt", half), "/pki/ca.crt"},
		"front proxy key for all":    {open("pki/front-proxy-ca.key"), "/pki/front-proxy-ca.key"},
		"token keys damaged":         {alter("pki/service-account.key", half), "/pki/service-account.key"},
		"token keys for all to read": {open("pki/service-account.key"), "/pki/service-account.key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := copied(t, original)
			c.damage(t, dir)
			before := tree(t, dir)
			line := refused(t, keb(dir, "--listen", "127.0.0.1:0"))
			if !strings.Contains(line, dir) || !strings.Contains(line, c.named) {
				t.Errorf("does not name %s: %s", c.named, line)
			}
			sameTree(t, before, tree(t, dir))
		})
	}
}

func otherKey(dir string) func([]byte) []byte {
	return func(data []byte) []byte {
		other, err := os.ReadFile(filepath.Join(dir, "pki", "front-proxy-ca.key"))
		if err != nil {
			return nil
		}
		return other
	}
}

// damageLog flips a bit early in the newest segment, before later appends.
func damageLog(t *testing.T, dir string) {
	path, data, _ := segment(t, dir)
	data[60] ^= 0x10
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// noPlaintext looks through all files for a Secret's text.
func noPlaintext(t *testing.T, dir string) {
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		for _, form := range []string{secretText, base64.StdEncoding.EncodeToString([]byte(secretText))[:20]} {
			if bytes.Contains(data, []byte(form)) {
				t.Errorf("%s holds %q", path, form)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The end of a log that a crash tore is cut off with a warning, and the server goes on.
func TestTornTail(t *testing.T) {
	dir := filled(t)
	path, data, last := segment(t, dir)
	clear(data[last-20:])
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, dir)
	warnings := func(s *server) (n int) {
		for line := range strings.Lines(s.log.String()) {
			if strings.Contains(line, "level=WARN") && strings.Contains(line, path) {
				n++
			}
		}
		return n
	}
	if warnings(s) != 1 {
		t.Errorf("no warning, or more than one, that names %s:\n%s", path, s.log)
	}
	for name, want := range map[string]int{"secrets/early": 200, "secrets/late": 200, "configmaps/large13": 200, "configmaps/last": 404} {
		code, answer, err := s.do(t.Context(), http.MethodGet, "/api/v1/namespaces/default/"+name, nil)
		if err != nil || code != want {
			t.Errorf("%s: %d %v %.200s", name, code, err, answer)
		}
		if strings.HasPrefix(name, "secrets/") && !bytes.Contains(answer, []byte(base64.StdEncoding.EncodeToString([]byte(secretText)))) {
			t.Errorf("%s: %s", name, answer)
		}
	}
	s.kill()
	if s = start(t, dir); warnings(s) > 0 {
		t.Errorf("the next start warns again:\n%s", s.log)
	}
}

// A second server on one data directory, a port that is taken and a data directory that is none change nothing.
func TestInTheWay(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	before := tree(t, dir)
	line := refused(t, keb(dir, "--listen", "127.0.0.1:0"))
	if !strings.Contains(line, dir) || !strings.Contains(line, fmt.Sprint("process ", s.cmd.Process.Pid)) {
		t.Errorf("does not say who is in the way: %s", line)
	}
	address := strings.TrimPrefix(s.url, "https://")
	if _, _, err := net.SplitHostPort(address); err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(t.TempDir(), "fresh")
	if line := refused(t, keb(fresh, "--listen", address)); !strings.Contains(line, address) || !strings.Contains(line, "--listen") {
		t.Errorf("does not name the port and the mend: %s", line)
	}
	if _, err := os.Stat(fresh); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a data directory was made: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if line := refused(t, keb(file, "--listen", "127.0.0.1:0")); !strings.Contains(line, file) {
		t.Errorf("does not name the file: %s", line)
	}
	sameTree(t, before, tree(t, dir))
	if code, _, err := s.do(t.Context(), http.MethodGet, "/readyz", nil); code != http.StatusOK {
		t.Errorf("the first server: %d %v", code, err)
	}
}

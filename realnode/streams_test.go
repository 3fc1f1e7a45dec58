package realnode

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"
)

func testStreams(t *testing.T, n *node) {
	t.Parallel()
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: streams}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: $IMAGE, stdin: true, command: [sh, -c, "echo up; while read line; do echo got $line; done; sleep 1000000"]}
  - {name: web, image: $IMAGE, command: [hello], env: [{name: POD_NAME, value: streams}, {name: GREETING, value: Hi}]}
  - {name: term, image: $IMAGE, stdin: true, tty: true, command: [sh]}
`)
	n.state(t, "streams", "Running ready main:running*0 term:running*0 web:running*0")
	for _, transport := range []string{"true", "false"} {
		t.Run("websockets="+transport, func(t *testing.T) {
			env := []string{"KUBECTL_REMOTE_COMMAND_WEBSOCKETS=" + transport, "KUBECTL_PORT_FORWARD_WEBSOCKETS=" + transport}
			testExec(t, n, env)
			testTerminal(t, n, env)
			testCopy(t, n, env)
			testForward(t, n, env)
			testAttach(t, n, env)
		})
	}
	t.Run("raw", func(t *testing.T) { testRawExec(t, n) })
}

// with runs kubectl with more in its environment.
func (n *node) with(t *testing.T, env []string, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := n.kubectlCmd(args...)
	cmd.Env = append(cmd.Env, env...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	p := n.start(t, cmd)
	if err := p.wait(patience); err != nil {
		_ = p.Process.Kill()
		code = exitCode(err)
	}
	return out.String(), errs.String(), code
}

func testExec(t *testing.T, n *node, env []string) {
	out, errs, code := n.with(t, env, "some input\n", "exec", "-i", "streams", "-c", "main", "--", "sh", "-c", "cat; echo bad >&2; exit 7")
	if out != "some input\n" || !strings.HasPrefix(errs, "bad\n") || !strings.HasSuffix(errs, "command terminated with exit code 7\n") || code != 7 {
		t.Errorf("exec: %q, %q, %d", out, errs, code)
	}
	big := strings.Repeat("0123456789abcdef", 1<<16)
	if out, errs, code := n.with(t, env, big, "exec", "-i", "streams", "-c", "main", "--", "cat"); out != big || code != 0 {
		t.Errorf("exec returned %d of %d bytes, %q, %d", len(out), len(big), errs, code)
	}
	if _, errs, code := n.with(t, env, "", "exec", "streams", "-c", "main", "--", "/no/such"); code == 0 || !strings.Contains(errs, "no such file or directory") {
		t.Errorf("exec of nothing: %q, %d", errs, code)
	}
	if _, errs, code := n.with(t, env, "", "exec", "streams", "-c", "nobody", "--", "true"); code != 1 || errs != "error: container nobody is not valid for pod streams out of: main, web, term\n" {
		t.Errorf("exec in no container: %q, %d", errs, code)
	}
}

// openTerminal makes a pseudo terminal.
func openTerminal(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { user.Close() })
	must(t, unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	must(t, err)
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	return user, program
}

// listen passes on what comes, until it ends.
func listen(from io.Reader) <-chan byte {
	heard := make(chan byte, 1<<16)
	go func() {
		defer close(heard)
		for r := bufio.NewReader(from); ; {
			b, err := r.ReadByte()
			if err != nil {
				return
			}
			heard <- b
		}
	}()
	return heard
}

// reads waits until a text came (the end, when it is empty), and returns all that came until then.
func reads(t *testing.T, heard <-chan byte, want string) string {
	t.Helper()
	limit := time.After(patience)
	got := ""
	for want == "" || !strings.Contains(got, want) {
		select {
		case b, ok := <-heard:
			if !ok && want != "" {
				t.Errorf("read %q, want %q", got, want)
			}
			if !ok {
				return got
			}
			got += string(b)
		case <-limit:
			t.Errorf("read %q, want %q; no more comes", got, want)
			return got
		}
	}
	return got
}

func testTerminal(t *testing.T, n *node, env []string) {
	user, program := openTerminal(t)
	must(t, unix.IoctlSetWinsize(int(user.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 31, Col: 97}))
	cmd := n.kubectlCmd("exec", "-it", "streams", "-c", "main", "--", "sh", "-c", `tty
		sized() { until [ "$(stty size)" = "$1" ]; do sleep 0.1; done; echo sized $1; } # the size comes beside the input
		sized "31 97"; read answer; sized "42 101"; echo you said $answer; exit 5`)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	p := n.start(t, cmd)
	program.Close()
	screen := listen(user)
	reads(t, screen, "/dev/pts/0\r\n")
	reads(t, screen, "sized 31 97\r\n")
	must(t, unix.IoctlSetWinsize(int(user.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 42, Col: 101}))
	_, err := user.WriteString("hello\r")
	must(t, err)
	reads(t, screen, "sized 42 101\r\nyou said hello\r\n")
	if err := p.wait(patience); exitCode(err) != 5 {
		t.Errorf("exec -it ended with %v", err)
	}
}

func testCopy(t *testing.T, n *node, env []string) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "tree", "deep"), 0o755))
	data := bytes.Repeat([]byte("line of a file\n"), 100_000)
	must(t, os.WriteFile(filepath.Join(dir, "tree", "deep", "file"), data, 0o644))
	if out, errs, code := n.with(t, env, "", "cp", filepath.Join(dir, "tree"), "streams:/tmp/tree", "-c", "main"); code != 0 {
		t.Fatalf("cp: %s%s", out, errs)
	}
	if out, errs, code := n.with(t, env, "", "cp", "streams:/tmp/tree/deep/file", filepath.Join(dir, "back"), "-c", "main"); code != 0 {
		t.Fatalf("cp: %s%s", out, errs)
	}
	back, err := os.ReadFile(filepath.Join(dir, "back"))
	if err != nil || !bytes.Equal(back, data) {
		t.Errorf("came back: %d of %d bytes, %v", len(back), len(data), err)
	}
	n.sh(t, "streams", "rm -r /tmp/tree", "-c", "main")
}

func testForward(t *testing.T, n *node, env []string) {
	cmd := n.kubectlCmd("port-forward", "pod/streams", ":8080")
	cmd.Env = append(cmd.Env, env...)
	out, w := io.Pipe()
	cmd.Stdout = w
	p := n.start(t, cmd)
	line := reads(t, listen(out), "\n")
	port := regexp.MustCompile(`^Forwarding from (127\.0\.0\.1:\d+) -> 8080\n$`).FindStringSubmatch(line)
	if port == nil {
		t.Fatalf("port-forward says %q", line)
	}
	for range 3 {
		if got, err := httpGet(n.inside, "http://"+port[1]); err != nil || got != "Hi from streams (secret missing)\n" {
			t.Errorf("through the forwarded port: %q, %v", got, err)
		}
	}
	must(t, p.Process.Signal(syscall.SIGTERM))
	_ = p.wait(patience)
}

func testAttach(t *testing.T, n *node, env []string) {
	cmd := n.kubectlCmd("attach", "-i", "streams", "-c", "main")
	cmd.Env = append(cmd.Env, env...)
	out, w := io.Pipe()
	cmd.Stdout = w
	p := n.start(t, cmd)
	heard := listen(out)
	_, err := p.stdin.Write([]byte("words\n"))
	must(t, err)
	reads(t, heard, "got words\n")
	must(t, p.Process.Signal(syscall.SIGTERM))
	_ = p.wait(patience)
}

// A client of its own speaks the protocols by hand: a byte for the channel, then data; channel 3 carries the outcome.
func testRawExec(t *testing.T, n *node) {
	tls := n.api.Transport.(*http.Transport).TLSClientConfig
	dialer := websocket.Dialer{TLSClientConfig: tls.Clone(), NetDial: func(network, addr string) (net.Conn, error) { return n.inside.Dial(network, "", addr) }}
	url := strings.Replace(n.url, "https:", "wss:", 1) + "/api/v1/namespaces/default/pods/streams/exec?container=main&stdin=1&stdout=1&stderr=1&command=sh&command=-c&command=" +
		"read%20a%3Becho%20$a%3Bcat%3Becho%20e%20%3E%262%3Bexit%203"
	for _, protocol := range []string{"v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"} {
		dialer.Subprotocols = []string{protocol}
		conn, resp, err := dialer.Dial(url, nil)
		if err != nil {
			t.Errorf("%s: %v %v", protocol, err, resp)
			continue
		}
		must(t, conn.SetReadDeadline(time.Now().Add(patience)))
		send := func(channel byte, data string) {
			if strings.Contains(protocol, "base64") {
				must(t, conn.WriteMessage(websocket.TextMessage, []byte(string('0'+channel)+base64.StdEncoding.EncodeToString([]byte(data)))))
				return
			}
			must(t, conn.WriteMessage(websocket.BinaryMessage, append([]byte{channel}, data...)))
		}
		send(0, "first\n")
		if protocol == "v5.channel.k8s.io" {
			send(0, "second\n")
			send(255, "\x00") // closes channel 0
		}
		got := map[byte]string{}
		for {
			if protocol != "v5.channel.k8s.io" && strings.HasSuffix(got[1], "first\n") {
				break // before v5 nothing can end the input but the connection's end
			}
			_, data, err := conn.ReadMessage()
			if err != nil {
				break
			}
			channel, text := data[0], string(data[1:])
			if strings.Contains(protocol, "base64") {
				plain, err := base64.StdEncoding.DecodeString(text)
				must(t, err)
				channel, text = channel-'0', string(plain)
			}
			got[channel] += text
		}
		conn.Close()
		switch {
		case protocol != "v5.channel.k8s.io":
		case got[1] != "first\nsecond\n" || got[2] != "e\n" || !strings.Contains(got[3], `"reason":"NonZeroExitCode"`) || !strings.Contains(got[3], `"message":"3"`):
			t.Errorf("%s: channels %q", protocol, got)
		}
	}
}

func testLogs(t *testing.T, n *node) {
	t.Parallel()
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: logs}
spec:
  restartPolicy: Never
  containers: [{name: main, image: $IMAGE, command: [sh, -c, "for i in 1 2 3; do echo line $i; done; until [ -e /tmp/go ]; do sleep 0.1; done; echo last >&2"]}]
`)
	n.state(t, "logs", "Running ready main:running*0")
	cmd := n.kubectlCmd("logs", "-f", "logs")
	out, w := io.Pipe()
	cmd.Stdout = w
	p := n.start(t, cmd)
	lines := listen(out)
	reads(t, lines, "line 1\nline 2\nline 3\n")
	if got := n.kubectl(t, "logs", "logs", "--tail=2"); got != "line 2\nline 3\n" {
		t.Errorf("--tail=2: %q", got)
	}
	if got := n.kubectl(t, "logs", "logs", "--timestamps", "--tail=1"); !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z line 3\n$`).MatchString(got) {
		t.Errorf("--timestamps: %q", got)
	}
	if got := n.kubectl(t, "logs", "logs", "--limit-bytes=8"); got != "line 1\nl" {
		t.Errorf("--limit-bytes: %q", got)
	}
	n.sh(t, "logs", "touch /tmp/go")
	rest := reads(t, lines, "")
	if err := p.wait(patience); err != nil || rest != "last\n" {
		t.Errorf("logs -f ended with %v, after %q", err, rest)
	}
	n.state(t, "logs", "Succeeded main:Completed(0)*0")
	if got, err := n.try(t, nil, "logs", "logs", "--previous"); err == nil || !strings.Contains(got, `previous terminated container "main" in pod "logs" not found`) {
		t.Errorf("--previous: %q", got)
	}
	n.kubectl(t, "delete", "pod/logs")
}

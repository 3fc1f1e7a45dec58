package kebernetes

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/bundle"
	"github.com/kebernetes/kebernetes/cli"
	"github.com/kebernetes/kebernetes/cri/fake"
	"github.com/kebernetes/kebernetes/testcluster"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"keb": func() { os.Exit(cli.Main(os.Args[1:])) },
	})
}

// TestScripts runs testdata/script/*.txtar. Each script has a cluster of its own, of two nodes that run nothing real, and
// upstream's kubectl to talk to it: the bundled one, or that of another version which KEB_TEST_KUBECTL names.
// `go test . -run Scripts -update` rewrites the expected outputs.
func TestScripts(t *testing.T) {
	bin := t.TempDir()
	if other := os.Getenv("KEB_TEST_KUBECTL"); other != "" {
		if err := os.Symlink(other, filepath.Join(bin, "kubectl")); err != nil {
			t.Fatal(err)
		}
	} else if err := bundle.Unpack(bin, bundle.Kubectl); err != nil {
		t.Skipf("no kubectl: %v", err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			log := &refusals{}
			c := testcluster.Start(env.T().(testing.TB), testcluster.Options{
				Nodes: []string{"one", "two"}, Listen: true, Dir: filepath.Join(env.WorkDir, ".cluster"),
				Log: slog.New(slog.NewTextHandler(log, nil)), Runtime: fake.Options{Pull: pull},
			})
			env.Defer(func() { log.report(env.T()) })
			c.AwaitReady(t.Context())
			env.Setenv("KUBECONFIG", c.Kubeconfig)
			env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"kubectl":    kubectl,
			"eventually": eventually,
		},
	})
}

// pull finds every image but those whose name has "missing" in it.
func pull(_ context.Context, image string, _ *rt.AuthConfig) error {
	if strings.Contains(image, "missing") {
		return status.Errorf(codes.NotFound, "failed to pull and unpack image %q: not found", image)
	}
	return nil
}

// refusals is a cluster's log, of which it keeps the lines that say that a part of the cluster was refused something: each
// has a role that allows what it does.
type refusals struct {
	mu    sync.Mutex
	lines []string
}

func (r *refusals) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("is forbidden: User")) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.lines = append(r.lines, string(line))
	}
	return len(line), nil
}

func (r *refusals) report(t testscript.T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lines) > 0 {
		t.Fatal("a part of the cluster was refused something:\n", strings.Join(r.lines, ""))
	}
}

// patience is how long a script waits for what must happen.
const patience = 30 * time.Second

// kubectl runs the command; its output can be compared as after exec.
func kubectl(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("kubectl", args...)
	if (err != nil) != neg {
		ts.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
}

// eventually runs a command again and again until its standard output matches a regular expression as a whole:
// eventually REGEXP COMMAND ARGS... It is for what kubectl wait cannot express.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually REGEXP COMMAND ARGS...")
	}
	want, err := regexp.Compile(`^(?:` + args[0] + `)$`)
	ts.Check(err)
	var out []byte
	for end := time.Now().Add(patience); time.Now().Before(end); {
		cmd := exec.Command("env", args[1:]...) // env, as the PATH to search is the script's
		cmd.Dir = ts.MkAbs(".")
		cmd.Env = os.Environ()
		for _, name := range []string{"PATH", "HOME", "KUBECONFIG", "KEB_DATA_DIR"} {
			cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
		}
		out, err = cmd.Output()
		if err == nil && want.Match(bytes.TrimSpace(out)) {
			return
		}
	}
	ts.Fatalf("%s: got %q (%v), want %s", strings.Join(args[1:], " "), out, err, args[0])
}

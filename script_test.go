package kebernetes

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kebernetes/kebernetes/bundle"
	"github.com/kebernetes/kebernetes/cli"
	"github.com/kebernetes/kebernetes/testcluster"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"keb": func() { os.Exit(cli.Main(os.Args[1:])) },
	})
}

// TestScripts runs testdata/script/*.txtar. Each script has a cluster of its own, of two nodes that run nothing real, and
// upstream's kubectl to talk to it. `go test . -run Scripts -update` rewrites the expected outputs.
func TestScripts(t *testing.T) {
	bin := t.TempDir()
	if err := bundle.Unpack(bin, bundle.Kubectl); err != nil {
		t.Skipf("no kubectl: %v", err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			c := testcluster.Start(env.T().(testing.TB), testcluster.Options{
				Nodes: []string{"one", "two"}, Listen: true, Dir: filepath.Join(env.WorkDir, ".cluster"),
			})
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

// kubectl runs the command; its output can be compared as after exec.
func kubectl(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("kubectl", args...)
	if (err != nil) != neg {
		ts.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
}

// eventually runs a command again and again until its standard output is as wanted: eventually WANT COMMAND ARGS...
// It is for what kubectl wait cannot express.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually WANT COMMAND ARGS...")
	}
	last := ""
	for range 200 {
		cmd := exec.Command(args[1], args[2:]...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+ts.Getenv("KUBECONFIG"), "PATH="+ts.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		last = fmt.Sprintf("%s (%v)", strings.TrimSpace(string(out)), err)
		if err == nil && strings.TrimSpace(string(out)) == args[0] {
			return
		}
	}
	ts.Fatalf("%s: got %s, want %s", strings.Join(args[1:], " "), last, args[0])
}

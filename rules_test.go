// Package kebernetes holds no code: its tests are the rules of the house, checked on every package below.
package kebernetes

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/kebernetes/kebernetes"

var update = flag.Bool("update", false, "rewrite deps.txt")

// mayImport says which of our packages a package may import, by its first path element: whole trees ("client") or single
// packages ("agent/simulate"). A package may always import what lies below its own first element. Absent means none; "*" means any.
var mayImport = map[string][]string{
	"store":       {},
	"kinds":       {},
	"cri":         {},
	"config":      {},
	"bundle":      {},
	"client":      {"kinds", "store"},
	"auth":        {"kinds", "store"},
	"admission":   {"auth", "kinds", "store"},
	"apiserver":   {"admission", "auth", "kinds", "store"},
	"controller":  {"client", "kinds", "volume/capability"},
	"scheduler":   {"client", "kinds"},
	"agent":       {"client", "cri", "kinds", "volume"},
	"volume":      {"client", "kinds"},
	"network":     {"client"},
	"proxy":       {"client", "network"},
	"dns":         {"client", "network"},
	"ingress":     {"client", "kinds"},
	"daemon":      {"*"},
	"testcluster": {"*"},
	"join":        {"auth", "client", "controller"},
	"tunnel":      {},
	"withdraw":    {"client"},
	"cli":         {"agent/simulate", "auth", "bundle", "client", "config", "cri", "daemon", "kinds"},
	"cmd":         {"cli"},
	"crash":       {"*"},
	"examples":    {"bundle"},
	"testrun":     {},
	"realnode":    {"*"},
}

// onlyBy lists packages that only those named may import, whatever mayImport says.
var onlyBy = map[string][]string{
	"daemon":        {"cli", "testcluster"},
	"join":          {"daemon"},
	"tunnel":        {"daemon"},
	"withdraw":      {"daemon"},
	"apiserver":     {"daemon", "testcluster"},
	"kinds/builtin": {"daemon", "testcluster", "cli", "kinds"},
}

// banned are imports that no package may have, and what to use instead.
var banned = map[string]string{
	"k8s.io/kubernetes":              "nothing of upstream's server is ours to link; build the behaviour",
	"k8s.io/kube-aggregator":         "the router serves aggregated APIs itself",
	"k8s.io/apiserver/pkg/server":    "apiserver",
	"k8s.io/apiserver/pkg/registry":  "kinds and apiserver",
	"k8s.io/apiserver/pkg/storage":   "store",
	"k8s.io/client-go/kubernetes":    "client: the clientset costs every process its whole scheme",
	"k8s.io/client-go/informers":     "client: reads come from the shared snapshot",
	"k8s.io/client-go/tools/cache":   "client: there is no second cache",
	"sigs.k8s.io/controller-runtime": "controller",
	"github.com/stretchr/testify":    "plain comparisons, or go-cmp",
	"github.com/pkg/errors":          "fmt.Errorf with %w",
	"log":                            "log/slog",
	"io/ioutil":                      "io and os",
	"math/rand":                      "math/rand/v2",
}

// bannedNames are what a package or file may not be called: they say nothing of what is inside.
var bannedNames = []string{"util", "utils", "common", "helper", "helpers", "misc", "pkg", "shared", "base"}

const (
	maxFileLines     = 800
	maxPackageLines  = 5000
	maxFunctionLines = 100
	maxFanOut        = 10
)

// source is one parsed Go file.
type source struct {
	path  string // "store/memory.go"
	dir   string
	file  *ast.File
	text  []byte
	lines int
}

func (s *source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

func (s *source) generated() bool { return ast.IsGenerated(s.file) }

// house parses every Go file of the module.
func house(t *testing.T) (*token.FileSet, []*source) {
	t.Helper()
	fset := token.NewFileSet()
	var out []*source
	err := filepath.WalkDir(".", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			_, modErr := os.Stat(filepath.Join(p, "go.mod"))
			if p != "." && (strings.HasPrefix(e.Name(), ".") || e.Name() == "testdata" || e.Name() == "bin" || modErr == nil) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(fset, p, text, parser.ParseComments)
		if err != nil {
			return err
		}
		out = append(out, &source{path: filepath.ToSlash(p), dir: path.Dir(filepath.ToSlash(p)), file: file, text: text, lines: bytes.Count(text, []byte("\n"))})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return fset, out
}

func top(dir string) string {
	first, _, _ := strings.Cut(dir, "/")
	return first
}

// importFault says what is wrong with one import, or "".
func importFault(dir, imported string) string {
	for prefix, instead := range banned {
		if imported == prefix || strings.HasPrefix(imported, prefix+"/") && prefix != "log" && prefix != "math/rand" {
			return fmt.Sprintf("imports %s; use %s", imported, instead)
		}
	}
	ours, ok := strings.CutPrefix(imported, module+"/")
	if !ok {
		return ""
	}
	allowed, known := mayImport[top(dir)]
	switch {
	case !known:
		return fmt.Sprintf("%s is in no import rule; add it to mayImport", top(dir))
	case top(dir) != top(ours) && !slices.Contains(allowed, "*") && !slices.Contains(allowed, top(ours)) && !slices.Contains(allowed, ours):
		return fmt.Sprintf("%s may not import %s", dir, ours)
	}
	for guarded, by := range onlyBy {
		if (ours == guarded || strings.HasPrefix(ours, guarded+"/")) && top(dir) != top(guarded) && !slices.Contains(by, top(dir)) {
			return fmt.Sprintf("only %s may import %s", strings.Join(by, ", "), guarded)
		}
	}
	return ""
}

func TestImports(t *testing.T) {
	fset, files := house(t)
	fanOut := map[string]map[string]bool{}
	for _, s := range files {
		for _, spec := range s.file.Imports {
			imported := strings.Trim(spec.Path.Value, `"`)
			if s.test() && strings.HasPrefix(imported, module) {
				continue // tests may look across, the code they test may not
			}
			if fault := importFault(s.dir, imported); fault != "" && !s.test() && !aside(s.dir) {
				t.Errorf("%s: %s", fset.Position(spec.Pos()), fault)
			}
			if ours, ok := strings.CutPrefix(imported, module+"/"); ok {
				if fanOut[s.dir] == nil {
					fanOut[s.dir] = map[string]bool{}
				}
				fanOut[s.dir][ours] = true
			}
		}
	}
	for dir, imports := range fanOut {
		// The list of all kinds names every group's package; that is what it is for.
		if len(imports) > maxFanOut && top(dir) != "daemon" && dir != "kinds/builtin" {
			t.Errorf("%s imports %d of our packages, more than %d", dir, len(imports), maxFanOut)
		}
	}
}

// aside says that a package is never linked into keb: a generator, or what only tests import.
func aside(dir string) bool {
	name := path.Base(dir)
	return strings.HasPrefix(name, "gen") || strings.HasSuffix(name, "test")
}

func TestImportRulesBite(t *testing.T) {
	for _, tc := range []struct{ dir, imported, want string }{
		{"store/local", module + "/kinds", "may not import"},
		{"controller/workloads", module + "/store", "may not import"},
		{"agent", module + "/apiserver", "may not import"},
		{"apiserver", module + "/daemon", "may not import"},
		{"newthing", module + "/store", "in no import rule"},
		{"cli", "k8s.io/client-go/kubernetes/scheme", "use client"},
		{"proxy", "k8s.io/kubernetes/pkg/proxy", "nothing of upstream"},
		{"agent", "log", "log/slog"},
		{"agent", "log/slog", ""},
		{"store/local", module + "/store", ""},
		{"daemon", module + "/apiserver", ""},
	} {
		got := importFault(tc.dir, tc.imported)
		if (tc.want == "") != (got == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s importing %s: %q, want %q", tc.dir, tc.imported, got, tc.want)
		}
	}
}

func TestPackageDocs(t *testing.T) {
	_, files := house(t)
	docs := map[string][]string{}
	for _, s := range files {
		if s.test() && s.dir != "." {
			continue
		}
		if docs[s.dir] == nil {
			docs[s.dir] = []string{}
		}
		if s.file.Doc != nil && !strings.HasPrefix(s.file.Doc.Text(), "+build") {
			docs[s.dir] = append(docs[s.dir], s.path)
		}
	}
	for dir, where := range docs {
		if len(where) != 1 {
			t.Errorf("%s has %d package docs, want exactly one: what it is for and who may import it %v", dir, len(where), where)
		}
	}
}

func TestExportedNamesAreDocumented(t *testing.T) {
	fset, files := house(t)
	for _, s := range files {
		if s.test() || s.generated() {
			continue
		}
		for _, d := range s.file.Decls {
			for _, name := range undocumented(d) {
				t.Errorf("%s: %s has no doc comment", fset.Position(name.Pos()), name.Name)
			}
		}
	}
}

// undocumented returns the exported names that a declaration leaves without a comment.
func undocumented(d ast.Decl) []*ast.Ident {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) && !conventional[d.Name.Name] {
			return []*ast.Ident{d.Name}
		}
	case *ast.GenDecl:
		var out []*ast.Ident
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				if spec.Name.IsExported() && d.Doc == nil && spec.Doc == nil {
					out = append(out, spec.Name)
				}
			case *ast.ValueSpec:
				if spec.Names[0].IsExported() && d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
					out = append(out, spec.Names[0])
				}
			}
		}
		return out
	}
	return nil
}

// conventional are methods whose interface, known to every reader, documents them.
var conventional = map[string]bool{
	"String": true, "Error": true, "Unwrap": true, "ServeHTTP": true, "Len": true, "Less": true, "Swap": true,
	"Read": true, "Write": true, "Close": true, "Name": true,
}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	typ := d.Recv.List[0].Type
	for {
		switch x := typ.(type) {
		case *ast.StarExpr:
			typ = x.X
		case *ast.IndexExpr:
			typ = x.X
		case *ast.IndexListExpr:
			typ = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return true
		}
	}
}

func TestNames(t *testing.T) {
	_, files := house(t)
	for _, s := range files {
		for part := range strings.SplitSeq(strings.TrimSuffix(s.path, ".go"), "/") {
			if slices.Contains(bannedNames, part) {
				t.Errorf("%s: %q says nothing of what is inside; name it for its job", s.path, part)
			}
		}
	}
}

func TestNoInit(t *testing.T) {
	fset, files := house(t)
	for _, s := range files {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" && !s.generated() {
				t.Errorf("%s: func init; wire it in daemon", fset.Position(f.Pos()))
			}
		}
	}
}

// No function may change a package-level variable: state belongs to values that somebody made and can make twice.
func TestNoMutableGlobals(t *testing.T) {
	fset, files := house(t)
	globals := map[string]map[string]bool{}
	declared := map[any]bool{}
	for _, s := range files {
		for _, d := range s.file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR || s.test() {
				continue
			}
			for _, spec := range g.Specs {
				declared[spec] = true
				for _, name := range spec.(*ast.ValueSpec).Names {
					if globals[s.dir] == nil {
						globals[s.dir] = map[string]bool{}
					}
					globals[s.dir][name.Name] = true
				}
			}
		}
	}
	for _, s := range files {
		if s.test() || s.generated() {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			for _, target := range assigned(n) {
				if id := rootOf(target); id != nil && id.Name != "_" && globals[s.dir][id.Name] && isGlobal(id, declared) {
					t.Errorf("%s: changes the package-level variable %s", fset.Position(id.Pos()), id.Name)
				}
			}
			return true
		})
	}
}

func assigned(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			return n.Lhs
		}
	case *ast.IncDecStmt:
		return []ast.Expr{n.X}
	}
	return nil
}

// rootOf is the variable at the bottom of x, x.f, x[i] and *x.
func rootOf(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.SelectorExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return nil
		}
	}
}

// isGlobal tells a package-level variable from a local one of the same name: the parser resolves names within a file.
func isGlobal(id *ast.Ident, declared map[any]bool) bool {
	return id.Obj == nil || declared[id.Obj.Decl]
}

func TestSizes(t *testing.T) {
	fset, files := house(t)
	packages := map[string]int{}
	functions, long := 0, 0
	for _, s := range files {
		if s.generated() {
			continue
		}
		if s.lines > maxFileLines {
			t.Errorf("%s has %d lines, more than %d", s.path, s.lines, maxFileLines)
		}
		if s.test() {
			continue
		}
		packages[s.dir] += s.lines
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			functions++
			if n := fset.Position(f.End()).Line - fset.Position(f.Pos()).Line + 1; n > maxFunctionLines {
				long++
				t.Logf("%s: %s has %d lines", fset.Position(f.Pos()), f.Name.Name, n)
			}
		}
	}
	for dir, n := range packages {
		if n > maxPackageLines {
			t.Errorf("%s has %d lines, more than %d", dir, n, maxPackageLines)
		}
	}
	if long*100 > functions {
		t.Errorf("%d of %d functions have more than %d lines, more than one in a hundred", long, functions, maxFunctionLines)
	}
}

var (
	debtRE  = regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`)
	issueRE = regexp.MustCompile(`\b(TODO|FIXME)\(#\d+\)`)
)

func TestDebtNamesItsIssue(t *testing.T) {
	fset, files := house(t)
	for _, s := range files {
		if s.path == "rules_test.go" {
			continue
		}
		for _, group := range s.file.Comments {
			for _, c := range group.List {
				if debtRE.MatchString(c.Text) && !issueRE.MatchString(c.Text) {
					t.Errorf("%s: a TODO without an issue's number", fset.Position(c.Pos()))
				}
			}
		}
	}
}

func TestTestsDoNotSleep(t *testing.T) {
	fset, files := house(t)
	for _, s := range files {
		if !s.test() {
			continue
		}
		text := string(s.text)
		virtual := strings.Contains(text, "testing/synctest")
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.SelectorExpr)
			if ok && call.Sel.Name == "Sleep" && !virtual {
				if x, ok := call.X.(*ast.Ident); ok && x.Name == "time" {
					t.Errorf("%s: time.Sleep; wait for what you mean, or use synctest", fset.Position(n.Pos()))
				}
			}
			return true
		})
	}
}

func TestFormatted(t *testing.T) {
	_, files := house(t)
	for _, s := range files {
		want, err := format.Source(s.text)
		if err != nil || !bytes.Equal(want, s.text) {
			t.Errorf("%s is not gofmt'ed", s.path)
		}
	}
}

// deps.txt lists every package that keb links, so that a new dependency shows in review. Renew it with `go test . -run Deps -update`.
func TestDeps(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "./cmd/keb").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	var deps []string
	for line := range strings.SplitSeq(strings.TrimSpace(string(out)), "\n") {
		first, _, _ := strings.Cut(line, "/")
		if strings.Contains(first, ".") && !strings.HasPrefix(line, module) {
			deps = append(deps, line)
		}
	}
	slices.Sort(deps)
	got := strings.Join(deps, "\n") + "\n"
	if *update {
		if err := os.WriteFile("deps.txt", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile("deps.txt")
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		have := strings.Split(string(want), "\n")
		for _, d := range deps {
			if !slices.Contains(have, d) {
				t.Errorf("newly linked: %s", d)
			}
		}
		for _, d := range have {
			if d != "" && !slices.Contains(deps, d) {
				t.Errorf("no longer linked: %s", d)
			}
		}
		t.Error("deps.txt is not what is linked; look at the difference, then: go test . -run Deps -update")
	}
	for _, d := range deps {
		for prefix, instead := range banned {
			if strings.Contains(prefix, "/") && strings.HasPrefix(d, prefix+"/") && strings.HasPrefix(prefix, "k8s.io/kube") {
				t.Errorf("%s is linked; %s", d, instead)
			}
		}
	}
}

func TestVet(t *testing.T) {
	if out, err := exec.Command("go", "vet", "-tags", "churn", "./...").CombinedOutput(); err != nil {
		t.Errorf("go vet: %v\n%s", err, out)
	}
}

// SA1019 is off: to serve the Kubernetes API is to serve its deprecated fields and kinds too.
func TestStaticcheck(t *testing.T) {
	if out, err := exec.Command("go", "tool", "staticcheck", "-tags", "churn", "-checks", "inherit,-SA1019", "./...").CombinedOutput(); err != nil {
		t.Errorf("staticcheck: %v\n%s", err, out)
	}
}

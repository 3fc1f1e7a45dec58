// Command testrun runs `go test` and ends with one line that counts: "N passed, N failed, N skipped". It names each test that
// failed, with its output, and each that was skipped, with its reason. With KEB_NO_SKIP=1 a skipped test is a failure: that is how CI runs.
// With -fuzz it runs every fuzz target for that long instead.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// event is one line of `go test -json` (see `go doc test2json`).
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

type key struct{ pkg, test string }

type tally struct {
	passed, failed, skipped int
	output                  map[key]*bytes.Buffer
	slow                    []string
}

// slowPackage is from how many seconds on a package is named for its time.
const slowPackage = 30

func main() {
	fuzz := flag.Duration("fuzz", 0, "run each fuzz target for this long instead of the tests")
	flag.Parse()
	var err error
	if *fuzz > 0 {
		err = runFuzz(*fuzz, flag.Args())
	} else {
		err = runTests(flag.Args())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
		os.Exit(1)
	}
}

func runTests(args []string) error {
	start := time.Now()
	cmd := exec.Command("go", append([]string{"test", "-json", "-timeout", "20m"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	t := &tally{output: map[key]*bytes.Buffer{}}
	if err := t.read(out); err != nil {
		return err
	}
	runErr := cmd.Wait()
	for _, s := range t.slow {
		fmt.Println(s)
	}
	fmt.Printf("took %s\n%d passed, %d failed, %d skipped\n", time.Since(start).Round(time.Second), t.passed, t.failed, t.skipped)
	switch {
	case t.failed > 0:
		return fmt.Errorf("%d tests failed", t.failed)
	case runErr != nil:
		return runErr
	case t.skipped > 0 && os.Getenv("KEB_NO_SKIP") == "1":
		return fmt.Errorf("%d tests were skipped, and here none may be", t.skipped)
	}
	return nil
}

func (t *tally) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Println(lines.Text()) // a build failure comes as plain text
			continue
		}
		t.add(e)
	}
	return lines.Err()
}

func (t *tally) add(e event) {
	k := key{e.Package, e.Test}
	switch e.Action {
	case "output", "build-output":
		if t.output[k] == nil {
			t.output[k] = &bytes.Buffer{}
		}
		t.output[k].WriteString(e.Output)
		return
	case "pass":
		if e.Test != "" {
			t.passed++
		} else if e.Elapsed > slowPackage {
			t.slow = append(t.slow, fmt.Sprintf("slow  %s: %.0f s", e.Package, e.Elapsed))
		}
	case "fail", "build-fail":
		if e.Test != "" || !t.anyFailed(e.Package) {
			t.failed++
		}
		fmt.Printf("FAIL  %s %s\n%s", e.Package, e.Test, t.text(k))
	case "skip":
		if e.Test != "" {
			t.skipped++
			fmt.Printf("SKIP  %s %s\n%s", e.Package, e.Test, t.text(k))
		}
	default:
		return
	}
	if e.Test != "" && e.Action != "fail" {
		delete(t.output, k)
	}
}

// anyFailed says whether a test of the package has failed, so that the package's own failure is not counted again.
func (t *tally) anyFailed(pkg string) bool {
	for k, out := range t.output {
		if k.pkg == pkg && k.test != "" && strings.Contains(out.String(), "--- FAIL") {
			return true
		}
	}
	return false
}

func (t *tally) text(k key) string {
	if b := t.output[k]; b != nil {
		return b.String()
	}
	return ""
}

func runFuzz(each time.Duration, args []string) error {
	out, err := exec.Command("go", append([]string{"test", "-list", "^Fuzz"}, args...)...).Output()
	if err != nil {
		return fmt.Errorf("list fuzz targets: %w", err)
	}
	var targets, ran, failed []string
	for line := range strings.SplitSeq(string(out), "\n") {
		switch {
		case strings.HasPrefix(line, "Fuzz"):
			targets = append(targets, line)
		case strings.HasPrefix(line, "ok"):
			for _, target := range targets {
				pkg := strings.Fields(line)[1]
				fmt.Println("fuzz", pkg, target)
				// Minimising every interesting input to the end would take most of the time.
				cmd := exec.Command("go", "test", "-run", "^$", "-fuzz", "^"+target+"$", "-fuzztime", each.String(), "-fuzzminimizetime", "1s", pkg)
				if text, err := cmd.CombinedOutput(); err != nil {
					fmt.Printf("%s", text)
					failed = append(failed, pkg+" "+target)
				}
				ran = append(ran, target)
			}
			targets = nil
		}
	}
	fmt.Printf("%d passed, %d failed\n", len(ran)-len(failed), len(failed))
	if len(failed) > 0 {
		return fmt.Errorf("findings in %s", strings.Join(failed, ", "))
	}
	return nil
}

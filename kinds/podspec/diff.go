package podspec

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
)

const (
	// context is how many equal lines stand around a difference.
	context = 3
	// maxDiffLines bounds what is compared line by line, which takes quadratic time: a large pod must not keep the server
	// busy for the sake of an error message. Longer differences are cut.
	maxDiffLines = 1000
)

// difference shows what changed, as a unified diff of what Dump prints.
func difference(before, after any) string {
	a, b := dumpLines(before), dumpLines(after)
	head, tail := 0, 0
	for head < min(len(a), len(b)) && a[head] == b[head] {
		head++
	}
	for tail < min(len(a), len(b))-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	from := max(0, head-context)
	window := func(lines []string) []string {
		end := min(len(lines), len(lines)-tail+context, from+maxDiffLines)
		return lines[from:end]
	}
	a, b = window(a), window(b)
	var out strings.Builder
	for _, group := range difflib.NewMatcher(a, b).GetGroupedOpCodes(context) {
		first, last := group[0], group[len(group)-1]
		fmt.Fprintf(&out, "@@ -%s +%s @@\n", hunk(from+first.I1, from+last.I2), hunk(from+first.J1, from+last.J2))
		for _, op := range group {
			if op.Tag == 'e' {
				write(&out, " ", a[op.I1:op.I2])
				continue
			}
			write(&out, "-", a[op.I1:op.I2])
			write(&out, "+", b[op.J1:op.J2])
		}
	}
	return out.String()
}

func write(out *strings.Builder, mark string, lines []string) {
	for _, l := range lines {
		out.WriteString(mark + l + "\n")
	}
}

// hunk prints a range of lines as diff does.
func hunk(start, end int) string {
	switch n := end - start; n {
	case 0:
		return fmt.Sprintf("%d,0", start)
	case 1:
		return fmt.Sprint(start + 1)
	default:
		return fmt.Sprintf("%d,%d", start+1, n)
	}
}

func dumpLines(v any) []string {
	out, err := json.MarshalIndent(Dump(v), "", " ")
	if err != nil {
		return []string{err.Error()}
	}
	return strings.Split(string(out), "\n")
}

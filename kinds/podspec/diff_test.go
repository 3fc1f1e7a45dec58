package podspec

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestDifference(t *testing.T) {
	env := func(n int, value string) []corev1.EnvVar {
		out := make([]corev1.EnvVar, n)
		for i := range out {
			out[i] = corev1.EnvVar{Name: fmt.Sprint(i), Value: fmt.Sprint(value, i*7%n)}
		}
		return out
	}
	type list struct{ Env []corev1.EnvVar }
	before, after := env(3, "a"), env(3, "a")
	after[2].Value = "b"
	want := `@@ -12,7 +12,7 @@
   },
   {
    "Name": "2",
-   "Value": "a2",
+   "Value": "b",
    "ValueFrom": null
   }
  ]
`
	if got := difference(list{before}, list{after}); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := difference(list{before}, list{before}); got != "" {
		t.Errorf("equal values differ:\n%s", got)
	}
	big := difference(list{env(20000, "a")}, list{env(20000, "b")})
	if n := strings.Count(big, "\n"); n == 0 || n > 3*maxDiffLines {
		t.Errorf("a large difference has %d lines", n)
	}
}

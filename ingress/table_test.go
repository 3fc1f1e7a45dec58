package ingress

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

// exampleTable has so many hosts with some paths each, and a wildcard.
func exampleTable(hosts int) *table {
	t := &table{hosts: map[string]*site{}, wildcards: map[string]*site{}}
	fill := func(s *site, name string) {
		for _, p := range []string{"", "/api", "/api/v1", "/static/assets/images"} {
			s.prefixes[p] = &route{ingress: types.NamespacedName{Namespace: name, Name: p}}
			s.longest = max(s.longest, len(p))
		}
		s.exact["/login"] = &route{ingress: types.NamespacedName{Namespace: name, Name: "=/login"}}
	}
	for i := range hosts {
		name := "h" + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + "." + strings.Repeat("y", i/26%40) + "example.com"
		fill(t.siteOf(name), name)
	}
	fill(t.siteOf("*.wild.example.com"), "*.wild.example.com")
	return t
}

func TestMatchDoesNotAllocate(t *testing.T) {
	table := exampleTable(100)
	for _, host := range []string{"ha.example.com", "HA.Example.com:8443", "a.wild.example.com", "nobody.example.com"} {
		if n := testing.AllocsPerRun(100, func() { table.match(host, "/api/v2/things/of/somebody") }); n > 0 {
			t.Errorf("%s: %v allocations", host, n)
		}
	}
}

// FuzzMatch compares match with the rules as the API's documentation says them, element by element and without any index.
func FuzzMatch(f *testing.F) {
	for _, seed := range [][2]string{{"a.example", "/foo/bar"}, {"x.example:80", "/foo/"}, {"A.EXAMPLE.", "//foo"}, {"", ""}, {"[::1]:1", "*"},
		{strings.Repeat("a.", 200), "/" + strings.Repeat("/", 300)}, {"b.example", "/foo/../x/."}} {
		f.Add(seed[0], seed[1], "/foo", "/foo/bar", "/x/")
	}
	f.Fuzz(func(t *testing.T, host, request, exact, prefix, other string) {
		if !strings.HasPrefix(exact, "/") || !strings.HasPrefix(prefix, "/") || !strings.HasPrefix(other, "/") {
			t.Skip("no path of an Ingress")
		}
		table := &table{hosts: map[string]*site{}, wildcards: map[string]*site{}}
		s := table.siteOf("a.example")
		s.exact[exact] = &route{ingress: types.NamespacedName{Name: "=" + exact}}
		for _, p := range []string{prefix, other} {
			p = strings.TrimRight(p, "/")
			s.prefixes[p] = &route{ingress: types.NamespacedName{Name: p}}
			s.longest = max(s.longest, len(p))
		}
		want := ""
		var buf [maxHost]byte
		if string(canonicalHost(buf[:0], host)) == "a.example" {
			want = slowMatch(request, exact, prefix, other)
		}
		got := ""
		if r := table.match(host, request); r != nil {
			got = r.ingress.Name + "."
		}
		if got != want {
			t.Errorf("host %q path %q among exact %q, prefixes %q and %q: got %q, want %q", host, request, exact, prefix, other, got, want)
		}
	})
}

// slowMatch returns the name of what matches, with a dot behind it, or "".
func slowMatch(request, exact string, prefixes ...string) string {
	if strings.Contains(request, "/.") {
		request = resolveDots(request)
	}
	if request == exact {
		return "=" + exact + "."
	}
	best := ""
	for _, p := range prefixes {
		p = strings.TrimRight(p, "/")
		if strings.HasPrefix(request, "/") && (request == p || strings.HasPrefix(request, p+"/")) && len(p)+1 > len(best) {
			best = p + "."
		}
	}
	return best
}

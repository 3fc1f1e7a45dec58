//go:build churn

package realnode

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// census counts what a cluster holds of its machines, and its objects, by name. Files have their paths' names, as they are few.
type census struct {
	numbers map[string]int
	files   map[string]bool
}

// slack is how much more of something there may be: what comes and goes with connections is never quite the same, and an agent's
// copy of the cluster keeps some thousand events.
func slack(name string) int {
	switch {
	case strings.HasSuffix(name, "MiB"):
		return 24
	case strings.HasSuffix(name, "threads"):
		return 16
	case strings.HasSuffix(name, "goroutines"), strings.HasSuffix(name, "files open"):
		return 8
	}
	return 0
}

// grown lists what there is more of than before.
func (c census) grown(before census) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(c.numbers)) {
		if now, then := c.numbers[name], before.numbers[name]; now > then+slack(name) {
			out = append(out, fmt.Sprintf("%s: %d, before %d", name, now, then))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(c.files)) {
		if len(out) > 0 && !before.files[path] {
			out = append(out, "new: "+path)
		}
	}
	return out
}

// table shows two counts side by side.
func (c census) table(before census) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(c.numbers)) {
		fmt.Fprintf(&b, "| %-34s | %6d | %6d |\n", name, before.numbers[name], c.numbers[name])
	}
	return b.String()
}

// kindsOfObjects are the paths of lists that must be as long after as before.
var kindsOfObjects = []string{
	"/api/v1/namespaces", "/api/v1/pods", "/api/v1/services", "/api/v1/endpoints", "/api/v1/configmaps", "/api/v1/secrets", "/api/v1/serviceaccounts",
	"/api/v1/persistentvolumeclaims", "/api/v1/persistentvolumes", "/apis/apps/v1/deployments", "/apis/apps/v1/replicasets", "/apis/apps/v1/statefulsets",
	"/apis/apps/v1/controllerrevisions", "/apis/batch/v1/jobs", "/apis/discovery.k8s.io/v1/endpointslices", "/apis/networking.k8s.io/v1/networkpolicies",
	"/apis/networking.k8s.io/v1/ingresses", "/apis/networking.k8s.io/v1/ipaddresses", "/apis/storage.k8s.io/v1/volumeattachments",
}

// count takes the census of a server's cluster, whose machines are given with the names of their nodes.
func (n *node) count(t *testing.T, machines map[string]*node) census {
	t.Helper()
	c := census{map[string]int{}, map[string]bool{}}
	for _, path := range kindsOfObjects {
		var list struct {
			Items []metav1.PartialObjectMetadata
		}
		n.get(t, path, &list)
		c.numbers["objects, "+path[strings.LastIndexByte(path, '/')+1:]] = len(list.Items)
	}
	for name, m := range machines {
		metrics := "/metrics"
		if m != n {
			metrics = "/api/v1/nodes/" + name + "/proxy/metrics"
		}
		m.countMachine(t, func(what string, number int) { c.numbers[name+" "+what] += number }, c.files)
		c.numbers[name+" keb goroutines"] = n.metric(t, metrics, "go_goroutines")
	}
	return c
}

// metric reads one number.
func (n *node) metric(t *testing.T, path, name string) int {
	t.Helper()
	resp, err := n.api.Get(n.url + path)
	must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindSubmatch(text)
	if resp.StatusCode != http.StatusOK || found == nil {
		t.Fatalf("%s has no %s:\n%s", path, name, text)
	}
	value, err := strconv.ParseFloat(string(found[1]), 64)
	must(t, err)
	return int(value)
}

func (n *node) countMachine(t *testing.T, add func(string, int), paths map[string]bool) {
	t.Helper()
	for name, pid := range map[string]int{"keb": n.server.Process.Pid, "containerd": n.runtimePID(t)} {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		must(t, err)
		number := func(field string) int {
			_, rest, _ := strings.Cut(string(status), "\n"+field+":")
			v, err := strconv.Atoi(strings.Fields(rest)[0])
			must(t, err)
			return v
		}
		add(name+" resident MiB", number("VmRSS")>>10)
		add(name+" threads", number("Threads"))
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		must(t, err)
		add(name+" files open", len(files))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	add("mounts", bytes.Count(mounts, []byte(" "+n.dir+"/")))
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, file := range procs {
		if args, err := os.ReadFile(file); err == nil && bytes.Contains(args, []byte(n.dir)) && !bytes.HasPrefix(args, []byte("janitor")) {
			add("processes", 1)
		}
	}
	sum := sha256.Sum256([]byte(n.dir))
	roots, err := filepath.Glob("/sys/fs/cgroup/*/keb-" + hex.EncodeToString(sum[:4]))
	must(t, err)
	for _, root := range roots {
		each(root, func(_ string, e fs.DirEntry) {
			if e.IsDir() {
				add("control groups", 1)
			}
		})
	}
	each(n.dir, func(path string, e fs.DirEntry) {
		if !strings.Contains(path, "/snapshots/") && !strings.HasPrefix(path, n.dir+"/store/") && !strings.HasPrefix(path, n.dir+"/kubecache/") {
			add("files", 1)
			paths[path] = true
		} else if strings.HasSuffix(filepath.Dir(path), "/snapshots") {
			add("snapshots", 1)
			paths[path] = true
		}
	})
	must(t, n.inside.Do(func() error { return countNetwork(add) }))
}

// each visits all that is below a directory; what goes meanwhile is left out.
func each(root string, visit func(string, fs.DirEntry)) {
	_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			visit(path, e)
		}
		return nil
	})
}

func countNetwork(add func(string, int)) error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	neighbours, err := netlink.NeighList(0, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	add("links", len(links))
	add("routes", len(routes))
	permanent := 0
	for _, n := range neighbours {
		if n.State&netlink.NUD_PERMANENT != 0 {
			permanent++
		}
	}
	add("permanent neighbours", permanent)
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return err
	}
	add("nftables chains", len(chains))
	tables, err := conn.ListTables()
	if err != nil {
		return err
	}
	for _, table := range tables {
		sets, err := conn.GetSets(table)
		if err != nil {
			return err
		}
		add("nftables sets", len(sets))
		for _, set := range sets {
			elements, err := conn.GetSetElements(set)
			if err != nil {
				return err
			}
			add("nftables elements", len(elements))
		}
	}
	return nil
}

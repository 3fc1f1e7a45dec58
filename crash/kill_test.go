package crash

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/store/storetest"
)

const (
	writers = 6
	keys    = 24
	path    = "/api/v1/namespaces/default/configmaps"
	// label splits the objects in halves, one of which a watcher follows alone.
	label = "half"
	// roundsVar overrides how many servers are killed.
	roundsVar = "KEB_CRASH_ROUNDS"
	// replayed is how many events back a late watcher begins at most: far fewer than the server keeps.
	replayed = 500
)

// TestKill kills the server with SIGKILL at random moments, its start included, while writers write and watchers watch. What was
// acknowledged is there at the next start; revisions never go back; watches that resume from the last event that they
// saw, or from an earlier one, miss nothing and repeat nothing; and the history of all requests, unanswered ones included, is linearizable.
func TestKill(t *testing.T) {
	rounds := 8
	if testing.Short() {
		rounds = 3
	}
	if s := os.Getenv(roundsVar); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 5))
	w := newWorld(t)
	early := 0
	for w.round = range rounds {
		if w.round > 0 && random.IntN(5) == 0 {
			early++
			w.killEarly(time.Duration(random.IntN(150)) * time.Millisecond)
		}
		w.life(time.Duration(random.IntN(400)) * time.Millisecond)
		if t.Failed() {
			return
		}
	}
	w.finish()
	t.Logf("%d servers killed at work and %d while they started; %d writes acknowledged, %d without an answer, %d refused; %d events watched, %d read again",
		rounds, early, len(w.acknowledged), w.unanswered, w.refused, len(w.watchers[0].seen), w.again)
}

// world is what all clients together know.
type world struct {
	t       *testing.T
	dir     string
	begin   time.Time
	round   int
	server  *server
	history storetest.History

	mu sync.Mutex
	// acknowledged holds the revisions of writes that were told to be done, by what they did; 0 for deletions, which tell none.
	acknowledged map[string]int64
	newest       int64 // highest revision that anybody was told
	clients      int
	unanswered   int
	refused      int
	again        int

	watchers []*watcher
}

func newWorld(t *testing.T) *world {
	return &world{t: t, dir: t.TempDir(), begin: time.Now(), acknowledged: map[string]int64{}, watchers: []*watcher{
		{name: "all", state: map[string]string{}},
		{name: "half", selector: label + "=0", state: map[string]string{}},
	}}
}

func (w *world) now() int64 { return int64(time.Since(w.begin)) }

// client returns a number of its own for each writer of each round: a porcupine client does one thing at a time.
func (w *world) client() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clients++
	return w.clients
}

func (w *world) newestTold() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.newest
}

// told checks a revision that came in answer to a request against what was known when that was sent.
func (w *world) told(known int64, version string, fresh bool) int64 {
	rev, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		w.t.Errorf("resourceVersion: %v", err)
	}
	if fresh && rev < known {
		w.t.Errorf("round %d: revision %d after %d", w.round, rev, known)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.newest = max(w.newest, rev)
	return rev
}

// killEarly kills a server while it starts.
func (w *world) killEarly(after time.Duration) {
	s := spawn(w.t, w.dir)
	select {
	case <-time.After(after):
	case err := <-s.ended:
		w.t.Fatalf("round %d: %v\n%s", w.round, err, s.log)
	}
	s.kill()
}

// life runs one server under load for a while.
func (w *world) life(after time.Duration) {
	w.server = start(w.t, w.dir)
	w.readAll()
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	var clients sync.WaitGroup
	for range writers {
		clients.Go(func() { w.write(ctx) })
	}
	seen := w.watchers[0].seen
	for _, x := range w.watchers {
		clients.Go(func() { w.watch(ctx, x, func(event) bool { return false }) })
	}
	clients.Go(func() { w.replay(ctx, seen) })
	select {
	case <-time.After(after):
	case err := <-w.server.ended:
		w.t.Errorf("round %d: server ended: %v\n%s", w.round, err, w.server.log)
	}
	w.server.kill()
	cancel()
	clients.Wait()
	w.server.http.CloseIdleConnections()
}

// readAll reads the state after a start, and sets watchers that never watched at its revision.
func (w *world) readAll() map[string]string {
	known, call := w.newestTold(), w.now()
	code, body, err := w.server.do(w.t.Context(), http.MethodGet, path, nil)
	ret := w.now()
	var list corev1.ConfigMapList
	if err == nil {
		err = json.Unmarshal(body, &list)
	}
	if err != nil || code != http.StatusOK {
		w.t.Fatalf("round %d: list: %d %v\n%.500s", w.round, code, err, body)
	}
	rev := w.told(known, list.ResourceVersion, true)
	state := map[string]string{}
	for _, m := range list.Items {
		if _, ours := m.Labels[label]; ours {
			state[m.Name] = m.Data["v"]
		}
	}
	for i := range keys {
		key := "k" + strconv.Itoa(i)
		w.history.Add(w.client(), storetest.Op{Key: key, Kind: 'r'}, call, storetest.Outcome{Value: state[key]}, ret)
	}
	for _, x := range w.watchers {
		if x.revision == 0 {
			x.revision = rev
		}
	}
	return state
}

// write reads an object and creates, updates or deletes it on the condition that it still is as read, again and again.
func (w *world) write(ctx context.Context) {
	client := w.client()
	for i := 0; ctx.Err() == nil; i++ {
		key := "k" + strconv.Itoa(rand.IntN(keys))
		current, ok := w.read(ctx, client, key)
		if !ok || !w.change(ctx, client, i, key, current) {
			return
		}
	}
}

// read returns the object, nil when there is none, and false when the server is gone.
func (w *world) read(ctx context.Context, client int, key string) (*corev1.ConfigMap, bool) {
	known, call := w.newestTold(), w.now()
	code, body, err := w.server.do(ctx, http.MethodGet, path+"/"+key, nil)
	if err != nil {
		return nil, false
	}
	var m *corev1.ConfigMap
	value := ""
	switch code {
	case http.StatusOK:
		m = &corev1.ConfigMap{}
		if err := json.Unmarshal(body, m); err != nil {
			w.t.Errorf("round %d: get: %v", w.round, err)
			return nil, false
		}
		value = m.Data["v"]
		w.told(known, m.ResourceVersion, false)
	case http.StatusNotFound:
	default:
		w.t.Errorf("round %d: get: %d %s", w.round, code, body)
		return nil, false
	}
	w.history.Add(client, storetest.Op{Key: key, Kind: 'r'}, call, storetest.Outcome{Value: value}, w.now())
	return m, true
}

// change makes the i-th change of a client. It returns false when the server is gone.
func (w *world) change(ctx context.Context, client, i int, key string, current *corev1.ConfigMap) bool {
	op := storetest.Op{Key: key, Kind: 'w', New: fmt.Sprintf("%d-%d", client, i)}
	m := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: key, Labels: map[string]string{label: strconv.Itoa(int(key[len(key)-1]) % 2)}},
		Data:       map[string]string{"v": op.New, "padding": strings.Repeat("p", rand.IntN(4000))},
	}
	method, where, did := http.MethodPost, path, "put "+key+" "+op.New
	var body any = m
	if current != nil {
		op.Expect = current.Data["v"]
		method, where, m.ResourceVersion = http.MethodPut, path+"/"+key, current.ResourceVersion
		if i%6 == 5 {
			op.Kind, op.New, did = 'd', "", "delete "+key+" "+op.Expect
			method = http.MethodDelete
			body = &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &current.ResourceVersion}}
		}
	}
	data, err := json.Marshal(body)
	if err != nil {
		w.t.Error(err)
		return false
	}
	known, call := w.newestTold(), w.now()
	code, answer, err := w.server.do(ctx, method, where, data)
	w.outcome(client, op, call, known, did, code, answer, err)
	return err == nil && !w.t.Failed()
}

// outcome records what became of a change. A code without a whole answer is an answer.
func (w *world) outcome(client int, op storetest.Op, call, known int64, did string, code int, answer []byte, err error) {
	ret := w.now()
	switch code {
	case 0:
		ret = math.MaxInt64
		w.mu.Lock()
		w.unanswered++
		w.mu.Unlock()
	case http.StatusOK, http.StatusCreated:
		var m corev1.ConfigMap
		rev := int64(0)
		if op.Kind == 'w' && err == nil {
			if err := json.Unmarshal(answer, &m); err != nil || m.Data["v"] != op.New {
				w.t.Errorf("round %d: %s was answered with %v %s", w.round, did, err, answer)
			}
			if rev = w.told(known, m.ResourceVersion, true); rev == known {
				w.t.Errorf("round %d: %s has revision %d, which was there before", w.round, did, rev)
			}
		}
		w.mu.Lock()
		w.acknowledged[did] = rev
		w.mu.Unlock()
	case http.StatusConflict, http.StatusNotFound:
		w.mu.Lock()
		w.refused++
		w.mu.Unlock()
	default:
		w.t.Errorf("round %d: %s: %d %s", w.round, did, code, answer)
		return
	}
	w.history.Add(client, op, call, storetest.Outcome{OK: code == http.StatusOK || code == http.StatusCreated, Unknown: code == 0}, ret)
}

// event is what a watcher was told.
type event struct {
	revision int64
	did      string // "put KEY VALUE" or "delete KEY VALUE", as in world.acknowledged
	key      string
}

// watcher follows the objects over all restarts.
type watcher struct {
	name, selector string
	revision       int64             // where to go on: that of the last event or bookmark
	state          map[string]string // what the objects are by the events
	seen           []event
}

// watch follows until done says so, or the server is gone.
func (w *world) watch(ctx context.Context, x *watcher, done func(event) bool) {
	w.follow(ctx, x.selector, x.revision, func(typ string, m *corev1.ConfigMap) bool {
		rev := w.told(0, m.ResourceVersion, false)
		if typ == "BOOKMARK" {
			if rev < x.revision {
				w.t.Errorf("round %d, watch of %s: bookmark %d after %d", w.round, x.name, rev, x.revision)
			}
			x.revision = rev
			return true
		}
		if rev <= x.revision {
			w.t.Errorf("round %d, watch of %s: event %d after %d", w.round, x.name, rev, x.revision)
		}
		before, there := x.state[m.Name]
		value := m.Data["v"]
		e := event{rev, "put " + m.Name + " " + value, m.Name}
		switch {
		case typ == "ADDED" && !there, typ == "MODIFIED" && there && value != before:
			x.state[m.Name] = value
		case typ == "DELETED" && there && value == before:
			delete(x.state, m.Name)
			e.did = "delete " + m.Name + " " + value
		default:
			w.t.Errorf("round %d, watch of %s: %s of %s=%s at %d when it was %q", w.round, x.name, typ, m.Name, value, rev, before)
		}
		x.revision = rev
		x.seen = append(x.seen, e)
		return !done(e)
	})
}

// follow watches from a revision and hands on whole events until f returns false or the server is gone.
func (w *world) follow(ctx context.Context, selector string, from int64, f func(typ string, m *corev1.ConfigMap) bool) {
	url := fmt.Sprintf("%s%s?watch=1&allowWatchBookmarks=true&labelSelector=%s&resourceVersion=%d", w.server.url, path, selector, from)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		w.t.Error(err)
		return
	}
	resp, err := w.server.http.Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	for lines := bufio.NewReader(resp.Body); ; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return // what came of the last line was cut off
		}
		var e struct {
			Type   string
			Object json.RawMessage
		}
		m := &corev1.ConfigMap{}
		if err = json.Unmarshal(line, &e); err == nil && e.Type != "ERROR" {
			err = json.Unmarshal(e.Object, m)
		}
		if err != nil || e.Type == "ERROR" || resp.StatusCode != http.StatusOK {
			w.t.Errorf("round %d: watch from %d: %d %v %s", w.round, from, resp.StatusCode, err, line)
			return
		}
		if _, ours := m.Labels[label]; !ours && e.Type != "BOOKMARK" {
			continue
		}
		if !f(e.Type, m) {
			return
		}
	}
}

// replay watches from an event of an earlier life on: what comes must be what came then.
func (w *world) replay(ctx context.Context, seen []event) {
	first := max(0, len(seen)-replayed)
	if len(seen) == first {
		return
	}
	first += rand.IntN(len(seen) - first)
	want := seen[first+1:]
	w.follow(ctx, "", seen[first].revision, func(typ string, m *corev1.ConfigMap) bool {
		if typ == "BOOKMARK" || len(want) == 0 {
			return typ == "BOOKMARK"
		}
		did := "put " + m.Name + " " + m.Data["v"]
		if typ == "DELETED" {
			did = "delete" + strings.TrimPrefix(did, "put")
		}
		if m.ResourceVersion != strconv.FormatInt(want[0].revision, 10) || did != want[0].did {
			w.t.Errorf("round %d: late watch: %s at %s, but first it was %+v", w.round, did, m.ResourceVersion, want[0])
			return false
		}
		want = want[1:]
		w.mu.Lock()
		w.again++
		w.mu.Unlock()
		return true
	})
}

// finish lets all watchers catch up on a last server, and compares.
func (w *world) finish() {
	w.round++
	w.server = start(w.t, w.dir)
	last := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "last", Labels: map[string]string{label: "0"}}, Data: map[string]string{"v": "last"}}
	data, err := json.Marshal(last)
	if err != nil {
		w.t.Fatal(err)
	}
	if code, answer, err := w.server.do(w.t.Context(), http.MethodPost, path, data); code != http.StatusCreated {
		w.t.Fatalf("%d %v %s", code, err, answer)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	state := w.readAll()
	for _, x := range w.watchers {
		w.watch(ctx, x, func(e event) bool { return e.key == last.Name })
		w.compare(x, state)
	}
	w.history.Check(w.t)
}

// compare checks that a watcher knows of every acknowledged write that it selects, and of the final state.
func (w *world) compare(x *watcher, state map[string]string) {
	revisions := map[string]int64{}
	for _, e := range x.seen {
		if _, twice := revisions[e.did]; twice {
			w.t.Errorf("watch of %s: %s came twice", x.name, e.did)
		}
		revisions[e.did] = e.revision
	}
	selected := func(key string) bool { return x.selector == "" || key == "last" || int(key[len(key)-1])%2 == 0 }
	for did, rev := range w.acknowledged {
		if !selected(strings.Fields(did)[1]) {
			continue
		}
		if seen, ok := revisions[did]; !ok || rev != 0 && seen != rev {
			w.t.Errorf("watch of %s: %s, acknowledged at %d, was seen at %d", x.name, did, rev, seen)
		}
	}
	for key, value := range state {
		if selected(key) && x.state[key] != value {
			w.t.Errorf("watch of %s: %s is %q, by the events %q", x.name, key, value, x.state[key])
		}
	}
	for key := range x.state {
		if _, there := state[key]; !there {
			w.t.Errorf("watch of %s: %s is gone, by the events it is there", x.name, key)
		}
	}
}

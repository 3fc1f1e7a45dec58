package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kebernetes/kebernetes/store"
	"github.com/kebernetes/kebernetes/store/storetest"
)

const (
	// crashDir makes the test binary a child that writes until it is killed; crashFrom is the revision its watch resumes from.
	crashDir  = "KEB_STORE_CRASH_DIR"
	crashFrom = "KEB_STORE_CRASH_FROM"
	// crashRounds overrides how many children are killed.
	crashRounds = "KEB_STORE_CRASH_ROUNDS"

	crashWriters = 6
	crashKeys    = 24
)

// TestKill kills children with SIGKILL at random moments while many writers write. Everything that a child was told is
// durable must be there at the next start; revisions never go back; a watch that resumes from the last event it
// saw misses nothing and repeats nothing; and the whole history, unfinished writes included, is linearizable.
func TestKill(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	if s := os.Getenv(crashRounds); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		rounds = n
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 2))
	p := &crashParent{t: t, dir: t.TempDir(), begin: time.Now(), acknowledged: map[int64]string{}, seen: map[int64]string{}}
	for p.round = range rounds {
		p.life(time.Duration(random.IntN(250)) * time.Millisecond)
		if t.Failed() {
			return
		}
	}
	t.Logf("%d writes acknowledged, %d events seen, %d restarts", len(p.acknowledged), len(p.seen), rounds)
	p.finish()
}

type crashParent struct {
	t     *testing.T
	dir   string
	begin time.Time
	round int

	history storetest.History
	calls   map[string]crashCall // by writer: what it has begun
	// acknowledged and seen map revisions to "key value"; every write that was told to be done must be seen.
	acknowledged, seen map[int64]string
	newest, watched    int64 // highest revision told at all, and by the watch
	opened             bool
}

type crashCall struct {
	op   storetest.Op
	time int64
}

// life runs one child for a while after its store is open.
func (p *crashParent) life(after time.Duration) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+p.dir, fmt.Sprint(crashFrom, "=", p.watched))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.calls, p.opened = map[string]crashCall{}, false
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if wasOpen := p.opened; p.line(lines.Text()) && !wasOpen {
			time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
	}
	_ = cmd.Wait()
	if !p.opened {
		p.t.Fatalf("round %d: the store did not open", p.round)
	}
	for client, call := range p.calls {
		p.history.Add(p.client(client), call.op, call.time, storetest.Outcome{Unknown: true}, math.MaxInt64)
	}
}

// client numbers the writers of all rounds: a killed one never goes on.
func (p *crashParent) client(name string) int {
	n, _ := strconv.Atoi(name)
	return p.round*(crashWriters+1) + n
}

// line takes in what a child says; it returns whether the store is open.
func (p *crashParent) line(text string) bool {
	f := strings.Split(text, " ")
	now := func(s string) int64 { n, _ := strconv.ParseInt(s, 10, 64); return n }
	switch f[0] {
	case "open": // revision
		if rev := now(f[1]); rev < p.newest {
			p.t.Errorf("round %d: revision %d after %d", p.round, rev, p.newest)
		}
		p.opened = true
	case "state": // key value time
		p.history.Add(p.client(strconv.Itoa(crashWriters)), storetest.Op{Key: f[1], Kind: 'r'}, now(f[3]), storetest.Outcome{Value: f[2]}, now(f[3])+1)
	case "call": // writer kind key expect new time
		p.calls[f[1]] = crashCall{storetest.Op{Kind: f[2][0], Key: f[3], Expect: f[4], New: f[5]}, now(f[6])}
	case "done": // writer revision time; revision 0 for a refusal
		call, rev := p.calls[f[1]], now(f[2])
		delete(p.calls, f[1])
		p.history.Add(p.client(f[1]), call.op, call.time, storetest.Outcome{OK: rev > 0}, now(f[3]))
		p.told(rev, call.op.Key+" "+call.op.New, p.acknowledged)
	case "volatile": // revision
		p.told(now(f[1]), "volatile", p.acknowledged)
	case "event": // revision key value
		rev := now(f[1])
		if rev <= p.watched {
			p.t.Errorf("round %d: event %d after %d", p.round, rev, p.watched)
		}
		p.watched = rev
		p.told(rev, f[2]+" "+f[3], p.seen)
	case "error":
		p.t.Errorf("round %d: %s", p.round, text)
	}
	return p.opened
}

func (p *crashParent) told(rev int64, what string, in map[int64]string) {
	if rev == 0 {
		return
	}
	if before, twice := in[rev]; twice {
		p.t.Errorf("round %d: revision %d is %q and was %q", p.round, rev, what, before)
	}
	in[rev] = what
	p.newest = max(p.newest, rev)
}

// finish opens the store once more, and compares.
func (p *crashParent) finish() {
	s := start(p.t, options(p.dir))
	ctx, cancel := context.WithCancel(p.t.Context())
	cancel()
	w, err := s.Watch(storetest.Resource, p.watched)
	for err == nil {
		var events []store.Event
		events, _, err = w.Next(ctx)
		for _, e := range events {
			p.line(eventLine(e))
		}
	}
	if !errors.Is(err, context.Canceled) {
		p.t.Error(err)
	}
	for rev, what := range p.acknowledged {
		if what != "volatile" && p.seen[rev] != what {
			p.t.Errorf("revision %d, acknowledged as %q, was seen as %q", rev, what, p.seen[rev])
		}
	}
	for i := range crashKeys {
		now := time.Now().UnixNano()
		p.round++
		item := s.Snapshot().Get(storetest.Key(storetest.Resource, strconv.Itoa(i)))
		p.history.Add(p.client("0"), storetest.Op{Key: strconv.Itoa(i), Kind: 'r'}, now, storetest.Outcome{Value: storetest.Value(item)}, now+1)
	}
	p.history.Check(p.t)
}

func eventLine(e store.Event) string {
	value := storetest.Value(e.Item)
	if e.Type == store.Delete {
		value = ""
	}
	return fmt.Sprintf("event %d %s %s", e.Item.Revision, e.Item.Key.Name, value)
}

// TestMain makes the process that TestKill kills out of the test binary.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		crashUntilKilled(dir)
	}
	os.Exit(m.Run())
}

func crashUntilKilled(dir string) {
	c := &crashChild{out: os.Stdout}
	from, err := strconv.ParseInt(os.Getenv(crashFrom), 10, 64)
	if err != nil {
		c.say("error %v", err)
		os.Exit(1)
	}
	l, err := Open(options(dir))
	if err != nil {
		c.say("error %v", err)
		os.Exit(1)
	}
	snapshot := l.Snapshot()
	c.say("open %d", snapshot.Revision())
	c.store = l
	if from == 0 {
		from = firstRevision
	}
	for i := range crashKeys {
		c.say("state %d %s %d", i, storetest.Value(snapshot.Get(storetest.Key(storetest.Resource, strconv.Itoa(i)))), time.Now().UnixNano())
	}
	go func() { c.say("error run ended: %v", l.Run(context.Background())) }()
	go c.watch(from)
	go c.volatile()
	go c.snapshot(l)
	for i := range crashWriters {
		go c.write(i)
	}
	// Until killed; or orphaned, when the parent's end of the pipe is gone.
	select {}
}

type crashChild struct {
	mu      sync.Mutex
	out     io.Writer
	store   *Local
	watched atomic.Int64
}

// snapshot cuts the log again and again, as late as the watch allows: all that it has seen is made out to be old.
func (c *crashChild) snapshot(l *Local) {
	for {
		l.history.mu.Lock()
		for i := range l.history.spans {
			s := &l.history.spans[i]
			s.begin = time.Time{} // the next write begins another span
			if s.revision <= c.watched.Load() {
				s.end = time.Time{}
			}
		}
		l.history.mu.Unlock()
		if err := l.snapshot(false); err != nil {
			c.say("error %v", err)
		}
		<-time.After(20 * time.Millisecond) // the pace of the load; nothing is waited for
	}
}

// say writes a line with one system call, so that what was said before the kill is in the pipe.
func (c *crashChild) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := fmt.Fprintf(c.out, format+"\n", args...); err != nil {
		os.Exit(1)
	}
}

func (c *crashChild) write(writer int) {
	for i := 0; ; i++ {
		key := storetest.Key(storetest.Resource, strconv.Itoa(rand.IntN(crashKeys)))
		item := c.store.Snapshot().Get(key)
		value := fmt.Sprintf("%d-%d-%d", os.Getpid(), writer, i)
		kind := 'w'
		w := storetest.Put(key, value, 0)
		if item != nil {
			w.Expect = item.Revision
		}
		if item != nil && i%7 == 0 {
			kind, value, w.Object = 'd', "", nil
		}
		c.say("call %d %c %s %s %s %d", writer, kind, key.Name, storetest.Value(item), value, time.Now().UnixNano())
		r := c.store.Commit(context.Background(), w)[0]
		revision := int64(0)
		if r.Err == nil {
			revision = r.Item.Revision
		}
		c.say("done %d %d %d", writer, revision, time.Now().UnixNano())
	}
}

func (c *crashChild) volatile() {
	for {
		r := c.store.Commit(context.Background(), storetest.Put(storetest.Key(storetest.Volatile, "v"), "x", store.Any))[0]
		if r.Err != nil {
			c.say("error %v", r.Err)
			return
		}
		c.say("volatile %d", r.Item.Revision)
		<-time.After(time.Millisecond) // the pace of the load; nothing is waited for
	}
}

func (c *crashChild) watch(from int64) {
	w, err := c.store.Watch(storetest.Resource, from)
	for err == nil {
		var events []store.Event
		events, _, err = w.Next(context.Background())
		for _, e := range events {
			c.say("%s", eventLine(e))
			c.watched.Store(e.Item.Revision)
		}
	}
	c.say("error watch: %v", err)
}

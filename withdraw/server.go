package withdraw

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/kebernetes/kebernetes/client"
)

const (
	// gatherTime is how long the first address waits for others that the same node can be asked about at once: pods end in
	// groups.
	gatherTime = 2 * time.Millisecond
	// askAgain is the pause before a node that could not be asked is asked again.
	askAgain = 100 * time.Millisecond
)

// Options are what a Server is made of; all are needed.
type Options struct {
	// Client reads nodes, pods and EndpointSlices, from the server's own copy.
	Client *client.Client
	// Node returns the API of a node, or an error while it is not connected.
	Node func(name string) (http.Handler, error)
	// Identify returns the node that a request comes from, or an error.
	Identify func(*http.Request) (node string, err error)
	Logger   *slog.Logger
}

// Server asks nodes on behalf of others. It is an http.Handler for Path, behind the API's authentication and authorisation. Safe
// for concurrent use.
type Server struct {
	Options

	mu      sync.Mutex
	waiting map[string][]*want // by node
	asking  sync.WaitGroup
	// life ends with Run. It is no request's: several wait for one question, and with a context of net/http's the proxy to the
	// node would panic when the node's answer breaks off.
	life context.Context
	halt context.CancelFunc
}

// want is an address that must not get new connections from a node.
type want struct {
	addr     netip.Addr
	revision int64
	gone     chan bool // takes one answer: whether it gets none any more
}

// NewServer returns a server; Client may be set until it is first asked.
func NewServer(o Options) *Server {
	s := &Server{Options: o, waiting: map[string][]*want{}}
	s.life, s.halt = context.WithCancel(context.Background())
	return s
}

// Name is the component's name.
func (s *Server) Name() string { return "withdrawals" }

// Run waits for ctx, gives up what is asked then, and waits for those who ask.
func (s *Server) Run(ctx context.Context) error {
	<-ctx.Done()
	s.halt()
	s.asking.Wait()
	return nil
}

// ServeHTTP answers an agent once no other node sends new connections to a pod of its node.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	node, err := s.Identify(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	var ref podRef
	if !decode(w, r, &ref) {
		return
	}
	pod, ok := client.From[*corev1.Pod](s.Client, s.Client.Snapshot(), ref.Namespace, ref.Name)
	if !ok || pod.UID != ref.UID {
		return // it has left all slices with its object
	}
	if pod.Spec.NodeName != node {
		http.Error(w, fmt.Sprintf("pod %s/%s is not on node %s", ref.Namespace, ref.Name, node), http.StatusForbidden)
		return
	}
	if err := s.Withdraw(r.Context(), pod); err != nil {
		http.Error(w, err.Error(), http.StatusGatewayTimeout)
	}
}

// Withdraw returns once no node but the pod's own sends it new connections. The error names those that did not say so before ctx
// ended, or within answerLimit.
func (s *Server) Withdraw(ctx context.Context, pod *corev1.Pod) error {
	snapshot := s.Client.Snapshot()
	if snapshot.Len(client.ResourceOf[*corev1.Node](s.Client)) < 2 {
		return nil
	}
	others := s.others(snapshot, pod.Spec.NodeName)
	if len(others) == 0 {
		return nil
	}
	wants := endpoints(s.Client, snapshot, pod)
	var mu sync.Mutex
	var silent []string
	var asked sync.WaitGroup
	for _, node := range others {
		for _, w := range wants {
			asked.Go(func() {
				if !s.ask(ctx, node, &want{w.addr, w.revision, make(chan bool, 1)}) {
					mu.Lock()
					defer mu.Unlock()
					silent = append(silent, node)
				}
			})
		}
	}
	asked.Wait()
	if len(silent) > 0 {
		slices.Sort(silent)
		return fmt.Errorf("no answer from %s", strings.Join(slices.Compact(silent), ", "))
	}
	return nil
}

// others are the nodes that may send connections to a pod, but for its own: those that are ready, and those that are connected
// though they are not.
func (s *Server) others(snapshot client.Snapshot, own string) []string {
	var out []string
	for _, node := range client.List[*corev1.Node](s.Client, snapshot, "", nil) {
		if node.Name == own {
			continue
		}
		ready := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
		if !ready {
			_, err := s.Node(node.Name)
			ready = err == nil
		}
		if ready {
			out = append(out, node.Name)
		}
	}
	return out
}

// endpoints returns the addresses of a pod that slices of its namespace hold, each with the newest revision of those slices: who has
// seen it has seen the address come, and go.
func endpoints(c *client.Client, snapshot client.Snapshot, pod *corev1.Pod) []want {
	var out []want
	for _, addr := range addresses(pod) {
		text, revision := addr.String(), int64(0)
		for item := range snapshot.List(client.ResourceOf[*discoveryv1.EndpointSlice](c), pod.Namespace) {
			for i := range item.Object.(*discoveryv1.EndpointSlice).Endpoints {
				if e := &item.Object.(*discoveryv1.EndpointSlice).Endpoints[i]; len(e.Addresses) > 0 && e.Addresses[0] == text {
					revision = max(revision, item.Revision)
				}
			}
		}
		if revision > 0 {
			out = append(out, want{addr: addr, revision: revision})
		}
	}
	return out
}

// ask waits until a node sends nothing new to an address, and says whether that came to be. The first asks for all that come
// within gatherTime.
func (s *Server) ask(ctx context.Context, node string, w *want) bool {
	s.mu.Lock()
	if len(s.waiting[node]) == 0 {
		s.asking.Go(func() { s.askFor(node) })
	}
	s.waiting[node] = append(s.waiting[node], w)
	s.mu.Unlock()
	select {
	case gone := <-w.gone:
		return gone
	case <-ctx.Done():
		return false
	}
}

// askFor asks a node for all that wait, until it has answered or answerLimit is over.
func (s *Server) askFor(node string) {
	time.Sleep(gatherTime)
	s.mu.Lock()
	wants := s.waiting[node]
	delete(s.waiting, node)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(s.life, answerLimit)
	defer cancel()
	for {
		var err error
		if wants, err = s.question(ctx, node, wants); len(wants) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			s.Logger.Warn("node may still send connections to pods that end", "node", node, "addresses", len(wants), "err", err)
			for _, w := range wants {
				w.gone <- false
			}
			return
		case <-time.After(askAgain):
			// An agent that starts anew connects again, and the rules of its node are meanwhile what they were.
		}
	}
}

// question asks a node once and returns what it did not answer.
func (s *Server) question(ctx context.Context, node string, wants []*want) (left []*want, err error) {
	api, err := s.Node(node)
	if err != nil {
		return wants, err
	}
	var q question
	for _, w := range wants {
		q.Revision = max(q.Revision, w.revision)
		q.Addresses = append(q.Addresses, w.addr)
	}
	body, err := json.Marshal(q)
	if err != nil {
		return wants, fmt.Errorf("encode addresses: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, NodePath, bytes.NewReader(body))
	if err != nil {
		return wants, err
	}
	left = wants
	a := &answers{header: http.Header{}, gone: func(addr netip.Addr) {
		left = slices.DeleteFunc(slices.Clone(left), func(w *want) bool {
			if w.addr == addr {
				w.gone <- true
			}
			return w.addr == addr
		})
	}}
	api.ServeHTTP(a, req)
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case a.code != http.StatusOK:
		err = fmt.Errorf("%d %s", a.code, a.line)
	case len(left) > 0:
		err = errors.New("the answer broke off")
	}
	return left, err
}

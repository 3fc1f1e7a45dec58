package storetest

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/kebernetes/kebernetes/store"
)

// Op is one operation on one object, for a history that porcupine checks. Values are unique over a whole history, so that a value stands for
// the revision that wrote it.
type Op struct {
	Key string
	// Kind is 'r' for a read, 'w' for a write of New under the condition that the value is Expect ("" for none there), 'd' for a delete of Expect.
	Kind        byte
	Expect, New string
}

// Outcome is what an operation returned.
type Outcome struct {
	// Value is what a read found.
	Value string
	// OK tells that a write succeeded; Unknown that nobody heard of its end.
	OK, Unknown bool
}

// History collects operations of many goroutines. The zero History is empty.
type History struct {
	mu  sync.Mutex
	ops []porcupine.Operation
}

// Add records an operation with the times of its call and its return, in nanoseconds of any clock.
func (h *History) Add(client int, op Op, call int64, out Outcome, ret int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: op, Call: call, Output: out, Return: ret})
}

// Check fails the test unless the history is linearizable, each object a register with compare-and-set.
func (h *History) Check(t *testing.T) {
	t.Helper()
	if result := h.check(); result != porcupine.Ok {
		t.Errorf("history of %d operations: %s", len(h.ops), result)
	}
}

func (h *History) check() porcupine.CheckResult {
	h.mu.Lock()
	defer h.mu.Unlock()
	return porcupine.CheckOperationsTimeout(register(), h.ops, time.Minute)
}

func register() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byKey := map[string][]porcupine.Operation{}
			for _, op := range history {
				k := op.Input.(Op).Key
				byKey[k] = append(byKey[k], op)
			}
			var out [][]porcupine.Operation
			for _, ops := range byKey {
				out = append(out, ops)
			}
			return out
		},
		Init: func() any { return "" },
		Step: func(state, input, output any) (bool, any) {
			now, op, out := state.(string), input.(Op), output.(Outcome)
			if op.Kind == 'r' {
				return out.Value == now, now
			}
			holds := now == op.Expect
			next := op.New // "" for a delete
			switch {
			case out.Unknown && holds, out.OK && holds:
				return true, next
			case out.OK:
				return false, now
			default: // refused, or unknown and then without effect
				return !holds, now
			}
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
	}
}

func testLinearizable(t *testing.T, h Harness) {
	s := h.Open(t)
	var history History
	var wait sync.WaitGroup
	begin := time.Now()
	clock := func() int64 { return int64(time.Since(begin)) }
	for client := range 8 {
		wait.Go(func() {
			for i := range 60 {
				key := Key(Resource, strconv.Itoa(i%3))
				call := clock()
				item := s.Snapshot().Get(key)
				history.Add(client, Op{Key: key.Name, Kind: 'r'}, call, Outcome{Value: Value(item)}, clock())
				op := Op{Key: key.Name, Kind: 'w', Expect: Value(item), New: fmt.Sprintf("%d-%d", client, i)}
				w := Put(key, op.New, 0)
				if item != nil {
					w.Expect = item.Revision
				}
				if item != nil && i%5 == 0 {
					op.Kind, op.New, w.Object = 'd', "", nil
				}
				call = clock()
				err := s.Commit(t.Context(), w)[0].Err
				if err != nil && !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrExists) && !errors.Is(err, store.ErrNotFound) {
					t.Error(err)
				}
				history.Add(client, op, call, Outcome{OK: err == nil}, clock())
			}
		})
	}
	wait.Wait()
	history.Check(t)
}

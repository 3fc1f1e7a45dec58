package storetest

import (
	"math"
	"testing"

	"github.com/anishathalye/porcupine"
)

func TestHistoryTellsLostAndInventedWrites(t *testing.T) {
	type entry struct {
		op        Op
		call, ret int64
		out       Outcome
	}
	write := entry{Op{Key: "k", Kind: 'w', New: "1"}, 1, 2, Outcome{OK: true}}
	killed := entry{Op{Key: "k", Kind: 'w', New: "1"}, 1, math.MaxInt64, Outcome{Unknown: true}}
	read := func(value string, at int64) entry {
		return entry{Op{Key: "k", Kind: 'r'}, at, at + 1, Outcome{Value: value}}
	}
	for name, c := range map[string]struct {
		history []entry
		want    porcupine.CheckResult
	}{
		"kept":                       {[]entry{write, read("1", 3)}, porcupine.Ok},
		"lost":                       {[]entry{write, read("", 3)}, porcupine.Illegal},
		"lost later":                 {[]entry{write, read("1", 3), read("", 5)}, porcupine.Illegal},
		"killed and lost":            {[]entry{killed, read("", 3), read("", 5)}, porcupine.Ok},
		"killed and kept":            {[]entry{killed, read("1", 3)}, porcupine.Ok},
		"killed, lost, back again":   {[]entry{killed, read("1", 3), read("", 5)}, porcupine.Illegal},
		"invented":                   {[]entry{read("1", 1)}, porcupine.Illegal},
		"condition ignored":          {[]entry{write, {Op{Key: "k", Kind: 'w', New: "2"}, 3, 4, Outcome{OK: true}}}, porcupine.Illegal},
		"refused without a reason":   {[]entry{write, {Op{Key: "k", Kind: 'd', Expect: "1"}, 3, 4, Outcome{}}}, porcupine.Illegal},
		"other objects are separate": {[]entry{write, {Op{Key: "l", Kind: 'r'}, 3, 4, Outcome{}}}, porcupine.Ok},
	} {
		var h History
		for i, e := range c.history {
			h.Add(i, e.op, e.call, e.out, e.ret)
		}
		if got := h.check(); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

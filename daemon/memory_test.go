package daemon

import (
	"os"
	"runtime"
	"runtime/debug"
	"testing"
)

// A collection wakes the trimmer; what the collector could give back is worth it after a busy time, and not after a trim.
func TestHeapThatIsWorthTrimming(t *testing.T) {
	collected := make(chan struct{}, 1)
	onCollection(collected)
	debug.FreeOSMemory()
	<-collected
	before := readHeap()
	var burst [][]byte
	for range 64 {
		burst = append(burst, make([]byte, 1<<20))
	}
	runtime.KeepAlive(burst)
	burst = nil
	runtime.GC()
	busy := readHeap()
	if busy.allocated-before.allocated < 64<<20 || busy.spare < worthBytes {
		t.Errorf("after 64 MiB: %+v, before %+v", busy, before)
	}
	debug.FreeOSMemory()
	if idle := readHeap(); idle.spare > worthBytes {
		t.Errorf("trimmed: %+v", idle)
	}
}

// Pages that were read from the executable go; the process runs on with those that it had changed.
func TestDropExecutablePages(t *testing.T) {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := dropExecutablePages(); err != nil {
		t.Fatal(err)
	}
	maps, err := readMappings()
	if err != nil {
		t.Fatal(err)
	}
	own := 0
	for _, m := range maps {
		if m.path == exe {
			own++
		}
	}
	if own < 2 {
		t.Errorf("%d mappings of %s in %+v", own, exe, maps)
	}
}

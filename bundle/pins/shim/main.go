// Command containerd-shim-runc-v2 is containerd's shim for runc, built at the pinned version. What it starts lives for
// milliseconds on a processor that all pods of a burst share.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task/plugin"
	"github.com/containerd/containerd/v2/pkg/shim"
)

func main() {
	// runc inherits the variable: it does one thing after the other, and threads and caches for more processors are only work.
	if err := os.Setenv("GOMAXPROCS", "1"); err != nil {
		fmt.Fprintln(os.Stderr, "containerd-shim-runc-v2:", err)
		os.Exit(1)
	}
	runtime.GOMAXPROCS(2)
	shim.RunShim(context.Background(), manager.NewShimManager("io.containerd.runc.v2"))
}

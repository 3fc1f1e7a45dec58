// Command containerd-shim-runc-v2 is containerd's shim for runc, built at the pinned version, and with settings for what it does:
// it and what it starts live for milliseconds on a processor that all pods of a burst share.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task/plugin"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
)

// gcPercent lets the shim make a sandbox and a container without a collection: the heap may grow to 8 MiB before the first.
// The shim's own 40 per cent collect it every 1.6 MB. It gives all that is free back twice a minute in either case.
const gcPercent = 200

func main() {
	// runc inherits the variable: it does one thing after the other, and threads and caches for more processors are only work.
	if err := os.Setenv("GOMAXPROCS", "1"); err != nil {
		fmt.Fprintln(os.Stderr, "containerd-shim-runc-v2:", err)
		os.Exit(1)
	}
	runtime.GOMAXPROCS(2)
	// Plugins are loaded after the shim has set its own pace of collection.
	registry.Register(&plugin.Registration{Type: plugins.InternalPlugin, ID: "memory", InitFn: func(*plugin.InitContext) (any, error) {
		debug.SetGCPercent(gcPercent)
		return nil, nil
	}})
	shim.RunShim(context.Background(), manager.NewShimManager("io.containerd.runc.v2"))
}

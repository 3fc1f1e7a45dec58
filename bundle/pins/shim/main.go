// Command containerd-shim-runc-v2 is containerd's shim for runc, at the pinned version, with a sandbox of our own: the namespaces of a pod are
// held by the pause program, which the shim starts itself, and not by a container. There is one shim for each pod.
package main

import (
	"context"

	"github.com/containerd/containerd/v2/pkg/shim"
)

func main() {
	register()
	shim.RunShim(context.Background(), newManager())
}

// Package containerd writes the configuration of a containerd that serves pods. daemon runs the bundled one with it, and
// cri/critest the one that the tests run against, so that the tests speak of what nodes have.
package containerd

import (
	"bytes"
	"fmt"
	"text/template"
)

// Config says where a containerd keeps and finds its things. All paths are absolute, and all fields but Certs are needed.
type Config struct {
	Root   string // images, snapshots and their database
	State  string // what ends with the machine: mounts, processes
	Socket string // the CRI socket
	Bin    string // holds our containerd-shim-runc-v2, pause, runc and the CNI plugins
	// CNIConf holds the network's configuration.
	CNIConf string
	// Snapshotter is "overlayfs" or "native".
	Snapshotter string
	// Certs holds a directory per registry with its hosts.toml; it need not exist.
	Certs string
}

// TOML returns the configuration file.
func (c Config) TOML() ([]byte, error) {
	var out bytes.Buffer
	if err := file.Execute(&out, c); err != nil {
		return nil, fmt.Errorf("render containerd's configuration: %w", err)
	}
	return out.Bytes(), nil
}

// file is of format version 4 (https://github.com/containerd/containerd/blob/main/docs/cri/config.md).
// restrict_oom_score_adj: where the machine withholds CAP_SYS_RESOURCE, pods run with the score they can get.
// sandboxer: our shim makes sandboxes itself (bundle/pins/shim), without a container and its image.
// The loopback interface is set up inside containerd, which spares one executable per pod.
// stats_collect_period: left at one second, containerd asks the shim of every pod for its CPU time that often, and left at ten it
// walks the files of every container for their sizes. Nothing here reads either: measurements are made when they are asked for.
var file = template.Must(template.New("containerd").Parse(`version = 4
root = {{printf "%q" .Root}}
state = {{printf "%q" .State}}
imports = []
disabled_plugins = ["io.containerd.nri.v1.nri"]

[plugins."io.containerd.server.v1.grpc"]
  address = {{printf "%q" .Socket}}

[plugins."io.containerd.server.v1.ttrpc"]
  address = {{printf "%q" (print .Socket ".ttrpc")}}

[plugins."io.containerd.internal.v1.opt"]
  path = {{printf "%q" (print .Root "/opt")}}

[plugins."io.containerd.cri.v1.images"]
  snapshotter = {{printf "%q" .Snapshotter}}
  stats_collect_period = 86400
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = {{printf "%q" .Certs}}

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stats_collect_period = "24h"
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [{{printf "%q" .Bin}}]
    conf_dir = {{printf "%q" .CNIConf}}
    use_internal_loopback = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    runtime_path = {{printf "%q" (print .Bin "/containerd-shim-runc-v2")}}
    sandboxer = "shim"
    disable_pause_image_pull = true
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = {{printf "%q" (print .Bin "/runc")}}
      Root = {{printf "%q" (print .State "/runc")}}
`))

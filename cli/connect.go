package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/daemon"
	"github.com/kebernetes/kebernetes/kinds/builtin"
)

// connect returns a transport to the cluster of a kubeconfig, or with an empty one to that of the data directory.
func connect(kubeconfig, dataDir, agent string, log *slog.Logger, mirror ...client.MirrorSpec) (*client.Remote, error) {
	c, err := restConfig(kubeconfig, dataDir)
	if err != nil {
		return nil, err
	}
	tls, err := rest.TLSConfigFor(c)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", kubeconfig, err)
	}
	return client.NewRemote(client.RemoteOptions{
		Server: c.Host, TLS: tls, Token: c.BearerToken, Agent: agent, Table: builtin.Table(), Mirror: mirror, Logger: log,
	}), nil
}

// restConfig reads a kubeconfig, or with an empty name that of the data directory.
func restConfig(kubeconfig, dataDir string) (*rest.Config, error) {
	if kubeconfig == "" {
		kubeconfig = daemon.AdminKubeconfig(dataDir)
	}
	c, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no cluster was started in %s (its kubeconfig %s is not there)", dataDir, kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", kubeconfig, err)
	}
	return c, nil
}

package cli

import (
	"log/slog"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/kebernetes/kebernetes/config"
	"github.com/kebernetes/kebernetes/daemon"
)

func newAgent() *cobra.Command {
	var c config.Config
	var file string
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run this machine as a node of a cluster whose server is elsewhere",
		Long: "Joins the cluster of a server with a token that `keb token create` printed there, and runs a node. The machine opens\n" +
			"connections to the server and needs no port of its own open for it. Once it has joined, it starts without --server and\n" +
			"--token. Every flag can be set in the file that --config names; flags win.",
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.StringVar(&file, "config", "", "configuration file")
	f.StringVar(&c.Server, "server", "", "URL of the server: https://HOST:6443 (default: that of the last run)")
	f.StringVar(&c.Token, "token", "", "join token; needed only to join")
	f.Var((*dirValue)(&c.DataDir), "data-dir", "where everything is kept (default "+config.DefaultDataDir+")")
	f.StringVar(&c.NodeName, "node-name", "", "this machine's name in the cluster (default: the host name)")
	f.StringVar(&c.NodeIP, "node-ip", "", "this machine's address in the cluster (default: the one that leads to the server)")
	f.StringVar(&c.RuntimeEndpoint, "runtime-endpoint", "", "CRI socket of a runtime that is already there (default: the bundled containerd)")
	f.StringVar(&c.IngressHTTP, "ingress-http", "", "address of the node for HTTP to Ingresses, or off (default :80)")
	f.StringVar(&c.IngressHTTPS, "ingress-https", "", "address of the node for HTTPS to Ingresses, or off (default :443)")
	f.StringVar(&c.LogLevel, "log-level", "", "debug, info, warn or error (default info)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := mustBeRoot("a node"); err != nil {
			return err
		}
		if file != "" {
			loaded, err := config.Load(file)
			if err != nil {
				return err
			}
			c = config.Merge(loaded, c)
		}
		log := newLogger(cmd.ErrOrStderr(), c.LogLevel)
		klog.SetSlogLogger(slog.New(demoted{log.Handler()}))
		return daemon.Agent(cmd.Context(), c, log)
	}
	return cmd
}

package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/kebernetes/kebernetes/config"
	"github.com/kebernetes/kebernetes/daemon"
)

func newServer() *cobra.Command {
	var c config.Config
	var file string
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run a cluster's server, and a node on this machine",
		Long: "Runs the API server, the scheduler, the controllers and, unless told otherwise, a node with its container runtime\n" +
			"and network on this machine. Every flag can be set in the file that --config names; flags win.",
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.StringVar(&file, "config", "", "configuration file")
	f.StringVar(&c.DataDir, "data-dir", "", "where everything is kept (default "+config.DefaultDataDir+")")
	f.StringVar(&c.Listen, "listen", "", "address of the API (default "+config.DefaultListen+")")
	f.StringVar(&c.AdvertiseIP, "advertise-ip", "", "address under which clients and pods reach the API (default: the node's)")
	f.StringSliceVar(&c.CertificateNames, "certificate-name", nil, "further name or address that the API's certificate is for")
	f.StringVar(&c.WriteKubeconfig, "write-kubeconfig", "", "file to write the administrator's kubeconfig to")
	f.StringVar(&c.NodeName, "node-name", "", "this machine's name in the cluster (default: the host name)")
	f.StringVar(&c.NodeIP, "node-ip", "", "this machine's address in the cluster (default: that of the default route)")
	f.StringVar(&c.ClusterCIDR, "cluster-cidr", "", "range of pod addresses (default 10.42.0.0/16)")
	f.StringVar(&c.ServiceCIDR, "service-cidr", "", "range of Service addresses (default 10.43.0.0/16)")
	f.StringVar(&c.ClusterDomain, "cluster-domain", "", "DNS suffix of the cluster (default cluster.local)")
	f.BoolVar(&c.NoAgent, "no-agent", false, "run no node here: API, controllers and scheduler only; needs no privileges")
	f.BoolVar(&c.APIOnly, "api-only", false, "run the API alone, with no controller; needs no privileges")
	f.StringVar(&c.RuntimeEndpoint, "runtime-endpoint", "", "CRI socket of a runtime that is already there (default: the bundled containerd)")
	f.StringVar(&c.Store, "store", "", "where objects are kept (default local)")
	f.StringVar(&c.IngressHTTP, "ingress-http", "", "address of the node for HTTP to Ingresses, or off (default :80)")
	f.StringVar(&c.IngressHTTPS, "ingress-https", "", "address of the node for HTTPS to Ingresses, or off (default :443)")
	f.StringVar(&c.LogLevel, "log-level", "", "debug, info, warn or error (default info)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		complete, err := configure(c, file)
		if err != nil {
			return err
		}
		log := newLogger(cmd.ErrOrStderr(), complete.LogLevel)
		// Libraries log what is no concern of the operator's, as every stream that ends; their errors reach us as errors.
		klog.SetSlogLogger(slog.New(demoted{log.Handler()}))
		return daemon.Serve(cmd.Context(), complete, log)
	}
	return cmd
}

// configure lays the flags over the file and the defaults under both.
func configure(flags config.Config, file string) (config.Config, error) {
	c := flags
	if file != "" {
		loaded, err := config.Load(file)
		if err != nil {
			return c, err
		}
		c = config.Merge(loaded, flags)
	}
	c, err := config.Default(c)
	if err != nil {
		return c, err
	}
	if err := c.Validate(); err != nil {
		return c, err
	}
	if !c.NoAgent && !c.APIOnly {
		if err := mustBeRoot("a node (without --no-agent or --api-only)"); err != nil {
			return c, err
		}
	}
	return c, nil
}

func newLogger(w io.Writer, level string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l}))
}

// demoted passes records on for debugging only.
type demoted struct{ slog.Handler }

// Enabled says whether debugging is on.
func (d demoted) Enabled(ctx context.Context, _ slog.Level) bool {
	return d.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle passes a record on as one for debugging.
func (d demoted) Handle(ctx context.Context, r slog.Record) error {
	if !d.Enabled(ctx, slog.LevelDebug) {
		return nil // klog does not ask before it writes an error
	}
	r.Level = slog.LevelDebug
	return d.Handler.Handle(ctx, r)
}

// WithAttrs keeps what it returns demoted.
func (d demoted) WithAttrs(attrs []slog.Attr) slog.Handler {
	return demoted{d.Handler.WithAttrs(attrs)}
}

// WithGroup keeps what it returns demoted.
func (d demoted) WithGroup(name string) slog.Handler { return demoted{d.Handler.WithGroup(name)} }

func newReset() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "Stop everything and remove all that keb left on this machine",
		Args:  cobra.NoArgs,
	}
	dir := dataDirFlag(cmd)
	yes := cmd.Flags().Bool("yes", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := mustBeRoot("reset"); err != nil {
			return err
		}
		ours, err := daemon.IsDataDir(*dir)
		if err != nil {
			return fmt.Errorf("nothing to reset: %w", err)
		}
		if !ours {
			return fmt.Errorf("nothing to reset: %s holds no cluster, but other files; they stay", *dir)
		}
		if !*yes && !confirm(cmd, fmt.Sprintf("Remove the cluster in %s with all its containers and data?", *dir)) {
			return fmt.Errorf("nothing was removed")
		}
		log := newLogger(cmd.ErrOrStderr(), "info")
		if nodes, err := daemon.LocalNodes(*dir); err == nil && len(nodes) > 0 {
			return daemon.Down(*dir, false, log)
		}
		return daemon.Reset(*dir, log)
	}
	return cmd
}

func confirm(cmd *cobra.Command, question string) bool {
	fmt.Fprintf(cmd.OutOrStdout(), "%s [y/N] ", question)
	var answer string
	_, err := fmt.Fscanln(cmd.InOrStdin(), &answer)
	return err == nil && (answer == "y" || answer == "Y" || answer == "yes")
}

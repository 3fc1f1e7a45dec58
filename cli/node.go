package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/agent/simulate"
	"github.com/kebernetes/kebernetes/client"
)

func newNode() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Work with nodes"}
	cmd.AddCommand(newNodeSimulate())
	return cmd
}

func newNodeSimulate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Play nodes whose pods \"run\" at once, for scale tests, until interrupted",
		Args:  cobra.NoArgs,
	}
	dir := dataDirFlag(cmd)
	kubeconfig := cmd.Flags().String("kubeconfig", "", "cluster to join (default: that of --data-dir)")
	count := cmd.Flags().Int("count", 1, "how many nodes")
	prefix := cmd.Flags().String("prefix", "sim-", "first part of their names")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *count < 1 {
			return errUsage(cmd, fmt.Sprintf("--count is %d, want at least 1", *count))
		}
		log := newLogger(cmd.ErrOrStderr(), "info")
		remote, err := connect(*kubeconfig, *dir, "keb-simulate", log, client.MirrorSpec{Resource: schema.GroupResource{Resource: "pods"}})
		if err != nil {
			return err
		}
		g, ctx := errgroup.WithContext(cmd.Context())
		g.Go(func() error { return remote.Run(ctx) })
		g.Go(func() error {
			if err := remote.WaitSynced(ctx); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "playing %d nodes; stop with Ctrl-C, remove them with: keb kubectl delete nodes -l %s=true\n", *count, simulate.Label)
			return simulate.New(simulate.Options{Client: client.New(remote, remote.Table()), Count: *count, Prefix: *prefix, Logger: log}).Run(ctx)
		})
		if err := g.Wait(); err != nil && !errors.Is(err, cmd.Context().Err()) {
			return err
		}
		return nil
	}
	return cmd
}

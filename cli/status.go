package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/config"
	"github.com/kebernetes/kebernetes/daemon"
)

// statusAnswer is how long `keb status` waits for a server that is there to answer.
const statusAnswer = 5 * time.Second

func newStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether the cluster of this machine runs and its nodes are ready; exit code 1 when not",
		Args:  cobra.NoArgs,
	}
	dir := dataDirFlag(cmd)
	wait := cmd.Flags().Duration("wait", 0, "wait this long until all nodes are ready")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		pid, err := daemon.Holder(*dir)
		if err != nil {
			return err
		}
		if pid == 0 {
			return fmt.Errorf("no keb server runs on %s", *dir)
		}
		remote, err := connect("", *dir, "keb-status", slog.New(slog.DiscardHandler), client.MirrorSpec{Resource: schema.GroupResource{Resource: "nodes"}})
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), max(*wait, statusAnswer))
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- remote.Run(ctx) }()
		defer func() { cancel(); <-done }()
		if err := remote.WaitSynced(ctx); err != nil {
			return fmt.Errorf("process %d does not answer: %w", pid, err)
		}
		c := client.New(remote, remote.Table())
		if *wait > 0 {
			if err := waitReady(ctx, c); err != nil {
				return err
			}
		}
		return printStatus(cmd.OutOrStdout(), pid, c)
	}
	return cmd
}

func isReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// waitReady waits until there are nodes and all are ready.
func waitReady(ctx context.Context, c *client.Client) error {
	for {
		snapshot := c.Snapshot()
		nodes := client.List[*corev1.Node](c, snapshot, "", nil)
		ready := 0
		for _, n := range nodes {
			if isReady(n) {
				ready++
			}
		}
		if ready > 0 && ready == len(nodes) {
			return nil
		}
		watch, err := c.Watch("nodes", snapshot.Revision())
		if err != nil {
			return err
		}
		if _, _, err := watch.Next(ctx); err != nil {
			return fmt.Errorf("%d of %d nodes are ready: %w", ready, len(nodes), err)
		}
	}
}

func printStatus(out io.Writer, pid int, c *client.Client) error {
	fmt.Fprintf(out, "keb %s serves Kubernetes %s (process %d)\n", config.Version, config.KubernetesVersion, pid)
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	unready := 0
	for _, n := range client.List[*corev1.Node](c, c.Snapshot(), "", nil) {
		state := "Ready"
		if !isReady(n) {
			state = "NotReady"
			unready++
		}
		fmt.Fprintf(t, "node %s\t%s\t%s\n", n.Name, state, addressOf(n))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if unready > 0 {
		return fmt.Errorf("%d nodes are not ready (see `keb kubectl describe nodes`)", unready)
	}
	return nil
}

func addressOf(n *corev1.Node) string {
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	return ""
}

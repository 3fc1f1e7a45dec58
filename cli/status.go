package cli

import (
	"context"
	"errors"
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
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return status(cmd, *dir, *wait) }
	return cmd
}

// status prints how the cluster of a data directory is, after waiting for its nodes where that is wanted.
func status(cmd *cobra.Command, dir string, wait time.Duration) error {
	pid, err := daemon.Holder(dir)
	if err != nil {
		return err
	}
	nodes, err := daemon.LocalNodes(dir)
	switch {
	case err != nil:
		return err
	case pid == 0 && len(nodes) > 0:
		return fmt.Errorf("the server of the cluster of %d nodes in %s does not run; `keb up` starts it", len(nodes), dir)
	case pid == 0:
		return fmt.Errorf("no keb server runs on %s", dir)
	}
	remote, err := connect("", dir, "keb-status", slog.New(slog.DiscardHandler), client.MirrorSpec{Resource: schema.GroupResource{Resource: "nodes"}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), max(wait, statusAnswer))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- remote.Run(ctx) }()
	defer func() { cancel(); <-done }()
	if err := remote.WaitSynced(ctx); err != nil {
		return fmt.Errorf("process %d does not answer: %w", pid, err)
	}
	c := client.New(remote, remote.Table())
	if wait > 0 {
		if err := waitReady(ctx, c); err != nil {
			return err
		}
	}
	return errors.Join(printStatus(cmd.OutOrStdout(), pid, c), allRun(nodes))
}

// allRun says which nodes of a cluster of `keb up` have no process: the cluster learns of that later, by their silence.
func allRun(nodes []daemon.LocalNode) error {
	var errs []error
	for _, n := range nodes {
		pid, err := daemon.Holder(n.DataDir)
		if err == nil && pid == 0 {
			err = fmt.Errorf("%s does not run; `keb up` starts it", n.Name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// waitReady waits until there are nodes and all are ready.
func waitReady(ctx context.Context, c *client.Client) error {
	for {
		snapshot := c.Snapshot()
		nodes := client.List[*corev1.Node](c, snapshot, "", nil)
		ready := 0
		for _, n := range nodes {
			if daemon.NodeReady(n) {
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
		if !daemon.NodeReady(n) {
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

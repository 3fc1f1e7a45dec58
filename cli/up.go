package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kebernetes/kebernetes/daemon"
)

func newUp() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster of several nodes on this machine, each in a network namespace of its own",
		Long: "Makes a cluster on this machine whose nodes have a network namespace, a data directory, a container runtime and control groups\n" +
			"each, and waits until they are ready. Node 1 is the server. The nodes go on in the background; `keb up` once more starts those\n" +
			"that do not run, and with a larger --nodes adds some. The machine reaches all nodes and they reach what it reaches; nobody\n" +
			"else reaches them. `keb down` removes everything.",
		Args: cobra.NoArgs,
	}
	var o daemon.UpOptions
	dir := dataDirFlag(cmd)
	cmd.Flags().IntVar(&o.Nodes, "nodes", 0, "how many nodes (default: as many as there are, or 1)")
	kubeconfig := cmd.Flags().String("write-kubeconfig", "", "file to write the administrator's kubeconfig to")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if cmd.Flags().Changed("nodes") && (o.Nodes < 1 || o.Nodes > daemon.MaxLocalNodes) {
			return errUsage(cmd, fmt.Sprintf("--nodes is %d, want 1 to %d", o.Nodes, daemon.MaxLocalNodes))
		}
		if err := mustBeRoot("a node"); err != nil {
			return err
		}
		if *kubeconfig != "" {
			if err := (*dirValue)(&o.Kubeconfig).Set(*kubeconfig); err != nil {
				return err
			}
		}
		o.DataDir, o.Logger = *dir, newLogger(cmd.ErrOrStderr(), "info")
		if err := daemon.Up(cmd.Context(), o); err != nil {
			return err
		}
		return status(cmd, *dir, 0)
	}
	return cmd
}

func newDown() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the cluster that `keb up` started and remove all of it",
		Args:  cobra.NoArgs,
	}
	dir := dataDirFlag(cmd)
	keep := cmd.Flags().Bool("keep-data", false, "keep the nodes' files: `keb up` goes on with them")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return daemon.Down(*dir, *keep, newLogger(cmd.ErrOrStderr(), "info"))
	}
	return cmd
}

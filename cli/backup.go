package cli

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/kebernetes/kebernetes/daemon"
)

func newBackup() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write all objects and keys of a stopped cluster to a file",
		Long: "Writes a snapshot of the store and the cluster's keys. The file holds secrets' encryption keys and the cluster's CA:\n" +
			"keep it as you keep those. The server must not be running on the data directory.",
		Args: oneArg,
	}
	dir := dataDirFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f, err := os.OpenFile(args[0], os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		err = daemon.Backup(*dir, f)
		if err == nil {
			err = f.Sync()
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return errors.Join(err, os.Remove(args[0]))
		}
		return nil
	}
	return cmd
}

func newRestore() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Fill an empty data directory from a backup",
		Args:  oneArg,
	}
	dir := dataDirFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		return daemon.Restore(*dir, f)
	}
	return cmd
}

// Package cli is keb's command line: one file per verb. Only cmd/keb imports it.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Main runs the command line and returns the exit code: 0 when all went well, 1 when not, or that of a program that a verb ran.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintln(os.Stderr, "keb:", line)
	}
	return 1
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "keb",
		Short: "Kubernetes in one binary",
		Long: "keb is Kubernetes in one binary: API server, scheduler, controllers, node agent, service network and DNS.\n\n" +
			"Start a cluster on this machine with `keb up` or `keb server`, then talk to it with `keb kubectl`.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w (see `%s --help`)", err, cmd.CommandPath())
	})
	root.AddCommand(newUp(), newDown(), newServer(), newAgent(), newToken(), newKubectl(), newImage(), newNode(), newStatus(), newCheck(), newReset(), newBackup(), newRestore(), newSecrets(), newVersion())
	root.InitDefaultCompletionCmd()
	for _, c := range append(root.Commands(), root) {
		if !c.Runnable() {
			// A verb that only holds others shows them; left to itself the library also takes any mistyped one for that wish.
			c.Args = cobra.NoArgs
			c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
	return root
}

// dataDirFlag adds --data-dir to a verb that works on a running or stopped node of this machine.
func dataDirFlag(cmd *cobra.Command) *string {
	dir := dataDir()
	cmd.Flags().Var((*dirValue)(&dir), "data-dir", "where keb keeps everything; $KEB_DATA_DIR sets the default")
	return &dir
}

// dirValue is the value of a flag that names a directory: its absolute path.
type dirValue string

func (d *dirValue) String() string { return string(*d) }

// Type is what the help calls it.
func (d *dirValue) Type() string { return "string" }

// Set implements pflag.Value.
func (d *dirValue) Set(text string) error {
	dir, err := filepath.Abs(text)
	*d = dirValue(dir)
	return err
}

// oneArg wants the one argument that a verb's usage names.
func oneArg(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return errUsage(cmd, fmt.Sprintf("want one argument, got %d", len(args)))
	}
	return nil
}

// mustBeRoot explains what a verb needs privileges for.
func mustBeRoot(what string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s needs root", what)
	}
	return nil
}

// errUsage builds the error of a wrong call.
func errUsage(cmd *cobra.Command, text string) error {
	return errors.New(text + fmt.Sprintf(" (see `%s --help`)", cmd.CommandPath()))
}

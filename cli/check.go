package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kebernetes/kebernetes/daemon"
)

func newCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Say whether this machine has what a node needs, and how to mend what is missing",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			faults := 0
			for _, c := range daemon.CheckMachine() {
				if c.Err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "ok       %s\n", c.Name)
					continue
				}
				faults++
				fmt.Fprintf(cmd.OutOrStdout(), "missing  %s: %v\n", c.Name, c.Err)
			}
			if faults > 0 {
				return errors.New("this machine lacks what a node needs")
			}
			return nil
		},
	}
}

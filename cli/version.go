package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/kebernetes/kebernetes/config"
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the versions of keb and of the Kubernetes API that it serves",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "keb %s, Kubernetes %s, %s %s/%s\n",
				config.Version, config.KubernetesVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

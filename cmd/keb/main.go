// Command keb is Kubernetes in one binary.
package main

import (
	"os"

	"github.com/kebernetes/kebernetes/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }

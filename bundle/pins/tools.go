// Package pins names the executables that are built as they come, so that go.mod keeps their versions.
//go:build tools

package pins

import _ "github.com/opencontainers/runc"

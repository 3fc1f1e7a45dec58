// Package core holds the kinds of the core API group ("", version v1): one file per kind, each with a function that
// returns its row. Only kinds/builtin imports it.
package core

// Package crash holds no code but tests of what the world does to a server: kill -9 at any moment, damaged and missing files, and
// clients that send whatever they like. Each test runs `keb server --api-only` as a child process on a data directory of its
// own and speaks to it over HTTPS as any client does. Nothing imports it.
package crash

package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
)

// commands stands between the shim and runc, each call of which takes some 6 ms of processor time, and does by itself what takes a few system calls.
// Whatever is not as it should be is left to runc, which says why.
type commands struct {
	runc.ProcessMonitor
}

func (m commands) Start(c *exec.Cmd) (chan runc.Exit, error) {
	if itself(c.Args) {
		return done(), nil
	}
	return m.ProcessMonitor.Start(c)
}

func (m commands) StartLocked(c *exec.Cmd) (chan runc.Exit, error) {
	if itself(c.Args) {
		return done(), nil
	}
	return m.ProcessMonitor.StartLocked(c)
}

func (m commands) Wait(c *exec.Cmd, exits chan runc.Exit) (int, error) {
	if c.Process == nil { // it was never started
		return (<-exits).Status, nil
	}
	return m.ProcessMonitor.Wait(c, exits)
}

func done() chan runc.Exit {
	exits := make(chan runc.Exit, 1)
	exits <- runc.Exit{Timestamp: time.Now()}
	return exits
}

// itself carries out a command line of runc, `runc --root ROOT --log BUNDLE/log.json ... VERB ... ID`, and says whether it could.
func itself(args []string) bool {
	if len(args) < 6 || args[1] != "--root" || args[3] != "--log" {
		return false
	}
	state, bundle := filepath.Join(args[2], args[len(args)-1]), filepath.Dir(args[4])
	switch {
	case args[len(args)-2] == "start":
		return start(filepath.Join(state, "exec.fifo"), filepath.Join(bundle, "init.pid")) == nil
	case slices.Equal(args[len(args)-3:len(args)-1], []string{"delete", "--force"}):
		// It comes once more for each container that was deleted before.
		_, err := os.Lstat(state)
		return errors.Is(err, fs.ErrNotExist)
	}
	return false
}

// lookTime is how often a container that does not go on is looked at.
const lookTime = 100 * time.Millisecond

// start opens the other end of the fifo that a created container waits at, which lets it go on to its program, and removes the fifo, which is the sign
// for runc that it runs.
func start(fifo, pidFile string) error {
	// Without O_NONBLOCK this would wait for ever for a container that has died.
	fd, err := unix.Open(fifo, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(lookTime.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			break
		}
		if err := alive(pidFile); err != nil {
			return err
		}
	}
	if n, err := unix.Read(fd, make([]byte, 1)); err != nil || n == 0 {
		return errors.Join(err, fs.ErrClosed)
	}
	return os.Remove(fifo)
}

// alive looks for the process whose number is in a file. The shim reaps it when it ends, so that there are no zombies.
func alive(pidFile string) error {
	data, err := os.ReadFile(pidFile)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return err
	}
	return unix.Kill(pid, 0)
}

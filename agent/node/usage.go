package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

// Used is what all of the machine has used: processor time since it started, and the memory of its working set in bytes, which is what could not be
// given back at once. Processor time is that of the root control group, in version 2 or 1: /proc/stat counts no finer than ticks.
func Used() (cpu time.Duration, memory int64, err error) {
	cpu, err = cpuUsed()
	return cpu, max(Meminfo("MemTotal")-Meminfo("MemFree")-Meminfo("Inactive(file)"), 0), err
}

func cpuUsed() (time.Duration, error) {
	stat, err := os.ReadFile("/sys/fs/cgroup/cpu.stat")
	if errors.Is(err, fs.ErrNotExist) {
		return cpuUsedV1()
	}
	if err != nil {
		return 0, fmt.Errorf("read the machine's processor time: %w", err)
	}
	for line := range strings.Lines(string(stat)) {
		if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
			return nanos(value, time.Microsecond)
		}
	}
	return 0, errors.New("read the machine's processor time: cpu.stat has no usage_usec")
}

func cpuUsedV1() (time.Duration, error) {
	value, err := os.ReadFile("/sys/fs/cgroup/cpuacct/cpuacct.usage")
	if err != nil {
		return 0, fmt.Errorf("read the machine's processor time: %w", err)
	}
	return nanos(string(value), time.Nanosecond)
}

func nanos(value string, unit time.Duration) (time.Duration, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the machine's processor time: %w", err)
	}
	return time.Duration(n) * unit, nil
}

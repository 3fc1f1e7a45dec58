package bundle

import (
	"encoding/json"
	"fmt"
)

// pauseSyscalls are what the pause program calls, and before it its C library's start and the last steps of runc, a Go program that
// applies the profile before it becomes the container's process. Names that an architecture lacks are passed over there.
var pauseSyscalls = [...]string{
	// pause
	"pause", "ppoll", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigsuspend", "wait4", "exit", "exit_group", "restart_syscall",
	// the C library's start
	"arch_prctl", "brk", "getrandom", "mprotect", "newfstatat", "prlimit64", "readlink", "readlinkat", "rseq", "set_robust_list", "set_tid_address", "uname",
	// runc
	"clock_gettime", "clock_nanosleep", "clone", "clone3", "close", "close_range", "dup3", "epoll_create1", "epoll_ctl", "epoll_pwait", "eventfd2", "execve",
	"execveat", "fcntl", "fstat", "fstatfs", "futex", "getdents64", "getpid", "getppid", "gettid", "kill", "lseek", "madvise", "mmap", "munmap", "nanosleep",
	"openat", "openat2", "pidfd_open", "pidfd_send_signal", "prctl", "pread64", "read", "sched_getaffinity", "sched_yield", "seccomp", "sigaltstack", "statfs",
	"statx", "tgkill", "timer_create", "timer_delete", "timer_settime", "write",
}

// PauseSeccomp returns the seccomp profile of the pause image, in the form of the OCI runtime specification. It allows far less than
// the runtime's default profile, on the machine's own architecture alone. Compiling the default one took 16 ms of every pod's start.
func PauseSeccomp() ([]byte, error) {
	const enosys = 38 // what is not allowed seems not to exist, so that callers take the older way
	data, err := json.Marshal(map[string]any{
		"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": enosys,
		"syscalls": []any{map[string]any{"names": pauseSyscalls, "action": "SCMP_ACT_ALLOW"}},
	})
	if err != nil {
		return nil, fmt.Errorf("seccomp profile of the pause image: %w", err)
	}
	return data, nil
}

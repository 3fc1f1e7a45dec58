/*
 * The process that holds a pod's namespaces. The shim starts it in namespaces of its own, as the shim's configuration says, and tells it by
 * records on standard input what to do while it still may: a letter, a value and a zero byte each.
 *
 *   c PATH        join the control group by its cgroup.procs
 *   o SCORE       set the score for the kernel's choice when memory runs out; one that is not allowed is left as it is
 *   n PATH        join a network namespace
 *   h NAME        set the host name
 *   s PATH=VALUE  write a file of /proc/sys
 *
 * Then it gives up everything: its file systems, its user, its capabilities and all system calls but those that waiting takes. It reports
 * what went wrong on standard output, which it closes otherwise. As process 1 of a pod it reaps orphans, by letting the kernel do so.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOBODY 65535 /* the user of upstream's pause image */

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#elif defined(__riscv) && __riscv_xlen == 64
#define ARCH AUDIT_ARCH_RISCV64
#else
#error "which AUDIT_ARCH is this?"
#endif

static int fail(const char *what, const char *item)
{
	dprintf(STDOUT_FILENO, "%s %s: %s", what, item, strerror(errno));
	return 1;
}

static int put(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n = write(fd, value, strlen(value));
	int err = errno;
	close(fd);
	errno = err;
	return n < 0 ? -1 : 0;
}

static int follow(char *record)
{
	char *value = record + 1, *equals;
	int fd;

	switch (*record) {
	case 'c':
		return put(value, "0") ? fail("join control group", value) : 0;
	case 'o':
		return put("/proc/self/oom_score_adj", value) && errno != EACCES ? fail("set oom score", value) : 0;
	case 'n':
		fd = open(value, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || setns(fd, CLONE_NEWNET))
			return fail("join network namespace", value);
		close(fd);
		return 0;
	case 'h':
		return sethostname(value, strlen(value)) ? fail("set host name", value) : 0;
	case 's':
		equals = strchr(value, '=');
		if (!equals) {
			errno = EINVAL;
			return fail("set sysctl", value);
		}
		*equals = 0;
		return put(value, equals + 1) ? fail("set sysctl", value) : 0;
	}
	errno = EINVAL;
	return fail("follow", record);
}

/* leave_files replaces all file systems by an empty one, so that /proc/1/root leads nowhere. /proc itself is where it is first mounted. */
static int leave_files(void)
{
	return mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	       mount("none", "/proc", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "nr_inodes=1,mode=555") ||
	       chdir("/proc") || syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/");
}

/* leave_descriptors closes what the shim was handed without knowing. */
static void leave_descriptors(void)
{
	if (syscall(__NR_close_range, 3U, ~0U, 0) == 0)
		return;
	for (int fd = 3; fd < 1024; fd++) /* Linux before 5.9 */
		close(fd);
}

static int leave_rights(void)
{
	/* The first number that the kernel does not know ends the list of capabilities. */
	for (int cap = 0; prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0; cap++) {
	}
	return setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) || setresuid(NOBODY, NOBODY, NOBODY) ||
	       prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/* leave_calls allows what pause() and a handler-less signal take. A kernel without seccomp says EINVAL, and there containers have none either. */
static int leave_calls(void)
{
#define ALLOW(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
	struct sock_filter rules[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		ALLOW(__NR_ppoll),
		ALLOW(__NR_restart_syscall),
		ALLOW(__NR_close),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = {.len = sizeof rules / sizeof *rules, .filter = rules};

	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) && errno != EINVAL;
}

int main(void)
{
	static char records[1 << 16];
	size_t length = 0;
	ssize_t n;

	while ((n = read(STDIN_FILENO, records + length, sizeof records - length)) > 0)
		length += (size_t)n;
	if (n < 0 || length == sizeof records || (length && records[length - 1])) {
		errno = n < 0 ? errno : E2BIG;
		return fail("read", "records");
	}
	for (char *r = records, *next; r < records + length; r = next) {
		next = r + strlen(r) + 1;
		if (follow(r))
			return 1;
	}
	struct sigaction child = {.sa_handler = SIG_IGN, .sa_flags = SA_NOCLDWAIT};
	if (sigaction(SIGCHLD, &child, NULL))
		return fail("reap", "orphans");
	leave_descriptors();
	if (leave_files())
		return fail("leave", "files");
	if (leave_rights())
		return fail("leave", "rights");
	if (leave_calls())
		return fail("leave", "system calls");
	close(STDIN_FILENO);
	close(STDOUT_FILENO);
	close(STDERR_FILENO);
	for (;;)
		syscall(__NR_ppoll, NULL, 0, NULL, NULL, 0);
}

package grammar

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// sandbox gives up, for good and for every thread, what answering doesn't
// need.
func sandbox() error {
	size, data, err := mapped()
	if err != nil {
		return err
	}
	for _, l := range []struct {
		name     string
		resource int
		max      uint64
	}{
		{"core", unix.RLIMIT_CORE, 0},
		{"cpu", unix.RLIMIT_CPU, childCPUHard},
		{"file size", unix.RLIMIT_FSIZE, 0},
		{"open files", unix.RLIMIT_NOFILE, 8},
		{"address space", unix.RLIMIT_AS, size + childAddress},
		{"data", unix.RLIMIT_DATA, data + childMemory},
	} {
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: l.max, Max: l.max}); err != nil {
			return fmt.Errorf("limiting %s: %w", l.name, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbidding dumps: %w", err)
	}
	return filter()
}

// mapped is what the process has mapped already, in bytes: all of it, and what
// it can write to. Go, and its race detector most of all, reserve far more than
// they use.
func mapped() (size, data uint64, err error) {
	b, err := os.ReadFile("/proc/self/statm") // proc(5): pages
	if err != nil {
		return 0, 0, fmt.Errorf("measuring memory: %w", err)
	}
	var skip uint64
	if _, err := fmt.Sscan(string(b), &size, &skip, &skip, &skip, &skip, &data); err != nil {
		return 0, 0, fmt.Errorf("measuring memory: %w", err)
	}
	page := uint64(os.Getpagesize())
	return size * page, data * page, nil
}

// needed are the system calls that a Go program with C in it makes while it
// reads, computes and writes. All others fail with EPERM; none of the runtime
// or of glibc's is missed then, since those that matter are here.
var needed = []string{
	"read", "write", "close",
	"mmap", "munmap", "mremap", "mprotect", "madvise", "brk", "mincore",
	"futex", "nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "time",
	"sched_yield", "sched_getaffinity", "getpid", "gettid", "tgkill", "getrusage", "getrandom", "getcpu", "sysinfo", "uname",
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall",
	"set_robust_list", "rseq", "set_tid_address", "arch_prctl", "membarrier", "prctl",
	"epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd2", "fcntl", // the poller of the runtime
	"timer_create", "timer_settime", "timer_delete", "setitimer",
	"exit", "exit_group",
}

// threadsOnly lets clone make threads and no processes.
var threadsOnly = []seccomp.Condition{{Argument: 0, Operation: seccomp.BitsSet, Value: unix.CLONE_THREAD}}

func filter() error {
	info, err := arch.GetInfo("")
	if err != nil {
		return fmt.Errorf("filtering system calls: %w", err)
	}
	names := slices.DeleteFunc(slices.Clone(needed), func(name string) bool {
		_, known := info.SyscallNames[name]
		return !known
	})
	err = seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionErrno, // EPERM
			Syscalls: []seccomp.SyscallGroup{
				{Names: names, Action: seccomp.ActionAllow},
				{NamesWithCondtions: []seccomp.NameWithConditions{{Name: "clone", Conditions: threadsOnly}}, Action: seccomp.ActionAllow},
				// Its flags lie in memory, out of a filter's sight; glibc falls
				// back to clone when a kernel doesn't have it.
				{Names: []string{"clone3"}, Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS)},
			},
		},
	})
	if err != nil {
		return fmt.Errorf("filtering system calls: %w", err)
	}
	return nil
}

// isolate asks for a child in namespaces of its own: no network, no other
// process to be seen, no rights even if the gateway has some. It dies with the
// gateway.
func isolate(cmd *exec.Cmd, namespaces bool) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if namespaces {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS
	}
}

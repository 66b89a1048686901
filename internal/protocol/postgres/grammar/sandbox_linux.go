package grammar

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// sandbox gives up, for good and for every thread, what answering doesn't
// need.
func sandbox() error {
	if err := closeInherited(); err != nil {
		return err
	}
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

// closeInherited closes the descriptors that whoever started the gateway left
// open in it, and so in us. Those of our own runtime are closed on exec.
func closeInherited() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("listing descriptors: %w", err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd < 3 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	return nil
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
// or of glibc's is missed then, since those that matter are here. No call that
// makes a process or a thread is among them, and none that names another
// process or arranges for the kernel to signal one, as fcntl does.
var needed = []string{
	"read", "write", "close",
	"munmap", "mremap", "madvise", "brk", "mincore",
	"futex", "nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "time",
	"sched_yield", "sched_getaffinity", "getpid", "gettid", "getrusage", "getrandom", "getcpu",
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall", "membarrier",
	"epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "eventfd2", // the poller of the runtime
	"exit", "exit_group",
}

// partly are the system calls that are needed for some things and would do
// for others: signals between our own threads, and memory that isn't code.
func partly() []seccomp.NameWithConditions {
	only := func(name string, c seccomp.Condition) seccomp.NameWithConditions {
		return seccomp.NameWithConditions{Name: name, Conditions: []seccomp.Condition{c}}
	}
	notCode := seccomp.Condition{Argument: 2, Operation: seccomp.BitsNotSet, Value: unix.PROT_EXEC}
	return []seccomp.NameWithConditions{
		only("tgkill", seccomp.Condition{Argument: 0, Operation: seccomp.Equal, Value: uint64(os.Getpid())}),
		only("mmap", notCode),
		only("mprotect", notCode),
	}
}

// makeThreads has the runtime make the threads that it may come to need, as
// the filter lets it make none: they stay, idle, for it to use again.
func makeThreads() {
	const threads = 8
	var running, done sync.WaitGroup
	running.Add(threads)
	for range threads {
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			running.Done()
			running.Wait()
		})
	}
	done.Wait()
}

func filter() error {
	info, err := arch.GetInfo("")
	if err != nil {
		return fmt.Errorf("filtering system calls: %w", err)
	}
	names := slices.DeleteFunc(slices.Clone(needed), func(name string) bool {
		_, known := info.SyscallNames[name]
		return !known
	})
	makeThreads()
	// No new privileges is a thread's own; the filter is for all of them.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionErrno, // EPERM
			Syscalls: []seccomp.SyscallGroup{
				{Names: names, Action: seccomp.ActionAllow},
				{NamesWithCondtions: partly(), Action: seccomp.ActionAllow},
			},
		},
	})
	if err != nil {
		return fmt.Errorf("filtering system calls: %w", err)
	}
	return nil
}

// self is the program that runs, even when another lies in its place by now.
func self() (string, error) { return "/proc/self/exe", nil }

// nobody owns nothing.
const nobody = 65534

// isolations are ways to start a child, the best first. In namespaces of its
// own it sees no network and no other process and has no rights, even if the
// gateway has some; root's child is nobody outside of them as well. In any
// case it dies with the gateway.
func isolations() []func(*exec.Cmd) {
	apart := func(cmd *exec.Cmd) {
		beside(cmd)
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS
	}
	if os.Geteuid() != 0 {
		return []func(*exec.Cmd){apart, beside}
	}
	return []func(*exec.Cmd){func(cmd *exec.Cmd) {
		apart(cmd)
		a := cmd.SysProcAttr
		a.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: nobody, HostID: nobody, Size: 1}}
		a.GidMappings = a.UidMappings
		a.GidMappingsEnableSetgroups = true // so that it loses root's other groups
	}, apart, beside}
}

func beside(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// yield has a child run when nobody else would. It can't be undone.
func yield(pid int) { _ = unix.Setpriority(unix.PRIO_PGRP, pid, 10) }

// processorTimeOf is what a process has used of it, its threads together; 0 when
// that can't be read. The kernel makes the id of a process's clock out of its
// own id (include/linux/posix-timers_types.h: CPUCLOCK_SCHED is 2).
func processorTimeOf(pid int) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a program that this one started and will end.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// start runs a program with its output in a file of its own.
func start(dir, name string, argv ...string) (*process, error) {
	logPath := filepath.Join(dir, name+".log")
	out, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	// The context of the run isn't the process's: it is ended in order, by stop.
	cmd := exec.CommandContext(context.Background(), argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, dir
	// A group of its own: Ctrl-C reaches us, and we end it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{cmd: cmd, log: logPath, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		// How it ended is in its log; that it ended too early shows in ready.
		_ = cmd.Wait()
	}()
	return p, nil
}

// ready waits until something listens on addr.
func (p *process) ready(ctx context.Context, network, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var d net.Dialer
	for {
		c, err := d.DialContext(ctx, network, addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %s", filepath.Base(p.cmd.Path), p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s doesn't listen on %s: %w: %s", filepath.Base(p.cmd.Path), addr, err, p.tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// tail is the end of the process's log, for an error's text.
func (p *process) tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b[max(0, len(b)-2000):]))
}

// stop asks the process to end, and ends it when it hasn't after 20 seconds.
func (p *process) stop(sig syscall.Signal) {
	if err := p.cmd.Process.Signal(sig); errors.Is(err, os.ErrProcessDone) {
		return
	}
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		progress("%s doesn't end, killing it", filepath.Base(p.cmd.Path))
		if err := p.cmd.Process.Kill(); err == nil {
			<-p.done
		}
	}
}

// memory is the proportional set size of a process and all its descendants,
// in KiB.
func memory(root int) (int, error) {
	total := 0
	for _, pid := range family(root) {
		kib, err := pss(pid)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // ended meanwhile
		}
		if err != nil {
			return 0, err
		}
		total += kib
	}
	if total == 0 {
		return 0, fmt.Errorf("process %d is gone", root)
	}
	return total, nil
}

// pss reads the field that proc(5) calls Pss in /proc/PID/smaps_rollup.
func pss(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
			return strconv.Atoi(f[1])
		}
	}
	return 0, fmt.Errorf("no Pss for process %d", pid)
}

// family is a process and its descendants.
func family(root int) []int {
	pids := []int{root}
	for i := 0; i < len(pids); i++ {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[i]))
		if err != nil {
			continue // only a malformed pattern, which this isn't
		}
		for _, t := range tasks {
			b, err := os.ReadFile(t)
			if err != nil {
				continue // the thread ended
			}
			for _, f := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(f); err == nil {
					pids = append(pids, pid)
				}
			}
		}
	}
	return pids
}

// cpu is the processor time that a process and its descendants have used, user
// and system, to the hundredth of a second.
func cpu(root int) (time.Duration, error) {
	total := time.Duration(0)
	for _, pid := range family(root) {
		d, err := cpuOf(pid)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // ended meanwhile
		}
		if err != nil {
			return 0, err
		}
		total += d
	}
	return total, nil
}

// tick is the unit of times in /proc, the same on all architectures that Go
// runs on (USER_HZ).
const tick = 10 * time.Millisecond

// cpuOf reads utime and stime, fields 14 and 15 of /proc/PID/stat (proc(5)).
func cpuOf(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the program's name in parentheses, and may hold both.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 13 {
		return 0, fmt.Errorf("no times of process %d", pid)
	}
	user, uerr := strconv.Atoi(f[11])
	system, serr := strconv.Atoi(f[12])
	return time.Duration(user+system) * tick, errors.Join(uerr, serr)
}

// look finds a program in the PATH or among the administrator's.
func look(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	if err != nil {
		return "", fmt.Errorf("%s isn't installed\nhint: scripts/setup.sh bench installs it", name)
	}
	return path, nil
}

// firstLine is the first line that a program prints, for the report.
func firstLine(ctx context.Context, argv ...string) string {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil && len(out) == 0 {
		return err.Error()
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

// usage is what a process that has ended took.
type usage struct {
	output    string
	processor time.Duration
	clock     time.Duration
	peak      int64 // bytes of memory
}

// spent runs a program to its end. Its complaint is in the error.
func spent(ctx context.Context, name string, args ...string) (usage, error) {
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	err := cmd.Run()
	u := usage{output: stdout.String(), clock: time.Since(began)}
	if err != nil {
		return u, fmt.Errorf("%s %s: %w: %.1000s", filepath.Base(name), strings.Join(args, " "), err, stderr.String())
	}
	u.processor = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if r, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		u.peak = r.Maxrss << 10 // KiB on Linux
	}
	return u, nil
}

package connect

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// Exit codes that shells give to programs that didn't run, or were ended by a
// signal (POSIX, "Exit Status for Commands"), and the one of env, timeout and
// others when it isn't the program that failed.
const (
	ExitNotTried      = 125
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignal        = 128
)

// NotRun is the exit code for a program that could not be run for err.
func NotRun(err error) int {
	switch {
	case errors.Is(err, context.Canceled):
		return ExitNotTried
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return exitNotFound
	}
	return exitNotExecutable
}

// passed are the signals that are passed on to a child. Those that stop and
// continue a job reach it by themselves.
var passed = []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2}

// RunChild runs a program to its end, passes signals on to it and returns its
// exit code. An error means that it didn't run, as when ctx is done before: from
// then on only signals count.
func RunChild(ctx context.Context, cmd *exec.Cmd) (int, error) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, passed...)
	defer signal.Stop(signals)
	if err := ctx.Err(); err != nil {
		return NotRun(err), err
	}
	if err := cmd.Start(); err != nil {
		return NotRun(err), err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			if !typed(s) {
				_ = cmd.Process.Signal(s) // it may just have ended
			}
		case err := <-ended:
			return codeOfEnd(err)
		}
	}
}

// typed reports whether a signal may come from the terminal, which sends it to
// the child as well: passed on, one Ctrl-C would be two.
func typed(s os.Signal) bool {
	if s != syscall.SIGINT && s != syscall.SIGQUIT {
		return false
	}
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	foreground, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && foreground == unix.Getpgrp()
}

func codeOfEnd(err error) (int, error) {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return exitNotExecutable, err
	}
	if exit == nil {
		return 0, nil
	}
	if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return exitSignal + int(s.Signal()), nil
	}
	return exit.ExitCode(), nil
}

package journal

import (
	"fmt"
	"os"
	"syscall"
)

func datasync(f *os.File) error {
	return control(f, "fdatasync", syscall.Fdatasync)
}

func allocate(f *os.File, from, to int64) error {
	return control(f, "fallocate", func(fd int) error { return syscall.Fallocate(fd, 0, from, to-from) })
}

// control runs a system call on f, which stays open meanwhile, until no signal
// interrupts it.
func control(f *os.File, what string, call func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := conn.Control(func(fd uintptr) {
		for err = syscall.EINTR; err == syscall.EINTR; { //nolint:errorlint // a bare errno
			err = call(int(fd))
		}
	})
	if cerr != nil {
		return cerr
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, f.Name(), err)
	}
	return nil
}

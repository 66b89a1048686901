package journal

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func datasync(f *os.File) error {
	return control(f, "fdatasync", syscall.Fdatasync)
}

func allocate(f *os.File, from, to int64) error {
	return control(f, "fallocate", func(fd int) error { return syscall.Fallocate(fd, 0, from, to-from) })
}

// unpredicted keeps the kernel from reading ahead in f, which is read in large
// pieces anyway, while it is written: pages that it reads ahead it reads in large
// folios, and each small write to one of those looks at all of it.
func unpredicted(f *os.File) {
	_ = control(f, "fadvise", func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM) }) // or it is a bit slower
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

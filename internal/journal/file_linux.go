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

// mapFile maps all of a file for writing. fdatasync covers what is stored in
// the mapping (mmap(2), MAP_SHARED).
func mapFile(f *os.File) (mapped []byte, err error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	err = control(f, "mmap", func(fd int) (err error) {
		mapped, err = syscall.Mmap(fd, 0, int(info.Size()), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
		return err
	})
	return mapped, err
}

func unmapFile(mapped []byte) error {
	if mapped == nil {
		return nil
	}
	return syscall.Munmap(mapped)
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

//go:build unix

package gateway

import (
	"os"
	"syscall"
)

// inodeOf is the number of the inode that f is, where files have one.
func inodeOf(f *os.File) (inode uint64, known bool, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, false, err
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false, nil
	}
	return s.Ino, true, nil
}

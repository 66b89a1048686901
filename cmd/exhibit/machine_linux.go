package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// clockSynchronised reports what the kernel was told about its clock
// (adjtimex(2)); reading it needs no privilege.
func clockSynchronised() (synced, known bool) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return false, false
	}
	return state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0, true
}

// diskOf returns the bytes that a user may still write below path, and the name
// of the file system when what is written there may not survive loss of power.
func diskOf(path string) (free uint64, volatile string, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, "", fmt.Errorf("looking at the disk of %s: %w", path, err)
	}
	switch s.Type {
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		volatile = "a RAM disk"
	case unix.NFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC:
		volatile = "a network file system or FUSE"
	}
	return s.Bavail * uint64(s.Bsize), volatile, nil
}

// forbidDumps keeps the keys in this process's memory out of core files, and
// the memory from other processes of the same user. A limit of nothing alone
// would not do: a handler of the system's is given the dump all the same
// (core(5)).
func forbidDumps() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("limiting core dumps: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbidding core dumps: %w", err)
	}
	return nil
}

package postgres

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// hungUp reports whether a peer will send no more, also while bytes of it are
// still unread (poll(2), POLLRDHUP).
func hungUp(c net.Conn) bool {
	s, ok := socket(c).(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p, 0)
		gone = err == nil && n > 0 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return err == nil && gone
}

package postgres

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hungUp reports whether a peer will send no more, also while bytes of it are
// still unread (poll(2), POLLRDHUP).
func hungUp(c net.Conn) (gone bool) {
	control(c, func(fd int) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p, 0)
		gone = err == nil && n > 0 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone
}

// unacknowledged reports whether a peer's system owes an acknowledgement, of
// bytes or of a question whether there is room for some, and how long it has
// sent none at all (tcp(7), TCP_INFO).
func unacknowledged(c net.Conn) (owes bool, silent time.Duration) {
	control(c, func(fd int) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil { // a unix socket: its peer is on this machine
			return
		}
		owes = info.Unacked > 0 || info.Probes > 0
		silent = time.Duration(info.Last_ack_recv) * time.Millisecond
	})
	return owes, silent
}

// control lends f the descriptor of a connection, if it has one.
func control(c net.Conn, f func(fd int)) {
	s, ok := socket(c).(syscall.Conn)
	if !ok {
		return
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { f(int(fd)) }) // it fails on a closed connection: f isn't called
}

//go:build unix

package httpgate

import (
	"crypto/tls"
	"net"
	"syscall"
)

// hungUp reports whether an idle peer has closed its connection, or has said
// something that nobody asked for.
func hungUp(c net.Conn) bool {
	t, secured := c.(*tls.Conn)
	if secured {
		c = t.NetConn()
	}
	s, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return true
	}
	gone := true
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		// Of a secured connection it may be a ticket for the next one.
		gone = n == 0 && err == nil || n > 0 && !secured || err != nil && err != syscall.EAGAIN
		return true
	})
	return gone || err != nil
}

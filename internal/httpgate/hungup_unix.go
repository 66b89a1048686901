//go:build unix

package httpgate

import (
	"crypto/tls"
	"net"
	"syscall"
)

// peer is who is at the other end of an idle connection. It is asked before each
// request, so all that needs is made once.
type peer struct {
	raw     syscall.RawConn // nil where nothing can be told
	look    func(fd uintptr) bool
	secured bool
	gone    bool
	b       [1]byte
}

func newPeer(c net.Conn) *peer {
	p := &peer{}
	p.look = p.peek
	t, secured := c.(*tls.Conn)
	if p.secured = secured; secured {
		c = t.NetConn()
	}
	if s, ok := c.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			p.raw = raw
		}
	}
	return p
}

// hungUp reports whether the peer has closed its connection, or has said
// something that nobody asked for.
func (p *peer) hungUp() bool {
	if p.raw == nil {
		return false
	}
	p.gone = true
	err := p.raw.Read(p.look)
	return p.gone || err != nil
}

func (p *peer) peek(fd uintptr) bool {
	n, _, err := syscall.Recvfrom(int(fd), p.b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	// Of a secured connection it may be a ticket for the next one.
	p.gone = n == 0 && err == nil || n > 0 && !p.secured || err != nil && err != syscall.EAGAIN
	return true
}

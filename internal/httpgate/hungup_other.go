//go:build !unix

package httpgate

import "net"

// peer can't be asked here: a request may meet a connection that is closed.
type peer struct{}

func newPeer(net.Conn) *peer { return nil }
func (p *peer) hungUp() bool { return false }

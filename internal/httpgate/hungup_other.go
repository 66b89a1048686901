//go:build !unix

package httpgate

import "net"

// hungUp can't be told here: a request may meet a connection that is closed.
func hungUp(net.Conn) bool { return false }

//go:build !linux

package postgres

import (
	"net"
	"time"
)

// hungUp can't be told here without reading.
func hungUp(net.Conn) bool { return false }

// unacknowledged can't be told here; the system's own limits hold.
func unacknowledged(net.Conn) (owes bool, silent time.Duration) { return false, 0 }

package postgres

import (
	"net"
	"time"
)

// pulse finds out whether a peer's system still answers. TCP keepalive does so
// while nothing is under way; for what is, systems wait a quarter of an hour.
// TCP_USER_TIMEOUT would be sooner, and also end a peer that is well and reads
// nothing for a while, as a server does that has work.
type pulse struct {
	limit time.Duration
	since time.Time // when something to be acknowledged was seen first
	gone  bool
}

// lost reports whether the peer of c is lost, and closes c when it is.
func (p *pulse) lost(c net.Conn, now time.Time) bool {
	if p.gone {
		return true
	}
	owes, silent := unacknowledged(c)
	switch {
	case !owes:
		p.since = time.Time{}
	case p.since.IsZero():
		p.since = now
	case now.Sub(p.since) >= p.limit && silent >= p.limit:
		p.gone = true
		socket(c).Close() // nobody is there to be told
	}
	return p.gone
}

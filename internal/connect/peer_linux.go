package connect

import (
	"net"

	"golang.org/x/sys/unix"
)

// UnixSockets says whether local ends can be unix sockets, whose peers must be
// known.
const UnixSockets = true

// peerUID returns the effective uid of the process that connected, as it was
// when it did (SO_PEERCRED of unix(7)).
func peerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return cred.Uid, nil
}

package connect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// maxClients is how many clients one local end serves at once. More of them wait
// until the system gives up.
const maxClients = 1024

// listen opens a local end: a port of loopback, or a unix socket that is its
// owner's alone. A socket that a crash left behind is replaced, one that is in
// use isn't.
func listen(ctx context.Context, network, address string, log *slog.Logger) (net.Listener, error) {
	if network == "unix" {
		if err := prepareSocket(ctx, address); err != nil {
			return nil, err
		}
	}
	inner, err := new(net.ListenConfig).Listen(ctx, network, address)
	if err != nil {
		return nil, &Error{Reason: "opening the local end", Hint: hintOf(network), Err: err}
	}
	if network == "unix" {
		// Until here others could connect, but not be served: see admit.
		if err := os.Chmod(address, 0o600); err != nil {
			return nil, errors.Join(fmt.Errorf("closing %s to other users: %w", address, err), inner.Close())
		}
	}
	return &local{
		Listener: inner, log: log,
		slots: make(chan struct{}, maxClients), closed: make(chan struct{}),
	}, nil
}

func hintOf(network string) string {
	if network == "unix" {
		return "the path of a socket has at most about 100 bytes, and its folder must be yours"
	}
	return "port 0 takes a free one"
}

func prepareSocket(ctx context.Context, path string) error {
	if !UnixSockets {
		return failure("use a port of 127.0.0.1", "a unix socket can't be offered: this system doesn't tell who is at the other end")
	}
	if c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path); err == nil {
		return errors.Join(failure("end that one, or choose another path", "somebody answers at %s already", path), c.Close())
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("removing the socket of an earlier run: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("opening the local end: %w", err)
	}
	return nil
}

// local accepts clients that may act as the agent, a bounded number at once.
type local struct {
	net.Listener
	log   *slog.Logger
	slots chan struct{}

	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener.
func (l *local) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			<-l.slots
			return nil, err
		}
		if err := admit(c); err != nil {
			l.log.Warn("a client was refused", "error", err)
			c.Close()
			continue
		}
		return &client{Conn: c, release: sync.OnceFunc(func() { <-l.slots })}, nil
	}
}

// Close implements net.Listener.
func (l *local) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// admit refuses a peer of a unix socket that runs as another user, whatever the
// modes of socket and folder have become: root too, who has ways of its own.
func admit(c net.Conn) error {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil
	}
	uid, err := peerUID(u)
	if err != nil {
		return fmt.Errorf("who it is isn't known: %w", err)
	}
	return admitUID(uid)
}

func admitUID(uid uint32) error {
	if own := os.Getuid(); int64(uid) != int64(own) {
		return fmt.Errorf("it runs as uid %d, and only uid %d is the agent", uid, own)
	}
	return nil
}

// client is a client's connection. Closing it makes room for another.
type client struct {
	net.Conn
	release func()
}

// Close implements net.Conn.
func (c *client) Close() error {
	err := c.Conn.Close()
	c.release()
	return err
}

// CloseWrite tells the client that no more will come, and that it should end as
// well.
func (c *client) CloseWrite() error {
	_ = c.SetReadDeadline(time.Now().Add(drain)) // a closed connection needs no deadline
	return closeWrite(c.Conn)
}

// closeWrite ends one direction of a connection, if it has two.
func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// acceptPause is how long to wait when the system gives no connection, as when
// it has no more files.
const acceptPause = 100 * time.Millisecond

// each serves every client of l until ctx is done, and is done when they are.
func each(ctx context.Context, l net.Listener, log *slog.Logger, serve func(context.Context, net.Conn)) error {
	var serving sync.WaitGroup
	defer serving.Wait()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			serving.Go(func() { serve(ctx, c) })
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		default:
			log.Error("no client can be accepted", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
		}
	}
}

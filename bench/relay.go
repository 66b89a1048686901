package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

// runRelay passes bytes between agent and server and looks at none of them:
// two goroutines and two 32 KiB buffers per connection. What a Go proxy costs
// before it does anything is the difference between this and direct.
func runRelay(ctx context.Context, spec string) error {
	listen, upstream, ok := strings.Cut(spec, "=")
	if !ok {
		return fmt.Errorf("relay %q: want listen=upstream", spec)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	for {
		agent, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				err = nil // told to end, it ended
			}
			return err
		}
		go func() {
			if err := relay(ctx, agent, upstream); err != nil {
				fmt.Fprintln(os.Stderr, "relay:", err)
			}
		}()
	}
}

func relay(ctx context.Context, agent net.Conn, upstream string) error {
	defer agent.Close()
	var d net.Dialer
	server, err := d.DialContext(ctx, "tcp", upstream)
	if err != nil {
		return err
	}
	defer server.Close()
	// PostgreSQL knows no half-closed connection: the first side that ends ends
	// both.
	end := func() { _, _ = agent.Close(), server.Close() }
	done := make(chan struct{})
	go func() {
		defer close(done)
		pump(agent, server)
		end()
	}()
	pump(server, agent)
	end()
	<-done
	return nil
}

// pump copies until either side ends. It reads and writes by itself because
// io.Copy would let the kernel splice, which nothing that reads the bytes can.
func pump(to io.Writer, from io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

package connect

import (
	"context"
	"io"
	"net"
	"sync"
	"time"
)

// drain is how long one side may still finish what it says once the other has
// ended: as long as the gateway waits for outcomes of an agent that has gone.
const drain = 5 * time.Second

// relay passes bytes both ways, untouched, until both sides have ended. Each
// ends soon after the other, and when ctx is done the client counts as gone: its
// gateway then ends what is under way in good order.
func relay(ctx context.Context, client, gateway net.Conn) {
	stop := context.AfterFunc(ctx, func() {
		_ = client.SetReadDeadline(time.Unix(1, 0)) // a closed connection needs no deadline
	})
	defer stop()
	var passing sync.WaitGroup
	passing.Go(func() { pass(gateway, client) })
	passing.Go(func() { pass(client, gateway) })
	passing.Wait()
}

// pass passes on what src says, and then sees to it that dst ends as well. What
// src goes on to say to nobody is read: closed upon that, it might never read
// what it was told last.
func pass(dst, src net.Conn) {
	_, _ = io.Copy(dst, src) // whichever side failed, both end
	_ = closeWrite(dst)
	end := time.Now().Add(drain)
	_ = dst.SetDeadline(end)
	_ = src.SetDeadline(end)
	_, _ = io.Copy(io.Discard, src)
}

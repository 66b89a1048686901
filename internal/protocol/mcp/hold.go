package mcp

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
)

// keepAlive is how often an agent that waits for people hears that its
// connection lives.
const keepAlive = 15 * time.Second

// approvable makes of a request's command one that people can approve, and that
// its agent can wait for: until it is begun, by an event stream if the agent
// takes one. What differs each time it is asked for isn't what is approved: the
// id, and the token of the progress.
func (t *turn) approvable(c *conversation, m *message, cmd *evidence.Command) {
	if t.ends != t.ctx {
		t.ctx, t.giveUp = context.WithCancel(t.ctx) //nolint:gosec // it ends with the context that it is of
		t.ends = t.ctx
	}
	cmd.Exact = []byte(m.method)
	if token := progressToken(m); token != nil {
		at := offset(m.params, token)
		cmd.Params[0] = slices.Concat(m.params[:at], []byte("0"), m.params[at+len(token):])
	}
	cmd.Wait = func(request string, _ time.Time) {
		c.holds(m, t.giveUp)
		stop, stopped := make(chan struct{}), sync.WaitGroup{}
		t.waited = func() {
			close(stop)
			stopped.Wait()
			c.holds(m, nil)
		}
		if m.method == "initialize" || !strings.Contains(strings.Join(t.r.Header["Accept"], ","), "text/event-stream") {
			return
		}
		t.stream()
		stopped.Go(func() { t.keep(m, request, stop) })
	}
}

// progressToken is by what an agent wants to be told of a request's progress; nil
// when it doesn't.
func progressToken(m *message) []byte {
	meta, err := member(m.params, "_meta")
	if err != nil {
		return nil
	}
	token, err := member(meta, "progressToken")
	if err != nil || token == nil || token[0] != '"' && !integer.Match(token) {
		return nil
	}
	return token
}

// stream begins to answer with events: from here on every answer is one.
func (t *turn) stream() {
	t.streams = true
	h := t.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	t.w.WriteHeader(http.StatusOK)
	t.write((&event{}).append(nil))
}

// keep tells an agent again and again that its request waits. Progress grows, as
// the protocol has it, and stays below any that the server will tell.
func (t *turn) keep(m *message, request string, stop <-chan struct{}) {
	token := progressToken(m)
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	for n := 0; ; n++ {
		e := &event{}
		if token != nil {
			e.data = fmt.Appendf(nil, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"progress":%d.%06d,"message":%s}}`,
				token, n/1e6, n%1e6, encode(fmt.Sprintf("waiting until people have approved it: exhibit approval show %s", request)))
		}
		t.write(e.append(nil))
		select {
		case <-stop:
			return
		case <-tick.C:
		}
	}
}

// holds notes how the wait of a request is ended; nil is that it has.
func (c *conversation) holds(m *message, giveUp func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if x := c.inFlight[idKey(m.id)]; x != nil {
		x.giveUp = giveUp
	}
}

// release ends the wait of a request that the agent has cancelled.
func (c *conversation) release(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if x := c.inFlight[key]; x != nil && x.giveUp != nil {
		x.giveUp()
	}
}

// excess is what an agent is told of a request that was stopped at a limit.
func excess(f *httpgate.Failure) *problem {
	return &problem{code: codeInternal, message: f.Reason, hint: f.Hint, command: f.ID, rules: f.Rules}
}

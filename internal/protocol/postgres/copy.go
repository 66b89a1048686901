package postgres

import (
	"context"
	"fmt"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// copy passes on the content of a COPY at the front of the buffer: one frame
// of the given size, or as many as are there. Every byte is observed before it
// goes. It waits for the server to say whether there is a COPY at all; content
// that nobody waits for is dropped here, as the server would.
func (a *agentSide) copy(ctx context.Context, size int) error {
	ex, err := a.copying(ctx)
	if err != nil {
		return err
	}
	if ex == nil {
		return a.discard(size)
	}
	if size > largeBuffer {
		return a.stream(ctx, ex, size)
	}
	run, last := a.content()
	ok, err := a.observe(ex, run, last)
	if err != nil {
		return err
	}
	if !ok {
		return a.discard(len(run))
	}
	a.in.r += len(run)
	return a.send(run)
}

// copying waits for the server to say whether there is a COPY, and returns its
// exchange or nil.
func (a *agentSide) copying(ctx context.Context) (protocol.Exchange, error) {
	q := &a.c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	err := a.answers(ctx, func() bool { return q.copying != nil || q.over() })
	return q.copying, err
}

// answers waits for what the server has to say until that is known; q.mu is
// held. Without a Sync or a Flush the server keeps its answers to itself, and
// the agent may never send one.
func (a *agentSide) answers(ctx context.Context, known func() bool) error {
	q := &a.c.q
	if !known() && (a.open || a.unsynced) {
		q.mu.Unlock()
		err := a.flush(ctx)
		q.mu.Lock()
		if err != nil {
			return err
		}
	}
	q.until(known)
	return nil
}

// flush asks the server for the answers that it holds back. A COPY ignores it.
func (a *agentSide) flush(ctx context.Context) error {
	if err := a.c.note(ctx, protocol.Note{Kind: "flush", Gateway: true, Frames: 1, Bytes: len(flushFrame)}); err != nil {
		return refusal(err)
	}
	return a.send(flushFrame)
}

var flushFrame = []byte{'H', 0, 0, 0, 4}

// content returns the whole frames of content at the front of the buffer, and
// whether the last of them ends the COPY.
func (a *agentSide) content() (run []byte, last bool) {
	b := a.in.unread()
	n := 0
	for len(b)-n >= headerSize && frontendFrames[b[n]].kind == copyFrame && !last {
		size, err := checkFrontend(b[n:], 0)
		if err != nil || n+size > len(b) {
			break // gather looks at it next
		}
		last = b[n] != 'd'
		n += size
	}
	return b[:n], last
}

// observe takes content in for a COPY's exchange. It reports false when the
// COPY has ended meanwhile: the exchange counts nothing any more.
func (a *agentSide) observe(ex protocol.Exchange, b []byte, last bool) (bool, error) {
	q := &a.c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.copying != ex {
		return false, nil
	}
	if err := ex.Observe(evidence.ToUpstream, b); err != nil {
		return false, refusal(err)
	}
	a.c.sent.Add(uint64(len(b)))
	if last {
		q.copying = nil
		// Syncs that came before now were content to the server.
		a.open, a.unsynced = a.open || q.copyExtended, a.unsynced || q.copyExtended
	}
	return true, nil
}

// stream passes on one CopyData frame that is larger than the buffer.
func (a *agentSide) stream(ctx context.Context, ex protocol.Exchange, size int) error {
	a.c.frames['d'-'@']++
	for size > 0 {
		chunk := a.in.unread()
		if len(chunk) == 0 {
			if err := a.fill(); err != nil {
				return err
			}
			continue
		}
		chunk = chunk[:min(len(chunk), size)]
		ok, err := a.observe(ex, chunk, false)
		if err != nil {
			return err
		}
		if !ok { // the frame must be completed all the same
			if err := a.c.note(ctx, protocol.Note{Kind: "copy", Bytes: len(chunk), Detail: "the rest of a CopyData whose COPY has ended"}); err != nil {
				return refusal(err)
			}
		}
		if _, err := a.c.up.Write(chunk); err != nil {
			return fmt.Errorf("%w: writing to the upstream: %w", errEnded, err)
		}
		a.in.r += len(chunk)
		size -= len(chunk)
	}
	return nil
}

// discard drops bytes that the agent sends.
func (a *agentSide) discard(size int) error {
	for {
		n := min(size, len(a.in.unread()))
		a.in.r += n
		if size -= n; size == 0 {
			return nil
		}
		if err := a.fill(); err != nil {
			return err
		}
	}
}

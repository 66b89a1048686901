package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/failpoint"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/sql"
)

// agentSide is the goroutine that reads from the agent and writes to the
// server. It gathers frames up to one that asks for an answer, makes commands
// of them, has the session Begin those, and forwards them.
//
// Gathering doesn't stop where a read does: what is recorded together depends
// on the frames, not on how the network cut them.
type agentSide struct {
	c       *conn
	in      buffer
	scanned int // bytes of whole frames in in, not yet processed

	segment  []*prepared // statements parsed since the last Sync
	portals  []binding   // portals bound since the last Sync
	renamed  bool        // SQL gave or took names of statements since the last Sync
	begun    uint64      // entry number at which the segment began
	open     bool        // frames were forwarded since the last Sync, or what brings its own
	unsynced bool        // frames of the extended protocol were forwarded since the last Sync: if they fail, nothing counts until it
	skip     skipping    // until the next Sync
	ends     byte        // 'S', 'Q' or 'F' when the region at hand ends with one

	number  int   // of commands begun
	stopped error // why the agent waited no more for people
	units   []unit
	cmds    []*evidence.Command
	params  [][]byte
	reason  string // why it ended
	err     error
}

// skipping says what happens to frames after a refusal, until Sync.
type skipping uint8

const (
	forwarding  skipping = iota
	skipLocal            // the server knows nothing of it: the gateway answers the Sync
	skipForward          // the server was made to fail: it answers the Sync
)

func (a *agentSide) init(c *conn) {
	a.c = c
	a.in.init()
}

func (a *agentSide) release() {
	a.in.release()
}

// run serves the agent until it, or the session, ends.
func (a *agentSide) run(ctx context.Context) {
	for {
		region, err := a.gather(ctx)
		if err == nil && len(region) > 0 {
			err = a.process(ctx, region)
			a.in.r += len(region)
			a.scanned = 0
		}
		if err != nil {
			a.stop(err)
			return
		}
	}
}

// errTerminate is how an agent ends its session in good order.
var errTerminate = errors.New("terminate")

// stop notes why the agent's side ends, and tells the agent when it is at fault.
func (a *agentSide) stop(err error) {
	var f *failure
	switch {
	case errors.Is(err, errTerminate):
		a.reason, a.err = "terminate", errEnded
	case errors.Is(err, errEnded):
		a.reason, a.err = "upstream closed", errEnded
	case errors.As(err, &f):
		a.reason, a.err = f.message, err
		a.c.fail(f, a.reason, err)
	case errors.Is(err, errTooLarge):
		a.reason, a.err = "protocol error: "+err.Error(), err
		a.tell(fatal(codeProgramLimit, err.Error(), "send less at once, or use COPY"))
		a.c.end(a.reason, err)
	case errors.Is(err, errProtocol):
		a.reason, a.err = "protocol error: "+err.Error(), err
		a.c.fail(fatal(codeProtocol, err.Error(), ""), a.reason, err)
	default:
		a.reason, a.err = "agent closed", err
		if hangup(err) {
			a.err = errEnded
		}
	}
}

// tellTimeout bounds the wait for an agent to have sent what won't be read.
const tellTimeout = time.Second

// tell writes an error to an agent that may be in the middle of sending. Were
// the connection closed on what it sends, it would never read the error.
func (a *agentSide) tell(f *failure) {
	deadline := time.Now().Add(tellTimeout)
	if a.c.agent.SetDeadline(deadline) != nil || a.c.writeAgent(f.append(nil)) != nil {
		return
	}
	for time.Now().Before(deadline) {
		a.in.r, a.in.w = 0, 0
		if a.fill() != nil {
			return
		}
	}
}

// gather returns the next run of whole frames that is to be processed
// together: up to a frame that asks for an answer, or as many as fit. The
// content of a COPY it passes on by itself.
func (a *agentSide) gather(ctx context.Context) ([]byte, error) {
	for {
		ready := a.in.unread()[a.scanned:]
		if len(ready) < headerSize {
			if a.scanned+headerSize > largeBuffer { // the next header has no room
				return a.in.unread()[:a.scanned], nil
			}
			if err := a.fill(); err != nil {
				return nil, err
			}
			continue
		}
		size, err := checkFrontend(ready, int(a.c.p.cfg.Limits.Message))
		if err != nil {
			return nil, err
		}
		kind := frontendFrames[ready[0]].kind
		switch {
		case kind == copyFrame:
			if a.scanned > 0 {
				return a.in.unread()[:a.scanned], nil
			}
			if size <= largeBuffer && size > len(ready) {
				if err := a.fill(); err != nil {
					return nil, err
				}
				continue
			}
			if err := a.copy(ctx, size); err != nil {
				return nil, err
			}
			continue
		case size > largeBuffer:
			if a.scanned > 0 {
				return a.in.unread()[:a.scanned], nil
			}
			return nil, a.large(ctx, size)
		case kind == terminalFrame && a.scanned > 0:
			return a.in.unread()[:a.scanned], nil
		case size > len(ready):
			if a.scanned+size > largeBuffer {
				return a.in.unread()[:a.scanned], nil
			}
			if err := a.fill(); err != nil {
				return nil, err
			}
			continue
		}
		a.scanned += size
		if answered(ready[0]) {
			return a.in.unread()[:a.scanned], nil
		}
	}
}

// answered reports whether an agent may wait for an answer after a frame.
func answered(t byte) bool { return t == 'S' || t == 'Q' || t == 'F' || t == 'H' || t == 'X' }

// fill reads what the agent sends into the buffer, which it makes larger when
// it is full.
func (a *agentSide) fill() error {
	if a.in.r == a.in.w {
		a.in.shrink()
	}
	a.in.compact()
	if a.in.full() {
		a.in.grow()
	}
	n, err := a.c.agent.Read(a.in.b[a.in.w:])
	a.in.w += n
	if n > 0 {
		return nil
	}
	return err
}

// large processes a frame that is larger than the buffers, by itself. All
// sessions together hold no more of those than the limit.
func (a *agentSide) large(ctx context.Context, size int) error {
	c := a.c
	if err := c.p.memory.Acquire(ctx, int64(size)); err != nil {
		return err
	}
	defer c.p.memory.Release(int64(size))
	frame := make([]byte, size)
	have := copy(frame, a.in.unread())
	a.in.r += have
	if err := a.rest(frame[have:]); err != nil {
		return err
	}
	return a.process(ctx, frame)
}

// slowFrame is the pace, in bytes a second, below which a large frame is given
// up: others may wait for the memory that it holds.
const slowFrame = 256 << 10

// rest reads the rest of a large frame.
func (a *agentSide) rest(b []byte) error {
	limit := a.c.p.cfg.Limits.Frame + time.Duration(len(b)/slowFrame)*time.Second
	if err := a.c.agent.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	n, err := io.ReadFull(a.c.agent, b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return violation("%d bytes of a frame were not sent within %v", len(b)-n, limit)
	}
	return errors.Join(err, a.c.agent.SetReadDeadline(time.Time{}))
}

// unit is a command, or frames that belong to none.
type unit struct {
	start   int    // offset of its first frame in the region
	kind    string // of the note, for frames that belong to no command
	path    string // how the command comes
	p       *prepared
	env     *sql.Env // what p is understood by; nil is the present
	un      *sql.Understanding
	bound   bool   // a Bind is in it
	portal  string // that it binds
	unknown string // says of which statement or portal nobody knows

	cmd   evidence.Command
	entry entry
}

// process makes commands of a region, has them begun, and forwards what may
// be. A region holds at most one pipeline segment.
func (a *agentSide) process(ctx context.Context, region []byte) error {
	if region[0] == 'X' {
		return a.terminate(ctx, region)
	}
	for len(region) > 0 {
		n, err := a.parse(ctx, region)
		if err == nil {
			err = a.pass(ctx, region[:n])
		}
		if err != nil {
			return err
		}
		region = region[n:]
	}
	return nil
}

// pass has the units begun, and forwards them or not.
func (a *agentSide) pass(ctx context.Context, region []byte) error {
	if err := a.room(ctx, len(a.units)); err != nil {
		return err
	}
	a.cmds = a.cmds[:0]
	for i := range a.units {
		u := &a.units[i]
		u.cmd.Bytes = a.endOf(i, region) - u.start
		u.cmd.Skip = a.skip != forwarding
		if u.cmd.Raw == nil && u.p != nil {
			u.cmd.Exact, u.cmd.Streams = u.p.exact(), u.p.opaque
		}
		if u.p != nil {
			a.cmds = append(a.cmds, &u.cmd)
		}
	}
	var exchanges []protocol.Exchange
	if len(a.cmds) > 0 {
		var err error
		if exchanges, err = a.begin(ctx); err != nil {
			f := refusal(err)
			if errors.Is(err, protocol.ErrUnavailable) { // the gateway leaves, not the resource
				f.code = codeEnded
			}
			return f
		}
	}
	a.number += len(exchanges)
	if err := a.alert(ctx, exchanges); err != nil {
		return refusal(err)
	}
	if a.skip != forwarding {
		return a.skipped(ctx)
	}
	cut, ex := a.admitted(exchanges)
	if err := a.forward(ctx, region, cut); err != nil {
		return err
	}
	if ex != nil {
		return a.refuse(ctx, &a.units[cut], ex)
	}
	if a.ends != 0 {
		a.synced()
	}
	return nil
}

// begin has the commands of the units begun. One that stands alone may wait for
// people.
func (a *agentSide) begin(ctx context.Context) ([]protocol.Exchange, error) {
	a.stopped = nil
	if !a.alone() {
		return a.c.sess.Begin(ctx, a.cmds...)
	}
	p := &a.c.patience
	a.cmds[0].Wait = p.wait
	exchanges, err := a.c.sess.Begin(p.ctx, a.cmds...)
	a.stopped = a.c.waited(ctx)
	return exchanges, err
}

// alert asks a person to look at texts that ended the process that parses.
func (a *agentSide) alert(ctx context.Context, exchanges []protocol.Exchange) error {
	for i := range a.units {
		u := &a.units[i]
		if u.p == nil {
			continue
		}
		ex := exchanges[0]
		exchanges = exchanges[1:]
		if u.un == nil || !u.un.Killed {
			continue
		}
		if err := a.c.sess.Alert(ctx, evidence.AlertBody{
			Rule: "grammar-killed", Severity: "medium", Trigger: ex.Position(),
			Text: "a statement ended the process that parses, or outlasted it; it counts as opaque",
		}); err != nil {
			return err
		}
	}
	return nil
}

// endOf is the offset at which a unit ends in its region.
func (a *agentSide) endOf(i int, region []byte) int {
	if i+1 < len(a.units) {
		return a.units[i+1].start
	}
	return len(region)
}

// admitted gives the units their exchanges. It returns how many units may be
// forwarded and, if that isn't all, the exchange of the next, which was refused.
func (a *agentSide) admitted(exchanges []protocol.Exchange) (int, protocol.Exchange) {
	for i := range a.units {
		u := &a.units[i]
		if u.p == nil {
			continue
		}
		ex := exchanges[0]
		exchanges = exchanges[1:]
		if ex.Skipped() || ex.Decision().Effect != evidence.Allow {
			return i, ex
		}
		u.entry.ex, u.entry.n = ex, a.number-len(exchanges)
		if u.entry.parse != nil {
			u.entry.parse.of = ex.Position()
		}
	}
	return len(a.units), nil
}

// forward sends the first n units of region to the server, as they are.
func (a *agentSide) forward(ctx context.Context, region []byte, n int) error {
	if n == 0 {
		return nil
	}
	if err := a.notes(ctx, n); err != nil {
		return err
	}
	q := &a.c.q
	q.mu.Lock()
	for i := range a.units[:n] {
		u := &a.units[i]
		if u.bound {
			q.bind(binding{u.portal, u.p, u.env})
		}
		if u.entry.un != nil && renames(u.entry.un) {
			a.renamed = true
		}
		switch e := &u.entry; {
		case e.kind == queryEntry:
			q.drop("") // a Query closes it by the way
			q.push(e)
		case e.lone() && q.copying != nil:
			q.strays++ // content, to the server
			q.swallows = true
		case e.pending > 0 || e.sync:
			q.push(e)
		}
	}
	q.mu.Unlock()
	for i := range a.units[:n] {
		if u := &a.units[i]; u.entry.ex != nil && u.entry.ex.Decision().Obligations != nil {
			a.c.watchTime(ctx, u.entry.ex)
		}
	}
	a.open, a.unsynced = true, a.unsynced || !a.units[0].entry.whole()
	return a.send(region[:a.endOf(n-1, region)])
}

// notes records the frames among the first n units that belong to no command.
func (a *agentSide) notes(ctx context.Context, n int) error {
	note := protocol.Note{}
	for i := range a.units[:n] {
		u := &a.units[i]
		if u.p != nil {
			a.c.sent.Add(uint64(u.cmd.Bytes))
			continue
		}
		if note.Kind == "" {
			note.Kind = u.kind
		}
		note.Frames += u.cmd.Frames
		note.Bytes += u.cmd.Bytes
	}
	if note.Frames == 0 {
		return nil
	}
	if err := a.c.note(ctx, note); err != nil {
		return refusal(err)
	}
	return nil
}

// send writes frames to the server and counts them by type. Their bytes were
// counted when they were recorded.
func (a *agentSide) send(frames []byte) error {
	for b := frames; len(b) > 0; {
		size, err := frameSize(b)
		if err != nil {
			return err
		}
		a.c.frames[b[0]-'@']++
		b = b[size:]
	}
	if _, err := a.c.up.Write(frames); err != nil {
		return fmt.Errorf("%w: writing to the upstream: %w", errEnded, err)
	}
	failpoint.Hit("forwarded")
	return nil
}

// synced begins a new segment.
func (a *agentSide) synced() {
	a.open, a.skip, a.renamed = false, forwarding, false
	a.unsynced = a.unsynced && a.ends != 'S'
	a.segment, a.portals = a.segment[:0], a.portals[:0]
	a.begun = a.c.q.next()
}

// skipped goes on after a refusal: nothing goes to the server but the Sync
// that ends the segment, if the server waits for it.
func (a *agentSide) skipped(ctx context.Context) error {
	if a.ends != 'S' {
		return nil
	}
	local := a.skip == skipLocal
	if local {
		a.synced()
		status, _ := a.c.q.idle()
		return a.c.writeAgent(appendReady(nil, status))
	}
	if err := a.c.note(ctx, protocol.Note{Kind: "sync", Frames: 1, Bytes: len(syncFrame)}); err != nil {
		return refusal(err)
	}
	a.c.q.add(entry{kind: extendedEntry, sync: true})
	a.synced()
	return a.send(syncFrame)
}

// refuse answers a refused command as the server would: with an error, after
// which nothing counts until the Sync. Where the server stands in a
// transaction, or may, it is made to fail as well, so that nothing before the
// refusal commits by accident and the status it reports is true.
func (a *agentSide) refuse(ctx context.Context, u *unit, ex protocol.Exchange) error {
	f := denial(ex)
	if a.stopped != nil {
		f.code, a.stopped = codeCancelled, nil
	}
	if u.unknown != "" {
		f.code, f.message = codeNoStatement, u.unknown
		if u.path == pathFetch {
			f.code = codeNoPortal
		}
	}
	if u.entry.whole() && a.unsynced {
		ignored, err := a.ignored(ctx)
		if err != nil {
			return err
		}
		if ignored {
			a.skip = skipForward
			return nil
		}
		a.unsynced = false
	}
	sync := a.ends == 'S' || u.entry.whole()
	if status, idle := a.c.q.idle(); idle && !a.open && status != 'T' {
		b := f.append(nil)
		if sync {
			a.synced()
			return a.c.writeAgent(appendReady(b, status))
		}
		a.skip = skipLocal
		return a.c.writeAgent(b)
	}
	frames := a.c.p.failingFrames(sync)
	note := protocol.Note{Kind: "denial", Gateway: true, Frames: 1, Bytes: len(frames), Detail: "of " + ex.Position().String()}
	if sync {
		note.Frames++
	}
	if err := a.c.note(ctx, note); err != nil {
		return refusal(err)
	}
	a.c.q.add(entry{kind: failingEntry, sync: sync, refusal: f})
	if sync {
		a.synced()
	} else {
		a.skip = skipForward
	}
	return a.send(frames)
}

// terminate passes an agent's goodbye on.
func (a *agentSide) terminate(ctx context.Context, frame []byte) error {
	if err := a.c.note(ctx, protocol.Note{Kind: "terminate", Frames: 1, Bytes: len(frame)}); err != nil {
		return refusal(err)
	}
	if err := a.send(frame); err != nil {
		return err
	}
	return errTerminate
}

package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/failpoint"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// serverSide is the goroutine that reads from the server and writes to the
// agent. It looks at headers, matches messages to the queue's entries, and
// passes the bytes on in runs as long as the buffer. A message that shows that
// a command is complete goes on only once the outcome is recorded; until the
// Sync's answer says that it stands it is held.
type serverSide struct {
	c   *conn
	out buffer // out.r is the first byte that isn't written

	scanned int // bytes from out.r that have been matched
	held    int // offset from out.r of the first byte that is held, or -1
	observe int // offset from out.r of the first byte of COPY content not yet observed, or -1

	tx       transactions
	cur      entry
	busy     bool // cur is being answered
	skipping bool // the server ignores everything up to a Sync

	bound bool             // cur's decision has obligations
	over  *protocol.Excess // the limit that cur has exceeded
	late  bool             // and it was complete before the server knew
}

func (s *serverSide) init(c *conn) {
	s.c = c
	s.out.init()
	s.held, s.observe = -1, -1
}

// run serves the server until it, or the session, ends.
func (s *serverSide) run(ctx context.Context) {
	defer s.out.release()
	for {
		err := s.scan(ctx)
		if err == nil {
			err = s.flush()
		}
		if _, settled := s.c.q.left(); err == nil && settled {
			err = errEnded
		}
		if err == nil {
			err = s.fill()
		}
		if err != nil {
			s.stop(err)
			return
		}
	}
}

// stop ends the session for what ended the server's side.
func (s *serverSide) stop(err error) {
	reason, _ := s.c.q.left()
	if reason == "" {
		reason = "upstream closed"
	}
	var f *failure
	switch {
	case errors.Is(err, errEnded), hangup(err):
		s.c.end(reason, errEnded)
	case errors.As(err, &f):
		if ferr := s.flush(); ferr != nil { // what isn't held may still be seen
			err = errors.Join(err, ferr)
		}
		s.c.fail(f, f.message, err)
	case errors.Is(err, errProtocol):
		s.c.fail(fatal(codeProtocol, "the resource's answer was not understood", "ask the gateway's operator"), "upstream protocol error: "+err.Error(), err)
	default:
		s.c.end(reason, fmt.Errorf("reading from the upstream: %w", err))
	}
}

// fill reads more from the server. Before it may block, everything that isn't
// held has been written.
func (s *serverSide) fill() error {
	if s.out.w-s.out.r == 0 {
		s.out.shrink()
	}
	s.out.compact()
	// What is held back can outgrow the buffer: notices of a trigger that runs
	// between a command and its commit, say.
	if s.out.full() && !s.out.grow() && !s.overtake() && !s.out.stretch() {
		return violation("more than %d bytes of the upstream between a command's completion and ReadyForQuery", hugeBuffer)
	}
	n, err := s.c.up.Read(s.out.b[s.out.w:])
	s.out.w += n
	if n > 0 {
		return nil
	}
	return err
}

// overtake lets what belongs to no command, and so may come at any time, go
// ahead of what is held. It reports whether that made room.
func (s *serverSide) overtake() bool {
	if s.held != 0 { // what isn't held has been written
		return false
	}
	matched, rest := s.out.unread()[:s.scanned], s.out.unread()[s.scanned:]
	kept := 0
	s.c.agentMu.Lock()
	defer s.c.agentMu.Unlock()
	for len(matched) > 0 {
		size, err := frameSize(matched)
		if err != nil {
			return false // it was matched: that can't be
		}
		if m := matched[:size]; backendMessages[m[0]].kind == asyncMessage {
			s.write(m)
		} else {
			kept += copy(s.out.unread()[kept:], m)
		}
		matched = matched[size:]
	}
	if kept == s.scanned {
		return false
	}
	s.out.w = s.out.r + kept + copy(s.out.unread()[kept:], rest)
	s.scanned = kept
	return true
}

// scan matches the whole messages in the buffer.
func (s *serverSide) scan(ctx context.Context) error {
	for {
		b := s.out.unread()[s.scanned:]
		if len(b) < headerSize {
			return nil
		}
		size, err := frameSize(b)
		if err != nil {
			return err
		}
		if size > len(b) {
			if s.scanned > 0 || s.held >= 0 || len(b) < largeBuffer {
				// It will fit once there is room. A larger one waits until the
				// buffer is full of it, so that an error's fields are there.
				return nil
			}
			if err := s.stream(ctx, b, size); err != nil {
				return err
			}
			continue
		}
		if err := s.message(ctx, b[0], b[headerSize:size], size); err != nil {
			return err
		}
	}
}

// stream passes on a message that is larger than the buffer. Nobody else may
// write to the agent while it is under way.
func (s *serverSide) stream(ctx context.Context, b []byte, size int) error {
	if err := s.message(ctx, b[0], b[headerSize:], size); err != nil {
		return err
	}
	if s.held >= 0 {
		return violation("%s of %d bytes", backendMessages[b[0]].name, size)
	}
	if s.scanned == 0 { // it wasn't for the agent
		return nil
	}
	left := size - len(b)
	s.scanned -= left
	content := s.observe >= 0
	s.c.agentMu.Lock()
	defer s.c.agentMu.Unlock()
	for {
		if err := s.observed(); err != nil {
			return err
		}
		s.write(s.out.unread())
		s.out.r, s.out.w, s.scanned = 0, 0, 0
		if left == 0 {
			return nil
		}
		n, err := s.c.up.Read(s.out.b[:min(left, len(s.out.b))])
		if n == 0 {
			return err
		}
		s.out.w, s.scanned = n, n
		left -= n
		if content {
			s.observe = 0
		}
	}
}

// flush writes what has been matched and isn't held.
func (s *serverSide) flush() error {
	if err := s.observed(); err != nil {
		return err
	}
	n := s.scanned
	if s.held >= 0 {
		n = s.held
		s.held = 0
	}
	if n == 0 {
		return nil
	}
	s.c.agentMu.Lock()
	s.write(s.out.unread()[:n])
	s.c.agentMu.Unlock()
	s.out.r += n
	s.scanned -= n
	return nil
}

// write writes to the agent, if it is still there: the outcomes of what it has
// asked are recorded in any case. agentMu is held.
func (s *serverSide) write(b []byte) {
	if s.c.gone.Load() {
		return
	}
	n, err := s.c.agent.Write(b)
	s.c.replied.Add(uint64(n))
	failpoint.Hit("replied")
	if err != nil {
		s.c.gone.Store(true)
	}
}

// observed hands the content of a COPY on before it is written.
func (s *serverSide) observed() error {
	if s.observe < 0 {
		return nil
	}
	b := s.out.unread()[s.observe:s.scanned]
	s.observe = -1
	if !s.busy || s.cur.ex == nil || len(b) == 0 {
		return nil
	}
	if err := s.cur.ex.Observe(evidence.ToAgent, b); err != nil {
		return refusal(err)
	}
	return nil
}

// message matches one message. body may be cut short when the message is
// larger than the buffer.
func (s *serverSide) message(ctx context.Context, t byte, body []byte, size int) error {
	kind := backendMessages[t].kind
	if s.observe >= 0 && t != 'd' {
		if err := s.observed(); err != nil {
			return err
		}
	}
	switch kind {
	case unknownMessage:
		return violation("unknown message type %q from the upstream", t)
	case refusedMessage:
		return violation("%s from the upstream", backendMessages[t].name)
	case asyncMessage:
		if t == 'S' {
			s.c.q.report(body)
		}
		s.count(size)
		return nil
	case readyMessage:
		return s.ready(ctx, body, size)
	case errorMessage:
		return s.failed(ctx, body, size)
	}
	if err := s.next(t); err != nil {
		return err
	}
	switch kind {
	case rowMessage:
		s.release()
		if s.exceeds(ctx, size) {
			return s.drop(size)
		}
		s.cur.rows++
	case copyDataMessage:
		s.release()
		if t == 'd' && s.exceeds(ctx, size) || s.over != nil {
			return s.drop(size)
		}
		if t == 'd' {
			s.cur.rows++
			if s.observe < 0 {
				s.observe = s.scanned
			}
		}
	case copyMessage:
		if err := s.copy(t); err != nil {
			return err
		}
	case describeMessage:
		if s.over != nil { // of a later statement in the same text
			return s.drop(size)
		}
		if s.cur.kind == extendedEntry && t != 't' {
			return s.answer(ctx, t, size)
		}
		s.release()
	case completeMessage:
		if s.over != nil {
			return s.tooLate(ctx, t, body, size)
		}
		if s.cur.whole() {
			return s.result(t, body, size)
		}
		return s.complete(ctx, t, body, size)
	}
	s.count(size)
	return nil
}

// count takes a message of the entry at hand in.
func (s *serverSide) count(size int) {
	s.cur.reply += uint64(size)
	s.scanned += size
}

// hold keeps the message at hand, and what follows it, from the agent.
func (s *serverSide) hold() {
	if s.held < 0 {
		s.held = s.scanned
	}
}

// release lets go of what was held: it was not the end.
func (s *serverSide) release() { s.held = -1 }

// next sees to it that an entry is being answered.
func (s *serverSide) next(t byte) error {
	if s.busy {
		return nil
	}
	if s.skipping || !s.take() {
		return violation("%s from the upstream that answers nothing", backendMessages[t].name)
	}
	return nil
}

// take takes the next entry of the queue to be answered.
func (s *serverSide) take() bool {
	if !s.c.q.take(&s.cur) {
		return false
	}
	s.busy = true
	s.cur.ended = s.cur.ex == nil
	s.bound = s.cur.ex != nil && s.cur.ex.Decision().Obligations != nil
	return true
}

// tooLate takes in the completion of a command that has exceeded a limit: it was
// complete before the server knew. What it did stands, and the agent is told so
// when the server is ready for more. Where it would be told in the middle of a
// pipeline that goes on, the session ends: behind an error nothing may follow.
func (s *serverSide) tooLate(ctx context.Context, t byte, body []byte, size int) error {
	s.late = true
	if t == 'C' {
		s.tx.completed(&s.cur, tag(body))
	}
	if s.cur.whole() {
		s.cur.held = true
		return s.drop(size)
	}
	if s.cur.kind != extendedEntry || s.cur.pending == 0 {
		return violation("%s from the upstream that answers nothing", backendMessages[t].name)
	}
	s.cur.pending--
	if t == '3' && len(s.cur.closes) > 0 {
		s.c.q.forget(s.cur.closes[0])
		s.cur.closes = s.cur.closes[1:]
	}
	if s.cur.pending == 0 && !s.cur.sync && s.c.q.takeSync() {
		s.cur.sync = true
	}
	if s.cur.pending == 0 && !s.cur.sync {
		if err := s.end(ctx, evidence.Outcome{Class: evidence.OK, Code: s.over.Code}); err != nil {
			return err
		}
		return fatal(codeProgramLimit, s.over.Error(), "Send a Sync behind each command that may exceed it.")
	}
	s.cur.held = true
	return s.drop(size)
}

// result takes in a completion within a Query, or the response to a
// FunctionCall. Whether it is the last one only the next message tells.
func (s *serverSide) result(t byte, body []byte, size int) error {
	switch call := s.cur.kind == callEntry; {
	case t == 'V' && call, t == 'I' && !call:
	case t == 'C' && !call:
		s.cur.counts += tagRows(tag(body))
		s.tx.completed(&s.cur, tag(body))
	default:
		return violation("%s from the upstream as the answer to another command", backendMessages[t].name)
	}
	s.held = s.scanned
	s.cur.held = true
	if size > headerSize+len(body) { // content, too much to hold; ReadyForQuery follows
		s.release()
	}
	s.count(size)
	return nil
}

// tag returns the tag of a CommandComplete's body.
func tag(body []byte) []byte {
	return bytes.TrimSuffix(body, []byte{0})
}

// complete takes in an answer within the extended protocol that may be that to
// an Execute.
func (s *serverSide) complete(ctx context.Context, t byte, body []byte, size int) error {
	switch t {
	case '1':
		if s.cur.parse != nil {
			s.c.q.define(s.cur.parse)
		}
	case '3':
		if len(s.cur.closes) > 0 {
			s.c.q.forget(s.cur.closes[0])
			s.cur.closes = s.cur.closes[1:]
		}
	case 'C':
		s.cur.counts += tagRows(tag(body))
		s.tx.completed(&s.cur, tag(body))
	case 's':
		s.cur.counts = s.cur.rows
	}
	return s.answer(ctx, t, size)
}

// answer counts an answer to one frame of the extended protocol. The last one
// of a command ends it, unless a Sync decides whether it stands.
func (s *serverSide) answer(ctx context.Context, t byte, size int) error {
	if s.cur.kind != extendedEntry || s.cur.pending == 0 {
		return violation("%s from the upstream that answers nothing", backendMessages[t].name)
	}
	s.cur.pending--
	executed := t == 'C' || t == 's' || t == 'I'
	if s.cur.pending == 0 || executed {
		if !s.cur.sync && s.cur.pending == 0 && s.c.q.takeSync() {
			s.cur.sync = true
		}
		switch {
		case s.cur.sync:
			s.hold()
			s.cur.held = true
		default:
			s.cur.reply += uint64(size)
			if err := s.end(ctx, evidence.Outcome{Class: evidence.OK}); err != nil {
				return err
			}
			s.cur.reply -= uint64(size)
		}
	}
	s.count(size)
	if s.cur.pending == 0 && !s.cur.sync {
		s.answered()
	}
	return nil
}

// copy takes in the start of a COPY.
func (s *serverSide) copy(t byte) error {
	s.release()
	if t == 'H' {
		return nil
	}
	if !s.c.q.startCopy(&s.cur) {
		return fatal(codeUnsupported, "commands in the pipeline behind a COPY are not let through", "wait for the COPY to start")
	}
	return nil
}

// failed takes in an error. After one in the extended protocol the server
// ignores everything up to the Sync.
func (s *serverSide) failed(ctx context.Context, body []byte, size int) error {
	e := parseError(body)
	if !s.busy && (s.skipping || !s.take()) {
		s.count(size) // nobody asked: the server ends the connection
		return nil
	}
	s.tx.fails(&s.cur, e.fatal())
	if s.cur.ex != nil {
		s.c.q.endCopy(s.cur.ex)
	}
	why := s.over
	if why == nil {
		why = s.stopped(e.code)
	}
	switch whole := size == headerSize+len(body); {
	case s.cur.kind == failingEntry && whole:
		if err := s.replace(s.cur.refusal, size); err != nil {
			return err
		}
	case why != nil && whole && e.code == codeCancelled:
		f := limitFailure(why)
		s.cur.reply += uint64(len(f.append(nil)))
		s.cur.counts = s.cur.rows
		if err := s.end(ctx, evidence.Outcome{Class: evidence.Cancelled, Code: why.Code, Detail: e.detail}); err != nil {
			return err
		}
		s.release()
		if err := s.replace(f, size); err != nil {
			return err
		}
	default:
		s.cur.reply += uint64(size)
		o := evidence.Outcome{Class: evidence.Failed, Code: e.code, Detail: e.detail}
		switch {
		case e.fatal():
			o.Class = evidence.InDoubt // it may have committed before
		case e.code == codeCancelled:
			o.Class = evidence.Cancelled
		}
		if err := s.end(ctx, o); err != nil {
			return err
		}
		s.cur.reply -= uint64(size)
		s.release()
		s.count(size)
	}
	if s.cur.sync {
		s.cur.pending = 0
		return nil
	}
	s.skipping = true
	s.answered()
	return nil
}

// replace puts a refusal in the place of the message at hand.
func (s *serverSide) replace(f *failure, size int) error {
	if err := s.flush(); err != nil {
		return err
	}
	// Everything matched has been written, so the message starts at out.r.
	s.out.r += size
	b := f.append(nil)
	s.c.agentMu.Lock()
	s.write(b)
	s.c.agentMu.Unlock()
	s.cur.reply += uint64(len(b))
	return nil
}

// ready takes in a ReadyForQuery.
func (s *serverSide) ready(ctx context.Context, body []byte, size int) error {
	if len(body) != 1 {
		return violation("malformed ReadyForQuery from the upstream")
	}
	found := s.busy
	switch {
	case s.skipping:
		var err error
		if found, err = s.skip(ctx); err != nil {
			return err
		}
	case !s.busy:
		found = s.take()
	}
	if !found || !s.cur.sync || s.cur.pending > 0 || s.cur.whole() && !s.cur.ended && !s.cur.held {
		return s.stray(ctx, body[0], size)
	}
	s.skipping = false
	s.cur.reply += uint64(size)
	o, told := evidence.Outcome{Class: evidence.OK}, []byte(nil)
	if s.late && !s.cur.ended {
		o.Code, s.cur.counts = s.over.Code, s.cur.rows
		f := limitFailure(s.over)
		f.hint = "It was complete before it could be stopped: what it changed stands. " + f.hint
		told = f.append(nil)
		s.cur.reply += uint64(len(told))
	}
	if err := s.end(ctx, o); err != nil {
		return err
	}
	if told != nil {
		if err := s.flush(); err != nil {
			return err
		}
		s.c.agentMu.Lock()
		s.write(told)
		s.c.agentMu.Unlock()
	}
	if s.bound {
		s.told()
	}
	s.tx.ready(&s.cur, body[0])
	if err := s.tell(ctx); err != nil {
		return err
	}
	s.release()
	s.scanned += size
	s.c.q.ready(body[0])
	s.answered()
	return nil
}

// skip ends what the server has ignored, up to the Sync that it didn't.
func (s *serverSide) skip(ctx context.Context) (found bool, err error) {
	for s.take() {
		if err := s.end(ctx, evidence.Outcome{Class: evidence.Skipped}); err != nil {
			return false, err
		}
		if s.cur.sync && !s.cur.whole() {
			s.cur.pending = 0
			return true, nil
		}
		s.answered()
	}
	return false, nil
}

// stray takes in the answer to a Sync that the server might as well have taken
// for part of a COPY's content.
func (s *serverSide) stray(ctx context.Context, status byte, size int) error {
	if !s.c.q.stray(status) {
		return violation("ReadyForQuery from the upstream that answers nothing")
	}
	s.skipping = false
	s.tx.ready(&entry{}, status)
	if err := s.tell(ctx); err != nil {
		return err
	}
	s.scanned += size
	return nil
}

// end records the outcome of the entry at hand, once.
func (s *serverSide) end(ctx context.Context, o evidence.Outcome) error {
	if s.cur.ended {
		return nil
	}
	s.cur.ended = true
	if err := s.observed(); err != nil {
		return err
	}
	if s.bound {
		s.c.q.inTime(s.cur.ex)
		if e := protocol.Exceeds(s.cur.ex.Decision(), s.cur.counts, 0); e != nil && o.Class == evidence.OK {
			o.Code = e.Code // rows that it changed: nobody knew before it was done
		}
	}
	o.Rows, o.Reply = s.cur.counts, s.cur.reply
	if err := s.cur.ex.End(ctx, o); err != nil {
		return s.unknown(o, err)
	}
	if s.cur.un != nil {
		s.ran(o.Class == evidence.OK)
	}
	s.tx.ran(&s.cur, o.Class == evidence.OK)
	return s.tell(ctx)
}

// ran takes in what the command at hand did to the session and the database.
func (s *serverSide) ran(ok bool) {
	un := s.cur.un
	s.c.q.ran(un, ok)
	if ok && s.c.p.cfg.Changed != nil && un.ChangesCatalogue() {
		s.c.p.cfg.Changed(s.c.startup.database)
	}
}

// unknown ends the session because an outcome could not be recorded. The agent
// must not be told that the command succeeded.
func (s *serverSide) unknown(o evidence.Outcome, err error) error {
	return fmt.Errorf("recording the outcome %s: %w: %w", o.Class, err,
		fatal(codeUnknownOutcome, "the outcome of the command could not be recorded: it may or may not have taken effect", "find out before you repeat it"))
}

// answered is done with the entry at hand.
func (s *serverSide) answered() {
	s.c.q.answered(&s.cur, s.skipping)
	if s.bound {
		s.told()
	}
	s.cur = entry{}
	s.busy, s.bound, s.over, s.late = false, false, nil, false
}

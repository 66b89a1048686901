package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// parse makes units of the frames at the start of a region, and says how many
// bytes of it they are. These make one command: a Query or FunctionCall; a Parse with the Bind
// and Execute of what it parsed; a Bind with its Execute; and an Execute alone,
// which fetches more of a portal. What describes, closes or synchronizes joins
// the command before it.
//
// It stops behind a command that changes what texts mean, and before one that
// names the record of another that isn't begun.
func (a *agentSide) parse(ctx context.Context, region []byte) (int, error) {
	a.units, a.params, a.ends = a.units[:0], a.params[:0], 0
	off := 0
	for off < len(region) {
		size, err := frameSize(region[off:])
		if err == nil {
			err = a.frame(ctx, off, region[off], region[off+headerSize:off+size])
		}
		if errors.Is(err, errSplit) {
			break
		}
		if err != nil {
			return 0, err
		}
		a.last().cmd.Frames++
		off += size
	}
	a.understand(ctx, a.last())
	return off, nil
}

// errSplit says that a frame must wait until what came before it is begun.
var errSplit = errors.New("understood only after the command before it")

// frame puts one frame into a unit.
func (a *agentSide) frame(ctx context.Context, off int, t byte, body []byte) error {
	switch t {
	case 'Q':
		return a.query(ctx, off, body)
	case 'F':
		return a.call(ctx, off, body)
	case 'P':
		return a.prepare(ctx, off, body)
	case 'B':
		return a.bind(ctx, off, body)
	case 'E':
		return a.execute(ctx, off, body)
	case 'D':
		return a.describe(ctx, off, body)
	case 'C':
		return a.closes(ctx, off, body)
	case 'H':
		_, err := a.join(ctx, off, "flush")
		return err
	default: // 'S': gather lets nothing else through
		u, err := a.join(ctx, off, "sync")
		if err != nil {
			return err
		}
		u.entry.sync, a.ends = true, 'S'
		return nil
	}
}

// unit starts a unit at an offset of the region. The one before it is complete
// then, and understood.
func (a *agentSide) unit(ctx context.Context, off int) (*unit, error) {
	n := len(a.units)
	if n > 0 {
		u := a.last()
		if u.un == nil {
			a.understand(ctx, u)
		}
		if u.entry.un != nil && len(u.entry.un.Effects) > 0 {
			return nil, errSplit
		}
	}
	if n < cap(a.units) {
		a.units = a.units[:n+1]
		a.units[n] = unit{}
	} else {
		a.units = append(a.units, unit{})
	}
	u := &a.units[n]
	u.start = off
	u.entry.kind = extendedEntry
	return u, nil
}

// last returns the unit at hand, or nil.
func (a *agentSide) last() *unit {
	if len(a.units) == 0 {
		return nil
	}
	return &a.units[len(a.units)-1]
}

// join returns the unit at hand, or starts one for frames that belong to no
// command.
func (a *agentSide) join(ctx context.Context, off int, kind string) (*unit, error) {
	if u := a.last(); u != nil {
		return u, nil
	}
	u, err := a.unit(ctx, off)
	if err == nil {
		u.kind = kind
	}
	return u, err
}

func (a *agentSide) query(ctx context.Context, off int, body []byte) error {
	text, err := parseQuery(body)
	if err != nil {
		return err
	}
	if err := a.settled(ctx); err != nil {
		return err
	}
	u, err := a.unit(ctx, off)
	if err != nil {
		return err
	}
	u.path, u.p, u.cmd.Raw = pathSimple, newPrepared("", text), text
	u.entry.kind, u.entry.sync, a.ends = queryEntry, true, 'Q'
	return nil
}

// call takes a FunctionCall. What it asks can be said in SQL, and is
// understood as that.
func (a *agentSide) call(ctx context.Context, off int, body []byte) error {
	from := len(a.params)
	oid, formats, params, err := parseFunctionCall(body, a.params)
	if err != nil {
		return err
	}
	a.params = params
	if err := a.settled(ctx); err != nil {
		return err
	}
	u, err := a.unit(ctx, off)
	if err != nil {
		return err
	}
	text := spellCall(oid, len(params)-from)
	u.path, u.p, u.cmd.Raw = pathCall, &prepared{text: text}, []byte(text)
	if callable[oid] == "" {
		u.un = opaqueCall(oid)
	}
	u.cmd.Params, u.cmd.Encoding = params[from:len(params):len(params)], encoding(formats, nil)
	u.entry.kind, u.entry.sync, a.ends = callEntry, true, 'F'
	return nil
}

func newPrepared(name string, text []byte) *prepared {
	if len(text) > maxText {
		return &prepared{name: name, opaque: true}
	}
	return &prepared{name: name, text: string(text)}
}

// prepare takes a Parse.
func (a *agentSide) prepare(ctx context.Context, off int, body []byte) error {
	name, text, types, err := parseParse(body)
	if err != nil {
		return err
	}
	if err := a.settled(ctx); err != nil {
		return err
	}
	u, err := a.unit(ctx, off)
	if err != nil {
		return err
	}
	u.path, u.p, u.cmd.Raw = pathPrepare, newPrepared(string(name), text), text
	if len(types) > 2 {
		u.p.types = bytes.Clone(types)
	}
	u.cmd.Name, u.entry.parse, u.entry.pending = u.p.name, u.p, 1
	a.segment = append(a.segment, u.p)
	return nil
}

func (a *agentSide) bind(ctx context.Context, off int, body []byte) error {
	from := len(a.params)
	b, params, err := parseBind(body, a.params)
	if err != nil {
		return err
	}
	a.params = params
	if err := a.settled(ctx); err != nil {
		return err
	}
	u := a.last()
	if u != nil && u.path == pathPrepare && u.p.name == string(b.statement) {
		u.path = pathExtended
	} else {
		p := a.statement(b.statement)
		if a.unbegun(p) {
			return errSplit
		}
		if u, err = a.unit(ctx, off); err != nil {
			return err
		}
		u.path, u.p = pathExecute, p
		if u.p == nil {
			u.p = &prepared{name: string(b.statement), opaque: true}
			u.unknown = fmt.Sprintf("prepared statement %q does not exist, as far as the access gateway knows", b.statement)
		}
		u.cmd.Of, u.cmd.Name = u.p.of, u.p.name
	}
	u.cmd.Params, u.cmd.Encoding = params[from:len(params):len(params)], encoding(b.formats, u.p.types)
	u.env = a.c.q.environment()
	u.bound, u.portal = true, string(b.portal)
	u.entry.pending++
	a.portals = append(a.portals, binding{u.portal, u.p, u.env})
	return nil
}

func (a *agentSide) execute(ctx context.Context, off int, body []byte) error {
	portal, _, err := parseExecute(body)
	if err != nil {
		return err
	}
	if err := a.settled(ctx); err != nil {
		return err
	}
	u := a.last()
	if u == nil || !u.bound || u.entry.execute || u.portal != string(portal) {
		b := a.portal(portal)
		if a.unbegun(b.p) {
			return errSplit
		}
		if u, err = a.unit(ctx, off); err != nil {
			return err
		}
		u.path, u.p, u.env = pathFetch, b.p, b.env
		if u.p == nil {
			u.p = &prepared{opaque: true}
			u.unknown = fmt.Sprintf("portal %q does not exist, as far as the access gateway knows", portal)
		}
		u.cmd.Of, u.cmd.Name = u.p.of, string(portal)
	}
	u.entry.pending++
	u.entry.execute = true
	return nil
}

// describe takes a Describe. Behind an Execute it stands alone: its answer
// must not hold up that to the Execute.
func (a *agentSide) describe(ctx context.Context, off int, body []byte) error {
	if _, _, err := parseObject(body); err != nil {
		return err
	}
	u := a.last()
	if u == nil || u.entry.execute {
		var err error
		if u, err = a.unit(ctx, off); err != nil {
			return err
		}
		u.kind = "describe"
	}
	u.entry.pending++
	return nil
}

// closes takes a Close.
func (a *agentSide) closes(ctx context.Context, off int, body []byte) error {
	kind, name, err := parseObject(body)
	if err != nil {
		return err
	}
	u, err := a.join(ctx, off, "close")
	if err != nil {
		return err
	}
	u.entry.closes = append(u.entry.closes, object{kind, string(name)})
	u.entry.pending++
	return nil
}

// unbegun reports whether p is prepared by a command of this very region.
func (a *agentSide) unbegun(p *prepared) bool {
	return p != nil && p.of.IsZero() && len(a.units) > 0
}

// statement finds a prepared statement by its name: one of this segment, which
// the server skips to the Sync without if it doesn't come to be, or one that
// the server has confirmed.
func (a *agentSide) statement(name []byte) *prepared {
	if a.renamed {
		return nil
	}
	for i := len(a.segment) - 1; i >= 0; i-- {
		if a.segment[i].name == string(name) {
			return a.segment[i]
		}
	}
	q := &a.c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.defining > 0 {
		a.earlier()
	}
	return q.statements[string(name)]
}

// portal finds what a portal was bound to.
func (a *agentSide) portal(name []byte) binding {
	for i := len(a.portals) - 1; i >= 0; i-- {
		if a.portals[i].portal == string(name) {
			return a.portals[i]
		}
	}
	q := &a.c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	a.earlier()
	return q.portals[string(name)]
}

// earlier waits until the segments before this one are answered, so that what
// they define is known; q.mu is held. When the connection closes first nothing
// is forwarded any more, and it doesn't matter what is known; no more does it
// when the server ignores what comes next.
//
// They are never answered when one of them began a COPY: the server waits for
// its content, and the agent has sent a command in its place.
func (a *agentSide) earlier() {
	q := &a.c.q
	q.until(func() bool { return q.done >= a.begun || q.copying != nil || q.ignores() })
	if q.done < a.begun && q.copying != nil && !q.closed {
		a.c.end("protocol error", errWithinCopy)
		q.until(func() bool { return false })
	}
}

// errWithinCopy is what the server too ends a session for.
var errWithinCopy = violation("a command within the content of a COPY")

// settled waits, after a COPY, for its outcome: whether the server takes a
// Sync for one depends on when the COPY fails, and nothing that changes
// anything may depend on that.
func (a *agentSide) settled(ctx context.Context) error {
	q := &a.c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case !q.copied:
		return nil
	case q.copying != nil:
		return errWithinCopy
	case a.open:
		if err := a.answers(ctx, q.over); err != nil {
			return err
		}
		if q.swallows && q.skipping {
			return fatal(codeUnsupported, "a COPY failed, and nobody knows which Sync the server takes for content", "send a Sync after the content of a COPY")
		}
	default:
		q.until(q.quiet)
	}
	q.copied = false
	return nil
}

// ignored reports whether the server ignores what comes next, because what
// went before it in the pipeline has failed.
func (a *agentSide) ignored(ctx context.Context) (bool, error) {
	q := &a.c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	err := a.answers(ctx, func() bool { return q.copying != nil || q.over() })
	if err == nil && q.copying != nil {
		err = errWithinCopy
	}
	return q.skipping, err
}

// room waits until n more entries may await an answer. Where the server
// ignores them, and answers nothing before the Sync, they are skipped here.
func (a *agentSide) room(ctx context.Context, n int) error {
	q := &a.c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	limit := uint64(a.c.p.cfg.Limits.Flight)
	fits := func() bool { return q.done == q.tail || q.tail-q.done+uint64(n) <= limit }
	if err := a.answers(ctx, func() bool { return fits() || q.ignores() }); err != nil {
		return err
	}
	switch {
	case q.closed:
		return errEnded
	case !fits() && a.skip == forwarding:
		a.skip = skipForward
	}
	return nil
}

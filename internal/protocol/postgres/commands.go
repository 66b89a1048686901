package postgres

import (
	"context"
	"fmt"
)

// parse makes units of the frames of a region. These make one command: a
// Query; a Parse with the Bind and Execute of what it parsed; a Bind with its
// Execute; and an Execute alone, which fetches more of a portal. What
// describes, closes or synchronizes joins the command before it.
func (a *agentSide) parse(ctx context.Context, region []byte) error {
	a.ends = 0
	for off := 0; off < len(region); {
		size, err := frameSize(region[off:])
		if err != nil {
			return err
		}
		body := region[off+headerSize : off+size]
		switch t := region[off]; t {
		case 'Q':
			err = a.query(ctx, off, body)
		case 'P':
			err = a.parseFrame(ctx, off, body)
		case 'B':
			err = a.bind(off, body)
		case 'E':
			err = a.execute(off, body)
		case 'D', 'C':
			err = a.object(off, t, body)
		case 'H':
			a.join(off, "flush")
		case 'S':
			a.join(off, "sync").entry.sync = true
			a.ends = 'S'
		}
		if err != nil {
			return err
		}
		a.units[len(a.units)-1].frames++
		off += size
	}
	return nil
}

// unit starts a unit at an offset of the region.
func (a *agentSide) unit(off int) *unit {
	if n := len(a.units); n < cap(a.units) {
		a.units = a.units[:n+1]
		a.units[n] = unit{}
	} else {
		a.units = append(a.units, unit{})
	}
	u := &a.units[len(a.units)-1]
	u.start = off
	u.entry.kind = extendedEntry
	return u
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
func (a *agentSide) join(off int, kind string) *unit {
	if u := a.last(); u != nil {
		return u
	}
	u := a.unit(off)
	u.kind = kind
	return u
}

func (a *agentSide) query(ctx context.Context, off int, body []byte) error {
	text, err := parseQuery(body)
	if err != nil {
		return err
	}
	if err := a.settled(); err != nil {
		return err
	}
	st := a.understand(ctx, text)
	u := a.unit(off)
	u.entry.kind, u.entry.sync, u.entry.effects = queryEntry, true, st.Effects
	u.cmd.Shape, u.cmd.Raw = st.Shapes[Simple], text
	a.ends = 'Q'
	return nil
}

func (a *agentSide) parseFrame(ctx context.Context, off int, body []byte) error {
	name, text, err := parseParse(body)
	if err != nil {
		return err
	}
	if err := a.settled(); err != nil {
		return err
	}
	st := a.understand(ctx, text)
	u := a.unit(off)
	u.entry.pending, u.entry.parse = 1, &prepared{name: string(name), st: st}
	u.cmd.Shape, u.cmd.Raw, u.cmd.Name = st.Shapes[Prepare], text, u.entry.parse.name
	a.segment = append(a.segment, u.entry.parse)
	return nil
}

func (a *agentSide) bind(off int, body []byte) error {
	from := len(a.params)
	portal, name, params, err := parseBind(body, a.params)
	if err != nil {
		return err
	}
	a.params = params
	if err := a.settled(); err != nil {
		return err
	}
	u := a.last()
	if u != nil && u.entry.parse != nil && !u.bound && u.entry.parse.name == string(name) {
		u.cmd.Shape, u.binding.p = u.entry.parse.st.Shapes[Extended], u.entry.parse
	} else {
		p := a.statement(name)
		u = a.unit(off)
		if p == nil {
			u.unknown = fmt.Sprintf("prepared statement %q does not exist", name)
			p = &prepared{name: string(name), st: Opaque()}
		}
		u.cmd.Shape, u.cmd.Of, u.cmd.Name = p.st.Shapes[Execute], p.of, p.name
		u.binding.p = p
	}
	u.cmd.Params = params[from:len(params):len(params)]
	u.bound, u.binding.portal = true, string(portal)
	u.entry.pending++
	a.portals = append(a.portals, u.binding)
	return nil
}

func (a *agentSide) execute(off int, body []byte) error {
	portal, _, err := parseExecute(body)
	if err != nil {
		return err
	}
	if err := a.settled(); err != nil {
		return err
	}
	u := a.last()
	if u == nil || !u.bound || u.entry.execute || u.binding.portal != string(portal) {
		p := a.portal(portal)
		u = a.unit(off)
		if p == nil {
			u.unknown = fmt.Sprintf("portal %q does not exist", portal)
			p = &prepared{st: Opaque()}
		}
		u.cmd.Shape, u.cmd.Of, u.cmd.Name = p.st.Shapes[Fetch], p.of, string(portal)
		u.binding.p = p
	}
	u.entry.pending++
	u.entry.execute, u.entry.effects = true, u.binding.p.st.Effects
	return nil
}

// object takes a Describe or a Close.
func (a *agentSide) object(off int, t byte, body []byte) error {
	kind, name, err := parseObject(body)
	if err != nil {
		return err
	}
	u := a.last()
	switch {
	case t == 'C':
		u = a.join(off, "close")
		u.entry.closes = append(u.entry.closes, object{kind, string(name)})
	case u == nil || u.entry.execute: // a Describe's answer must not look like that to an Execute
		u = a.unit(off)
		u.kind = "describe"
	}
	u.entry.pending++
	return nil
}

// statement finds a prepared statement by its name: one of this segment, which
// the server skips to the Sync without if it doesn't come to be, or one that
// the server has confirmed.
func (a *agentSide) statement(name []byte) *prepared {
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
func (a *agentSide) portal(name []byte) *prepared {
	for i := len(a.portals) - 1; i >= 0; i-- {
		if a.portals[i].portal == string(name) {
			return a.portals[i].p
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
// is forwarded any more, and it doesn't matter what is known.
func (a *agentSide) earlier() {
	q := &a.c.q
	q.until(func() bool { return q.done >= a.begun })
}

// settled waits, after a COPY, for its outcome: whether the server takes a
// Sync for one depends on when the COPY fails, and nothing that changes
// anything may depend on that.
func (a *agentSide) settled() error {
	q := &a.c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case !q.copied:
		return nil
	case q.copying != nil:
		return violation("a command within the content of a COPY")
	case a.open:
		return fatal(codeUnsupported, "commands in the pipeline behind a COPY are not let through", "send a Sync after the COPY")
	}
	q.until(q.quiet)
	q.copied = false
	return nil
}

// understand says what a text asks. Long ones are opaque: the grammar isn't
// bothered with them.
func (a *agentSide) understand(ctx context.Context, text []byte) *Statement {
	if len(text) > maxText {
		return Opaque()
	}
	q := &a.c.q
	q.mu.Lock()
	if q.defining > 0 {
		a.earlier()
	}
	state := q.state
	q.mu.Unlock()
	if state.Unreadable {
		return Opaque()
	}
	return a.c.p.cfg.Understand.Understand(ctx, text, &state)
}

// maxText is the longest text that is understood.
const maxText = 256 << 10

// room waits until n more entries may await an answer.
func (a *agentSide) room(n int) error {
	q := &a.c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	limit := uint64(a.c.p.cfg.Limits.Flight)
	if !q.until(func() bool { return q.done == q.tail || q.tail-q.done+uint64(n) <= limit }) {
		return errEnded
	}
	return nil
}

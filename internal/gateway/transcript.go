package gateway

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
)

// transcript makes lines of the records of sessions: what was asked of them
// and how it ended, put together. It takes records in log order, from the start
// of the first session that it is about. While tell is nil it gathers lines, the
// newest as many as were asked for; then it tells each as it comes.
type transcript struct {
	q        api.Did
	only     evidence.Position // the one session asked for; zero is every one
	from, to int64             // of a line, microseconds since the epoch; 0 is open
	limit    int               // of commands
	table    bool              // for a table of commands
	tell     func(api.Entry) error

	sessions map[evidence.Position]*course
	open     map[evidence.Position]*asked
	doubts   map[evidence.Position]*course
	lines    []line // in no order
	commands int    // among them
	more     bool   // older ones were dropped
	ended    bool   // the one session has
}

// course is a session that is told of.
type course struct {
	start, upstream *api.Entry
	last            evidence.Position // newest command that is wanted
	told            bool
}

// asked is a command: the records of its intent and, once there is one, of its
// end. Bodies are decoded when the command is told; most are dropped before.
type asked struct {
	c            *course
	intent, end  evidence.Head
	body, result []byte
	told         bool // as open
}

// line is an entry with its place. A transaction and a session end after what
// they end.
type line struct {
	c     *course
	at    evidence.Position
	after bool
	cmd   *asked // nil for an entry that is made
	entry api.Entry
}

func newTranscript(q api.Did) *transcript {
	return &transcript{
		q: q, limit: most(q.Range), sessions: make(map[evidence.Position]*course),
		open: make(map[evidence.Position]*asked), doubts: make(map[evidence.Position]*course),
	}
}

// record takes the next record.
func (t *transcript) record(r *evidence.Record) error {
	switch r.Head.Type {
	case evidence.SessionStart:
		return t.start(r)
	case evidence.Resolution:
		return t.resolution(r)
	}
	c := t.sessions[r.Head.Session]
	if c == nil {
		return nil
	}
	switch r.Head.Type {
	case evidence.CommandIntent:
		return t.intent(c, r)
	case evidence.CommandResult:
		return t.result(c, r)
	case evidence.SessionUpstream:
		return t.connected(c, r)
	case evidence.TxEnd:
		return t.transaction(c, r)
	case evidence.SessionNote:
		return t.note(c, r)
	case evidence.Alert:
		return t.alert(c, r)
	case evidence.SessionEnd:
		return t.end(c, r)
	}
	return nil
}

// bare reports whether nothing is wanted but commands and how they ended.
func (t *transcript) bare() bool { return t.table || len(t.q.Verbs)+len(t.q.Outcomes) > 0 }

func (t *transcript) wants(verb string, outcome evidence.OutcomeClass) bool {
	return (len(t.q.Verbs) == 0 || slices.Contains(t.q.Verbs, verb)) &&
		(len(t.q.Outcomes) == 0 || slices.Contains(t.q.Outcomes, string(outcome)))
}

func (t *transcript) start(r *evidence.Record) error {
	h := &r.Head
	if !t.only.IsZero() && t.only != h.Pos || t.q.Agent != "" && t.q.Agent != h.Agent {
		return nil
	}
	e := entry(h)
	e.Session, e.Start = h.Pos.String(), decoded[evidence.SessionStartBody](r.Body)
	c := &course{start: &e}
	switch {
	case h.Outcome == "":
		t.sessions[h.Pos] = c
		if t.tell == nil || t.bare() {
			return nil
		}
		return t.introduce(c)
	case !t.wants(h.Verb, h.Outcome):
		return nil
	}
	t.ended = t.only == h.Pos
	return t.add(h, line{c: c, at: h.Pos}) // refused: there is nothing but its start
}

func (t *transcript) connected(c *course, r *evidence.Record) error {
	e := entry(&r.Head)
	e.Upstream = decoded[evidence.SessionUpstreamBody](r.Body)
	if c.told {
		return t.tell(e)
	}
	c.upstream = &e
	return nil
}

func (t *transcript) intent(c *course, r *evidence.Record) error {
	a := &asked{c: c, intent: r.Head, body: bytes.Clone(r.Body)}
	if r.Head.Outcome == "" {
		t.open[r.Head.Pos] = a
		return nil
	}
	a.end = r.Head
	return t.command(a)
}

func (t *transcript) result(c *course, r *evidence.Record) error {
	a := t.open[r.Head.Of]
	if a == nil {
		return nil
	}
	delete(t.open, r.Head.Of)
	a.end, a.result = r.Head, bytes.Clone(r.Body)
	if a.end.Outcome == evidence.InDoubt {
		t.doubts[a.intent.Pos] = c
	}
	return t.command(a)
}

// command adds a command that has ended, or that is open still.
func (t *transcript) command(a *asked) error {
	if !t.wants(a.intent.Verb, cmp.Or(a.end.Outcome, stillOpen)) {
		return nil
	}
	a.c.last = a.intent.Pos
	return t.add(&a.intent, line{c: a.c, at: a.intent.Pos, cmd: a})
}

// stillOpen is the outcome of a command that has none yet.
const stillOpen evidence.OutcomeClass = "open"

func (t *transcript) transaction(c *course, r *evidence.Record) error {
	b := decoded[evidence.TxEndBody](r.Body)
	if c.last.Before(b.First) {
		return nil // none of its commands is wanted
	}
	e := entry(&r.Head)
	e.Transaction = &api.Transaction{
		Result: b.Result, Block: b.Block, First: b.First.String(), Last: b.Last.String(), Commands: b.Commands, ID: b.ID,
	}
	return t.add(&r.Head, line{c: c, at: b.Last, after: true, entry: e})
}

func (t *transcript) note(c *course, r *evidence.Record) error {
	if t.bare() {
		return nil
	}
	e := entry(&r.Head)
	e.Note = decoded[evidence.NoteBody](r.Body)
	return t.add(&r.Head, line{c: c, at: r.Head.Pos, entry: e})
}

func (t *transcript) alert(c *course, r *evidence.Record) error {
	if t.bare() {
		return nil
	}
	e := entry(&r.Head)
	e.Alert = decoded[evidence.AlertBody](r.Body)
	return t.add(&r.Head, line{c: c, at: r.Head.Pos, entry: e})
}

// resolution may come long after its session; it is of whatever scope found
// it out.
func (t *transcript) resolution(r *evidence.Record) error {
	c := t.doubts[r.Head.Of]
	if c == nil {
		return nil
	}
	delete(t.doubts, r.Head.Of)
	b := decoded[evidence.ResolutionBody](r.Body)
	e := entry(&r.Head)
	e.Session = c.start.Session
	e.Resolution = &api.Resolution{Of: r.Head.Of.String(), Result: b.Result, How: b.How}
	return t.add(&r.Head, line{c: c, at: r.Head.Pos, entry: e})
}

func (t *transcript) end(c *course, r *evidence.Record) error {
	delete(t.sessions, r.Head.Session)
	t.ended = t.only == r.Head.Session
	if t.bare() && !t.ended && c.last.IsZero() {
		return nil
	}
	e := entry(&r.Head)
	e.End = decoded[evidence.SessionEndBody](r.Body)
	return t.add(&r.Head, line{c: c, at: r.Head.Pos, after: true, entry: e})
}

// add adds a line, if the time of its record h is asked for.
func (t *transcript) add(h *evidence.Head, l line) error {
	if t.from != 0 && h.Time < t.from || t.to != 0 && h.Time >= t.to {
		return nil
	}
	if t.tell != nil {
		return t.say(l)
	}
	t.lines = append(t.lines, l)
	if l.cmd != nil {
		t.commands++
	}
	if t.commands >= 2*t.limit || len(t.lines) >= 2*t.most() {
		t.trim()
	}
	return nil
}

// most is how many lines there may be with those that aren't commands: an
// agent chooses how many notes stand between two commands.
func (t *transcript) most() int { return 4*t.limit + 64 }

// trim leaves the newest commands, as many as are asked for, and what stands
// among them.
func (t *transcript) trim() {
	t.sort()
	drop := max(0, len(t.lines)-t.most())
	excess := t.commands - t.limit
	for i := range t.lines {
		if i >= drop && excess <= 0 {
			break
		}
		if t.lines[i].cmd != nil {
			t.commands--
			excess--
		}
		drop = max(drop, i+1)
	}
	if drop > 0 {
		t.more = true
		t.lines = append([]line(nil), t.lines[drop:]...)
	}
}

// sort puts the lines in the order of the log.
func (t *transcript) sort() {
	slices.SortStableFunc(t.lines, func(a, b line) int { return cmp.Or(comparePositions(a.at, b.at), compareBools(a.after, b.after)) })
}

func comparePositions(a, b evidence.Position) int {
	return cmp.Or(cmp.Compare(a.Boot, b.Boot), cmp.Compare(a.Seq, b.Seq))
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// close adds what is open and leaves the lines that were asked for.
func (t *transcript) close() error {
	for _, a := range t.open {
		if err := t.command(a); err != nil {
			return err
		}
	}
	t.trim()
	return nil
}

// tellAll tells what was gathered, session by session, and from now on tells
// lines as they come.
func (t *transcript) tellAll(tell func(api.Entry) error) error {
	t.trim()
	t.tell = tell
	slices.SortStableFunc(t.lines, func(a, b line) int { return comparePositions(a.c.pos(), b.c.pos()) })
	lines := t.lines
	t.lines = nil
	for _, l := range lines {
		if err := t.say(l); err != nil {
			return err
		}
	}
	if c := t.sessions[t.only]; c != nil { // has done nothing yet
		return t.introduce(c)
	}
	return nil
}

// say tells a line, after the session that it is of.
func (t *transcript) say(l line) error {
	if err := t.introduce(l.c); err != nil {
		return err
	}
	switch {
	case l.cmd != nil:
		return t.tell(l.cmd.entry())
	case l.entry.Position == "":
		return nil
	}
	return t.tell(l.entry)
}

func (t *transcript) introduce(c *course) error {
	if c.told {
		return nil
	}
	c.told = true
	if err := t.tell(*c.start); err != nil || c.upstream == nil {
		return err
	}
	return t.tell(*c.upstream)
}

// waiting tells commands that have run for a while, once.
func (t *transcript) waiting(now time.Time) error {
	var list []*asked
	for _, a := range t.open {
		if !a.told && now.Sub(time.UnixMicro(a.intent.Time)) > longRunning {
			a.told = true
			list = append(list, a)
		}
	}
	slices.SortFunc(list, func(a, b *asked) int { return comparePositions(a.intent.Pos, b.intent.Pos) })
	for _, a := range list {
		if err := t.command(a); err != nil {
			return err
		}
	}
	return nil
}

// longRunning is how long a command runs before a follower is told of it.
const longRunning = time.Second

func (c *course) pos() evidence.Position {
	p, _ := evidence.ParsePosition(c.start.Position) // made here
	return p
}

// entry is what every line of a transcript has.
func entry(h *evidence.Head) api.Entry {
	return api.Entry{
		Position: h.Pos.String(), Session: h.Session.String(), Time: time.UnixMicro(h.Time).UTC(),
		Agent: h.Agent, Resource: h.Resource,
	}
}

func (a *asked) entry() api.Entry {
	h, end := &a.intent, &a.end
	in, res := decoded[evidence.IntentBody](a.body), decoded[evidence.ResultBody](a.result)
	e := entry(h)
	e.Command = &api.Command{
		Verb: h.Verb, Path: in.Path, Parse: in.Parse, Text: in.Text, Checks: in.Checks, Of: h.Of.String(),
		Decision: h.Effect, Rules: in.Rules, Grants: in.Grants, Reason: in.Reason,
		Outcome: string(cmp.Or(end.Outcome, stillOpen)), Code: end.Code, Rows: end.Rows,
		BytesUp: h.Bytes, BytesDown: end.Reply, Streamed: res.Streamed, Micros: end.Micros,
	}
	if e.Command.BytesUp += end.Bytes; end.Pos == h.Pos {
		e.Command.BytesUp = 0 // it went nowhere
	}
	return e
}

// decoded is a body, empty where it can't be read: the head counts, and what
// is wrong with a body is the verifier's to say.
func decoded[T any](b []byte) *T {
	v := new(T)
	if len(b) > 0 && evidence.DecodeBody(b, v) != nil {
		v = new(T)
	}
	return v
}

package workpaper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

// keptRows is what rows and transcripts are made of, beside what tests are: a
// pack in the making keeps it too, so that what was interrupted can go on. The
// rows that were written are the keeper's.
type keptRows struct {
	Opening   []evidence.SnapshotBody
	Counts    []uint64
	Activity  map[string]keptActivity
	Refusals  []keptRefusals
	Sessions  []keptSessionRow // of the sessions, in their order
	Upstreams []keptUpstreamKey
	Commands  []keptIntent // of the commands, in their order
	Boot      keptBootRow
	Tokens    []keptTokenUses // of the tokens, in their order
	Grants    map[string][]string
	Acks      [][6]string // of the alerts, in their order
	Ended     []keptTermination
	Suspended map[string]int // by agent: which of them
	Telling   keptTelling
	Segments  []keptSegment
	Quarter   int64
	Quarters  []keptListing
}

// keptSegment is of retention.
type keptSegment struct {
	First, Last uint64
	Month       int64
	From, To    int64
	Pos         evidence.Position
	Records     uint64
	N           uint64
	Stack       []evidence.Hash
}

type keptListing struct {
	Name string
	Rows [][]string
}

type keptActivity struct {
	Sessions, Commands, Denied uint64
	Last                       int64
	LastAllowed                evidence.Position
	LastAllowedAt              int64
}

type keptRefusals struct {
	Agent, Resource string
	N               uint64
}

type keptSessionRow struct {
	Ending                                       int // 1 + which of the terminations
	Gap, Notable                                 bool
	Lines                                        []keptLine
	Bytes, Left                                  int
	Skipped, Errors, Doubts, Opaque, Rows, Reply uint64
}

type keptLine struct {
	At    evidence.Position
	Cells []string
}

type keptUpstreamKey struct {
	Local, Remote string
	Session       evidence.Position
}

type keptIntent struct {
	OK   bool
	Body json.RawMessage
}

type keptBootRow struct {
	Down        int64
	Reason      string
	Gaps, Steps uint64
}

type keptTokenUses struct {
	Uses    keptUses
	Actions []string
}

type keptTermination struct {
	Kind, Subject  string
	Left           int64
	Pos            evidence.Position
	At             int64
	Source         evidence.Position
	Owned, Stopped []string
	Sessions       uint64
	LastEnd        evidence.Position
	LastEndAt      int64
	Last           evidence.Position
	LastAt         int64
	Limit          int64
}

type keptTelling struct {
	Held, Notable, Ordinary int
	Untold                  uint64
}

type keptWhole struct {
	Fold *keptFold
	Rows *keptRows
}

// Keep writes what Resume of the same program goes on from. The fold can go on
// too.
func (f *Fold) Keep(w io.Writer) error {
	if f.records == 0 {
		return ErrEmpty
	}
	if err := writeJSON(w, keptWhole{f.keep(), f.keepRows()}); err != nil {
		return fmt.Errorf("keeping a fold: %w", err)
	}
	return nil
}

// Resume makes a new fold go on from what Keep wrote: its next record is the one
// after the last that was folded then.
func (f *Fold) Resume(from io.Reader) error {
	var k keptWhole
	if err := json.NewDecoder(from).Decode(&k); err != nil {
		return fmt.Errorf("going on with a fold: %w", err)
	}
	if k.Fold == nil || k.Rows == nil {
		return errors.New("going on with a fold: nothing was kept")
	}
	if err := k.Fold.into(f); err != nil {
		return err
	}
	return k.Rows.into(f, k.Fold)
}

func (f *Fold) keepRows() *keptRows {
	k := &keptRows{Opening: f.opening.Snapshot(), Activity: make(map[string]keptActivity, len(f.activity)), Grants: make(map[string][]string),
		Suspended: make(map[string]int, len(f.outside.suspended)), Telling: keptTelling{f.telling.held, f.telling.notable, f.telling.ordinary, f.telling.untold}}
	for _, c := range f.counts.all() {
		k.Counts = append(k.Counts, *c)
	}
	for agent, a := range f.activity {
		k.Activity[agent] = keptActivity{a.sessions, a.commands, a.denied, a.last, a.lastAllowed, a.lastAllowedAt}
	}
	for of, n := range f.refusals {
		k.Refusals = append(k.Refusals, keptRefusals{of[0], of[1], n})
	}
	ended := make(map[*termination]int, len(f.outside.ended))
	for i, t := range f.outside.ended {
		ended[t] = i
		k.Ended = append(k.Ended, keptTermination{t.kind, t.subject, t.left, t.pos, t.at, t.source, t.owned, t.stopped, t.sessions, t.lastEnd, t.lastEndAt, t.last, t.lastAt, t.limit})
	}
	for agent, t := range f.outside.suspended {
		k.Suspended[agent] = ended[t]
	}
	for _, p := range slices.SortedFunc(maps.Keys(f.sessions), comparePositions) {
		s := f.sessions[p]
		row := keptSessionRow{Gap: s.gap, Notable: s.course.notable, Bytes: s.course.bytes, Left: s.course.left,
			Skipped: s.skipped, Errors: s.errors, Doubts: s.doubts, Opaque: s.opaque, Rows: s.rows, Reply: s.reply}
		if s.ending != nil {
			row.Ending = 1 + ended[s.ending]
		}
		for _, l := range s.course.lines {
			row.Lines = append(row.Lines, keptLine{l.at, l.cells})
		}
		k.Sessions = append(k.Sessions, row)
	}
	for key, p := range f.upstreams {
		k.Upstreams = append(k.Upstreams, keptUpstreamKey{key.local, key.remote, p})
	}
	for _, p := range slices.SortedFunc(maps.Keys(f.commands), comparePositions) {
		in := f.commands[p].intent
		k.Commands = append(k.Commands, keptIntent{in.ok, evidence.EncodeBody(in.IntentBody)})
	}
	if b := f.boot; b != nil {
		k.Boot = keptBootRow{b.down, b.reason, b.gaps, b.steps}
	}
	for _, t := range f.tokens.due {
		k.Tokens = append(k.Tokens, keptTokenUses{keptUses{t.uses.n, t.uses.at, t.uses.last}, slices.Sorted(maps.Keys(t.uses.actions))})
	}
	for id, u := range f.grantUses {
		k.Grants[id] = slices.Sorted(maps.Keys(u.actions))
	}
	for i := range f.alerts {
		k.Acks = append(k.Acks, f.alerts[i].ack)
	}
	for i := range f.retention.segments {
		s := &f.retention.segments[i]
		k.Segments = append(k.Segments, keptSegment{s.first, s.last, s.month, s.from, s.to, s.pos, s.records, s.digest.n, s.digest.stack})
	}
	k.Quarter = f.quarterEnd
	for _, t := range f.quarters {
		k.Quarters = append(k.Quarters, keptListing{t.Name, t.Rows})
	}
	return k
}

// errKept is of what another program kept, or somebody changed.
var errKept = errors.New("going on with a fold: what was kept doesn't fit")

func (k *keptRows) into(f *Fold, of *keptFold) error {
	opening, err := decision.Restore(k.Opening)
	if err != nil {
		return fmt.Errorf("going on with a fold: %w", err)
	}
	counts := f.counts.all()
	if len(k.Counts) != len(counts) || len(k.Sessions) != len(of.Sessions) || len(k.Commands) != len(of.Commands) || len(k.Tokens) != len(of.Tokens) || len(k.Acks) != len(of.Alerts) {
		return errKept
	}
	f.opening = opening
	for i, c := range counts {
		*c = k.Counts[i]
	}
	for agent, a := range k.Activity {
		f.activity[agent] = &activity{a.Sessions, a.Commands, a.Denied, a.Last, a.LastAllowed, a.LastAllowedAt}
	}
	for _, r := range k.Refusals {
		f.refusals[[2]string{r.Agent, r.Resource}] = r.N
	}
	for _, t := range k.Ended {
		f.outside.ended = append(f.outside.ended, &termination{t.Kind, t.Subject, t.Left, t.Pos, t.At, t.Source, t.Owned, t.Stopped, t.Sessions, t.LastEnd, t.LastEndAt, t.Last, t.LastAt, t.Limit})
	}
	f.outside.suspended = make(map[string]*termination, len(k.Suspended))
	for agent, i := range k.Suspended {
		if i < 0 || i >= len(k.Ended) {
			return errKept
		}
		f.outside.suspended[agent] = f.outside.ended[i]
	}
	for i := range k.Sessions {
		row, s := &k.Sessions[i], f.sessions[of.Sessions[i].Head.Pos]
		if s == nil || row.Ending < 0 || row.Ending > len(k.Ended) {
			return errKept
		}
		s.gap, s.skipped, s.errors, s.doubts, s.opaque, s.rows, s.reply = row.Gap, row.Skipped, row.Errors, row.Doubts, row.Opaque, row.Rows, row.Reply
		s.course = course{bytes: row.Bytes, left: row.Left, notable: row.Notable}
		for _, l := range row.Lines {
			s.course.lines = append(s.course.lines, courseLine{l.At, l.Cells})
		}
		if row.Ending > 0 {
			s.ending = f.outside.ended[row.Ending-1]
		}
	}
	clear(f.upstreams)
	for _, u := range k.Upstreams {
		f.upstreams[upstreamKey{u.Local, u.Remote}] = u.Session
	}
	for i := range k.Commands {
		c := f.commands[of.Commands[i].Head.Pos]
		c.intent = f.bodies.intent(&evidence.Record{Body: k.Commands[i].Body})
		if !k.Commands[i].OK {
			c.intent = &intent{}
		}
	}
	if b := f.boot; b != nil {
		b.down, b.reason, b.gaps, b.steps = k.Boot.Down, k.Boot.Reason, k.Boot.Gaps, k.Boot.Steps
	}
	tokens := make(map[evidence.Position]*token, len(k.Tokens))
	for _, t := range f.tokens.due {
		tokens[t.head.Pos] = t
	}
	for i, t := range k.Tokens {
		tokens[of.Tokens[i].Head.Pos].uses = uses{n: t.Uses.N, at: t.Uses.At, last: t.Uses.Last, actions: setOf(t.Actions)}
	}
	for id, actions := range k.Grants {
		if u := f.grantUses[id]; u != nil {
			u.actions = setOf(actions)
		}
	}
	for i := range k.Acks {
		f.alerts[i].ack = k.Acks[i]
	}
	for i := range k.Segments {
		s := &k.Segments[i]
		f.retention.segments = append(f.retention.segments, segment{s.First, s.Last, s.Month, s.From, s.To, s.Pos, s.Records, runDigest{s.N, s.Stack}})
	}
	f.quarterEnd = k.Quarter
	for _, t := range k.Quarters {
		f.quarters = append(f.quarters, Table{Name: t.Name, Columns: accessColumns(), Rows: t.Rows})
	}
	f.telling = telling{k.Telling.Held, k.Telling.Notable, k.Telling.Ordinary, k.Telling.Untold}
	return nil
}

func setOf(list []string) map[string]bool {
	if len(list) == 0 {
		return nil
	}
	set := make(map[string]bool, len(list))
	for _, v := range list {
		set[v] = true
	}
	return set
}

// all are the control totals, each of which a test finds here.
func (c *counts) all() []*uint64 {
	return []*uint64{
		&c.sessionsCarried, &c.sessionsStarted, &c.sessionsRefused, &c.sessionsEnded,
		&c.commandsCarried, &c.commands, &c.commandsEnded, &c.commandsInDoubt, &c.opaque,
		&c.allowed, &c.denied, &c.failed, &c.authnOK, &c.authnFailed, &c.agentsCreated, &c.agentsDisabled,
		&c.grantsCreated, &c.grantsRemoved, &c.keysEnrolled, &c.credentialsRevoked, &c.tokensIssued,
		&c.policyChanges, &c.configChanges, &c.boots, &c.exports, &c.alerts, &c.gaps, &c.crashed,
		&c.keyChanges, &c.backups, &c.restores, &c.transactions, &c.resolutions,
		&c.approvalsAsked, &c.approvalsDecided, &c.approvalsUsed, &c.imports, &c.suspended,
		&c.violations, &c.unseparated, &c.kills, &c.acks, &c.down,
		&c.reads, &c.unsealed, &c.packs, &c.holds, &c.erased, &c.disposals, &c.disposedBlocks,
	}
}

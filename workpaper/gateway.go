package workpaper

import (
	"strconv"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// bootState is one boot of the gateway.
type bootState struct {
	start   evidence.Position
	at      int64
	body    evidence.GatewayStartBody
	carried bool   // began before the range
	down    int64  // since the last record before it, microseconds
	end     string // how it ended, once it has
	reason  string

	last                         evidence.Position
	lastTime                     int64
	records, gaps, silent, steps uint64
	longest                      int64
	jump                         *jump
	from                         int64  // when its first record in the range was
	n                            uint64 // ordinal of the last record outside sessions; 0 isn't known
	checkedDigests               bool
}

// jump is a time between two records that is either silence or a step of the
// clock. A step is on record within stepWithin of it.
type jump struct {
	to evidence.Position
	at int64 // by the clock of after
	by int64
}

const (
	leastStep  = 1_000_000 // microseconds; less is records that overtook each other
	stepWithin = 5_000_000
)

func (f *Fold) newBoot(r *evidence.Record) *bootState {
	b := &bootState{start: r.Head.Pos, at: r.Head.Time, last: r.Head.Pos, lastTime: r.Head.Time, from: r.Head.Time}
	f.decode(r, &b.body)
	return b
}

// nextBoot writes the row of the boot that ended and goes on with b.
func (f *Fold) nextBoot(b *bootState) error {
	ended := f.boot
	f.boot = b
	if ended == nil {
		return nil
	}
	return f.bootRow(ended)
}

func (f *Fold) gatewayStart(r *evidence.Record) error {
	h := &r.Head
	f.counts.boots++
	f.tests.boot.Population++
	f.tests.gap.Population++
	b := f.newBoot(r)
	b.records, b.n = 1, h.N
	switch {
	case h.Pos.Seq != 0:
		f.tests.boot.Except(h.Pos, "is not the first record of its boot")
	case f.records > 1 && b.body.Previous != f.before:
		f.tests.boot.Except(h.Pos, "names %q as the last record before it, it was %s", b.body.Previous, f.before)
	}
	if f.boot != nil && f.boot.records > 0 {
		b.down = max(0, h.Time-f.boot.lastTime)
		f.counts.down += uint64(b.down)
		if b.body.Clean != (f.boot.end != "") && f.records > 1 {
			f.tests.boot.Except(h.Pos, "says that the boot before ended in good order: %t", b.body.Clean)
		}
	}
	previous := f.boot
	if err := f.nextBoot(b); err != nil {
		return err
	}
	return f.binaryChange(r, previous)
}

func (f *Fold) gatewayStop(r *evidence.Record) error {
	var b evidence.GatewayStopBody
	f.decode(r, &b)
	f.boot.end, f.boot.reason = "stopped", b.Reason
	return nil
}

// silence measures the time since the record before, in the boot's own
// records. A tenth of the heartbeat and a second are allowed for the timer.
func (f *Fold) silence(h *evidence.Head) {
	b := f.boot
	if b.jump != nil && h.Type != evidence.TimeStep && (h.Time < b.jump.at-leastStep || h.Time > b.jump.at+stepWithin) {
		f.landed(b, 0)
	}
	if b.records > 0 || !b.carried {
		f.tests.liveness.Population++
		if quiet := h.Time - b.lastTime; quiet < -leastStep || b.tooLong(quiet) {
			f.landed(b, 0)
			b.jump = &jump{h.Pos, h.Time, quiet}
		} else {
			b.longest = max(b.longest, quiet)
		}
	} else {
		f.tests.gap.Population++ // the boot in which the range begins
		b.from = h.Time
	}
	b.records++
	b.last, b.lastTime = h.Pos, h.Time
	if !b.checkedDigests && h.Type == evidence.SessionStart {
		f.checkDigests(b)
	}
}

func (b *bootState) tooLong(quiet int64) bool {
	beat := b.body.Heartbeat
	return beat > 0 && beat < 1e9 && quiet > beat*1_100_000+1e6
}

// landed says what the last jump was, given how far the clock was set.
func (f *Fold) landed(b *bootState, step int64) {
	if b.jump == nil {
		return
	}
	quiet := b.jump.by - step
	b.longest = max(b.longest, quiet)
	if b.tooLong(quiet) {
		b.silent++
		f.tests.liveness.Except(b.jump.to, "%d s of silence, the heartbeat is %d s", quiet/1e6, b.body.Heartbeat)
	}
	b.jump = nil
}

// timeStep folds a step of the clock: it is no silence, and may hide some.
func (f *Fold) timeStep(r *evidence.Record) error {
	var s evidence.TimeStepBody
	f.decode(r, &s)
	b := f.boot
	b.steps++
	if b.jump == nil && (r.Head.Time < b.from || r.Head.Time > b.from+stepWithin) {
		// The clock went back and no time did: what it went back by had passed.
		b.jump = &jump{r.Head.Pos, r.Head.Time, 0}
	}
	f.landed(b, s.StepMicros)
	return nil
}

// checkDigests compares what a boot says it runs with against the changes
// recorded by the time that it lets a session in.
func (f *Fold) checkDigests(b *bootState) {
	b.checkedDigests = true
	f.tests.digests.Population++
	if !f.policies[b.body.Policy] {
		f.tests.digests.Except(b.start, "ran with policy %.80q, which no policy.change brought", b.body.Policy)
	}
	if !f.configs[b.body.Config] {
		f.tests.digests.Except(b.start, "ran with configuration %.80q, which no config.change brought", b.body.Config)
	}
}

func (f *Fold) gap(r *evidence.Record) error {
	var b evidence.GapBody
	f.decode(r, &b)
	f.counts.gaps++
	f.boot.gaps++
	f.tests.gap.Except(r.Head.Pos, "%.200s; %d sessions affected", b.Cause, len(b.Sessions))
	for _, p := range b.Sessions {
		if s := f.sessions[p]; s != nil {
			s.gap = true
		}
	}
	return nil
}

func (f *Fold) bootRow(b *bootState) error {
	f.landed(b, 0)
	end := b.end
	switch {
	case b.records == 0:
		return nil // ended before the range
	case end == "" && b == f.boot:
		end = "open"
	case end == "":
		end = "crashed"
	}
	down := ""
	if b.down > 0 {
		down = strconv.FormatInt(b.down, 10)
	}
	clean := "no"
	if b.body.Clean {
		clean = "yes"
	}
	return f.row(uptimeTable, strconv.FormatUint(b.start.Boot, 10), FormatTime(b.at), pos(b.start), FormatTime(b.lastTime), pos(b.last), end, b.reason,
		pos(b.body.Previous), clean, b.body.Version, b.body.Binary, b.body.Config, b.body.Policy, b.body.FailMode, b.body.Host,
		strconv.FormatInt(b.body.Heartbeat, 10), count(b.records), strconv.FormatInt(b.longest, 10), count(b.silent), count(b.gaps), count(b.steps), down)
}

// change writes the row of a change of policy, configuration or keys of the log.
func (f *Fold) change(r *evidence.Record) error {
	h := &r.Head
	if h.Type == evidence.LogKey {
		f.counts.keyChanges++
		var b evidence.LogKeyBody
		f.decode(r, &b)
		return f.row(changesTable, pos(h.Pos), f.clock.format(h.Time), string(h.Type), b.Old, b.New, b.Change, "", b.Reason, b.By.Person.ID, b.By.Via,
			"", "", "", "", "", "", "", "", "", "", "")
	}
	if h.Type == evidence.PolicyChange {
		f.counts.policyChanges++
		var b evidence.PolicyBody
		f.decode(r, &b)
		names := make([]string, len(b.Files))
		for i, file := range b.Files {
			names[i] = file.Name
		}
		a, _ := f.registry.Approval(b.Request)
		p := decidedBy(&a)
		tests, asked, differ := tried(a.Policy)
		return f.row(changesTable, pos(h.Pos), f.clock.format(h.Time), string(h.Type), b.Before, b.Digest, "", strings.Join(names, " "), b.Diff, b.By.Person.ID, b.By.Via,
			b.Request, FormatTime(a.AskedAt), a.By.Person.ID, FormatTime(p.at), pos(p.last), join(p.approvers), a.Ticket, tests, asked, differ, b.Back)
	}
	f.counts.configChanges++
	var b evidence.ConfigBody
	f.decode(r, &b)
	return f.row(changesTable, pos(h.Pos), f.clock.format(h.Time), string(h.Type), b.Before, b.Digest, "", "", b.Diff, b.By.Person.ID, b.By.Via,
		"", "", "", "", "", "", "", "", "", "", "")
}

// tried is how a policy was tried out when it was proposed: tests that passed
// beside it, recorded commands decided again, and how many would differ.
func tried(p *evidence.Proposal) (tests, commands, differ string) {
	if p == nil {
		return "", "", ""
	}
	if b := p.Backtest; b != nil {
		commands, differ = count(b.Commands), count(b.Differ)
	}
	return strconv.Itoa(p.Tests), commands, differ
}

// binaryChange writes the row of a gateway.start that ran another program than
// the boot before, or whose predecessor isn't known.
func (f *Fold) binaryChange(r *evidence.Record, previous *bootState) error {
	before := ""
	if previous != nil {
		before = previous.body.Binary
	}
	if before == f.boot.body.Binary {
		return nil
	}
	return f.row(changesTable, pos(r.Head.Pos), f.clock.format(r.Head.Time), string(r.Head.Type), before, f.boot.body.Binary, f.boot.body.Version, "", "", "", "", "", "", "", "", "", "", "", "", "", "", "")
}

package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// printer writes a transcript for people. Sessions that have been are held
// until all of each is there: their end belongs into the heading, and the end
// of a transaction decides what its first line looks like. Those that are
// followed are written as they come.
type printer struct {
	a     *app
	w     io.Writer
	whole bool // one session, with everything about it
	live  bool
	full  bool // long statements too

	told   bool
	held   []api.Entry     // of one session
	of     string          // session of the line before
	day    string          // of the line before
	inside map[string]bool // sessions that are in a transaction, as far as one who follows can tell
}

// entry takes the next entry.
func (p *printer) entry(e *api.Entry) error {
	p.told = true
	if !p.live {
		if len(p.held) > 0 && p.held[0].Session != e.Session {
			if err := p.close(); err != nil {
				return err
			}
		}
		p.held = append(p.held, *e)
		return nil
	}
	if e.Start != nil {
		return p.heading(e, nil, nil)
	}
	if err := p.switchTo(e); err != nil {
		return err
	}
	return p.line(e, p.follow(e))
}

// close writes what is held.
func (p *printer) close() error {
	held := p.held
	p.held = nil
	var start, upstream, end *api.Entry
	var brackets []bracket
	for i := range held {
		e := &held[i]
		switch {
		case e.Start != nil:
			start = e
		case e.Upstream != nil:
			upstream = e
		case e.End != nil:
			end = e
		case e.Transaction != nil:
			brackets = append(brackets, newBracket(e.Transaction))
		}
	}
	if start != nil {
		if err := p.heading(start, upstream, end); err != nil {
			return err
		}
	}
	for i := range held {
		e := &held[i]
		if e == start || e == upstream || e == end {
			continue
		}
		if err := p.line(e, margin(brackets, e)); err != nil {
			return err
		}
	}
	return nil
}

// switchTo says whose the next lines are, when several are followed.
func (p *printer) switchTo(e *api.Entry) error {
	if p.of == e.Session {
		return nil
	}
	p.of = e.Session
	return p.printf("%s\n", p.style(bold, e.Session+" goes on"))
}

// bracket is the commands of a transaction, by position.
type bracket struct{ first, last evidence.Position }

func newBracket(t *api.Transaction) bracket {
	first, err1 := evidence.ParsePosition(t.First)
	last, err2 := evidence.ParsePosition(t.Last)
	if err1 != nil || err2 != nil {
		return bracket{} // holds nothing
	}
	return bracket{first, last}
}

// What stands in the margin of a line.
type edge int

const (
	outside edge = iota
	opens
	within
	closes
	chains // closes, and its last command opened the next
)

// margin is where an entry stands among the brackets. The entry of the
// transaction itself is the bracket's end.
func margin(brackets []bracket, e *api.Entry) edge {
	if e.Transaction != nil {
		last := newBracket(e.Transaction).last
		if slices.ContainsFunc(brackets, func(b bracket) bool { return b.first == last && b.first.Before(b.last) }) {
			return chains
		}
		return closes
	}
	pos, err := evidence.ParsePosition(e.Position)
	if err != nil {
		return outside
	}
	for _, b := range brackets {
		switch {
		case pos == b.first:
			return opens
		case b.first.Before(pos) && !b.last.Before(pos):
			return within
		}
	}
	return outside
}

// follow is the margin of a line that is followed: a block is drawn from the
// command that began it. The record of how it ends says what it was.
func (p *printer) follow(e *api.Entry) edge {
	if p.inside == nil {
		p.inside = make(map[string]bool)
	}
	switch {
	case e.Transaction != nil:
		delete(p.inside, e.Session)
		return closes
	case e.End != nil:
		delete(p.inside, e.Session)
		return outside
	case p.inside[e.Session]:
		return within
	case e.Command != nil && e.Command.Outcome == "ok" && begins(e.Command.Checks):
		p.inside[e.Session] = true
		return opens
	}
	return outside
}

func begins(checks []evidence.Check) bool {
	return len(checks) == 1 && strings.HasSuffix(checks[0].Action, ":begin")
}

// heading says of a session what doesn't change; upstream and end may be nil.
func (p *printer) heading(start, upstream, end *api.Entry) error {
	if p.of != "" || p.day != "" {
		if err := p.printf("\n"); err != nil {
			return err
		}
	}
	p.of, p.day = start.Session, start.Time.Format(time.DateOnly)
	b := start.Start
	title := p.style(bold, workpaper.Visible(start.Session+"  "+start.Agent+with(" on ", start.Resource)))
	if !p.whole {
		return p.printf("%s  %s\n", title, strings.Join(p.brief(start, end), "  "))
	}
	if err := p.printf("%s\n", title); err != nil {
		return err
	}
	decided, code := together(" ", "allowed by", strings.Join(b.Rules, ", "), with("with grant ", strings.Join(b.Grants, ", "))), ""
	if b.Effect != evidence.Allow {
		decided, code = together(": ", "refused", b.Reason), red
	}
	fields := [][2]string{
		{"owner", together(" ", b.Owner.ID, quoted(b.Owner.Name))},
		{"for", together(", ", onBehalf(b), with("ticket ", b.Ticket))},
		{"client", together(", ", b.Client, with("listener ", b.Listener), b.TLS)},
		{"upstream", together(", ", b.Upstream, with("as ", b.User), with("database ", b.Database))},
		{"connected", connected(upstream)},
		{"decision", decided},
		{"started", stampMillis(start.Time)},
	}
	if end != nil {
		fields = append(fields, [2]string{"ended", ended(start, end)})
	}
	for _, f := range fields {
		value := workpaper.Visible(f[1])
		if f[0] == "decision" {
			value = p.style(code, value)
		}
		if value == "" {
			continue
		}
		if err := p.printf("  %-9s  %s\n", f[0], value); err != nil {
			return err
		}
	}
	return p.printf("\n")
}

// brief is a heading's facts on one line.
func (p *printer) brief(start, end *api.Entry) []string {
	b := start.Start
	list := []string{stamp(start.Time)}
	for _, s := range []string{with("ticket ", b.Ticket), with("for ", onBehalf(b)), with("from ", b.Client)} {
		if s != "" {
			list = append(list, workpaper.Visible(s))
		}
	}
	switch {
	case b.Effect != evidence.Allow:
		list = append(list, p.style(red, "refused: "+workpaper.Visible(b.Reason)))
	case end != nil:
		list = append(list, workpaper.Visible(end.End.Reason)+" after "+took(end.Time.Sub(start.Time), p.a.unicode))
	}
	return list
}

// onBehalf is for whom an agent acts, if not for itself.
func onBehalf(b *evidence.SessionStartBody) string {
	if b.PType == "self" {
		return ""
	}
	return together(" ", b.Principal, quoted(b.PType))
}

func connected(upstream *api.Entry) string {
	if upstream == nil {
		return ""
	}
	u := upstream.Upstream
	pid := ""
	if u.PID != 0 {
		pid = fmt.Sprintf("process %d", u.PID)
	}
	return together(", ", together(" to ", u.Local, u.Remote), pid, with("server ", u.Server), with("system ", u.System), u.TLS)
}

func ended(start, end *api.Entry) string {
	e := end.End
	return fmt.Sprintf("%s after %s: %s; %s, %d refused", stampMillis(end.Time), end.Time.Sub(start.Time).Round(time.Millisecond),
		e.Reason, count(int(e.Commands), "command"), e.Denied)
}

// line writes one entry.
func (p *printer) line(e *api.Entry, at edge) error {
	if day := e.Time.Format(time.DateOnly); day != p.day {
		p.day = day
		if err := p.printf("  %s\n", p.style(dim, day)); err != nil {
			return err
		}
	}
	clock := e.Time.Format("15:04:05.000")
	switch {
	case e.Command != nil:
		return p.command(e, at, clock)
	case e.Transaction != nil:
		return p.transaction(e.Transaction, at)
	case e.Upstream != nil:
		return p.aside(at, clock, "connected", connected(e))
	case e.Note != nil && p.boring(e.Note.Kind):
		return nil
	case e.Note != nil:
		who := "by the agent"
		if e.Note.Origin != "agent" {
			who = "by the " + e.Note.Origin
		}
		return p.aside(at, clock, e.Note.Kind, together(" ", who, quoted(e.Note.Detail)))
	case e.Alert != nil:
		return p.warning(at, clock, e.Alert)
	case e.Resolution != nil:
		return p.aside(at, clock, "resolved", fmt.Sprintf("%s: %s, since %s", e.Resolution.Of, strings.ReplaceAll(e.Resolution.Result, "_", " "), e.Resolution.How))
	case e.End != nil:
		return p.aside(at, clock, "ended", fmt.Sprintf("%s; %s, %d refused", e.End.Reason, count(int(e.End.Commands), "command"), e.End.Denied))
	}
	return nil
}

// boring reports whether a note of some kind is left out: frames that ask
// nothing, and what every session begins and ends with.
func (p *printer) boring(kind string) bool {
	switch kind {
	case "sync", "flush":
		return true
	case "setup", "terminate":
		return !p.whole
	}
	return false
}

// Columns: margin, time of day, duration, outcome, rows, text.
const (
	outcomeWidth = 11
	asideColumn  = 2 + 12 + 1 + 8 + 2
	textColumn   = asideColumn + outcomeWidth + 1 + 7 + 2
	narrowColumn = 6  // where text has no column of its own
	leastText    = 30 // characters in a line of text that has
	mostLines    = 5  // of a text on a terminal, unless all is wanted
)

func (p *printer) command(e *api.Entry, at edge, clock string) error {
	c := e.Command
	rows, duration, outcome := "", "", strings.ReplaceAll(c.Outcome, "_", " ")
	switch c.Outcome {
	case "ok", "cancelled":
		rows = fmt.Sprint(c.Rows)
	case "error":
		outcome += with(" ", c.Code)
	case "open":
		if p.live {
			outcome = "running"
		}
	}
	switch c.Outcome {
	case "ok", "error", "cancelled":
		duration = took(time.Duration(c.Micros)*time.Microsecond, p.a.unicode)
	}
	outcome = workpaper.Visible(outcome)
	front := fmt.Sprintf("%s%s %s%s  %s%s %7s  ", p.edge(at), clock, spaces(8-utf8.RuneCountInString(duration)), duration,
		p.style(outcomeStyle(c.Outcome), outcome), spaces(outcomeWidth-utf8.RuneCountInString(outcome)), rows)
	if err := p.text(at, textColumn, front, "", workpaper.Visible(c.Text), workpaper.Visible(kind(e))); err != nil || c.Outcome != "denied" {
		return err
	}
	rules := strings.Join(c.Rules, ", ")
	if strings.Contains(c.Reason, rules) {
		rules = ""
	}
	why := workpaper.Visible(together(" ", e.Position+":", c.Reason, quoted(rules)))
	return p.text(at, textColumn, p.indent(at, textColumn), red, why, "")
}

func spaces(n int) string { return strings.Repeat(" ", max(0, n)) }

// kind is how a command came and what it is, in short; with its place where
// somebody will want to speak of it.
func kind(e *api.Entry) string {
	c := e.Command
	parts := []string{together(" ", c.Verb, c.Path)}
	if c.Parse == evidence.ParsePartial {
		parts = append(parts, "understood in part")
	}
	if c.Streamed > 0 {
		parts = append(parts, "passed "+size(c.Streamed))
	}
	if c.Outcome == "error" || c.Outcome == "in_doubt" {
		parts = append(parts, e.Position)
	}
	return quoted(strings.Join(parts, ", "))
}

func (p *printer) transaction(t *api.Transaction, at edge) error {
	what := map[string]string{"commit": "committed", "rollback": "rolled back", "prepare": "prepared, for somebody to commit", "unknown": "nobody saw how it ended"}[t.Result]
	what = together(": ", cmp.Or(what, t.Result), count(t.Commands, "command"))
	if !t.Block {
		what += ", as a pipeline undoes what came before its error"
	}
	code := ""
	if t.Result != "commit" {
		code = yellow
	}
	return p.printf("%s%s\n", p.edge(at), p.style(code, workpaper.Visible(what+with(", transaction ", t.ID))))
}

// aside is a line that isn't a command's.
func (p *printer) aside(at edge, clock, what, more string) error {
	return p.text(at, asideColumn, p.edge(at)+clock+spaces(asideColumn-2-len(clock)), dim, workpaper.Visible(together(": ", what, more)), "")
}

// warning is a line that somebody should look at.
func (p *printer) warning(at edge, clock string, b *evidence.AlertBody) error {
	words := together(" ", "alert:", b.Rule, quoted(together(", ", b.Severity, with("of ", b.Trigger.String())))+":", b.Text)
	return p.text(at, asideColumn, p.edge(at)+clock+spaces(asideColumn-2-len(clock)), magenta, workpaper.Visible(words), "")
}

// indent is what stands before text that goes on in another line.
func (p *printer) indent(at edge, column int) string {
	if at != outside {
		at = within
	}
	return p.edge(at) + spaces(column-2)
}

// text writes front, which ends before a column, and there words in a style
// and a remark, broken to the width of the terminal.
func (p *printer) text(at edge, column int, front, code, words, remark string) error {
	if !p.a.terminal || p.a.width == 0 {
		return p.printf("%s\n", strings.TrimRight(front+together(" ", p.style(code, words), p.style(dim, remark)), " "))
	}
	if p.a.width-column < leastText {
		if strings.TrimSpace(front) != strings.TrimSpace(p.indent(at, column)) {
			if err := p.printf("%s\n", strings.TrimRight(front, " ")); err != nil {
				return err
			}
		}
		column = narrowColumn
		front = p.indent(at, column)
	}
	lines := wrap(words, p.a.width-column)
	if len(lines) > mostLines && !p.full {
		lines = append(lines[:mostLines-1], fmt.Sprintf("… %d lines more: --full", len(lines)-mostLines+1))
		if !p.a.unicode {
			lines[mostLines-1] = strings.Replace(lines[mostLines-1], "…", "...", 1)
		}
	}
	last := len(lines) - 1
	fits := utf8.RuneCountInString(lines[last])+1+utf8.RuneCountInString(remark) <= p.a.width-column
	for i := range lines {
		lines[i] = p.style(code, lines[i])
	}
	switch {
	case fits || words == "":
		lines[last] = together(" ", lines[last], p.style(dim, remark))
	case remark != "":
		lines = append(lines, p.style(dim, remark))
	}
	return p.printf("%s\n", strings.TrimRight(front+strings.Join(lines, "\n"+p.indent(at, column)), " "))
}

// wrap breaks s into lines of at most width characters, between words where it
// can.
func wrap(s string, width int) (lines []string) {
	width = max(width, leastText/2)
	for r := []rune(s); ; {
		if len(r) <= width {
			return append(lines, string(r))
		}
		cut := width
		for cut > width/2 && r[cut] != ' ' {
			cut--
		}
		if r[cut] != ' ' {
			cut = width
		}
		lines = append(lines, string(r[:cut]))
		if r = r[cut:]; r[0] == ' ' {
			r = r[1:]
		}
	}
}

func (p *printer) printf(format string, args ...any) error {
	if _, err := fmt.Fprintf(p.w, format, args...); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

func (p *printer) edge(e edge) string {
	marks := [...]string{"  ", "+ ", "| ", "+ ", "+ "}
	if p.a.unicode {
		marks = [...]string{"  ", "┌ ", "│ ", "└ ", "├ "}
	}
	return p.style(dim, marks[e])
}

// Styles (ECMA-48, SGR).
const (
	bold    = "1"
	dim     = "2"
	red     = "31"
	yellow  = "33"
	magenta = "35"
)

func outcomeStyle(outcome string) string {
	switch outcome {
	case "denied":
		return red
	case "error", "cancelled", "skipped":
		return yellow
	case "in_doubt":
		return magenta
	}
	return ""
}

func (p *printer) style(code, s string) string {
	if !p.a.color || code == "" || strings.TrimSpace(s) == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// took writes a duration in at most eight characters.
func took(d time.Duration, unicode bool) string {
	micro := "us"
	if unicode {
		micro = "µs"
	}
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d %s", d.Microseconds(), micro)
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1e3)
	case d < time.Minute:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

// size writes a number of bytes.
func size(n uint64) string {
	for i, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if v := float64(n) / float64(uint64(1)<<(10*i)); v < 1024 || unit == "GiB" {
			if unit == "B" {
				return fmt.Sprintf("%d B", n)
			}
			return fmt.Sprintf("%.1f %s", v, unit)
		}
	}
	return ""
}

func stampMillis(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000Z") }

// together joins what isn't empty.
func together(sep string, parts ...string) string {
	var list []string
	for _, s := range parts {
		if s != "" {
			list = append(list, s)
		}
	}
	return strings.Join(list, sep)
}

// with is a prefix and s, or nothing without s.
func with(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

func quoted(s string) string {
	if s == "" {
		return ""
	}
	return "(" + s + ")"
}

// unicodeLocale reports whether the environment asks for UTF-8 (POSIX: the
// first of these that is set counts).
func unicodeLocale() bool {
	l := strings.ToUpper(cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG")))
	return strings.Contains(l, "UTF-8") || strings.Contains(l, "UTF8")
}

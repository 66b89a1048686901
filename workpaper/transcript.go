package workpaper

import (
	"cmp"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Transcript is what one session did, in order: what an auditor reads beside the
// tables. It says nothing that they don't.
type Transcript struct {
	Session string
	About   Table // the session's row of the sessions
	Lines   Table
	Left    int // lines that were one too many
}

// Which sessions are told, and how much of each. A pack of a year has more
// sessions than anybody reads; all of them are in the tables. The limits hold the
// memory of a fold as well as the size of a pack.
const (
	maxNotable     = 400       // transcripts of sessions that somebody should look at
	maxOrdinary    = 100       // of others
	maxLines       = 2_000     // of one transcript
	maxLineBytes   = 256 << 10 // of text in one
	maxLinesHeld   = 64 << 20  // of text in those of all open sessions
	maxLineText    = 8_000     // bytes of one cell
	lineOverhead   = 512
	sealedMark     = "▮ sealed"
	transcriptName = "transcript"
)

func transcriptColumns() []Column {
	return columns("pos:n", "at:t", "what:n", "verb:n", "text", "checks", "decision:n", "rules", "grants", "approval:n", "limit:n", "reason",
		"outcome:n", "code:n", "rows:#", "bytes_up:#", "bytes_down:#", "duration_us:#", "ended_at:t", "end_pos:n", "withheld")
}

// course is the transcript of an open session, as far as it has come.
type course struct {
	lines   []courseLine
	bytes   int
	left    int
	notable bool // somebody should look at it
}

type courseLine struct {
	at    evidence.Position
	cells []string
}

// telling is what a fold knows of its transcripts.
type telling struct {
	held              int // bytes of open courses
	notable, ordinary int // told
	untold            uint64
}

// tells reports whether a line of a session can still come to be told.
func (t *telling) tells(c *course) bool {
	return t.notable < maxNotable || !c.notable && t.ordinary < maxOrdinary
}

// line adds a line to a session's transcript. Cells may be changed.
func (f *Fold) line(s *session, at evidence.Position, cells []string) {
	c := &s.course
	size := lineOverhead
	for i := range cells {
		cells[i] = cut(cells[i], maxLineText)
		size += len(cells[i])
	}
	switch {
	case !f.telling.tells(c):
	case len(c.lines) >= maxLines || c.bytes+size > maxLineBytes || f.telling.held+size > maxLinesHeld:
		c.left++
	default:
		c.lines = append(c.lines, courseLine{at, cells})
		c.bytes += size
		f.telling.held += size
	}
}

// tellCommand adds a command that has ended, or is open at the end, to the
// transcript of its session. Its cells are those of its row.
func (f *Fold) tellCommand(c *command, row []string) {
	s := f.sessions[c.head.Session]
	if f.Told == nil || s == nil {
		return
	}
	in := c.intent
	if c.head.Effect != evidence.Allow || in.Approval != "" || in.Parse == evidence.ParseOpaque || c.head.Verb == evidence.VerbAdmin ||
		in.Limit != "" || row[f.commandCells[lineOutcome]] == string(evidence.InDoubt) {
		s.course.notable = true
	}
	withheld := ""
	if c.head.HasSealed {
		withheld = sealedMark
	}
	cells := make([]string, len(f.transcriptColumns))
	for i, from := range f.commandCells {
		if from >= 0 {
			cells[i] = row[from]
		}
	}
	cells[lineWhat], cells[lineWithheld] = "command", withheld
	f.line(s, c.head.Pos, cells)
}

// Columns of a transcript that the code speaks of.
const (
	linePos      = 0
	lineAt       = 1
	lineWhat     = 2
	lineText     = 4
	lineOutcome  = 12
	lineWithheld = 20
)

// commandCells are the cells of a command's row that its line has, -1 where the
// row has none.
func commandCells() []int {
	commands := Table{Columns: columnsOf(commandsTable)}
	list := make([]int, 0, lineWithheld+1)
	for _, c := range transcriptColumns() {
		name := map[string]string{"pos": "command_id", "reason": "deny_reason"}[c.Name]
		list = append(list, commands.Column(cmp.Or(name, c.Name)))
	}
	return list
}

// follow adds what isn't a command to the transcript of its session.
func (f *Fold) follow(r *evidence.Record) {
	h := &r.Head
	if f.Told == nil {
		return
	}
	if h.Type == evidence.SessionKill {
		f.followKill(r)
		return
	}
	s := f.sessions[h.Session]
	if s == nil {
		return
	}
	switch h.Type {
	case evidence.SessionUpstream:
		if b := readable[evidence.SessionUpstreamBody](r); b != nil {
			f.aside(s, h, "connected", strings.Join([]string{b.Local, "to", b.Remote, b.Server, b.TLS}, " "), "")
		}
	case evidence.SessionNote:
		if b := readable[evidence.NoteBody](r); b != nil && b.Kind != "sync" && b.Kind != "flush" {
			f.aside(s, h, "note", strings.TrimSpace(b.Kind+" by the "+b.Origin+" "+b.Detail), "")
		}
	case evidence.TxEnd:
		if b := readable[evidence.TxEndBody](r); b != nil {
			f.aside(s, h, "transaction", strconv.Itoa(b.Commands)+" commands, from "+pos(b.First)+" to "+pos(b.Last), b.Result)
		}
	case evidence.Alert:
		if b := readable[evidence.AlertBody](r); b != nil {
			s.course.notable = true
			f.aside(s, h, "alert", b.Rule+" ("+b.Severity+"): "+b.Text, "")
		}
	case evidence.ApprovalRequest:
		if b := readable[evidence.ApprovalRequestBody](r); b != nil && b.Command != nil {
			s.course.notable = true
			f.aside(s, h, "approval asked", b.Command.Text+" ("+checksCell(b.Command.Checks)+")", "")
		}
	}
}

func (f *Fold) followKill(r *evidence.Record) {
	b := readable[evidence.KillBody](r)
	if b == nil {
		return
	}
	for _, p := range b.Sessions {
		if s := f.sessions[p]; s != nil {
			s.course.notable = true
			f.aside(s, &r.Head, "ended by a person", b.By.Person.ID+": "+b.Reason, "")
		}
	}
}

// readable is a record's body, or nil: what is wrong with one is a test's to say.
func readable[T any](r *evidence.Record) *T {
	v := new(T)
	if evidence.DecodeBody(r.Body, v) != nil {
		return nil
	}
	return v
}

func (f *Fold) aside(s *session, h *evidence.Head, what, text, outcome string) {
	cells := make([]string, len(f.transcriptColumns))
	cells[linePos], cells[lineAt], cells[lineWhat] = pos(h.Pos), f.clock.format(h.Time), what
	cells[lineText], cells[lineOutcome] = text, outcome
	f.line(s, h.Pos, cells)
}

// tell hands on the transcript of a session that has ended or that the range
// leaves open, if it is one of those that have one. One that was refused did
// nothing: its row says all.
func (f *Fold) tell(s *session, state string, row []string) error {
	if f.Told == nil || state == "refused" {
		return nil
	}
	c := s.course
	f.telling.held -= c.bytes
	s.course = course{}
	notable := c.notable || s.gap
	switch {
	case notable && f.telling.notable < maxNotable:
		f.telling.notable++
	case !notable && f.telling.ordinary < maxOrdinary:
		f.telling.ordinary++
	default:
		f.telling.untold++
		return nil
	}
	slices.SortStableFunc(c.lines, func(a, b courseLine) int { return cmp.Or(comparePositions(a.at, b.at)) })
	t := &Transcript{Session: pos(s.start), Left: c.left,
		About: Table{Name: sessionsTable, Columns: f.sessionColumns, Rows: [][]string{slices.Clone(row)}},
		Lines: Table{Name: transcriptName, Columns: f.transcriptColumns}}
	for _, l := range c.lines {
		t.Lines.Rows = append(t.Lines.Rows, l.cells)
	}
	return f.Told(t)
}

// columnsOf are the columns of a population.
func columnsOf(table string) []Column {
	list := Populations()
	return list[slices.IndexFunc(list, func(t Table) bool { return t.Name == table })].Columns
}

// forms are the renderings of a transcript, by the ends of their names.
var forms = []struct {
	ext   string
	write func(*Transcript, io.Writer) error
}{{".html", (*Transcript).WriteHTML}, {".jsonl", (*Transcript).WriteJSONL}, {".txt", (*Transcript).WriteText}}

// Each renders the transcript in each of its forms, to what open returns for a
// name. Sessions' positions are names of files as they are, on any system.
func (t *Transcript) Each(write func(name string, to func(io.Writer) error) error) error {
	for _, form := range forms {
		if err := write(fileName(t.Session)+form.ext, func(w io.Writer) error { return form.write(t, w) }); err != nil {
			return err
		}
	}
	return nil
}

// WriteJSONL writes the session's row and the lines after it, as JSON.
func (t *Transcript) WriteJSONL(w io.Writer) error {
	if err := t.About.WriteJSONL(w); err != nil {
		return err
	}
	return t.Lines.WriteJSONL(w)
}

// remark says what isn't there.
func (t *Transcript) remark() string {
	if t.Left == 0 {
		return ""
	}
	return strconv.Itoa(t.Left) + " more lines were one too many for this page. All commands of the session are in pop/commands, under its session_id."
}

// facts are the cells of the session's row that say something.
func (t *Transcript) facts(yield func(name, value string) bool) {
	for i, c := range t.About.Columns {
		if v := t.About.Rows[0][i]; v != "" && !yield(strings.ReplaceAll(c.Name, "_", " "), v) {
			return
		}
	}
}

// WriteText writes the transcript for a terminal, which finds nothing to obey in
// it.
func (t *Transcript) WriteText(w io.Writer) error {
	var b strings.Builder
	b.WriteString("Session " + Visible(t.Session) + "\n\n")
	for name, value := range t.facts {
		b.WriteString("  " + name + strings.Repeat(" ", max(1, 22-len(name))) + Visible(value) + "\n")
	}
	b.WriteByte('\n')
	for _, r := range t.Lines.Rows {
		b.WriteString(Visible(strings.Join(nonempty(r[1], r[0], r[2], r[3], r[6], r[12], r[13]), "  ")) + "\n")
		for _, i := range []int{4, 5, 7, 8, 9, 10, 11, 14, 15, 16, 17, 19, 20} {
			if r[i] != "" && (r[i] != "0" || t.Lines.Columns[i].Kind != Number) {
				name := strings.ReplaceAll(t.Lines.Columns[i].Name, "_", " ")
				b.WriteString("    " + name + strings.Repeat(" ", max(1, 14-len(name))) + Visible(r[i]) + "\n")
			}
		}
	}
	if s := t.remark(); s != "" {
		b.WriteString("\n" + s + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func nonempty(list ...string) []string {
	return slices.DeleteFunc(list, func(s string) bool { return s == "" })
}

// WriteHTML writes the transcript as a page: a line of the session's is one of a
// table.
func (t *Transcript) WriteHTML(w io.Writer) error {
	if err := HTMLHead(w, "Session "+t.Session, "wide"); err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("<h1>Session " + HTMLText(t.Session) + "</h1>\n<p class=\"subtitle\">What was asked, what was decided, and how it ended, in order</p>\n<table class=\"facts\">\n")
	for name, value := range t.facts {
		b.WriteString("<tr><th>" + HTMLText(name) + "</th><td>" + HTMLText(value) + "</td></tr>\n")
	}
	b.WriteString("</table>\n<h2>Transcript</h2>\n<table><thead><tr><th>position</th><th>time</th><th>what</th><th>text</th><th>decision</th><th>outcome</th>" +
		"<th>rows</th><th>bytes up</th><th>bytes down</th><th>µs</th><th>withheld</th></tr></thead><tbody>\n")
	for _, r := range t.Lines.Rows {
		t.htmlLine(&b, r)
	}
	b.WriteString("</tbody></table>\n")
	if s := t.remark(); s != "" {
		b.WriteString("<p>" + s + "</p>\n")
	}
	b.WriteString("</body></html>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// htmlLine writes a line. What stands below each other in a cell has a name, so
// that a text can't be taken for a rule.
func (t *Transcript) htmlLine(b *strings.Builder, r []string) {
	cell := func(class string, first string, more ...int) {
		b.WriteString("<td")
		if class != "" {
			b.WriteString(` class="` + class + `"`)
		}
		b.WriteString(">" + HTMLText(first))
		for _, i := range more {
			if r[i] != "" {
				b.WriteString("<br><small>" + HTMLText(strings.ReplaceAll(t.Lines.Columns[i].Name, "_", " ")) + ": " + HTMLText(r[i]) + "</small>")
			}
		}
		b.WriteString("</td>")
	}
	b.WriteString("<tr>")
	cell("code", r[0])
	cell("", r[1])
	cell("", strings.Join(nonempty(r[2], r[3]), ": "))
	cell("code", r[4], 5)
	cell(outcomeClass(r[6]), r[6], 7, 8, 9, 10, 11)
	cell(outcomeClass(r[12]), strings.Join(nonempty(r[12], r[13]), " "), 18, 19)
	for _, i := range []int{14, 15, 16, 17} {
		cell("number", r[i])
	}
	cell("sealed", r[20])
	b.WriteString("</tr>\n")
}

// outcomeClass is the look of a decision or outcome; what isn't one has none.
func outcomeClass(s string) string {
	switch s {
	case string(evidence.Deny), string(evidence.Error), string(evidence.Denied):
		return s
	}
	return ""
}

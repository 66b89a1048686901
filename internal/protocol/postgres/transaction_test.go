package postgres_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

// ends spells the ends of transactions, with commands by their numbers.
func ends(s *prototest.Session) string {
	number := make(map[evidence.Position]int)
	for i, x := range s.Exchanges() {
		number[x.Position()] = i + 1
	}
	var out []string
	for _, tx := range s.Transactions() {
		kind := "block"
		if !tx.Block {
			kind = "pipeline"
		}
		first, last := number[tx.First], number[tx.Last]
		line := fmt.Sprintf("%s of %s %d-%d", tx.Result, kind, first, last)
		if tx.Commands != last-first+1 {
			line += fmt.Sprintf(", which are not %d commands", tx.Commands)
		}
		out = append(out, line)
	}
	return strings.Join(out, "; ")
}

func TestEndsOfTransactions(t *testing.T) {
	g := understandingGateway(t)
	for name, c := range map[string]struct {
		say  func(f *raw)
		want string
	}{
		"no block": {func(f *raw) {
			f.ask("select 1", "I").ask("rollback", "I").ask("commit", "I")
			f.run("select 1").run("select 2").synced("I")
		}, ""},
		"commit": {func(f *raw) {
			f.ask("begin", "T").ask("insert into open.t values (1)", "T").ask("commit", "I").ask("select 1", "I")
		}, "commit of block 1-3"},
		"rollback": {func(f *raw) { f.ask("start transaction", "T").ask("abort", "I") }, "rollback of block 1-2"},
		"commit of what has failed": {func(f *raw) {
			f.ask("begin", "T").ask("select 1/0", "E").ask("end", "I")
		}, "rollback of block 1-3"},
		"back to a savepoint": {func(f *raw) {
			f.ask("begin", "T").ask("savepoint a", "T").ask("select 1/0", "E").ask("rollback to a", "T").ask("release a", "T").ask("commit", "I")
		}, "commit of block 1-6"},
		"chained": {func(f *raw) {
			f.ask("begin", "T").ask("commit and chain", "T").ask("select 1", "T").ask("rollback and chain", "T").ask("commit", "I")
		}, "commit of block 1-2; rollback of block 2-4; commit of block 4-5"},
		"all in one text": {func(f *raw) {
			f.ask("begin; select 1; commit; begin; commit and chain; rollback", "I")
		}, "commit of block 1-1; commit of block 1-1; rollback of block 1-1"},
		"the text fails after its block": {func(f *raw) { f.ask("begin; commit; select 1/0", "I") }, "commit of block 1-1"},
		"the text fails after a COMMIT":  {func(f *raw) { f.ask("select 1; commit; select 1/0", "I") }, "commit of pipeline 1-1"},
		"a block from a pipeline": {func(f *raw) {
			f.run("select 1").run("begin").run("select 2").synced("T").ask("commit", "I")
		}, "commit of block 1-4"},
		"a pipeline that fails": {func(f *raw) {
			f.run("select 1").run("select 2").run("select 1/0").run("select 3").synced("I").run("select 4").synced("I")
		}, "rollback of pipeline 1-2"},
		"a pipeline that is refused": {func(f *raw) {
			f.run("select 1").run("select n from hidden.t").run("select 3").synced("I")
		}, "rollback of pipeline 1-1"},
		"a pipeline whose first part committed": {func(f *raw) {
			f.run("select 1").run("commit").run("select 2").run("select 1/0").synced("I")
		}, "commit of pipeline 1-2; rollback of pipeline 3-3"},
		"a pipeline that rolls back": {func(f *raw) {
			f.run("insert into open.t values (3)").run("rollback").synced("I")
		}, "rollback of pipeline 1-2"},
		"a pipeline with what commits by itself": {func(f *raw) {
			f.run("do $$ begin end $$").run("select 1/0").synced("I")
		}, "unknown of pipeline 1-1"},
		"a block that is refused": {func(f *raw) {
			f.ask("begin", "T").ask("select n from hidden.t", "E").ask("commit", "I")
		}, "rollback of block 1-3"},
		"prepared": {func(f *raw) {
			f.ask("begin", "T").ask("prepare transaction 'ends'", "I").ask("rollback prepared 'ends'", "I")
		}, "prepare of block 1-2"},
		"prepared without a block": {func(f *raw) {
			f.run("select 1").run("prepare transaction 'lone'").synced("I")
			f.ask("rollback prepared 'lone'", "I") // it is there since PostgreSQL 18
		}, "unknown of pipeline 1-2|prepare of pipeline 1-2"}, // since PostgreSQL 18
		"a pipeline with a Query": {func(f *raw) {
			f.run("select 1").query("select 2").send()
			f.answered("select 2", "")
			f.run("select 1/0").synced("I")
		}, "|rollback of pipeline 1-2"},
		"a pipeline with a Query that goes on": {func(f *raw) {
			f.run("select 1").query("select 2").send()
			f.answered("select 2", "")
			f.sync().send()
			f.answered("the Sync", "I")
		}, "|unknown of pipeline 1-2"},
		"left in a pipeline with a Query": {func(f *raw) {
			f.run("select 1").query("select 2").send()
			f.answered("select 2", "")
		}, "|rollback of pipeline 1-2"},
		"the COMMIT fails": {func(f *raw) {
			f.ask("begin", "T").ask("insert into open.late values (1), (1)", "T").ask("commit", "I")
		}, "rollback of block 1-3"},
		"the Sync fails": {func(f *raw) {
			f.run("select 1").run("insert into open.late values (1), (1)").synced("I")
		}, "rollback of pipeline 1-1"},
		"left open": {func(f *raw) { f.ask("begin", "T").ask("select 1", "T") }, "rollback of block 1-2"},
		"left aborted": {func(f *raw) {
			f.ask("begin", "T").ask("select 1/0", "E").ask("select 2", "E")
		}, "rollback of block 1-3"},
		"left without a Sync": {func(f *raw) {
			f.run("select 1").run("select 2").flush().send()
			f.expect("1 2 D C 1 2 D C")
		}, "rollback of pipeline 1-2"},
		"left by the server": {func(f *raw) {
			f.ask("begin", "T").query("select pg_terminate_backend(pg_backend_pid())").send()
			for m := f.receive(); m != 0; m = f.receive() { //nolint:revive // to the end
			}
		}, "unknown of block 1-2"},
	} {
		t.Run(name, func(t *testing.T) {
			f := dialRaw(t, g)
			c.say(f)
			f.conn.Close()
			s := g.last(t)
			if got := ends(s); !slices.Contains(strings.Split(c.want, "|"), got) {
				t.Errorf("%s, want %s\n%s", got, c.want, s.Trace())
			}
		})
	}
}

// TestEndsOfTransactionsThatNobodyUnderstood has only the wire to go by.
func TestEndsOfTransactionsThatNobodyUnderstood(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	f := dialRaw(t, g)
	f.ask("begin", "T").ask("commit and chain", "T").ask("select 1", "T").ask("commit", "I")
	f.ask("begin", "T").ask("savepoint a", "T").ask("rollback to a", "T").ask("commit", "I")
	f.ask("begin", "T").ask("rollback", "I")
	f.terminate()
	want := "commit of block 1-2; commit of block 2-4; unknown of block 5-7; commit of block 7-8; unknown of block 9-10"
	if got := ends(g.last(t)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestEndThatCannotBeRecorded is that of a transaction: the agent must not be
// told that it was committed.
func TestEndThatCannotBeRecorded(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	g.EndTransaction = func(protocol.Transaction) error {
		return &protocol.Refusal{Kind: protocol.ErrUnrecordable, Reason: "the disk is full"}
	}
	f := dialRaw(t, g)
	f.ask("begin", "T").query("commit").send()
	f.expect("E .")
	if f.code() != "08007" {
		t.Errorf("%q", f.last)
	}
}

// ask asks a Query and expects its status.
func (f *raw) ask(text, status string) *raw {
	f.t.Helper()
	f.query(text).send()
	return f.answered(text, status)
}

// run puts a command into the pipeline.
func (f *raw) run(text string) *raw { return f.parse("", text).bind("", "").execute("", 0) }

// synced ends the pipeline and expects its status.
func (f *raw) synced(status string) *raw {
	f.t.Helper()
	f.sync().send()
	return f.answered("pipeline", status)
}

func (f *raw) answered(text, status string) *raw {
	f.t.Helper()
	for m := f.receive(); m != 'Z'; m = f.receive() {
		if m == 0 {
			f.t.Fatalf("%s: the connection has ended", text)
		}
	}
	if status != "" && f.status() != status {
		f.t.Fatalf("%s: the status is %q, want %s", text, f.last, status)
	}
	return f
}

// TestEndsOfRandomTransactions has random programs run, and holds what is
// recorded of their transactions to a model, and the model to the server.
func TestEndsOfRandomTransactions(t *testing.T) {
	g := understandingGateway(t)
	server := startServer(t)
	rapid.Check(t, func(r *rapid.T) {
		server.sql(t, "truncate open.t, open.late")
		m := &model{status: 'I'}
		f := dialRaw(t, g)
		for range rapid.IntRange(1, 8).Draw(r, "messages") {
			simple := rapid.Bool().Draw(r, "simple")
			texts := rapid.SliceOfN(rapid.SampledFrom(statements), 1, 5).Draw(r, "statements")
			for i := range texts {
				if texts[i] == "insert" {
					m.row++
					texts[i] = fmt.Sprintf("insert into open.t values (%d)", m.row)
				}
			}
			if simple {
				f.query(strings.Join(texts, ";")).send()
				m.query(texts)
			} else {
				for _, text := range texts {
					f.run(text)
				}
				f.sync().send()
				m.pipeline(texts)
			}
			for c := f.receive(); c != 'Z'; c = f.receive() {
				if c == 0 {
					r.Fatalf("%v: the connection has ended", texts)
				}
			}
			if f.status()[0] != m.status {
				r.Fatalf("%v: the status is %s, the model's %c", texts, f.status(), m.status)
			}
		}
		f.terminate()
		m.leave()
		s := g.last(t)
		if got, want := ends(s), strings.Join(m.ends, "; "); got != want {
			r.Errorf("%s\nwant %s\n%s", got, want, s.Trace())
		}
		if got := server.numbers(t, "select n from open.t order by n"); !slices.Equal(got, m.table) {
			r.Errorf("the table holds %v, the model %v\n%s", got, m.table, s.Trace())
		}
	})
}

// statements are what random programs are made of.
var statements = []string{
	"begin", "begin", "commit", "commit", "rollback", "commit and chain", "rollback and chain",
	"savepoint a", "rollback to a", "insert", "insert", "insert",
	"select 1/0", "select n from hidden.t", "insert into open.late values (1), (1)",
}

// model is PostgreSQL as far as transactions go. Commands have numbers from 1.
type model struct {
	status byte // 'I', 'T' or 'E'
	table  []int
	ends   []string

	row      int
	command  int   // at hand
	first    int   // of the transaction at hand; 0 is none yet
	last     int   // of a block: that the server answered
	done     []int // commands of the pipeline that ended well, in the transaction at hand
	worked   bool
	rows     []int // of the transaction at hand
	late     bool  // it can't commit
	restores []savepoint
}

type savepoint struct {
	rows int
	late bool
}

// query is a Query of some statements.
func (m *model) query(texts []string) {
	m.command++
	if slices.Contains(texts, "select n from hidden.t") {
		m.fail()
		return
	}
	m.last = m.command
	for i, text := range texts {
		ok := m.statement(text)
		if ok && i == len(texts)-1 && m.status == 'I' {
			ok = m.settle()
		}
		if !ok {
			m.fail()
			return
		}
	}
}

// pipeline is a pipeline of commands up to its Sync.
func (m *model) pipeline(texts []string) {
	start := m.command
	defer func() { m.command = start + len(texts); m.done = nil }()
	for i, text := range texts {
		m.command++
		if text == "select n from hidden.t" {
			m.fail()
			return
		}
		m.last = m.command
		ok := m.statement(text)
		if ok && i < len(texts)-1 && m.status == 'I' && text != "commit" && text != "rollback" {
			m.done = append(m.done, m.command)
		}
		if ok && i == len(texts)-1 && m.status == 'I' {
			ok = m.settle()
		}
		if !ok {
			m.fail()
			if n := slices.Index(texts, "select n from hidden.t"); m.status == 'E' && n > 0 {
				m.last = start + n // the rest, as far as it was forwarded, was skipped
			} else if m.status == 'E' {
				m.last = start + len(texts)
			}
			return
		}
	}
}

// fail fails the command at hand.
func (m *model) fail() {
	if m.status != 'I' {
		m.status = 'E'
		return
	}
	if len(m.done) > 0 {
		m.end("rollback of pipeline", m.done[0], m.done[len(m.done)-1])
	}
	m.clear()
}

// settle ends a transaction that no block is.
func (m *model) settle() bool {
	if m.late {
		return false
	}
	m.table = append(m.table, m.rows...)
	m.clear()
	return true
}

func (m *model) end(what string, first, last int) {
	m.ends = append(m.ends, fmt.Sprintf("%s %d-%d", what, first, last))
}

func (m *model) clear() {
	m.first, m.done, m.worked, m.rows, m.late, m.restores = 0, nil, false, nil, false, nil
}

// statement runs one statement and reports whether it ended well.
func (m *model) statement(text string) bool {
	verb, chain := strings.CutSuffix(text, " and chain")
	switch {
	case verb == "commit", verb == "rollback":
		return m.ending(verb, chain)
	case verb == "rollback to a":
		if m.status == 'I' || len(m.restores) == 0 {
			return false
		}
		s := m.restores[len(m.restores)-1]
		m.rows, m.late, m.status = m.rows[:s.rows], s.late, 'T'
		return true
	case m.status == 'E', verb == "select 1/0", verb == "savepoint a" && m.status == 'I':
		return false
	case verb == "begin":
		if m.status == 'I' {
			m.status, m.first = 'T', m.command
			if len(m.done) > 0 {
				m.first = m.done[0]
			}
		}
		return true
	case verb == "savepoint a":
		m.restores = append(m.restores, savepoint{len(m.rows), m.late})
	case verb == "insert into open.late values (1), (1)":
		m.late = true
	default:
		var n int
		if _, err := fmt.Sscanf(verb, "insert into open.t values (%d)", &n); err != nil {
			panic(err)
		}
		m.rows = append(m.rows, n)
	}
	m.worked = true
	return true
}

// ending is a COMMIT or ROLLBACK.
func (m *model) ending(verb string, chain bool) bool {
	if m.status == 'E' {
		verb = "rollback"
	}
	block := m.status != 'I'
	if !block && chain {
		return false
	}
	commits := verb == "commit"
	if commits && m.late {
		if block {
			m.end("rollback of block", m.first, m.command)
			m.clear()
			m.status = 'I'
		}
		return false
	}
	switch {
	case block:
		m.end(verb+" of block", m.first, m.command)
	case m.worked && len(m.done) > 0:
		m.end(verb+" of pipeline", m.done[0], m.command)
	case m.worked:
		m.end(verb+" of pipeline", m.command, m.command)
	}
	if commits {
		m.table = append(m.table, m.rows...)
	}
	m.clear()
	m.status = 'I'
	if chain {
		m.status, m.first = 'T', m.command
	}
	return true
}

// leave ends the session.
func (m *model) leave() {
	if m.status != 'I' {
		m.end("rollback of block", m.first, m.last)
	}
}

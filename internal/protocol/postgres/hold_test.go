package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

// asks lets texts that hold a word wait for people.
func asks(g *gateway, word string) chan evidence.Decision {
	answer := make(chan evidence.Decision)
	holds := func(c *evidence.Command) bool {
		return !evidence.Unbound(c.Path) && (bytes.Contains(c.Raw, []byte(word)) || bytes.Contains(c.Exact, []byte(word)))
	}
	g.Hold = func(c *evidence.Command) <-chan evidence.Decision {
		if holds(c) {
			return answer
		}
		return nil
	}
	g.Decide = func(c *evidence.Command) evidence.Decision {
		if holds(c) { // what can't wait
			return evidence.Decision{Effect: evidence.Deny, Reason: "it needs the approval of dba; request gw1.1.7 asks for it", Approval: "gw1.1.7"}
		}
		return decide(c)
	}
	return answer
}

var approved = evidence.Decision{Effect: evidence.Allow, Approval: prototest.Request}

func TestAnAgentIsToldThatItsCommandWaits(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	answer := asks(g, "held")
	f := dialRaw(t, g)
	f.query("select 'held'").send()
	f.expect("N")
	for _, want := range []string{"SNOTICE\x00", "C00000\x00", "request " + prototest.Request, "exhibit approval show " + prototest.Request} {
		if !strings.Contains(string(f.last), want) {
			t.Errorf("the notice %q says nothing of %q", f.last, want)
		}
	}
	answer <- approved
	f.expect("T D C Z")
	// Behind it in the stream, and not before the answer.
	f.query("select 'held'").query("select 1").send()
	f.expect("N")
	answer <- approved
	f.expect("T D C Z T D C Z")
	f.terminate()
	g.last(t)
}

func TestPgxAndPsqlWaitForPeople(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	answer := asks(g, "held")
	go func() {
		for range 5 {
			time.Sleep(100 * time.Millisecond)
			answer <- approved
		}
	}()
	c := g.connect(t)
	var got int
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		if err := c.QueryRow(t.Context(), "select $1::int as held", mode, 7).Scan(&got); err != nil || got != 7 {
			t.Errorf("%v: %d, %v", mode, got, err)
		}
	}
	out, err := g.psql(t, "-c", "select 'was held'")
	if err != nil || !strings.Contains(out, "was held") || !strings.Contains(out, prototest.Request) {
		t.Errorf("psql: %s, %v", out, err)
	}
	c.Close(t.Context())
	for _, s := range g.Sessions() {
		for _, x := range s.Exchanges() {
			if x.Path == "execute" && string(x.Exact) != "select $1::int as held" {
				t.Errorf("what is approved of a prepared statement is %q", x.Exact)
			}
		}
	}
}

func TestACancelRequestEndsTheWait(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	asks(g, "held")
	c := g.connect(t)
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(context.Background(), "select 'held'")
		done <- err
	}()
	time.Sleep(200 * time.Millisecond)
	if err := c.PgConn().CancelRequest(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-done; code(err) != "57014" {
		t.Errorf("the command: %v", err)
	}
	if _, err := c.Exec(t.Context(), "select 1"); err != nil {
		t.Errorf("after it: %v", err)
	}
	c.Close(t.Context())
	s := g.last(t)
	if x := s.Exchanges()[0]; x.Outcome().Class != evidence.Denied {
		t.Errorf("outcome %+v", x.Outcome())
	}
	for _, n := range s.Notes() {
		if n.Kind == "cancel" && (n.Bytes != 0 || n.Frames != 1) {
			t.Errorf("the cancel is noted as %+v: nothing of it went on", n)
		}
	}
}

// Whoever waits in a transaction holds its locks.
func TestNobodyWaitsInATransactionOrAPipeline(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	asks(g, "held")
	c := g.connect(t)
	tx, err := c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = tx.Exec(t.Context(), "select 'held'")
	var e *pgconn.PgError
	if !errors.As(err, &e) || e.Code != "42501" || !strings.Contains(e.Message, "gw1.1.7") || !strings.Contains(e.Hint, "exhibit approval show gw1.1.7") {
		t.Errorf("in a transaction: %+v", e)
	}
	if _, err := tx.Exec(t.Context(), "select 1"); code(err) != "25P02" {
		t.Errorf("the transaction goes on: %v", err)
	}
	tx.Rollback(t.Context()) //nolint:errcheck // it has failed
	b := &pgx.Batch{}
	b.Queue("select 1")
	b.Queue("select 'held'")
	if err := c.SendBatch(t.Context(), b).Close(); code(err) != "42501" {
		t.Errorf("in a pipeline: %v", err)
	}
}

// limited sets limits to what agents ask for.
func limited(g *gateway, o evidence.Obligations) {
	g.Decide = func(c *evidence.Command) evidence.Decision {
		d := decide(c)
		d.Obligations, d.Rules = &o, []string{"modest"}
		return d
	}
}

func TestAnAnswerPastItsRows(t *testing.T) {
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec, pgx.QueryExecModeCacheStatement} {
		t.Run(mode.String(), func(t *testing.T) {
			g := startGateway(t, startServer(t), postgres.Config{})
			limited(g, evidence.Obligations{Rows: 10})
			c := g.connect(t)
			ask := func(most int) (n int, err error) {
				rows, err := c.Query(t.Context(), "select repeat('x', 2000), generate_series(1, $1::int)", mode, most)
				if err != nil {
					return 0, err
				}
				defer rows.Close()
				for rows.Next() {
					n++
				}
				return n, rows.Err()
			}
			if n, err := ask(10); n != 10 || err != nil {
				t.Errorf("as many as it may: %d, %v", n, err)
			}
			n, err := ask(100000)
			var e *pgconn.PgError
			if n != 10 || !errors.As(err, &e) || e.Code != "54000" || !strings.Contains(e.Message, "10 rows") || !strings.Contains(e.Message, "modest") {
				t.Errorf("past it: %d rows, %v", n, err)
			}
			if n, err := ask(3); n != 3 || err != nil {
				t.Errorf("after it: %d, %v", n, err)
			}
			c.Close(t.Context())
			s := g.last(t)
			found := false
			for _, x := range s.Exchanges() {
				if o := x.Outcome(); o.Code != "" {
					found = true
					if o.Class != evidence.Cancelled || o.Code != protocol.ExcessRows || o.Rows != 10 {
						t.Errorf("outcome %+v", o)
					}
				}
			}
			if !found {
				t.Errorf("nothing was stopped: %s", s.Trace())
			}
		})
	}
}

func TestAnAnswerPastItsRowsInATransactionFailsIt(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	limited(g, evidence.Obligations{Rows: 2})
	f := dialRaw(t, g)
	f.query("begin").send()
	f.expect("C Z")
	f.query("select generate_series(1, 10000000)").send()
	f.expect("T D D E Z")
	if f.status() != "E" {
		t.Errorf("status %q", f.status())
	}
	f.query("rollback").send()
	f.expect("C Z")
	f.terminate()
	g.last(t)
}

// An answer that was complete before the server could be stopped has the effect
// that it has, and the agent is told so.
func TestAnAnswerThatIsCompleteBeforeItIsStopped(t *testing.T) {
	s := startServer(t)
	s.sql(t, "drop table if exists kept", "create table kept (n int)")
	g := startGateway(t, s, postgres.Config{})
	limited(g, evidence.Obligations{Rows: 2})
	f := dialRaw(t, g)
	f.query("insert into kept values (1), (2), (3) returning n").send()
	f.expect("T D D E Z")
	if f.query("select 1").send(); s.count(t, "select count(*) from kept") == 3 {
		f.expect("T D C Z")
	}
	f.terminate()
	x := g.last(t).Exchanges()
	kept := s.count(t, "select count(*) from kept")
	if o := x[0].Outcome(); o.Code != protocol.ExcessRows || (o.Class == evidence.OK) != (kept == 3) {
		t.Errorf("%d rows are there, outcome %+v", kept, o)
	}
}

func TestALargeRowPastTheBytes(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	limited(g, evidence.Obligations{Bytes: 100000})
	f := dialRaw(t, g)
	f.query("select repeat('x', 50000); select repeat('x', 5000000); select 2").send()
	f.expect("T D C T E Z")
	if f.code() != "" && f.status() != "I" {
		t.Errorf("status %q", f.status())
	}
	f.query("select 3").send()
	f.expect("T D C Z")
	f.terminate()
	if o := g.last(t).Exchanges()[0].Outcome(); o.Code != protocol.ExcessBytes || o.Reply > 100000 {
		t.Errorf("outcome %+v", o)
	}
}

func TestACopyPastItsRows(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	limited(g, evidence.Obligations{Rows: 100})
	c := g.connect(t)
	var out bytes.Buffer
	_, err := c.PgConn().CopyTo(t.Context(), &out, "copy (select generate_series(1, 1000000)) to stdout")
	if code(err) != "54000" || strings.Count(out.String(), "\n") != 100 {
		t.Errorf("%d rows, %v", strings.Count(out.String(), "\n"), err)
	}
	if _, err := c.PgConn().CopyTo(t.Context(), io.Discard, "copy (select 1) to stdout"); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// Behind an error nothing may come before the Sync: where the server goes on all
// the same, the session ends.
func TestAPipelinePastItsRows(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	limited(g, evidence.Obligations{Rows: 2})
	f := dialRaw(t, g)
	f.parse("", "select generate_series(1, 3)").bind("", "").execute("", 0)
	f.parse("", "select 'next'").bind("", "").execute("", 0).sync().send()
	f.expect("1 2 D D E")
	if f.code() != "54000" {
		t.Errorf("%q", f.last)
	}
	switch got := f.receive(); got {
	case 'Z', 0: // it was stopped in time, or not
	default:
		t.Errorf("behind the error comes %q", got)
	}
}

func TestACommandPastItsTimeIsStoppedInItsTurn(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	limited(g, evidence.Obligations{Millis: 600})
	f := dialRaw(t, g)
	start := time.Now()
	// The second waits for the first, and isn't taken for it.
	f.query("select 1, pg_sleep(0.5)").query("select 2, pg_sleep(30)").query("select 3").send()
	f.expect("T D C Z T E Z T D C Z")
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	f.terminate()
	var codes []string
	for _, x := range g.last(t).Exchanges() {
		codes = append(codes, fmt.Sprint(x.Outcome().Class, x.Outcome().Code))
	}
	if got := strings.Join(codes, " "); got != "ok cancelledlimit_time ok" {
		t.Errorf("outcomes %s", got)
	}
}

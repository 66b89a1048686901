package postgres_test

import (
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
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

// code is the SQLSTATE of an error, or what it says instead.
func code(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return fmt.Sprint(err)
}

func TestDenialInATransactionFailsIt(t *testing.T) {
	s := startServer(t)
	s.sql(t, "create table if not exists tx_denied (n int)", "truncate tx_denied")
	g := startGateway(t, s, postgres.Config{})
	c := g.connect(t)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec} {
		tx, err := c.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "insert into tx_denied values (1)", mode); err != nil {
			t.Fatal(err)
		}
		_, err = tx.Exec(t.Context(), "select 'forbidden'", mode)
		if code(err) != "42501" {
			t.Errorf("%v: the denial is %v", mode, err)
		}
		if _, err := tx.Exec(t.Context(), "select 1", mode); code(err) != "25P02" {
			t.Errorf("%v: after the denial: %v", mode, err)
		}
		if err := tx.Commit(t.Context()); !errors.Is(err, pgx.ErrTxCommitRollback) {
			t.Errorf("%v: commit: %v", mode, err)
		}
	}
	if n := s.count(t, "select count(*) from tx_denied"); n != 0 {
		t.Errorf("%d rows were committed", n)
	}
}

func TestDenialOutsideATransactionIsAnsweredHere(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	c := g.connect(t)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec} {
		_, err := c.Exec(t.Context(), "select 'forbidden'", mode)
		var e *pgconn.PgError
		if !errors.As(err, &e) || e.Code != "42501" || !strings.Contains(e.Message, "no-forbidden-things") || !strings.Contains(e.Hint, "test.1.") {
			t.Errorf("%v: the denial is %#v", mode, e)
		}
		var n int
		if err := c.QueryRow(t.Context(), "select 7", mode).Scan(&n); err != nil || n != 7 {
			t.Errorf("%v: after the denial: %v, %d", mode, err, n)
		}
	}
	c.Close(t.Context())
	for _, n := range g.last(t).Notes() {
		if n.Kind == "denial" {
			t.Errorf("frames of the gateway's own: %+v", n)
		}
	}
}

func TestDenialInAPipelineLeavesNoRow(t *testing.T) {
	s := startServer(t)
	s.sql(t, "create table if not exists piped (n int)", "truncate piped")
	g := startGateway(t, s, postgres.Config{})
	c := g.connect(t)
	b := &pgx.Batch{}
	b.Queue("insert into piped values (1)")
	b.Queue("insert into piped values (2)")
	b.Queue("select 'forbidden'")
	b.Queue("insert into piped values (3)")
	err := c.SendBatch(t.Context(), b).Close()
	if code(err) != "42501" {
		t.Errorf("the batch: %v", err)
	}
	p := c.PgConn().StartPipeline(t.Context())
	p.SendQueryParams("insert into piped values (4)", nil, nil, nil, nil)
	p.SendQueryParams("select 'forbidden'", nil, nil, nil, nil)
	p.SendQueryParams("insert into piped values (5)", nil, nil, nil, nil)
	if err := p.Sync(); err != nil {
		t.Fatal(err)
	}
	p.SendQueryParams("insert into piped values (6)", nil, nil, nil, nil)
	if err := p.Sync(); err != nil {
		t.Fatal(err)
	}
	var codes []string
	for {
		r, err := p.GetResults()
		if err != nil {
			codes = append(codes, code(err))
			continue
		}
		switch r := r.(type) {
		case *pgconn.ResultReader:
			_, err := r.Close()
			codes = append(codes, code(err))
		case *pgconn.PipelineSync:
			codes = append(codes, "sync")
		}
		if len(codes) >= 5 {
			break
		}
	}
	if got, want := strings.Join(codes, " "), "<nil> 42501 sync <nil> sync"; got != want {
		t.Errorf("the pipeline: %s, want %s", got, want)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if n := s.count(t, "select coalesce(sum(n), 0) from piped"); n != 6 {
		t.Errorf("the rows add up to %d, want the 6 of the segment without a denial", n)
	}
	c.Close(t.Context())
	trace := g.last(t).Trace()
	if !strings.Contains(trace, `"insert into piped values (5)": skipped`) {
		t.Errorf("trace:\n%s", trace)
	}
}

func TestErrorInAPipelineSkipsToTheSync(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	c := g.connect(t)
	p := c.PgConn().StartPipeline(t.Context())
	p.SendQueryParams("select 1", nil, nil, nil, nil)
	p.SendQueryParams("select 1/0", nil, nil, nil, nil)
	p.SendQueryParams("select 2", nil, nil, nil, nil)
	if err := p.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); code(err) != "22012" {
		t.Errorf("the pipeline: %v", err)
	}
	c.Close(t.Context())
	want := `extended "select 1": ok rows=1
extended "select 1/0": error 22012
extended "select 2": skipped
`
	if got := g.last(t).Trace(); got != want {
		t.Errorf("trace:\n%swant:\n%s", got, want)
	}
}

func TestErrorAtTheSync(t *testing.T) {
	s := startServer(t)
	s.sql(t, "create table if not exists deferred (n int unique deferrable initially deferred)", "truncate deferred")
	g := startGateway(t, s, postgres.Config{})
	c := g.connect(t)
	const insert = "insert into deferred values (1), (1)"
	if _, err := c.PgConn().ExecParams(t.Context(), insert, nil, nil, nil, nil).Close(); code(err) != "23505" {
		t.Errorf("the insert: %v", err)
	}
	if _, err := c.Exec(t.Context(), insert); code(err) != "23505" {
		t.Errorf("the insert: %v", err)
	}
	c.Close(t.Context())
	want := `extended "insert into deferred values (1), (1)": error 23505 rows=2
simple "insert into deferred values (1), (1)": error 23505
`
	if got := g.last(t).Trace(); got != want {
		t.Errorf("trace:\n%swant:\n%s", got, want)
	}
}

func TestCopyBothWays(t *testing.T) {
	s := startServer(t)
	s.sql(t, "create table if not exists copied (n int, s text)", "truncate copied")
	g := startGateway(t, s, postgres.Config{})
	c := g.connect(t)
	var rows strings.Builder
	const n = 50_000
	for i := range n {
		fmt.Fprintf(&rows, "%d\t%s\n", i, strings.Repeat("x", i%50))
	}
	tag, err := c.PgConn().CopyFrom(t.Context(), strings.NewReader(rows.String()), "copy copied from stdin")
	if err != nil || tag.RowsAffected() != n {
		t.Fatalf("copy in: %v, %v", tag, err)
	}
	var back strings.Builder
	if _, err := c.PgConn().CopyTo(t.Context(), &back, "copy (select * from copied order by n) to stdout"); err != nil {
		t.Fatal(err)
	}
	if back.String() != rows.String() {
		a, b := rows.String(), back.String()
		at := 0
		for at < min(len(a), len(b)) && a[at] == b[at] {
			at++
		}
		t.Errorf("what came back isn't what went in: %d and %d bytes, equal up to %d: %q", len(a), len(b), at, b[max(0, at-20):min(len(b), at+40)])
	}
	_, err = c.PgConn().CopyFrom(t.Context(), strings.NewReader("1\ta\nno number\tb\n"), "copy copied from stdin")
	if code(err) != "22P02" {
		t.Errorf("bad content: %v", err)
	}
	_, err = c.PgConn().CopyFrom(t.Context(), io.MultiReader(strings.NewReader("1\ta\n"), brokenReader{}), "copy copied from stdin")
	if code(err) != "57014" {
		t.Errorf("CopyFail: %v", err)
	}
	if _, err := c.Exec(t.Context(), "select 1"); err != nil {
		t.Error(err)
	}
	c.Close(t.Context())
	session := g.last(t)
	x := session.Exchanges()
	if o := x[0].Outcome(); o.Class != evidence.OK || o.Rows != n || x[0].Observed(evidence.ToUpstream) < uint64(rows.Len()) {
		t.Errorf("copy in: %+v, %d bytes observed", o, x[0].Observed(evidence.ToUpstream))
	}
	if o := x[1].Outcome(); o.Rows != n || x[1].Observed(evidence.ToAgent) < uint64(rows.Len()) {
		t.Errorf("copy out: %+v, %d bytes observed", o, x[1].Observed(evidence.ToAgent))
	}
}

// TestCopyThatFailsWhileTheAgentSends fails at its first row, with more on its
// way than all buffers hold.
func TestCopyThatFailsWhileTheAgentSends(t *testing.T) {
	s := startServer(t)
	s.sql(t, "create table if not exists copied6 (n int)", "truncate copied6")
	g := startGateway(t, s, postgres.Config{})
	f := dialRaw(t, g)
	row := strings.Repeat("no number", 1000) + "\n"
	f.query("copy copied6 from stdin")
	for range 2000 {
		f.data(row)
	}
	f.copyDone().query("select 1").send()
	f.expect("G E Z T D C Z")
	f.run("copy copied6 from stdin")
	for range 2000 {
		f.data(row)
	}
	f.copyDone().sync().query("select 1").send()
	f.expect("1 2 G E Z T D C Z")
	f.terminate()
	want := `simple "copy copied6 from stdin": error 22P02
simple "select 1": ok rows=1
extended "copy copied6 from stdin": error 22P02
simple "select 1": ok rows=1
`
	if got := g.last(t).Trace(); got != want {
		t.Errorf("trace:\n%swant:\n%s", got, want)
	}
}

// TestCancelDuringACopy cancels one that the agent feeds, and one that it
// reads.
func TestCancelDuringACopy(t *testing.T) {
	s := startServer(t)
	s.sql(t, "create table if not exists copied6 (n int)", "truncate copied6")
	g := startGateway(t, s, postgres.Config{})
	c := g.connect(t)
	cancel := func() {
		if err := c.PgConn().CancelRequest(t.Context()); err != nil {
			t.Error(err)
		}
	}
	_, err := c.PgConn().CopyFrom(t.Context(), &endless{then: cancel}, "copy copied6 from stdin")
	if code(err) != "57014" {
		t.Errorf("copy in: %v", err)
	}
	_, err = c.PgConn().CopyTo(t.Context(), &endless{then: cancel}, "copy (select generate_series(1, 1000000000)) to stdout")
	if code(err) != "57014" {
		t.Errorf("copy out: %v", err)
	}
	var n int
	if err := c.QueryRow(t.Context(), "select 7").Scan(&n); err != nil || n != 7 {
		t.Errorf("after the cancels: %v, %d", err, n)
	}
	c.Close(t.Context())
	for _, x := range g.last(t).Exchanges()[:2] {
		if o := x.Outcome(); o.Class != evidence.Cancelled || x.Observed(evidence.ToUpstream)+x.Observed(evidence.ToAgent) == 0 {
			t.Errorf("%s: %+v", x.Raw, o)
		}
	}
}

// endless yields rows, or takes what there is, and does something after a
// megabyte.
type endless struct {
	n    int
	then func()
}

func (e *endless) Read(b []byte) (int, error) {
	n := copy(b, "1\n2\n3\n4\n")
	return n, e.count(n)
}

func (e *endless) Write(b []byte) (int, error) { return len(b), e.count(len(b)) }

func (e *endless) count(n int) error {
	if e.n < 1<<20 && e.n+n >= 1<<20 {
		e.then()
	}
	e.n += n
	return nil
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("no more") }

func TestCancelGoesToTheSessionItNames(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	c := g.connect(t)
	done := make(chan error)
	go func() {
		_, err := c.Exec(context.Background(), "select pg_sleep(30)")
		done <- err
	}()
	time.Sleep(200 * time.Millisecond)
	if err := c.PgConn().CancelRequest(t.Context()); err != nil {
		t.Error(err)
	}
	select {
	case err := <-done:
		if code(err) != "57014" {
			t.Errorf("the command: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it wasn't cancelled")
	}
	c.Close(t.Context())
	session := g.last(t)
	if x := session.Exchanges(); x[len(x)-1].Outcome().Class != evidence.Cancelled {
		t.Errorf("outcome is %+v", x[len(x)-1].Outcome())
	}
	for _, n := range session.Notes() {
		if n.Kind == "cancel" && n.Bytes == 16 && strings.HasPrefix(n.Detail, "from 127.0.0.1") {
			return
		}
	}
	t.Errorf("no note of the cancel: %+v", session.Notes())
}

func TestRowLimitedFetches(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	f := dialRaw(t, g)
	f.parse("", "select generate_series(1, 5)").bind("c", "").execute("c", 2).flush()
	f.send()
	f.expect("1 2 D D s")
	f.execute("c", 2).flush().send()
	f.expect("D D s")
	f.execute("c", 2).sync().send()
	f.expect("D C Z")
	f.terminate()
	want := `extended "select generate_series(1, 5)": ok rows=2
fetch "": ok rows=2
fetch "": ok rows=1
`
	if got := g.last(t).Trace(); got != want {
		t.Errorf("trace:\n%swant:\n%s", got, want)
	}
}

func TestKilledSession(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	c := g.connect(t)
	done := make(chan error)
	go func() {
		_, err := c.Exec(context.Background(), "select pg_sleep(30)")
		done <- err
	}()
	time.Sleep(200 * time.Millisecond)
	start := time.Now()
	g.Sessions()[0].Kill(errors.New("the grant was removed"))
	err := <-done
	if e := (*pgconn.PgError)(nil); !errors.As(err, &e) || e.Code != "57P01" || e.Message != "the grant was removed" {
		t.Errorf("the command: %v", err)
	}
	session := g.last(t)
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v", took)
	}
	// What the server still did was cancelled; whether its answer came in time
	// is chance.
	if x := session.Exchanges(); x[0].Outcome().Class != evidence.InDoubt && x[0].Outcome().Class != evidence.Cancelled {
		t.Errorf("outcome is %+v", x[0].Outcome())
	}
}

func TestNoSecretReachesTheServerOrTheRecords(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	g.Token = "another"
	_, err := pgx.Connect(t.Context(), g.url())
	if code(err) != "28P01" {
		t.Errorf("connecting: %v", err)
	}
	if strings.Contains(fmt.Sprint(err), prototest.Token) {
		t.Error("the error holds the token")
	}
}

func TestLargeMessages(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{Limits: postgres.Limits{Message: 4 << 20}})
	c := g.connect(t)
	big := strings.Repeat("y", 3<<20)
	var back string
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheStatement} {
		if err := c.QueryRow(t.Context(), "select $1::text", mode, big).Scan(&back); err != nil || back != big {
			t.Fatalf("%v: %v, %d bytes", mode, err, len(back))
		}
	}
	if _, err := c.Exec(t.Context(), "select $1::text", strings.Repeat("y", 5<<20)); code(err) != "54000" {
		t.Errorf("past the limit: %v", err)
	}
}

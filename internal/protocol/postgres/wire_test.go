package postgres_test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

func TestFramesOfNoCommandAreNoted(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	f := dialRaw(t, g)
	f.sync().send()
	f.expect("Z")
	f.parse("s", "select 1").sync().send()
	f.expect("1 Z")
	f.describe('S', "s").sync().send()
	f.expect("t T Z")
	f.close('S', "s").sync().send()
	f.expect("3 Z")
	f.describe('S', "s").sync().send()
	f.expect("E Z")
	f.bind("", "s").execute("", 0).sync().send()
	f.expect("E Z")
	f.terminate()
	s := g.last(t)
	var kinds []string
	for _, n := range s.Notes() {
		if !n.Gateway {
			kinds = append(kinds, n.Kind)
		}
	}
	if got, want := strings.Join(kinds, " "), "sync describe close describe terminate"; got != want {
		t.Errorf("notes are %q, want %q", got, want)
	}
}

func TestFramesThatAreNotLetThrough(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	for name, c := range map[string]struct {
		frame []byte
		code  string
	}{
		"function call":      {[]byte("F\x00\x00\x00\x0e\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00"), "08P01"},
		"unknown":            {[]byte("!\x00\x00\x00\x04"), "08P01"},
		"late password":      {[]byte("p\x00\x00\x00\x05\x00"), "08P01"},
		"negative length":    {[]byte("Q\xff\xff\xff\xff"), "08P01"},
		"zero length":        {[]byte("Q\x00\x00\x00\x00"), "08P01"},
		"hidden text":        {[]byte("Q\x00\x00\x00\x0fselect\x00drop"), "08P01"},
		"Sync with a body":   {[]byte("S\x00\x00\x00\x05x"), "54000"},
		"Bind that lies":     {[]byte("B\x00\x00\x00\x0c\x00\x00\x00\x00\xff\xff\x00\x00"), "08P01"},
		"Execute cut short":  {[]byte("E\x00\x00\x00\x05\x00S\x00\x00\x00\x04"), "08P01"},
		"Describe of what":   {[]byte("D\x00\x00\x00\x06X\x00S\x00\x00\x00\x04"), "08P01"},
		"name without bound": {append([]byte("D\x00\x00\x40\x00S"), make([]byte, 1<<14)...), "54000"},
	} {
		f := dialRaw(t, g)
		f.bytes(c.frame...)
		if c.frame[0] != 'S' && c.frame[0] != 'Q' {
			f.sync()
		}
		f.send()
		f.expect("E")
		if f.code() != c.code {
			t.Errorf("%s: %q, want %s", name, f.last, c.code)
		}
		f.expect(".")
		if end, err := g.Sessions()[len(g.Sessions())-1].Wait(10 * time.Second); err != nil || end.Reason == "" {
			t.Errorf("%s: %v, %+v", name, err, end)
		}
	}
}

func TestPipelinedDenialWithoutSync(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	f := dialRaw(t, g)
	// Answered here, up to the Sync that comes later.
	f.parse("", "forbidden").flush().send()
	f.expect("E")
	f.bind("", "").execute("", 0).flush().send()
	f.parse("", "select 1").sync().send()
	f.expect("Z")
	if f.status() != "I" {
		t.Errorf("status is %q", f.status())
	}
	// With a frame at the server already, the server fails too.
	f.parse("", "select 1").flush().send()
	f.expect("1")
	f.parse("", "forbidden").flush().send()
	f.expect("E")
	if f.code() != "42501" {
		t.Errorf("the error is %q", f.last)
	}
	f.bind("", "").send()
	f.sync().send()
	f.expect("Z")
	f.query("begin").send()
	f.expect("C Z")
	f.query("select 1; forbidden").send()
	f.expect("E Z")
	if f.status() != "E" {
		t.Errorf("status is %q", f.status())
	}
	f.query("rollback").send()
	f.expect("C Z")
	f.query("select 1").query("forbidden").query("select 2").send()
	f.expect("T D C Z E Z T D C Z")
	f.terminate()
	g.last(t)
}

// Content that follows a failure is dropped, here as by the server, whichever
// of the connection's goroutines learns first that there will be no COPY.
func TestContentBehindAFailedPipeline(t *testing.T) {
	t.Parallel()
	g := startGateway(t, startServer(t), postgres.Config{})
	for range 200 {
		f := dialRaw(t, g)
		f.about = "to content that the server ignores"
		f.describe('P', "nowhere").parse("", "copy (select 1) to stdout").bind("", "").execute("", 0)
		f.data("1\n").copyDone().sync().query("select 1").send()
		f.expect("E Z T D C Z")
		f.terminate()
	}
}

func TestQueryWithinAnUnsyncedPipeline(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	f := dialRaw(t, g)
	f.parse("", "select 1").bind("", "").execute("", 0).query("select 2").send()
	f.expect("1 2 D C T D C Z")
	f.parse("", "select 1/0").bind("", "").execute("", 0).query("select 2").sync().send()
	f.expect("1 E Z")
	f.terminate()
	if trace := g.last(t).Trace(); !strings.Contains(trace, `simple "select 2": skipped`) {
		t.Errorf("trace:\n%s", trace)
	}
}

func TestStatementsAreKnownByWhatTheServerHas(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	f := dialRaw(t, g)
	f.parse("s", "select 1").sync().send()
	f.expect("1 Z")
	// The name is taken: the server keeps the old one, and so must we.
	f.parse("s", "select 2").sync().bind("", "s").execute("", 0).sync().send()
	f.expect("E Z 2 D C Z")
	if !strings.HasPrefix(string(f.last), "I") {
		t.Errorf("status is %q", f.last)
	}
	// A name of the same segment counts at once.
	f.close('S', "s").parse("s", "select 3").bind("", "s").execute("", 0).sync().send()
	f.expect("3 1 2 D C Z")
	f.terminate()
	x := g.last(t).Exchanges()
	if x[2].Of != x[0].Position() {
		t.Errorf("the execute is of %v, want %v", x[2].Of, x[0].Position())
	}
}

func TestCopyInTheExtendedProtocol(t *testing.T) {
	s := startServer(t)
	s.sql(t, "create table if not exists copied2 (n int unique deferrable initially deferred)", "truncate copied2")
	g := startGateway(t, s, postgres.Config{})
	f := dialRaw(t, g)
	// As libpq does it: a Sync before the server says that it is a COPY.
	f.parse("", "copy copied2 from stdin").bind("", "").execute("", 0).sync().send()
	f.expect("1 2 G")
	f.data("1\n").data("2\n").sync().data("3\n").copyDone().sync().send()
	f.expect("C Z")
	// It fails at its content.
	f.parse("", "copy copied2 from stdin").bind("", "").execute("", 0).sync().send()
	f.expect("1 2 G")
	f.data("x\n").data("4\n").copyDone().sync().send()
	f.expect("E Z")
	// It fails at the Sync.
	f.parse("", "copy copied2 from stdin").bind("", "").execute("", 0).sync().send()
	f.expect("1 2 G")
	f.data("5\n5\n").copyDone().sync().send()
	f.expect("C E Z")
	// Content that nobody waits for is ignored.
	f.data("6\n").copyDone().query("select 1").send()
	f.expect("T D C Z")
	// Content at once, in the simple protocol.
	f.query("copy copied2 from stdin").data("7\n").copyDone().query("select 1").send()
	f.expect("G C Z T D C Z")
	f.terminate()
	want := `extended "copy copied2 from stdin": ok rows=3
extended "copy copied2 from stdin": error 22P02
extended "copy copied2 from stdin": error 23505 rows=2
simple "select 1": ok rows=1
simple "copy copied2 from stdin": ok rows=1
simple "select 1": ok rows=1
`
	if got := g.last(t).Trace(); got != want {
		t.Errorf("trace:\n%swant:\n%s", got, want)
	}
	if n := s.count(t, "select count(*) from copied2"); n != 4 {
		t.Errorf("%d rows", n)
	}
}

func TestCommandsBehindACopy(t *testing.T) {
	s := startServer(t)
	s.sql(t, "create table if not exists copied5 (n int)", "truncate copied5")
	g := startGateway(t, s, postgres.Config{})
	f := dialRaw(t, g)
	const in = "copy copied5 from stdin"
	f.run(in).data("1\n").copyDone().run("insert into copied5 values (2)").sync().send()
	f.expect("1 2 G C 1 2 C Z")
	// What comes behind one that fails is skipped, and nothing of it stays.
	f.run(in).data("3\n").data("x\n").copyDone().run("insert into copied5 values (4)").sync().send()
	f.expect("1 2 G E Z")
	f.run("insert into copied5 values (5)").run(in).data("6\n").message(&pgproto3.CopyFail{Message: "no more"}).query("select 7").sync().send()
	f.expect("1 2 C 1 2 G E Z")
	f.query("select 8").send()
	f.expect("T D C Z")
	f.terminate()
	want := `extended "copy copied5 from stdin": ok rows=1
extended "insert into copied5 values (2)": ok rows=1
extended "copy copied5 from stdin": error 22P02
extended "insert into copied5 values (4)": skipped
extended "insert into copied5 values (5)": ok rows=1
extended "copy copied5 from stdin": cancelled 57014
simple "select 7": skipped
simple "select 8": ok rows=1
`
	session := g.last(t)
	if got := session.Trace(); got != want {
		t.Errorf("trace:\n%swant:\n%s", got, want)
	}
	if got := ends(session); got != "rollback of pipeline 5-5" {
		t.Errorf("the transactions: %s", got)
	}
	if got := s.numbers(t, "select n from copied5 order by n"); fmt.Sprint(got) != "[1 2]" {
		t.Errorf("the table holds %v", got)
	}
}

// TestFailedCopyThatMayHaveSwallowedASync cannot go on: the server may have
// taken the Sync for content, or for the end of the pipeline.
func TestFailedCopyThatMayHaveSwallowedASync(t *testing.T) {
	s := startServer(t)
	s.sql(t, "create table if not exists copied5 (n int)", "truncate copied5")
	g := startGateway(t, s, postgres.Config{})
	f := dialRaw(t, g)
	f.run("copy copied5 from stdin").sync().data("x\n").copyDone().run("select 1").sync().send()
	f.expect("1 2 G E E .")
	if f.code() != "0A000" {
		t.Errorf("%q", f.last)
	}
}

func TestCopyBehindAPipelineThatFailed(t *testing.T) {
	s := startServer(t)
	s.sql(t, "create table if not exists copied5 (n int)", "truncate copied5")
	g := startGateway(t, s, postgres.Config{})
	for range 20 { // the server's answers race with the content
		f := dialRaw(t, g)
		f.run("select 1/0").sync().query("copy copied5 from stdin").data("1\n").copyDone().send()
		f.expect("1 E Z G C Z")
		f.terminate()
	}
	if n := s.count(t, "select count(*) from copied5"); n != 20 {
		t.Errorf("%d rows", n)
	}
}

// TestPipelineBehindAFailure is not answered before its Sync, however long it
// gets: what it asks must not wait for that.
func TestPipelineBehindAFailure(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{Limits: postgres.Limits{Flight: 10}})
	f := dialRaw(t, g)
	f.parse("s", "select 1").run("select 1/0").query("select 2").bind("", "s").execute("", 0)
	for range 50 {
		f.run("select 3").query("forbidden")
	}
	f.sync().bind("", "s").execute("", 0).sync().send()
	f.expect("1 1 E Z 2 D C Z")
	for range 50 {
		f.run("select 4")
	}
	f.sync().send()
	for range 50 {
		f.expect("1 2 D C")
	}
	f.expect("Z")
	f.terminate()
	for _, x := range g.last(t).Exchanges()[3:100] {
		if c := x.Outcome().Class; c != evidence.Skipped && c != evidence.Denied {
			t.Errorf("%s is %s", x.Position(), c)
		}
	}
}

func TestCommandWithinACopyEndsTheSession(t *testing.T) {
	s := startServer(t)
	s.sql(t, "create table if not exists copied3 (n int)", "truncate copied3")
	g := startGateway(t, s, postgres.Config{})
	f := dialRaw(t, g)
	f.query("copy copied3 from stdin").send()
	f.expect("G")
	f.data("1\n").query("select 1").send()
	f.expect("E .")
	x := g.last(t).Exchanges()
	if len(x) != 1 || x[0].Outcome().Class != evidence.InDoubt {
		t.Errorf("%d exchanges, the first is %+v", len(x), x[0].Outcome())
	}
}

func TestLargeCopyData(t *testing.T) {
	s := startServer(t)
	s.sql(t, "create table if not exists copied4 (t text)", "truncate copied4")
	g := startGateway(t, s, postgres.Config{})
	f := dialRaw(t, g)
	f.query("copy copied4 from stdin").send()
	f.expect("G")
	f.data(strings.Repeat("z", 1<<20) + "\n").copyDone().send()
	f.expect("C Z")
	f.query("copy copied4 to stdout").send()
	f.expect("H d")
	if len(f.last) != 1<<20+1 {
		t.Errorf("%d bytes came back", len(f.last))
	}
	f.expect("c C Z")
	f.terminate()
	x := g.last(t).Exchanges()
	if x[0].Observed(evidence.ToUpstream) != 5+1<<20+1+5 || x[1].Observed(evidence.ToAgent) != 5+1<<20+1 {
		t.Errorf("observed %d and %d bytes", x[0].Observed(evidence.ToUpstream), x[1].Observed(evidence.ToAgent))
	}
}

func TestNoticesBetweenCompletionAndCommit(t *testing.T) {
	s := startServer(t)
	s.sql(t, "drop table if exists chatty", "create table chatty (n int)",
		`create or replace function chat() returns trigger language plpgsql as $$ begin
			for i in 1..5000 loop raise notice '%', repeat('n', 1000); end loop; return null; end $$`,
		"create constraint trigger chat after insert on chatty initially deferred for each row execute function chat()")
	g := startGateway(t, s, postgres.Config{})
	f := dialRaw(t, g)
	f.query("insert into chatty values (1)").send()
	notices := 0
	for m := f.receive(); m != 'Z'; m = f.receive() {
		switch m {
		case 'N':
			notices++
		case 0, 'E':
			t.Fatalf("received %q %q", m, f.last)
		}
	}
	if notices != 5000 {
		t.Errorf("%d notices", notices)
	}
	f.terminate()
	g.last(t)
}

func TestNotificationsReachAnIdleAgent(t *testing.T) {
	s := startServer(t)
	g := startGateway(t, s, postgres.Config{})
	c := g.connect(t)
	if _, err := c.Exec(t.Context(), "listen news"); err != nil {
		t.Fatal(err)
	}
	s.sql(t, "notify news, 'hello'")
	n, err := c.WaitForNotification(t.Context())
	if err != nil || n.Payload != "hello" {
		t.Errorf("%+v, %v", n, err)
	}
	c.Close(t.Context())
	g.last(t)
}

func TestServerThatGoesMidway(t *testing.T) {
	s := startServer(t)
	g := startGateway(t, s, postgres.Config{})
	f := dialRaw(t, g)
	f.query("select pg_terminate_backend(pg_backend_pid())").send()
	for m := f.receive(); m != 'E'; m = f.receive() {
		if m == 0 || m == 'Z' {
			t.Fatalf("received %q %q", m, f.last)
		}
	}
	if f.code() != "57P01" {
		t.Errorf("%q", f.last)
	}
	x := g.last(t).Exchanges()
	if o := x[0].Outcome(); o.Class != evidence.InDoubt || o.Code != "57P01" {
		t.Errorf("outcome is %+v", o)
	}
}

func TestAgentThatLeavesWhatItAsked(t *testing.T) {
	s := startServer(t)
	s.sql(t, "create table if not exists left_behind (n int)", "truncate left_behind")
	g := startGateway(t, s, postgres.Config{})
	f := dialRaw(t, g)
	f.query("insert into left_behind select 1 from pg_sleep(0.3)").send()
	f.conn.Close()
	x := g.last(t).Exchanges()
	if o := x[0].Outcome(); o.Class != evidence.OK || o.Rows != 1 {
		t.Errorf("outcome is %+v", o)
	}
}

func TestOutcomeThatCannotBeRecorded(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	g.End = func(*prototest.Exchange, evidence.Outcome) error {
		full := &protocol.Refusal{Kind: protocol.ErrUnrecordable, Reason: "the disk is full"}
		g.Sessions()[0].Kill(full) // as a session does
		return full
	}
	f := dialRaw(t, g)
	f.query("select 1").send()
	f.expect("T D E .")
	if f.code() != "08007" {
		t.Errorf("%q", f.last)
	}
}

func TestPgbench(t *testing.T) {
	bin, err := exec.LookPath("pgbench")
	if err != nil {
		t.Skip("pgbench is missing; install it: apt-get install postgresql")
	}
	s := startServer(t)
	g := startGateway(t, s, postgres.Config{})
	run := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), bin, args...)
		cmd.Env = append(cmd.Environ(), "PGPASSWORD=prototest-token-9f31c2")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("pgbench %v: %v\n%s", args, err, out)
		}
	}
	host, port, _ := strings.Cut(g.address, ":")
	at := []string{"-h", host, "-p", port, "-U", "agent-1"}
	run(append(at, "-i", "-q", "-s", "1", "app")...)
	for _, mode := range []string{"simple", "extended", "prepared"} {
		run(append(at, "-n", "-M", mode, "-c", "4", "-t", "25", "app")...)
	}
	if n := s.count(t, "select count(*) from pgbench_history"); n != 300 {
		t.Errorf("%d transactions, want 300", n)
	}
	for _, session := range g.Sessions() {
		if _, err := session.Wait(10 * time.Second); err != nil {
			t.Fatal(err)
		}
		for _, x := range session.Exchanges() {
			if x.Outcome().Class != evidence.OK {
				t.Errorf("%s %q is %s", x.Path, x.Raw, x.Outcome().Class)
			}
		}
	}
}

// Frames that end just before the buffer does leave no room for the header of
// the next.
func TestFramesThatAllButFillTheBuffer(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	for room := range 8 {
		f := dialRaw(t, g)
		const buffer, frame = 64 << 10, len("P....") + len("\x00\x00..")
		f.parse("", "select 1"+strings.Repeat(" ", buffer-frame-room-len("select 1"))).bind("", "").execute("", 0).sync().send()
		f.expect("1 2 D C Z")
		f.terminate()
	}
}

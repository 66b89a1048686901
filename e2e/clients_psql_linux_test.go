package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a person at a program.
type terminal struct {
	t    *testing.T
	keys *os.File

	mu   sync.Mutex
	seen string // and not yet expected
}

// sit starts psql at a terminal of its own.
func (w *world) sit(t *testing.T, url string) *terminal {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "psql", "-X", "-P", "pager=off", url)
	cmd.Env = append(os.Environ(), "TERM=dumb", "PSQL_HISTORY=/dev/null", "PSQL_EDITOR=true")
	return w.sitAt(t, cmd, "\x03\n\\q\n")
}

// openTerminal makes a terminal: what its keys are, and what a program sits at.
func openTerminal() (keys, tty *os.File, err error) {
	if keys, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	err = unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0)
	n, numbered := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	if err = errors.Join(err, numbered); err == nil {
		tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		keys.Close()
		return nil, nil, err
	}
	return keys, tty, nil
}

// sitAt starts a program at a terminal of its own, and ends it by keys.
func (w *world) sitAt(t *testing.T, cmd *exec.Cmd, goodbye string) *terminal {
	t.Helper()
	keys, tty, err := openTerminal()
	w.ok(err)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	w.ok(cmd.Start())
	w.ok(tty.Close())
	p := &terminal{t: t, keys: keys}
	var reader sync.WaitGroup
	reader.Go(func() {
		b := make([]byte, 4096)
		for {
			n, err := keys.Read(b)
			p.mu.Lock()
			p.seen += string(b[:n])
			p.mu.Unlock()
			if err != nil { // the terminal is gone with psql
				return
			}
		}
	})
	t.Cleanup(func() {
		_, _ = keys.WriteString(goodbye)
		_ = cmd.Wait() // it ends of that, or with the test's context
		reader.Wait()
		_ = keys.Close()
	})
	return p
}

// expect waits until the screen shows a text and returns what came up to it.
func (p *terminal) expect(text string) (before string) {
	p.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		p.mu.Lock()
		before, after, found := strings.Cut(p.seen, text)
		if found {
			p.seen = after
		}
		p.mu.Unlock()
		if found {
			return before
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("the terminal does not show %q but:\n%s", text, before)
		}
	}
}

func (p *terminal) press(keys string) {
	p.t.Helper()
	if _, err := p.keys.WriteString(keys); err != nil {
		p.t.Fatal(err)
	}
}

// say types a line and returns what comes before the next prompt.
func (p *terminal) say(line, prompt string) string {
	p.t.Helper()
	p.press(line + "\n")
	return p.expect("orders" + prompt + " ")
}

func (p *terminal) says(line, prompt string, want ...string) {
	p.t.Helper()
	out := p.say(line, prompt)
	for _, text := range want {
		if !strings.Contains(out, text) {
			p.t.Errorf("%s does not show %q but:\n%s", line, text, out)
		}
	}
}

// outdated reports whether a command of psql fails without the gateway, too,
// since the catalogue of a newer server has other columns.
func (w *world) outdated(command string) bool {
	w.t.Helper()
	out, err := w.run("psql", "-X", w.db.URL("orders"), "-c", command)
	return err != nil && strings.Contains(out, "ERROR:  column ") && strings.Contains(out, " does not exist")
}

// What psql asks behind its commands is reading, so a reader may.
func TestAReaderAtPsql(t *testing.T) {
	t.Parallel()
	onEachServer(t, func(t *testing.T, w *world) {
		w.ok(w.db.Exec(t.Context(), "orders", "set role app",
			"create view recent as select id from t where id > 90", "create sequence numbers", "create type mood as enum ('calm')",
			"create function double(int) returns int language sql return $1 * 2", "create table parts (a int) partition by range (a)",
			"comment on table t is 'rows'"))
		w.grant("idle", "reader")
		p := w.sit(t, w.url("idle", "sslmode=disable"))
		p.expect("orders=> ")
		for command, want := range map[string]string{
			`\d`: "recent", `\d t`: `"t_pkey" PRIMARY KEY`, `\d+ t`: "extended", `\d+ recent`: "View definition", `\dt`: "public", `\dt+`: "rows",
			`\di+`: "t_pkey", `\dv`: "recent", `\dm`: "Did not find any", `\ds`: "numbers", `\d numbers`: "Cycles?", `\df`: "double", `\df+ double`: "invoker",
			`\da sum`: "pg_catalog", `\dT+`: "calm", `\dn+`: "public", `\du+`: "app", `\dg`: "postgres", `\l+`: "orders", `\dx`: "plpgsql", `\dx+`: "plpgsql_call_handler",
			`\dp`: "Access privileges", `\z t`: "t", `\ddp`: "Default access privileges", `\dP`: "parts", `\do +`: "Left arg type", `\dC`: "Source type", `\dD`: "Check",
			`\dF`: "english", `\des`: "List of foreign servers", `\dy`: "List of event triggers", `\dRp`: "List of publications", `\dRs`: "", `\dL`: "plpgsql", `\db`: "pg_default",
			`\dc`: "", `\dO`: "", `\dX`: "", `\dA`: "btree", `\dconfig work_mem`: "4MB", `\sf double`: "RETURN ($1 * 2)", `\sv recent`: "CREATE OR REPLACE VIEW",
			`\ef double`: "", `\ev recent`: "", `\drds`: "", `\dd`: "", `\dS pg_class`: "relname",
		} {
			if strings.HasPrefix(command, `\ef`) || strings.HasPrefix(command, `\ev`) {
				p.press(command + "\n") // leaves the definition in the input
				p.expect("orders")
				p.press("\\r\n")
				p.expect("Query buffer reset")
				p.expect("orders=> ")
				continue
			}
			out := p.say(command, "=>")
			if strings.Contains(out, "ERROR") && w.outdated(command) {
				t.Logf("%s asks for a column that only older servers have, directly as well", command)
				continue
			}
			if !strings.Contains(out, want) || strings.Contains(out, "refused") || strings.Contains(out, "ERROR") {
				t.Errorf("%s shows:\n%s", command, out)
			}
		}
		p.press("select count(*) from rece\t")
		p.expect("recent")
		p.says(" where id > 95;", "=>", "5")
		p.press("select * from t where v\t\t")
		p.says(" = 'row 7';", "=>", "row 7")
	})
}

func TestAPersonAtPsql(t *testing.T) {
	t.Parallel()
	onEachServer(t, func(t *testing.T, w *world) {
		p := w.sit(t, w.url("bot", "sslmode=disable", "--ticket", "T-1"))
		p.expect("orders=> ")
		p.says(`\conninfo`, "=>", `connected to database "orders" as user "bot"`)
		p.says(`\timing on`, "=>", "Timing is on")
		p.says("select 1 as one", "->")
		p.says("  , 2 as two;", "=>", "one | two", "Time:")
		p.says(`select count(*) as n, max(id) as top from t \gset`, "=>")
		p.says(`\echo :n :top`, "=>", "100 100")
		p.says(`select format('select %s as answer', 40 + 2) \gexec`, "=>", "answer", "42")
		p.says(`select * from t where id = 7 \gx`, "=>", "RECORD 1", "row 7")
		p.says(`select id, v, 1 from t where id < 3 \crosstabview`, "=>", "row 1")

		p.says(`\copy (select * from t order by id) to '`+w.path("rows.csv")+`' csv`, "=>", "COPY 100")
		p.says("delete from t where id > 50;", "=>", "DELETE 50")
		p.says("create temp table gone (a int);", "=>", "refused by the access gateway")
		p.says("begin;", "=*>", "BEGIN")
		p.says("delete from t where id > 0;", "=*>", "DELETE 50")
		p.says(`\copy t from '`+w.path("rows.csv")+`' csv`, "=*>", "COPY 100")
		p.says("drop table t;", "=!>", "refused by the access gateway")
		p.says("select 1;", "=!>", "current transaction is aborted")
		p.says("commit;", "=>", "ROLLBACK")
		p.says("select count(*) from t;", "=>", "50")
		p.press("copy t from stdin;\n")
		p.expect(">> ")
		p.press("900\ttyped\n\\.\n")
		p.expect("COPY 1")
		p.expect("orders=> ")

		p.press("select pg_sleep(600);\n")
		w.until(60*time.Second, "the statement runs", func() bool { return w.serverSaw("statement: select pg_sleep(600)") })
		p.press("\x03")
		p.expect("canceling statement due to user request")
		p.expect("orders=> ")
		p.press("select 'again' \\watch 0.1\n")
		for range 3 {
			p.expect("again")
		}
		p.press("\x03")
		p.expect("orders=> ")

		p.press(`\password` + "\n")
		for range 2 {
			p.expect(": ")
			p.press(literalSecret + "\n")
		}
		if out := p.expect("orders=> "); !strings.Contains(out, "refused by the access gateway") {
			t.Errorf("\\password shows:\n%s", out)
		}
		if w.serverSaw(`ALTER USER`) {
			t.Error("the server was asked to change a password")
		}
		p.says(`\c orders`, "=>", `now connected to database "orders" as user "bot"`)
		p.says(`\c nowhere`, "=>", "may not connect", "Previous connection kept")
		p.says("select count(*) from t;", "=>", "51")
		w.passes()
	})
}

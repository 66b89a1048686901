package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// holding are rules that oblige.
const holding = `
@id("cleaner") permit (principal in Role::"cleaner", action in [Action::"connect", Action::"session", Action::"read"], resource);
@id("cleaner-deletes") @approval("dba") @alert("deletes") permit (principal in Role::"cleaner", action == Action::"postgres:delete", resource);
@id("modest") @max_rows("20") @max_time("1s") permit (principal in Role::"modest", action in [Action::"connect", Action::"session", Action::"read"], resource);
@id("rare") @max_commands_per_hour("3") permit (principal in Role::"rare", action in [Action::"connect", Action::"session", Action::"read"], resource);
`

// newHolds is a world in which idle has a role that obliges, and Carol is a dba.
func newHolds(t *testing.T, role string) *people {
	p := newPeople(t)
	p.edit(func(c string) string { return strings.Replace(c, "separation: required", "separation: reported", 1) })
	p.ok(os.WriteFile(p.path("policies/holding.cedar"), []byte(holding), 0o600))
	p.must("reload") // now one person is enough
	p.must("reload") // for policies too
	p.grant("idle", role)
	return p
}

// asked waits for the open request that holds a text, and returns its id.
func (p *people) asked(text string) (id string) {
	p.t.Helper()
	p.until(20*time.Second, "people are asked", func() bool {
		var list []struct {
			ID      string
			Status  string
			Command struct{ Text string }
		}
		p.ok(json.Unmarshal([]byte(p.mustAs(carolUID, "approval", "list", "--kind", "command", "--json")), &list))
		for _, r := range list {
			if r.Status == "pending" && strings.Contains(r.Command.Text, text) {
				id = r.ID
			}
		}
		return id != ""
	})
	return id
}

type said struct {
	out string
	err error
}

// asks runs psql as idle, in the background.
func (p *people) asks(statement string) chan said {
	done := make(chan said, 1)
	url := p.url("idle", "sslmode=disable")
	go func() {
		out, err := exec.CommandContext(context.Background(), "psql", "-X", url, "-c", statement).CombinedOutput()
		done <- said{string(out), err}
	}()
	return done
}

func TestAnAgentWaitsWhileAPersonDecides(t *testing.T) {
	p := newHolds(t, "cleaner")
	done := p.asks("delete from t where id = 7 returning v")
	id := p.asked("DELETE")
	shown := p.mustAs(carolUID, "approval", "show", id)
	for _, want := range []string{"delete from t where id = 7 returning v", "idle", "alice@example.com"} {
		if !strings.Contains(shown, want) {
			t.Errorf("Carol isn't shown %q:\n%s", want, shown)
		}
	}
	p.refusedAs(0, "nobody approves their own request", "approval", "approve", id) // Alice owns idle
	p.refusedAs(bobUID, "is no approver of it", "approval", "approve", id)
	if p.serverSaw("delete from t where id = 7") {
		t.Error("the server saw what nobody has approved")
	}
	p.mustAs(carolUID, "approval", "approve", id)
	if got := <-done; got.err != nil || !strings.Contains(got.out, "row 7") || !strings.Contains(got.out, id) {
		t.Errorf("psql: %v\n%s", got.err, got.out)
	}

	done = p.asks("delete from t where id = 8")
	id = p.asked("DELETE")
	p.mustAs(carolUID, "approval", "deny", id, "--reason", "row 8 is needed")
	if got := <-done; got.err == nil || !strings.Contains(got.out, "carol@example.com has refused request "+id+": row 8 is needed") {
		t.Errorf("refused, psql says %v\n%s", got.err, got.out)
	}

	// In a transaction nobody waits, and the approval is for later, also behind a
	// restart: once.
	c, err := pgx.Connect(t.Context(), p.url("idle", "sslmode=disable"))
	p.ok(err)
	tx, err := c.Begin(t.Context())
	p.ok(err)
	_, err = tx.Exec(t.Context(), "delete from t where id = $1", 9)
	var e *pgconn.PgError
	id = p.asked("DELETE")
	if !errors.As(err, &e) || e.Code != "42501" || !strings.Contains(e.Hint, "exhibit approval show "+id) {
		t.Errorf("in a transaction: %v", err)
	}
	p.ok(tx.Rollback(t.Context()))
	p.ok(c.Close(t.Context()))
	p.mustAs(carolUID, "approval", "approve", id)
	p.stop(syscall.SIGTERM)
	p.start()
	p.ok(os.Chmod(p.path("data"), 0o711))
	c, err = pgx.Connect(t.Context(), p.url("idle", "sslmode=disable"))
	p.ok(err)
	defer c.Close(context.Background())
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	tag, err := c.Exec(ctx, "delete from t where id = $1", 9)
	if err != nil || tag.RowsAffected() != 1 {
		t.Errorf("once approved: %v, %v", tag, err)
	}
	short, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	if _, err := c.Exec(short, "delete from t where id = $1", 9); err == nil {
		t.Error("an approval was used twice")
	}
	if out := p.must("alert", "list", "--csv"); !strings.Contains(out, "high,deletes,idle") {
		t.Errorf("the rule's alert is not on record:\n%s", out)
	}
	p.passes()
}

func TestAnAgentIsStoppedAtItsLimits(t *testing.T) {
	p := newHolds(t, "modest")
	ask := func(statement, want string) {
		t.Helper()
		if out, err := p.idle(statement); (err == nil) != (want == "") || !strings.Contains(out, want) {
			t.Errorf("%s: %v, without %q\n%s", statement, err, want, out)
		}
	}
	ask("select v from t where id <= 20", "")
	ask("select v from t", "exceeds the 20 rows")
	ask("copy t to stdout", "exceeds the 20 rows")
	ask("select pg_sleep(60)", "has taken the 1s")
	p.passes()
}

func TestAnHourHasItsCommands(t *testing.T) {
	if left := time.Until(time.Now().Truncate(time.Hour).Add(time.Hour)); left < time.Minute {
		time.Sleep(left) // the hour would end under the test
	}
	p := newHolds(t, "rare")
	for i := range 5 {
		if i == 2 {
			p.stop(syscall.SIGKILL)
			p.start()
			p.ok(os.Chmod(p.path("data"), 0o711))
		}
		out, err := p.idle("select v from t where id = 7")
		switch {
		case i < 3 && err != nil:
			t.Errorf("command %d: %v\n%s", i, err, out)
		case i >= 3 && (err == nil || !strings.Contains(out, "the limit of 3 commands an hour is reached") || !strings.Contains(out, "full hour")):
			t.Errorf("command %d: %v\n%s", i, err, out)
		}
	}
	p.passes()
}

// A grant that expires ends what runs on it, in the middle of a statement.
func TestAGrantThatExpiresEndsWhatRuns(t *testing.T) {
	p := newHolds(t, "cleaner")
	for _, g := range strings.Split(strings.TrimSpace(p.must("grant", "list", "--agent", "idle", "--csv")), "\n")[1:] {
		id, _, _ := strings.Cut(g, ",")
		p.must("grant", "revoke", id, "--reason", "for a shorter one")
	}
	ends := time.Now().Add(6 * time.Second)
	p.must("grant", "add", "--agent", "idle", "--role", "cleaner", "--resource", "orders", "--for", fmt.Sprintf("%dms", time.Until(ends).Milliseconds()))
	got := <-p.asks("select pg_sleep(120)")
	if late := time.Since(ends); got.err == nil || !strings.Contains(got.out, "the right to this session has ended") || late < -time.Second || late > 5*time.Second {
		t.Errorf("%v after its grant: %v\n%s", late, got.err, got.out)
	}
	p.passes()
}

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// uids of people beside Alice, who runs the tests. Nobody else has them.
const (
	bobUID   = 64_201 // owns orders
	carolUID = 64_202 // is a dba
	daveUID  = 64_203 // may act, and approves nothing here
	eveUID   = 64_204 // is nobody
)

// people is a world where rights need two people, and a way to act as each.
type people struct {
	*world
	program string // exhibit, where every uid finds it
}

func newPeople(t *testing.T, edit ...func(string) string) *people {
	if os.Getuid() != 0 {
		t.Skip("only root can act as several people")
	}
	p := &people{world: newWorld(t, edit...)}
	p.edit(func(c string) string {
		c = strings.Replace(c, "\n  # - {id: bob@example.com, uids: [1001], groups: [dba]}", fmt.Sprintf(`
  - {id: bob@example.com, uids: [%d]}
  - {id: carol@example.com, uids: [%d], groups: [dba]}
  - {id: dave@example.com, uids: [%d]}`, bobUID, carolUID, daveUID), 1)
		c = strings.Replace(c, "separation: reported", "separation: required", 1)
		return strings.Replace(c, "    durability: power\n", "    durability: power\n    owner: bob@example.com\n    approvers: [dba]\n", 1)
	})
	p.must("reload")
	p.ok(os.Chmod(p.path("data"), 0o711)) // others reach the socket
	p.program = p.path("exhibit")
	b, err := os.ReadFile(exhibit)
	p.ok(err)
	p.ok(os.WriteFile(p.program, b, 0o755)) //nolint:gosec // others run it
	return p
}

// as runs a verb as the person with a uid.
func (p *people) as(uid uint32, args ...string) (string, error) {
	cmd := exec.CommandContext(context.Background(), p.program, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"EXHIBIT_SOCKET=" + p.path("data/admin.sock"), "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (p *people) mustAs(uid uint32, args ...string) string {
	p.t.Helper()
	out, err := p.as(uid, args...)
	if err != nil {
		p.t.Fatalf("uid %d: exhibit %s: %v\n%s", uid, strings.Join(args, " "), err, out)
	}
	return out
}

// refusedAs wants a verb to fail and to say why.
func (p *people) refusedAs(uid uint32, says string, args ...string) {
	p.t.Helper()
	if out, err := p.as(uid, args...); err == nil || !strings.Contains(out, says) {
		p.t.Errorf("uid %d: exhibit %s: %v, without %q:\n%s", uid, strings.Join(args, " "), err, says, out)
	}
}

// request asks for a grant as Alice and returns the request's id.
func (p *people) request(args ...string) string {
	p.t.Helper()
	var r struct{ ID string }
	p.ok(json.Unmarshal([]byte(p.must(append([]string{"grant", "request", "--json"}, args...)...)), &r))
	return r.ID
}

// approved has Bob approve a request, and returns the grant's id.
func (p *people) approved(request string) string {
	p.t.Helper()
	var r struct{ Used struct{ By string } }
	p.ok(json.Unmarshal([]byte(p.mustAs(bobUID, "grant", "approve", request, "--json")), &r))
	return r.Used.By
}

// idle runs psql as the agent idle.
func (p *people) idle(statement string) (string, error) {
	cmd := exec.CommandContext(p.t.Context(), "psql", "-X", p.url("idle", "sslmode=disable"), "-c", statement)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestRightsTakeTwoPeople(t *testing.T) {
	p := newPeople(t)
	if out, err := p.idle("select v from t where id = 7"); err == nil || !strings.Contains(out, "exhibit grant request --agent idle") {
		t.Errorf("without a grant: %v\n%s", err, out)
	}

	// One person alone can't, and is told the command line that asks.
	out, err := p.exhibit("grant", "add", "idle", "reader", "orders", "--for", "1h", "--ticket", "OPS-1")
	command := regexp.MustCompile(`(?m)^hint: ask for it: exhibit (grant request .*)$`).FindStringSubmatch(out)
	if err == nil || command == nil {
		t.Fatalf("one person alone: %v\n%s", err, out)
	}
	var r struct {
		ID    string
		Needs []struct{ People []string }
	}
	p.ok(json.Unmarshal([]byte(p.must(append(strings.Fields(command[1]), "--json")...)), &r))
	if got := fmt.Sprint(r.Needs[0].People); got != "[bob@example.com carol@example.com]" {
		t.Errorf("it can be approved by %s", got)
	}
	p.refusedAs(0, "nobody approves their own request", "grant", "approve", r.ID)
	p.refusedAs(daveUID, "is no approver of it", "grant", "approve", r.ID)
	p.refusedAs(eveUID, "is nobody here", "grant", "approve", r.ID)
	p.refusedAs(bobUID, "only alice@example.com can withdraw", "grant", "withdraw", r.ID)
	if out := p.mustAs(bobUID, "grant", "requests"); !strings.Contains(out, r.ID) || !strings.Contains(out, "alice@example.com") {
		t.Errorf("Bob sees\n%s", out)
	}
	if out, err := p.idle("select 1"); err == nil {
		t.Errorf("before it was approved:\n%s", out)
	}
	grant := p.approved(r.ID)
	if out, err := p.idle("select v from t where id = 7"); err != nil || !strings.Contains(out, "row 7") {
		t.Errorf("once it was approved: %v\n%s", err, out)
	}
	p.refusedAs(carolUID, "it is used", "grant", "approve", r.ID)
	for _, want := range []string{grant, "idle", "OPS-1", "alice@example.com", "bob@example.com", r.ID} {
		if out := p.must("grant", "list", "--agent", "idle", "--csv"); !strings.Contains(out, want) {
			t.Errorf("the list lacks %s:\n%s", want, out)
		}
	}
	if out := p.must("allowed", "idle", "--csv"); !strings.Contains(out, "bob@example.com") || !strings.Contains(out, "OPS-1") {
		t.Errorf("what it may do doesn't say by whose approval:\n%s", out)
	}

	// A refusal and a withdrawal end a request.
	denied, withdrawn := p.request("--agent", "idle", "--role", "writer", "--resource", "orders", "--for", "1h"), p.request("--renew", grant, "--for", "2h")
	p.mustAs(carolUID, "grant", "deny", denied, "--reason", "it only reads")
	p.must("grant", "withdraw", withdrawn)
	p.refusedAs(bobUID, "it is denied", "grant", "approve", denied)
	p.refusedAs(bobUID, "it is withdrawn", "grant", "approve", withdrawn)

	// Who has left the configuration has no say.
	last := p.request("--agent", "idle", "--role", "writer", "--resource", "orders", "--for", "1h")
	p.edit(func(c string) string { return strings.Replace(c, "groups: [dba]}", "groups: [others]}", 1) })
	p.edit(func(c string) string { return strings.Replace(c, "    approvers: [dba]\n", "", 1) })
	p.must("reload")
	p.refusedAs(carolUID, "is no approver of it", "grant", "approve", last)
	p.refusedAs(0, "nobody approves their own request", "approval", "approve", last)
	p.passes()
}

// ends runs a statement that takes long as the agent idle, with psql, does
// something about it, and returns what psql says and how long after that it said
// so.
func (p *people) ends(do func()) (out string, after time.Duration) {
	p.t.Helper()
	type said struct {
		out string
		at  time.Time
	}
	done := make(chan said, 1)
	go func() {
		out, _ := p.idle("select pg_sleep(120)") // fails; the text says how
		done <- said{out, time.Now()}
	}()
	p.until(20*time.Second, "the statement runs", func() bool { return p.running() > 0 })
	do()
	since := time.Now()
	select {
	case s := <-done:
		return s.out, s.at.Sub(since)
	case <-time.After(60 * time.Second):
		p.t.Fatal("the statement goes on")
		return "", 0
	}
}

// running is how many statements of pg_sleep the server runs.
func (p *people) running() (n int) {
	p.t.Helper()
	ctx := context.Background()
	c, err := pgx.Connect(ctx, fmt.Sprintf("postgres://app:%s@%s/orders?sslmode=disable", upstreamSecret, p.db.Addr))
	p.ok(err)
	defer c.Close(ctx)
	p.ok(c.QueryRow(ctx, "select count(*) from pg_stat_activity where state = 'active' and query like '%pg_sleep(120)%' and pid <> pg_backend_pid()").Scan(&n))
	return n
}

// TestWhatIsTakenAwayEndsWhatRuns: a revocation and a kill end what an agent has
// open, in the middle of a statement and of a pipeline, and the server stops too.
func TestWhatIsTakenAwayEndsWhatRuns(t *testing.T) {
	p := newPeople(t)
	readable := func() string {
		return p.approved(p.request("--agent", "idle", "--role", "reader", "--resource", "orders", "--for", "1h", "--ticket", "OPS-2"))
	}
	// A session ends within a second of the record; the rest is the machine's.
	const soon = 5 * time.Second
	over := func(what string, out string, after time.Duration, want string) {
		t.Helper()
		t.Logf("%s: psql ended %v after the verb did", what, after.Round(time.Millisecond))
		if after > soon || !strings.Contains(out, want) {
			t.Errorf("%s: after %v psql says\n%s", what, after, out)
		}
		p.until(soon, "the server has stopped", func() bool { return p.running() == 0 })
	}
	grant := readable()
	out, after := p.ends(func() { p.mustAs(carolUID, "grant", "revoke", grant, "--reason", "enough") })
	over("revoked", out, after, "the right to this session has ended")

	grant = readable()
	c, err := pgx.Connect(t.Context(), p.url("idle", "sslmode=disable"))
	p.ok(err)
	defer c.Close(context.Background())
	piped := make(chan error, 1)
	go func() {
		b := &pgx.Batch{}
		b.Queue("select 1 as first")
		b.Queue("select pg_sleep(120)")
		b.Queue("select 1 as last")
		piped <- c.SendBatch(context.Background(), b).Close()
	}()
	p.until(20*time.Second, "the pipeline runs", func() bool { return p.running() > 0 })
	p.mustAs(bobUID, "grant", "revoke", grant, "--reason", "enough")
	select {
	case err := <-piped:
		if err == nil {
			t.Error("the pipeline went through")
		}
	case <-time.After(soon):
		t.Error("the pipeline goes on")
	}
	p.until(soon, "the server has stopped", func() bool { return p.running() == 0 })

	// A kill leaves the right, and so ends one session after the other.
	readable()
	session := func() string {
		var list []struct{ ID, Agent string }
		p.ok(json.Unmarshal([]byte(p.must("sessions", "--json")), &list))
		for _, s := range list {
			if s.Agent == "idle" {
				return s.ID
			}
		}
		t.Fatalf("no session of idle among %v", list)
		return ""
	}
	var id string
	out, after = p.ends(func() {
		id = session()
		p.mustAs(daveUID, "kill", id, "--reason", "it sleeps on duty")
	})
	over("killed", out, after, "ended by the operator")
	if strings.Contains(out, "dave") || strings.Contains(out, "duty") {
		t.Errorf("the agent is told by whom, or what for:\n%s", out)
	}
	p.until(soon, "the session's end is on record", func() bool {
		return strings.Contains(p.must("who", "orders", "--csv"), "killed: the session was ended by the operator")
	})
	p.refusedAs(daveUID, "it has ended, or it never was", "kill", id, "--reason", "again")
	out, after = p.ends(func() { p.mustAs(daveUID, "kill", "--agent", "idle", "--reason", "again") })
	over("all of it killed", out, after, "ended by the operator")
	p.refusedAs(daveUID, "idle has no open session", "kill", "--agent", "idle", "--reason", "again")
	if p.serverSaw("as last") {
		t.Error("the server saw what stood behind the end")
	}
	p.passes()
}

// An agent that may use one resource asks for another by itself: its owner can't
// approve that, somebody else can, and then it is let in.
func TestAnAgentAsksForAccess(t *testing.T) {
	address, err := pgserver.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	p := newPeople(t, func(c string) string {
		c = strings.Replace(c, "\nlisteners:\n", "\nlisteners:\n  - {name: tools, protocol: mcp, address: '"+address+"'}\n", 1)
		return strings.Replace(c, "\nresources:\n", "\nresources:\n  - {name: desk, protocol: mcp, mcp: {prefix: /desk, command: [cat]}}\n", 1)
	})
	p.approved(p.request("--agent", "idle", "--role", "reader", "--resource", "desk", "--for", "1h"))
	cs, err := mcp.NewClient(&mcp.Implementation{Name: "e2e", Version: "1"}, nil).Connect(t.Context(), &mcp.StreamableClientTransport{
		Endpoint:   "http://" + address + "/desk/.well-known/exhibit/mcp",
		HTTPClient: &http.Client{Transport: bearer(p.token("idle", "--ticket", "OPS-3"))},
	}, nil)
	p.ok(err)
	defer cs.Close()
	ask := func(role, resource string) (answer struct {
		Request   string
		Approvers []string
	}, failed string) {
		t.Helper()
		res, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: "request_access", Arguments: map[string]any{
			"role": role, "resource": resource, "for": "30m", "reason": "the report\x1b[2J wants orders",
		}})
		p.ok(err)
		text := res.Content[0].(*mcp.TextContent).Text
		if res.IsError {
			return answer, text
		}
		p.ok(json.Unmarshal([]byte(text), &answer))
		return answer, ""
	}
	if _, failed := ask("emperor", "orders"); !strings.Contains(failed, "no such role or resource") || strings.Contains(failed, "reader") {
		t.Errorf("a role that isn't: %q", failed)
	}
	wish, failed := ask("reader", "orders")
	if failed != "" || fmt.Sprint(wish.Approvers) != "[bob@example.com carol@example.com]" {
		t.Fatalf("it is told %+v %s", wish, failed)
	}
	if again, _ := ask("reader", "orders"); again.Request != wish.Request {
		t.Errorf("asked again it is told %+v", again)
	}
	shown := p.mustAs(carolUID, "approval", "show", wish.Request)
	for _, want := range []string{"agent idle, session ", "alice@example.com", "OPS-3", `the report\u{1b}[2J wants orders`} {
		if !strings.Contains(shown, want) {
			t.Errorf("Carol isn't shown %q:\n%s", want, shown)
		}
	}
	p.refusedAs(0, "nobody approves their own request", "grant", "approve", wish.Request)
	p.mustAs(carolUID, "grant", "approve", wish.Request, "--until", "10m")
	if out, err := p.idle("select v from t where id = 7"); err != nil || !strings.Contains(out, "row 7") {
		t.Errorf("once it was approved: %v\n%s", err, out)
	}
	p.passes()
}

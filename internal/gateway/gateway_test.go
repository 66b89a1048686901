package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/journal"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/internal/recorder"
	"github.com/exhibit-gateway/exhibit/internal/session"
)

// settings are those of a gateway in a folder of its own, with a resource
// orders and Alice.
func settings(t testing.TB) Settings {
	t.Helper()
	dir := t.TempDir()
	if _, err := Init(dir, packtest.Origin); err != nil {
		t.Fatal(err)
	}
	files := []evidence.File{{Name: "roles.cedar", Text: packtest.Policy}}
	return Settings{
		Name: "gw1", Origin: packtest.Origin, Data: dir, People: []evidence.Person{packtest.Alice.Person},
		Config:    evidence.ConfigBody{Digest: "config-1", Text: "gateway: gw1\n", Resources: []evidence.Resource{{Name: "orders", Protocol: "postgres"}}},
		Policy:    evidence.PolicyBody{Digest: decision.Digest(files, packtest.Actions), Files: files, Actions: packtest.Actions},
		Resources: []Resource{{Resource: evidence.Resource{Name: "orders", Protocol: "postgres"}}},
		Limits:    session.Limits{Sessions: 8, SessionsPerAgent: 8},
		Grace:     time.Second, Heartbeat: time.Minute, Sealing: Sealing{Interval: 10 * time.Millisecond},
	}
}

// world is a gateway that runs, without agents and upstream.
type world struct {
	*Gateway
	t       testing.TB
	changed atomic.Pointer[Settings] // what a reload finds
	broken  atomic.Pointer[error]    // or why it finds nothing
	stop    func() error
}

func newWorld(t testing.TB, edit ...func(*Settings)) *world {
	t.Helper()
	w := &world{t: t}
	s := settings(t)
	for _, e := range edit {
		e(&s)
	}
	w.changed.Store(&s)
	g, err := Open(t.Context(), s, func() (Settings, error) {
		if err := w.broken.Load(); err != nil {
			return Settings{}, *err
		}
		return *w.changed.Load(), nil
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w.runs(g)
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
	if _, err := g.AddAgent(t.Context(), api.NewAgent{ID: "bot", Purpose: "test", Owner: packtest.Alice.Person.ID}, packtest.Alice); err != nil {
		t.Fatal(err)
	}
	return w
}

// runs lets a gateway run until stop.
func (w *world) runs(g *Gateway) {
	w.Gateway = g
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	var ended bool
	w.stop = func() error {
		if ended {
			return nil
		}
		ended = true
		cancel()
		return <-done
	}
}

// open begins a session by its records alone.
func (w *world) open() (*recorder.Chain, evidence.Position) {
	w.t.Helper()
	c, err := w.recorder.NewChain()
	if err != nil {
		w.t.Fatal(err)
	}
	d := w.put(c, evidence.Head{Type: evidence.SessionStart, Key: c.Key(), Effect: evidence.Allow}, evidence.SessionStartBody{Agent: "bot"})
	return c, d.Pos
}

func (w *world) put(c *recorder.Chain, h evidence.Head, body any) evidence.Head {
	w.t.Helper()
	h.Agent, h.Resource = "bot", "orders"
	d := &evidence.Draft{Head: h, Body: evidence.EncodeBody(body)}
	if _, err := c.Record(w.t.Context(), 0, evidence.Process, d); err != nil {
		w.t.Fatal(err)
	}
	return d.Head
}

// do records a command and its outcome.
func (w *world) do(c *recorder.Chain, text string) {
	w.t.Helper()
	h := w.put(c, evidence.Head{Type: evidence.CommandIntent, Verb: evidence.VerbRead, Effect: evidence.Allow}, evidence.IntentBody{Text: text})
	w.put(c, evidence.Head{Type: evidence.CommandResult, Of: h.Pos, Outcome: evidence.OK}, evidence.ResultBody{})
}

func (w *world) end(c *recorder.Chain, start evidence.Position) {
	w.put(c, evidence.Head{Type: evidence.SessionEnd, Of: start}, evidence.SessionEndBody{Reason: "terminate"})
}

// count is how many records of a type the log has.
func (w *world) count(typ evidence.Type) (n int) {
	w.t.Helper()
	err := w.sealer.Scan(w.t.Context(), 0, func(r *evidence.Record) error {
		if r.Head.Type == typ {
			n++
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// followed is a follower's lines, and how it ended.
type followed struct {
	lines chan string
	end   chan error
	last  api.Transcript
}

func (w *world) follow(ctx context.Context, q api.Did, tell func(string)) *followed {
	f := &followed{lines: make(chan string, 100), end: make(chan error, 1)}
	q.Follow = true
	go func() {
		var err error
		f.last, err = w.Transcript(ctx, q, packtest.Alice, func(e api.Entry) error {
			l := short(&e)
			if e.Command != nil {
				l = e.Command.Text + " " + e.Command.Outcome
			}
			tell(l)
			f.lines <- l
			return nil
		})
		f.end <- err
	}()
	return f
}

func (f *followed) await(t *testing.T, want string) {
	t.Helper()
	for {
		select {
		case l := <-f.lines:
			if strings.HasPrefix(l, want) {
				return
			}
		case err := <-f.end:
			t.Fatalf("it ended (%v) before %q", err, want)
		case <-time.After(30 * time.Second):
			t.Fatalf("waited in vain for %q", want)
		}
	}
}

func problemStatus(err error) int {
	var p *api.Problem
	if errors.As(err, &p) {
		return p.Status
	}
	return 0
}

func TestTwoGatewaysNeverShareADataFolder(t *testing.T) {
	w := newWorld(t)
	_, err := Open(t.Context(), w.opened, nil, slog.New(slog.DiscardHandler))
	if !errors.Is(err, journal.ErrLocked) || !strings.Contains(err.Error(), "end it first") {
		t.Fatalf("a second gateway: %v", err)
	}
	// The first one has not noticed.
	if err := w.Ready(); err != nil {
		t.Error(err)
	}
	if _, err := w.AddAgent(t.Context(), api.NewAgent{ID: "late", Purpose: "test", Owner: packtest.Alice.Person.ID}, packtest.Alice); err != nil {
		t.Error(err)
	}
}

// A data folder that was copied is recognised where it is served next, on
// record and once.
func TestACopiedDataFolderIsRecognised(t *testing.T) {
	var s Settings
	w := newWorld(t, func(settings *Settings) { s = *settings })
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	alerts := func() (texts []string) {
		t.Helper()
		g, err := Open(t.Context(), s, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if err := g.journal.Wait(g.journal.End(), journal.Synced); err != nil {
			t.Fatal(err)
		}
		err = g.sealer.Scan(t.Context(), 0, func(r *evidence.Record) error {
			if r.Head.Type != evidence.Alert {
				return nil
			}
			var b evidence.AlertBody
			err := evidence.DecodeBody(r.Body, &b)
			texts = append(texts, b.Rule+": "+b.Text)
			return err
		})
		if err := errors.Join(err, g.Abandon()); err != nil {
			t.Fatal(err)
		}
		return texts
	}
	if got := alerts(); len(got) > 0 {
		t.Errorf("started again where it was: %q", got)
	}
	copied := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(copied, os.DirFS(s.Data)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{logKeyFile, verifierFile, identityFile, issuerFile} { // CopyFS widens modes
		if err := os.Chmod(filepath.Join(copied, keystoreDirName, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.Data = copied
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second start is where the first was
		if got := alerts(); len(got) != 1 || !strings.HasPrefix(got[0], "data-moved: ") || !strings.Contains(got[0], host) {
			t.Errorf("the copy: %q", got)
		}
	}
	// What a backup of the parts brings back is one, too.
	if err := os.Remove(filepath.Join(copied, placeFile)); err != nil {
		t.Fatal(err)
	}
	if got := alerts(); len(got) != 2 {
		t.Errorf("restored: %q", got)
	}
}

func TestQuestionsAboutNothing(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	for name, ask := range map[string]func() (api.Table, error){
		"who":        func() (api.Table, error) { return w.Who(ctx, "orders", api.Range{}, packtest.Alice) },
		"did":        func() (api.Table, error) { return w.Did(ctx, api.Did{}, packtest.Alice) },
		"did, agent": func() (api.Table, error) { return w.Did(ctx, api.Did{Agent: "bot"}, packtest.Alice) },
		"allowed":    func() (api.Table, error) { return w.Allowed(ctx, "bot", api.Moment{}, packtest.Alice) },
	} {
		table, err := ask()
		if err != nil || table.Rows == nil || len(table.Rows) > 0 || len(table.Columns) == 0 {
			t.Errorf("%s: %+v, %v", name, table, err)
		}
	}
	for name, ask := range map[string]func() error{
		"a resource that isn't": func() error { _, err := w.Who(ctx, "nothing", api.Range{}, packtest.Alice); return err },
		"an agent that isn't":   func() error { _, err := w.Did(ctx, api.Did{Agent: "nobody"}, packtest.Alice); return err },
		"a record that isn't":   func() error { _, err := w.Did(ctx, api.Did{Session: "gw1.1.999"}, packtest.Alice); return err },
		"another gateway's":     func() error { _, err := w.Did(ctx, api.Did{Session: "gw2.1.0"}, packtest.Alice); return err },
		"no session":            func() error { _, err := w.Did(ctx, api.Did{Session: "gw1.1.0"}, packtest.Alice); return err },
		"before there was one": func() error {
			_, err := w.Allowed(ctx, "bot", api.Moment{Position: evidence.Position{Gateway: "gw1", Boot: 1}}, packtest.Alice)
			return err
		},
	} {
		if err := ask(); problemStatus(err) != http.StatusNotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAReloadIsWholeOrNothing(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	control := func() int { return w.count(evidence.ConfigChange) + w.count(evidence.PolicyChange) }
	was := control()
	refused := func(what, says string, details int) {
		t.Helper()
		_, err := w.Reload(ctx, false, packtest.Alice)
		var p *api.Problem
		if !errors.As(err, &p) || p.Status != http.StatusUnprocessableEntity || !strings.Contains(p.Error(), says) || len(p.Details) != details {
			t.Errorf("%s: %v", what, err)
		}
		if n := control(); n != was {
			t.Errorf("%s: %d control records, %d before", what, n, was)
		}
	}
	broken := errors.New("the configuration has 2 errors:\nexhibit.yaml:1:1: unknown key\n  hint: did you mean data?\nexhibit.yaml:2:1: unknown key")
	w.broken.Store(&broken)
	refused("files with errors", "exhibit.yaml:1:1: unknown key", 2)
	w.broken.Store(nil)

	change := func(f func(*Settings)) {
		s := w.opened
		f(&s)
		w.changed.Store(&s)
	}
	change(func(s *Settings) { s.Name = "gw2" })
	refused("another name", "chosen once", 0)
	change(func(s *Settings) { s.Data = t.TempDir() })
	refused("another folder", "chosen once", 0)
	// A policy that the registry can't take refuses the configuration with it.
	change(func(s *Settings) {
		s.Config.Digest, s.Config.Text = "config-2", "gateway: gw1 # changed\n"
		s.Policy.Files = []evidence.File{{Name: "roles.cedar", Text: "permit (principal"}}
		s.Policy.Digest = decision.Digest(s.Policy.Files, s.Policy.Actions)
	})
	refused("half of it broken", "roles.cedar", 0)

	change(func(s *Settings) {
		s.Config.Digest, s.Config.Text = "config-2", "gateway: gw1 # changed\n"
		s.Limits.Sessions++
	})
	r, err := w.Reload(ctx, true, packtest.Alice)
	if err != nil || r.Applied || !strings.Contains(r.Config.Diff, "+gateway: gw1 # changed") || r.Policy.Diff != "" || !slices.Equal(r.Restart, []string{"limits"}) {
		t.Errorf("a dry run: %+v, %v", r, err)
	}
	if n := control(); n != was {
		t.Errorf("a dry run wrote %d control records", n-was)
	}
	if r, err = w.Reload(ctx, false, packtest.Alice); err != nil || !r.Applied || control() != was+1 {
		t.Errorf("%+v, %v, %d control records", r, err, control()-was)
	}
}

// A follower is told what was, what comes, and the end; that somebody follows
// is on record once.
func TestASessionIsFollowedToItsEnd(t *testing.T) {
	w := newWorld(t)
	c, start := w.open()
	w.do(c, "first")
	f := w.follow(t.Context(), api.Did{Session: start.String()}, func(string) {})
	f.await(t, "session "+start.String())
	f.await(t, "first ok")
	other, _ := w.open()
	for i := range 5 {
		w.do(other, "another's")
		w.do(c, fmt.Sprintf("number %d", i))
		f.await(t, fmt.Sprintf("number %d ok", i))
	}
	w.end(c, start)
	f.await(t, "end: terminate")
	if err := <-f.end; err != nil || f.last.Stopped {
		t.Errorf("%+v, %v", f.last, err)
	}
	if n := w.count(evidence.EvidenceRead); n != 1 {
		t.Errorf("reading is recorded %d times", n)
	}
	if n := w.followers.Load(); n != 0 {
		t.Errorf("%d follow still", n)
	}
}

// A follower that doesn't read holds up neither records nor sealing nor the
// journal's release, and misses nothing.
func TestASlowFollowerIsInNobodysWay(t *testing.T) {
	w := newWorld(t)
	c, start := w.open()
	w.do(c, "first")
	reached, slow := make(chan struct{}), make(chan struct{})
	f := w.follow(t.Context(), api.Did{Session: start.String()}, func(l string) {
		if l == "stop here ok" {
			close(reached)
			<-slow
		}
	})
	f.await(t, "first ok")
	w.do(c, "stop here")
	<-reached
	const n = 300
	for i := range n {
		w.do(c, fmt.Sprintf("number %d", i))
	}
	if err := w.sealer.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := w.sealer.Status(); st.UnsealedBytes != 0 {
		t.Errorf("%d bytes are not sealed", st.UnsealedBytes)
	}
	close(slow)
	for i := range n {
		select {
		case l := <-f.lines:
			if i == 0 && l == "stop here ok" {
				l = <-f.lines
			}
			if l != fmt.Sprintf("number %d ok", i) {
				t.Fatalf("number %d is %q", i, l)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("number %d doesn't come", i)
		}
	}
	w.end(c, start)
	f.await(t, "end: ")
}

func TestFollowersAreFewAndLeave(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	var all []*followed
	_, start := w.open()
	for range maxFollowers {
		f := w.follow(ctx, api.Did{Session: start.String()}, func(string) {})
		f.await(t, "session ")
		all = append(all, f)
	}
	if _, err := w.Transcript(ctx, api.Did{Follow: true}, packtest.Alice, func(api.Entry) error { return nil }); problemStatus(err) != http.StatusServiceUnavailable {
		t.Errorf("one more: %v", err)
	}
	cancel()
	for _, f := range all {
		if err := <-f.end; !errors.Is(err, context.Canceled) {
			t.Errorf("one that left: %v", err)
		}
	}
	f := w.follow(t.Context(), api.Did{Agent: "bot"}, func(string) {})
	c, _ := w.open()
	w.do(c, "last words")
	f.await(t, "last words")
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	if err := <-f.end; err != nil || !f.last.Stopped {
		t.Errorf("when the gateway stops: %+v, %v", f.last, err)
	}
}

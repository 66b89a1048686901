package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// litewitness is a witness that nobody here wrote. Its key is with an ssh-agent.
type litewitness struct {
	t          *testing.T
	program    string
	dir        string // short: a socket is in it
	listen     string
	key        string // verifier key
	serve      *exec.Cmd
	agentSock  string
	generation int
}

const witnessName = "witness.e2e.example"

func newLitewitness(t *testing.T) *litewitness {
	t.Helper()
	needs(t, "curl", "sqlite3", "ssh-agent", "ssh-add", "ssh-keygen")
	dir, err := os.MkdirTemp("", "exhibit-wit-") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	l := &litewitness{t: t, program: (&world{t: t}).tool("litewitness"), dir: dir, agentSock: dir + "/agent"}
	t.Cleanup(func() {
		l.stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	agent := exec.CommandContext(context.Background(), "ssh-agent", "-D", "-a", l.agentSock)
	l.ok(agent.Start())
	t.Cleanup(func() { _ = agent.Process.Kill(); _ = agent.Wait() })
	l.run(nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir+"/key")
	for range 3000 {
		if _, err := os.Stat(l.agentSock); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	l.run([]string{"SSH_AUTH_SOCK=" + l.agentSock}, "ssh-add", "-q", dir+"/key")
	l.listen, err = pgserver.FreeAddr()
	l.ok(err)
	l.start()
	return l
}

func (l *litewitness) ok(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *litewitness) run(env []string, args ...string) string {
	l.t.Helper()
	cmd := exec.CommandContext(l.t.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s: %v\n%s", args[0], err, out)
	}
	return string(out)
}

var witnessKey = regexp.MustCompile(`vkey=(\S+)`)

// start starts the witness and learns its key.
func (l *litewitness) start() {
	l.t.Helper()
	fingerprint := strings.Fields(l.run(nil, "ssh-keygen", "-lf", l.dir+"/key.pub"))[1]
	l.generation++
	name := fmt.Sprintf("%s/log%d", l.dir, l.generation)
	log, err := os.Create(name)
	l.ok(err)
	defer log.Close()
	l.serve = exec.CommandContext(context.Background(), l.program, "-name", witnessName, "-db", l.dir+"/db",
		"-ssh-agent", l.agentSock, "-listen", l.listen, "-key", fingerprint)
	l.serve.Stderr = log
	l.ok(l.serve.Start())
	for range 3000 {
		b, _ := os.ReadFile(name)
		if m := witnessKey.FindSubmatch(b); m != nil && strings.Contains(string(b), "listening") {
			l.key = strings.Trim(string(m[1]), `"`)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	b, _ := os.ReadFile(name)
	l.t.Fatalf("litewitness does not start:\n%s", b)
}

func (l *litewitness) stop() {
	if l.serve != nil {
		_ = l.serve.Process.Signal(os.Interrupt)
		_ = l.serve.Wait()
		l.serve = nil
	}
}

// follow tells the witness of a log, as its operator would.
func (l *litewitness) follow(origin, key string) {
	l.t.Helper()
	l.run(nil, "sqlite3", "-cmd", ".timeout 5000", l.dir+"/db", fmt.Sprintf(
		"insert into log values ('%s', 0, '%s'); insert into key values ('%[1]s', '%[3]s');", origin, strings.Repeat("A", 43)+"=", key))
}

// config names the witness in a gateway's configuration.
func (l *litewitness) config(c string) string {
	at := regexp.MustCompile(`(?m)^( +)origin: e2e\.example/gw1$`)
	return at.ReplaceAllString(c, fmt.Sprintf("${1}origin: e2e.example/gw1\n${1}witnesses: [{url: \"http://%s\", key: \"%s\"}]", l.listen, l.key))
}

// witnessed is what log status says of the witness.
type witnessed struct {
	Blocks    uint64
	Witnessed uint64
	Witnesses []struct {
		Blocks, Behind uint64
		Problem        string
	}
}

func (w *world) witnessed() (s witnessed) {
	w.t.Helper()
	out, err := w.exhibit("log", "status", "--json")
	if err != nil {
		w.t.Logf("log status: %v\n%s", err, out)
		return s
	}
	w.ok(json.Unmarshal([]byte(out), &s))
	return s
}

func (w *world) logKey() string {
	w.t.Helper()
	b, err := os.ReadFile(w.path("data/keystore/log.pub"))
	w.ok(err)
	return strings.TrimSpace(string(b))
}

// trustWitness writes a trust file that demands the witness.
func (w *world) trustWitness(l *litewitness) {
	w.t.Helper()
	b, err := json.Marshal(map[string]any{"log": []string{w.logKey()}, "witnesses": []string{l.key}, "quorum": 1})
	w.ok(err)
	w.ok(os.WriteFile(w.path("trust.json"), b, 0o644))
}

// asks lets the agent work.
func (w *world) asks(n int) {
	w.t.Helper()
	for range n {
		if out, err := w.psql("-c", "select count(*) from t"); err != nil {
			w.t.Fatalf("%v\n%s", err, out)
		}
	}
}

// ends waits until the gateway has ended by itself, and returns its log.
func (w *world) ends(offset int) string {
	w.t.Helper()
	select {
	case <-w.served:
	case <-time.After(90 * time.Second):
		w.t.Fatal("the gateway goes on")
	}
	if w.serve.ProcessState.ExitCode() == 0 {
		w.t.Error("the gateway ends as if all were well")
	}
	return w.gatewayLog()[offset:]
}

func (w *world) gatewayLog() string {
	w.t.Helper()
	b, err := os.ReadFile(w.path("gateway.log"))
	w.ok(err)
	return string(b)
}

// copyData copies the data folder, as an operator does who knows no better.
func (w *world) copyData(from, to string) {
	w.t.Helper()
	w.ok(os.RemoveAll(w.path(to)))
	if out, err := w.run("cp", "-a", w.path(from), w.path(to)); err != nil {
		w.t.Fatalf("%v\n%s", err, out)
	}
}

// TestAWitnessOutsideTheOperatorsHands has the log cosigned by a real witness,
// works on without it, and puts an old copy of the log back behind its back.
func TestAWitnessOutsideTheOperatorsHands(t *testing.T) {
	t.Parallel()
	l := newLitewitness(t)
	w := newWorld(t, l.config)
	w.trustWitness(l)
	w.asks(1)

	// The witness doesn't know the log yet: agents work, and the status says why
	// nothing is cosigned.
	if s := w.witnessed(); len(s.Witnesses) != 1 || !strings.Contains(s.Witnesses[0].Problem, "does not know this log") {
		t.Errorf("status %+v", s)
	}
	l.follow("e2e.example/gw1", w.logKey())
	w.until(60*time.Second, "the log is cosigned", func() bool { s := w.witnessed(); return s.Witnessed > 0 && s.Witnesses[0].Problem == "" })
	if out := w.must("doctor"); !strings.Contains(out, "witness "+witnessName+": answers") {
		t.Errorf("doctor:\n%s", out)
	}

	if out, err := w.run("curl", "-s", "http://"+w.ops+"/metrics"); err != nil || !strings.Contains(out, `exhibit_witness_failing_seconds{witness="`+witnessName+`"} 0`) {
		t.Errorf("metrics: %v\n%s", err, out)
	}

	// A pack holds the cosigned checkpoint, and the verifier demands it.
	w.asks(3)
	report, err := w.pack()
	if err != nil || !strings.Contains(report, "witnessed by 1") {
		t.Errorf("the pack does not pass: %v\n%s", err, report)
	}

	// Without the witness agents work on; the pack says what it lacks, and
	// doesn't pass where the witness is demanded.
	l.stop()
	w.asks(3)
	w.until(60*time.Second, "the witness is missed", func() bool { return w.witnessed().Witnesses[0].Problem != "" })
	out := w.must("pack", "create", "--from", "2020-01-01", "--to", "2100-01-01", "-o", w.path("plain.zip"))
	if !strings.Contains(out, "Operator-only integrity") {
		t.Errorf("pack create:\n%s", out)
	}
	if out, err := w.run(exhibitVerify, w.path("plain.zip"), "--trust", w.path("trust.json")); err == nil || !strings.Contains(out, "log.witnesses") {
		t.Errorf("a pack without the quorum: %v\n%s", err, out)
	}
	l.start()
	w.passes()

	// The data folder is put back from an old copy. Nothing is signed over it.
	w.stop(syscall.SIGTERM)
	w.copyData("data", "old")
	w.start()
	w.asks(3)
	w.passes()
	seen := w.witnessed().Blocks
	w.stop(syscall.SIGTERM)
	w.copyData("data", "newest")
	w.copyData("old", "data")
	offset := len(w.gatewayLog())
	w.launch()
	if log := w.ends(offset); !strings.Contains(log, "old copy") || !strings.Contains(log, "restore the newest copy") {
		t.Errorf("the gateway says:\n%s", log)
	}

	// It is made to grow while nobody looks, into another history that is longer
	// than the one that the witness has seen. Then the witness looks.
	l.stop()
	w.copyData("old", "data")
	w.start()
	w.until(60*time.Second, "the fork is longer", func() bool { w.asks(1); return w.witnessed().Blocks > seen+3 })
	offset = len(w.gatewayLog())
	l.start()
	if log := w.ends(offset); !strings.Contains(log, witnessName) || !strings.Contains(log, "are not those here") {
		t.Errorf("the gateway says:\n%s", log)
	}

	// The newest copy is the log that goes on.
	w.copyData("newest", "data")
	w.start()
	w.asks(1)
	w.passes()
}

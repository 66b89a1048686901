package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
)

// logKeys is what log keys says.
type logKeys struct {
	Keys []struct{ ID, Key, Status string }
}

func (w *world) logKeys() (k logKeys) {
	w.t.Helper()
	w.ok(json.Unmarshal([]byte(w.must("log", "keys", "--json")), &k))
	return k
}

func (k logKeys) statuses() (s string) {
	for _, key := range k.Keys {
		s += key.Status + ", "
	}
	return strings.TrimSuffix(s, ", ")
}

// checks has an auditor check the newest pack.
func (w *world) checks(args ...string) (string, error) {
	w.t.Helper()
	return w.run(append([]string{exhibitVerify, w.packed}, args...)...)
}

// passesWith makes a pack, which an auditor with these arguments believes.
func (w *world) passesWith(want string, args ...string) {
	w.t.Helper()
	w.packed = w.path(fmt.Sprintf("keys-%d.zip", time.Now().UnixNano()))
	w.must("pack", "create", "--from", "2020-01-01", "--to", "2100-01-01", "-o", w.packed)
	if out, err := w.checks(args...); err != nil || !strings.Contains(out, want) {
		w.t.Errorf("%v: %v\n%s", args, err, out)
	}
}

// works lets agents work until rest is called; nothing that they ask may fail.
func (w *world) works(agents int) (rest func()) {
	w.t.Helper()
	ctx, stop := context.WithCancel(w.t.Context())
	var all sync.WaitGroup
	for range agents {
		c := w.connect()
		all.Go(func() {
			n := 0
			for ; ctx.Err() == nil; n++ {
				if _, err := c.Exec(w.t.Context(), "select count(*) from marks"); err != nil {
					w.t.Error(err)
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			if n == 0 {
				w.t.Error("an agent did no work")
			}
		})
	}
	return func() { stop(); all.Wait() }
}

// knows tells the witness of another key of a log that it follows.
func (l *litewitness) knows(origin, key string) {
	l.t.Helper()
	l.run(nil, "sqlite3", "-cmd", ".timeout 5000", l.dir+"/db", fmt.Sprintf("insert into key values ('%s', '%s');", origin, key))
}

// TestTheLogsKeyChangesUnderLoad rotates the key twice while agents work, once
// with a witness that was told before, once with one that wasn't, and revokes
// the first.
func TestTheLogsKeyChangesUnderLoad(t *testing.T) {
	const origin = "e2e.example/gw1"
	l := newLitewitness(t)
	w := newWorld(t, l.config)
	w.prepareMarks()
	l.follow(origin, w.logKey())
	first := w.logKey()
	cosigned := func() bool {
		s := w.witnessed()
		return s.Witnesses[0].Problem == "" && s.Witnesses[0].Behind < 3 && s.Witnessed > 0
	}
	w.until(20*time.Second, "the log is cosigned", cosigned)

	rest := w.works(4)
	w.must("log", "rotate-key", "--prepare")
	prepared := w.logKeys()
	if prepared.statuses() != "in force, prepared" {
		t.Fatalf("keys %s", prepared.statuses())
	}
	second := prepared.Keys[1].Key
	l.knows(origin, second)
	if out := w.must("log", "rotate-key", "--reason", "yearly"); !strings.Contains(out, second) {
		t.Errorf("rotate-key says:\n%s", out)
	}
	if w.logKey() != second || w.logKeys().statuses() != "replaced, in force" {
		t.Errorf("in place is %s; %s", w.logKey(), w.logKeys().statuses())
	}
	w.until(20*time.Second, "the witness goes on with the new key", cosigned)
	rest()

	// Whichever key an auditor has leads to the one that signs, and says how.
	w.passesWith("You trust key "+keyID(first)+", which signed over to "+keyID(second), "--log-key", first)
	for _, key := range []string{first, second} {
		if out, err := w.checks("--log-key", key); err != nil {
			t.Errorf("with %s: %v\n%s", key, err, out)
		}
	}
	w.trustWitness(l) // with the new key
	w.passesWith("witnessed by 1", "--trust", w.path("trust.json"))
	if out, err := w.checks("--trust", w.path("trust.json"), "--remember"); err != nil {
		t.Errorf("remember: %v\n%s", err, out)
	}
	w.must("log", "fsck", "--known", w.path("trust.json"))

	// A witness that nobody told refuses, agents work on, and the status says
	// what to give to whom.
	rest = w.works(4)
	w.must("log", "rotate-key")
	third := w.logKeys().Keys[2].Key
	w.until(30*time.Second, "the status says what the witness lacks", func() bool {
		out := w.must("log", "status")
		return strings.Contains(out, "give the operator of "+witnessName) && strings.Contains(out, third)
	})
	l.knows(origin, third)
	rest()
	w.until(60*time.Second, "the witness goes on with the third key", cosigned)

	// The first key is revoked: it leads nobody anywhere any more, but for who
	// kept a checkpoint since, or has another key.
	if out, err := w.exhibit("log", "revoke-key", keyID(third), "--reason", "x"); err == nil || !strings.Contains(out, "in force") {
		t.Errorf("the key in force is revoked: %v\n%s", err, out)
	}
	w.must("log", "revoke-key", keyID(first), "--reason", "its keystore was copied")
	w.passesWith("was revoked by record", "--log-key", second)
	if out, err := w.checks("--log-key", first); err == nil || !strings.Contains(out, "log.keys") || !strings.Contains(out, "its keystore was copied") {
		t.Errorf("the revoked key is believed: %v\n%s", err, out)
	}
	kept, err := os.ReadFile(w.path("trust.json"))
	w.ok(err)
	w.ok(os.WriteFile(w.path("old.json"), []byte(strings.Replace(string(kept), second, first, 1)), 0o644))
	if out, err := w.checks("--trust", w.path("old.json")); err != nil {
		t.Errorf("the revoked key with a checkpoint kept since: %v\n%s", err, out)
	}

	// A backup holds all of it, and the restored gateway signs with the third.
	id, err := age.GenerateX25519Identity()
	w.ok(err)
	w.ok(os.WriteFile(w.path("backup.age"), []byte(id.String()+"\n"), 0o600))
	w.must("backup", "-o", w.path("gw.tar"), "--with-keys", id.Recipient().String())
	w.stop(syscall.SIGKILL)
	w.ok(os.RemoveAll(w.path("data")))
	w.must("restore", w.path("gw.tar"), "--data", w.path("data"), "--identity", w.path("backup.age"), "--known", w.path("trust.json"))
	w.start()
	if got := w.logKeys(); got.statuses() != "revoked, replaced, in force" || got.Keys[2].Key != third {
		t.Errorf("after the restore the keys are %s", got.statuses())
	}
	w.asks(2)
	// A backup of a gateway that doesn't run is recorded by its next start.
	w.stop(syscall.SIGTERM)
	w.must("backup", "-o", w.path("at-rest.tar"))
	w.start()
	w.passesWith("which signed over to", "--log-key", second)
	if out := w.must("log", "fsck", "--known", w.path("trust.json")); !strings.Contains(out, "in order") {
		t.Errorf("fsck:\n%s", out)
	}
	if totals, err := w.run("unzip", "-p", w.packed, "pop/totals.csv"); err != nil || !strings.Contains(totals, "records,backups,2") || !strings.Contains(totals, "records,restores,1") {
		t.Errorf("totals: %v\n%s", err, totals)
	}
	secrets, err := os.ReadFile(w.path("data/keystore/log.key"))
	w.ok(err)
	if strings.Contains(w.gatewayLog(), strings.TrimSpace(string(secrets))) || strings.Contains(w.gatewayLog(), "PRIVATE+KEY") {
		t.Error("the gateway's log holds a key")
	}
}

// keyID is the id in a verifier key.
func keyID(key string) string { return strings.Split(key, "+")[1] }

// TestACrashWhileTheLogsKeyChanges lets the gateway die at each moment of a
// rotation. It goes on with exactly one key, and what comes of it is sound.
func TestACrashWhileTheLogsKeyChanges(t *testing.T) {
	w := newWorld(t)
	w.program = failing(t)
	w.prepareMarks()
	w.stop(syscall.SIGTERM)
	first, rotations := w.logKey(), 0
	for _, m := range []struct {
		moment  string
		rotated bool // the record was durable
	}{
		{"log key made", false}, {"log key recorded", true}, {"key turned", true},
		{"log key sealed", true}, {"log key promoted", true}, {"log key switched", true},
	} {
		at := "EXHIBIT_FAILPOINT=" + m.moment
		w.start(at)
		load := w.load(1)
		if out, err := w.exhibit("log", "rotate-key"); err == nil {
			t.Errorf("%s: the rotation came through:\n%s", m.moment, out)
		}
		w.dies(at)
		load()
		w.start()
		if m.rotated {
			rotations++
		}
		w.until(30*time.Second, m.moment+": the key in force is in its place", func() bool {
			k := w.logKeys()
			return k.Keys[rotations].Status == "in force" && w.logKey() == k.Keys[rotations].Key
		})
		if want := strings.Repeat("replaced, ", rotations) + "in force"; !strings.HasPrefix(w.logKeys().statuses(), want) {
			t.Errorf("%s: the keys are %s", m.moment, w.logKeys().statuses())
		}
		w.asks(1)
		w.passesWith("PASS", "--log-key", first)
		w.must("log", "fsck")
		w.stop(syscall.SIGTERM)
	}
	w.start()
}

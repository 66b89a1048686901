package e2e

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
)

// TestABackupServesAgain backs up while agents work, loses the machine, and
// serves from what was restored. Then it tries an older copy.
func TestABackupServesAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id, err := age.GenerateX25519Identity()
	w.ok(err)
	w.ok(os.WriteFile(w.path("backup.age"), []byte(id.String()+"\n"), 0o600))
	backup := func(name string) string {
		return w.must("backup", "-o", w.path(name), "--with-keys", id.Recipient().String())
	}
	restore := func(name string, more ...string) (string, error) {
		return w.exhibit(append([]string{"restore", w.path(name), "--data", w.path("data"), "--identity", w.path("backup.age")}, more...)...)
	}
	lose := func() {
		w.stop(syscall.SIGKILL)
		w.ok(os.RemoveAll(w.path("data")))
	}

	c := w.connect()
	ctx, stop := context.WithCancel(t.Context())
	worked := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			if _, err := c.Exec(t.Context(), "select 1"); err != nil {
				t.Error(err)
				break
			}
		}
		worked <- n
	}()
	time.Sleep(300 * time.Millisecond)
	if out := backup("under-load.tar"); !strings.Contains(out, "SHA-256") {
		t.Errorf("backup says:\n%s", out)
	}
	stop()
	if n := <-worked; n < 10 {
		t.Errorf("%d commands while it was backed up", n)
	}
	w.asks(2)
	w.ok(w.remember())
	backup("newest.tar")
	// What comes after the newest backup is lost with the machine; a gateway that
	// recorded nothing anyone has seen since is a log that goes on.
	lose()
	out, err := restore("newest.tar", "--known", w.path("trust.json"))
	if err != nil || !strings.Contains(out, "everything is in order") {
		t.Fatalf("restore: %v\n%s", err, out)
	}
	w.start()
	w.asks(2)
	w.passes()

	// One that was made while agents worked is older than what the auditor has
	// seen. It is a good copy, and no gateway goes on with it who knows that.
	lose()
	if out, err := restore("under-load.tar", "--known", w.path("trust.json")); err == nil || !strings.Contains(out, "old copy") {
		t.Errorf("restore of an older copy: %v\n%s", err, out)
	}
	if out, err := restore("under-load.tar"); err != nil {
		t.Fatalf("restore: %v\n%s", err, out)
	}
	if out, err := w.exhibit("log", "fsck", "--offline", "--known", w.path("trust.json")); err == nil || !strings.Contains(out, "old copy") {
		t.Errorf("fsck: %v\n%s", err, out)
	}
	if out, err := w.exhibit("serve", "--config", w.path("exhibit.yaml"), "--known", w.path("trust.json")); err == nil || !strings.Contains(out, "restore a newer one") {
		t.Errorf("serve: %v\n%s", err, out)
	}
	// Whoever knows nothing of that goes on. The pack is sound in itself, and
	// doesn't pass with the auditor.
	w.start()
	w.asks(1)
	if report, err := w.pack(); err == nil || !strings.Contains(report, "log.known") {
		t.Errorf("the auditor is content: %v\n%s", err, report)
	}
}

// remember has the auditor keep a checkpoint.
func (w *world) remember() error {
	w.t.Helper()
	w.passes()
	_, err := w.run(exhibitVerify, w.packed, "--trust", w.path("trust.json"), "--remember")
	return err
}

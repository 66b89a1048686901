package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
)

// Whoever is audited knows first, by the exit code and with what there is to do,
// and a crash, a restart or a lost cache changes no answer.
func TestReadyBeforeTheAuditor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.psql("-c", "select 1")
	w.ok(err)
	if out, err := w.exhibit("ready"); err != nil || !strings.HasPrefix(out, "READY") || !strings.Contains(out, "CC6.1") {
		t.Fatalf("after a command: %v\n%s", err, out)
	}
	for range 45 { // twice as many: wherever the minute ends, one of the two has twenty
		if _, err := w.psql("-c", "drop table nothing"); err == nil {
			t.Fatal("a reader drops a table")
		}
	}
	var report struct {
		Ready    bool
		Refused  uint64
		Concerns []struct {
			Kind, Subject, Next string
			Blocks              bool
		}
	}
	ask := func() bool {
		t.Helper()
		out, err := w.exhibit("ready", "--json")
		w.ok(json.Unmarshal([]byte(out), &report))
		if (err == nil) != report.Ready {
			t.Errorf("ready is %t, and the exit code says %v", report.Ready, err)
		}
		return report.Ready
	}
	w.until(20*time.Second, "the alert of the refusals", func() bool { return !ask() })
	alert := report.Concerns[0]
	if alert.Kind != "alert" || !alert.Blocks || !strings.Contains(alert.Next, "exhibit alert ack "+alert.Subject) {
		t.Errorf("what there is to do is %+v", alert)
	}
	w.stop(9)
	w.start()
	if ask() || report.Concerns[0] != alert || report.Refused < 45 {
		t.Errorf("after a crash: %+v", report)
	}
	for range 3 { // the minute may have had its alert once or twice
		if len(report.Concerns) > 0 && report.Concerns[0].Kind == "alert" {
			w.must("alert", "ack", report.Concerns[0].Subject, "--as", "expected", "--reason", "test")
		}
		if ask() {
			break
		}
	}
	if !report.Ready {
		t.Errorf("after somebody has looked: %+v", report.Concerns)
	}
	w.stop(15)
	w.ok(os.Remove(w.path("data/ready.cache")))
	w.start()
	if !ask() {
		t.Errorf("without its cache: %+v", report.Concerns)
	}
	w.passes()
}

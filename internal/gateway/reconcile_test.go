package gateway

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/internal/reconcile"
)

// aServer has the resource be a database whose server logs to a folder.
func aServer(dir string) func(*Settings) {
	return func(s *Settings) {
		r := evidence.Resource{Name: "orders", Protocol: "postgres"}
		s.Config.Resources, s.Config.Text = []evidence.Resource{r}, dir
		s.Resources = []Resource{{Resource: r, Log: UpstreamLog{Files: filepath.Join(dir, "*.csv"), Format: reconcile.CSV}}}
	}
}

// letIn writes a line of the server's log: that it has let somebody in, now.
func letIn(t *testing.T, file, user string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	now := time.Now().UTC()
	fmt.Fprintf(f, "%s UTC,%q,\"orders\",7,\"192.0.2.7:40001\",65a1.7,1,\"authentication\",%s UTC,3/1,0,LOG,00000,\"connection authorized: user=%s\",,,,,,,,,\"\",\"client backend\",,0\n",
		now.Format("2006-01-02 15:04:05.000"), user, now.Format("2006-01-02 15:04:05"), user)
}

// A gateway that was off for days, or couldn't read the log for as long, goes on
// at the log's end: of the time between nothing is known, and that shows.
func TestAPlaceOlderThanWhatIsRememberedIsLeft(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "postgresql.csv")
	letIn(t, log, "long-ago")
	w := newWorld(t, aServer(dir))
	file := filepath.Join(w.opened.Data, reconcileDir, "orders.json")
	old := place{File: log, To: time.Now().Add(-49 * time.Hour).UnixMicro()}
	if err := old.write(file); err != nil {
		t.Fatal(err)
	}
	before := time.Now().UnixMicro()
	got, err := w.Reconcile(t.Context(), "orders", packtest.Alice)
	if err != nil {
		t.Fatal(err)
	}
	if got.Logged != 0 || got.From.UnixMicro() < before {
		t.Errorf("it begins at %v, with %d sessions", got.From, got.Logged)
	}
	now, err := readPlace(file)
	if info, statErr := os.Stat(log); err != nil || statErr != nil || now.Offset != info.Size() || now.To < before {
		t.Errorf("it goes on at %+v, %v, %v", now, err, statErr)
	}
	letIn(t, log, "mallory")
	if got, err = w.Reconcile(t.Context(), "orders", packtest.Alice); err != nil || got.Unexplained != 1 || got.From.UnixMicro() != now.To {
		t.Errorf("the run after it: %+v, %v", got, err)
	}
}

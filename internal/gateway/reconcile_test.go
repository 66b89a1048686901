package gateway

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// anAccount is an upstream that answers what it is asked about itself.
type anAccount struct{ unread map[string]string }

func (a anAccount) Privileges(context.Context, string) (string, []evidence.PrivilegeRow, int, string, error) {
	return "app", []evidence.PrivilegeRow{{Role: "app", Privileges: []string{}}}, 3, "select 1", nil
}

func (a anAccount) ServerConfig(context.Context, string) ([]evidence.ConfigRow, map[string]string, string, error) {
	return []evidence.ConfigRow{{Kind: evidence.ConfigSetting, Key: "log_connections", Value: "on"}}, a.unread, "select 2", nil
}

// What the account may do and how the server lets people in are two records of
// one write; the ticket stands in the one that changes are found in.
func TestAnImportOfRolesHasTheServersConfigurationToo(t *testing.T) {
	w := newWorld(t, aServer(t.TempDir()))
	unread := map[string]string{evidence.ConfigRule: "permission denied"}
	w.AskWith("postgres", anAccount{unread})
	got, err := w.ImportPrivileges(t.Context(), "orders", "OPS-7", packtest.Alice)
	if err != nil || got.Kind != evidence.ImportPrivileges || got.Rows != 3 || got.Kept != 1 || got.Config == nil || got.Config.Rows != 1 || got.Config.Unread[evidence.ConfigRule] != "permission denied" {
		t.Fatalf("%+v, %v", got, err)
	}
	var kinds []string
	err = w.sealer.Scan(t.Context(), 0, func(r *evidence.Record) error {
		if r.Head.Type == evidence.ImportSnapshot {
			b := decoded[evidence.ImportBody](r.Body)
			kinds = append(kinds, fmt.Sprint(r.Head.Pos, " ", b.Kind, " ", b.Ticket, b.Params, b.By.Person.ID))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		got.Position + " postgres.privileges map[role:app]" + packtest.Alice.Person.ID,
		got.Config.Position + " postgres.config OPS-7map[hba:permission denied]" + packtest.Alice.Person.ID,
	}
	if !slices.Equal(kinds, want) {
		t.Errorf("on record are %q, want %q", kinds, want)
	}
}

// A cluster's roles aren't compared, so that a ticket would say nothing.
func TestATicketIsForAServersConfiguration(t *testing.T) {
	w := newWorld(t, aCluster(t.TempDir()))
	if _, err := w.ImportPrivileges(t.Context(), "orders", "OPS-7", packtest.Alice); err == nil || !strings.Contains(err.Error(), "a ticket is for changes of a server's configuration") {
		t.Errorf("a cluster's roles with a ticket: %v", err)
	}
}

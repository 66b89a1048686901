package gateway

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/internal/reconcile"
	"github.com/exhibit-gateway/exhibit/internal/recorder"
)

// aCluster has the resource be a cluster whose audit log is in a folder.
func aCluster(dir string) func(*Settings) {
	return func(s *Settings) {
		r := evidence.Resource{Name: "orders", Protocol: "kubernetes", Direct: []evidence.Direct{{User: "system:apiserver", Reason: "itself"}},
			Cluster: &evidence.Cluster{Account: "exhibit", Prefix: "exhibit:"}}
		s.Config.Resources, s.Config.Text = []evidence.Resource{r}, dir
		s.Resources = []Resource{{Resource: r, Log: UpstreamLog{Files: filepath.Join(dir, "audit*.log"), Format: reconcile.Audit}}}
	}
}

// get records a command for the cluster.
func (w *world) get(c *recorder.Chain, name string) evidence.Head {
	h := w.put(c, evidence.Head{Type: evidence.CommandIntent, Verb: evidence.VerbRead, Effect: evidence.Allow}, evidence.IntentBody{
		Path: "http", Parse: evidence.ParseFull, Text: "get pods/shop/" + name, Checks: []evidence.Check{{Action: "kubernetes:get", Object: "pods/shop/" + name}},
		Facts: evidence.Facts{"verb": "get", "resource": "pods", "namespace": "shop", "name": name}})
	w.put(c, evidence.Head{Type: evidence.CommandResult, Of: h.Pos, Outcome: evidence.OK, Code: "200"}, evidence.ResultBody{})
	return h
}

// audits writes lines of the audit log about pods, each "id user name".
func audits(t *testing.T, file string, entries ...string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, e := range entries {
		id, user, name := "", "", ""
		if _, err := fmt.Sscan(e, &id, &user, &name); err != nil {
			t.Fatal(e, err)
		}
		as := ""
		if user == "exhibit" {
			as = `"impersonatedUser":{"username":"exhibit:bot"},`
		}
		now := time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")
		fmt.Fprintf(f, `{"kind":"Event","auditID":%q,"stage":"ResponseComplete","requestURI":"/","verb":"get","user":{"username":%q},%s"sourceIPs":["127.0.0.1"],`+
			`"objectRef":{"resource":"pods","namespace":"shop","name":%q},"responseStatus":{"code":200},"requestReceivedTimestamp":%q,"stageTimestamp":%q}`+"\n", id, user, as, name, now, now)
	}
}

func TestAnAuditLogIsHeldAgainstTheCommands(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "audit.log")
	audits(t, log, "before admin web")
	w := newWorld(t, aCluster(dir))
	c, start := w.open()
	run := func(what string, want api.Reconciliation) (got api.Reconciliation) {
		t.Helper()
		got, err := w.Reconcile(t.Context(), "orders", packtest.Alice)
		if err != nil {
			t.Fatal(what, err)
		}
		if got.Gateway != want.Gateway || got.Allowed != want.Allowed || got.Unexplained != want.Unexplained || got.Missing != 0 || got.Logged != want.Gateway+want.Allowed+want.Unexplained {
			t.Errorf("%s: %+v", what, got)
		}
		return got
	}
	run("at first it begins at the end", api.Reconciliation{})

	var ours []string
	one := func(name string) string { return w.get(c, name).Pos.String() + " exhibit " + name }
	for i := range 20 {
		ours = append(ours, one(fmt.Sprint("p", i)))
	}
	audits(t, log, ours...)
	audits(t, log, "a-1 system:apiserver x", "b-1 admin x")
	if got := run("what came since", api.Reconciliation{Gateway: 20, Allowed: 1, Unexplained: 1}); got.Sessions[0].Session != "b-1" || got.Sessions[0].Text != "get pods/shop/x" {
		t.Errorf("unexplained: %+v", got.Sessions)
	}
	w.until(5*time.Second, "an alert is raised", func() bool { return w.count(evidence.Alert) == 1 })
	run("nothing came since", api.Reconciliation{})

	// The file is renamed, twice, and a new one begins.
	audits(t, log, one("rotated"))
	rename := func(to string) {
		t.Helper()
		if err := os.Rename(log, filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	rename("audit-2026-11-22T10-00-00.000.log")
	audits(t, log, one("between"))
	rename("audit-2026-11-22T11-00-00.000.log")
	audits(t, log, one("behind"), ours[3])
	if got := run("in three files", api.Reconciliation{Gateway: 3, Unexplained: 1}); !strings.Contains(got.Sessions[0].Why, "of no command") {
		t.Errorf("a copied id: %+v", got.Sessions)
	}

	// After another start it goes on, with what was asked before.
	pending := one("pending")
	w.end(c, start)
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	w.restart()
	audits(t, log, pending, ours[4], "a-2 system:apiserver x")
	run("after another start", api.Reconciliation{Gateway: 1, Allowed: 1, Unexplained: 1})

	// What stood behind what was read is gone: that is said.
	for _, name := range []string{"audit.log", "audit-2026-11-22T10-00-00.000.log", "audit-2026-11-22T11-00-00.000.log"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(10 * time.Millisecond)
	lost := time.Now()
	audits(t, log, "a-3 system:apiserver x")
	if got := run("another file", api.Reconciliation{Allowed: 1}); got.From.Before(lost.Truncate(time.Millisecond)) {
		t.Errorf("it says that the log covers all since %s", got.From)
	}
	_, report := w.packed(nil)
	for _, check := range report.Checks {
		if check.ID == "import.connections" && (check.Failed != 3 || check.Population != 30) {
			t.Errorf("a verifier finds %+v", check)
		}
	}
}

func TestAnAuditLogThatIsBrought(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, aCluster(dir))
	c, _ := w.open()
	h := w.get(c, "web")
	log := filepath.Join(dir, "brought")
	audits(t, log, h.Pos.String()+" exhibit web", h.Pos.String()+" exhibit web", "a-1 system:apiserver x")
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	n := api.NewImport{Kind: evidence.ImportRequests, Format: reconcile.Audit, Resource: "orders", Source: "prod", Query: "all", Data: data}
	out, err := w.Import(t.Context(), n, packtest.Alice)
	if err != nil || out.Reconciled == nil || out.Rows != 3 || out.Reconciled.Gateway != 1 || out.Reconciled.Unexplained != 1 || out.Reconciled.Allowed != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	n.Data = []byte("{}\n")
	_, err = w.Import(t.Context(), n, packtest.Alice)
	w.status("no audit log", err, 422, "line 1")
	n.Data = []byte(strings.ReplaceAll(string(data), `Timestamp":"`+time.Now().UTC().Format("2006"), `Timestamp":"2020`))
	_, err = w.Import(t.Context(), n, packtest.Alice)
	w.status("an old one", err, 422, "remembered for a day")
}

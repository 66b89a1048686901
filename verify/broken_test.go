package verify_test

import (
	"archive/zip"
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/internal/seal/stamptest"
	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/verify"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

var update = flag.Bool("update", false, "write testdata")

// unpacked is a pack by its files.
type unpacked map[string][]byte

func unpack(t testing.TB, b []byte) unpacked {
	t.Helper()
	u := make(unpacked)
	for _, f := range openZip(t, b).File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if u[f.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

// fs is the pack as a folder.
func (u unpacked) fs() fstest.MapFS {
	m := make(fstest.MapFS, len(u))
	for name, data := range u {
		m[name] = &fstest.MapFile{Data: data}
	}
	return m
}

// entry is a file of a zip; names needn't be good or different.
type entry struct {
	name string
	data []byte
}

// zip is the pack as a zip file, with more entries at its end.
func (u unpacked) zip(t testing.TB, more ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	add := func(name string, method uint16, data []byte) {
		f, err := w.CreateHeader(&zip.FileHeader{Name: name, Method: method})
		if err == nil {
			_, err = f.Write(data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(u)) {
		method := zip.Deflate
		if name == verify.SummaryFile { // which is compressed already
			method = zip.Store
		}
		add(name, method, u[name])
	}
	for _, e := range more {
		add(e.name, zip.Deflate, e.data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// resign makes the manifest true again and signs it, as an operator could.
func (u unpacked) resign(t testing.TB, g *packtest.Gateway, change func(*verify.Manifest)) {
	t.Helper()
	var m verify.Manifest
	if err := json.Unmarshal(u[verify.ManifestFile], &m); err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]int64)
	for _, f := range m.Files {
		rows[f.Path] = f.Rows
	}
	m.Files = nil
	for _, name := range slices.Sorted(maps.Keys(u)) {
		if name == verify.ManifestFile || name == verify.SignatureFile {
			continue
		}
		sum := sha256.Sum256(u[name])
		m.Files = append(m.Files, verify.File{Path: name, Bytes: int64(len(u[name])), SHA256: hex.EncodeToString(sum[:]), Rows: rows[name]})
	}
	if change != nil {
		change(&m)
	}
	encoded, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	u[verify.ManifestFile] = encoded
	if u[verify.SignatureFile], err = note.Sign(&note.Note{Text: verify.SignedText(m.Origin, encoded)}, g.Signer()); err != nil {
		t.Fatal(err)
	}
}

// rename gives the one file of blocks of the range another name and content.
func (u unpacked) blocks() (name string) {
	for n := range u {
		if strings.HasPrefix(n, "raw/") && n != verify.ContextFile && n != verify.EdgesFile {
			return n
		}
	}
	return ""
}

// split cuts a file of blocks.
func split(t testing.TB, data []byte) (files [][]byte, headers []ledger.Header) {
	t.Helper()
	for len(data) > 0 {
		line, _, _ := bytes.Cut(data, []byte("\n"))
		h, err := ledger.ParseHeader(line)
		if err != nil {
			t.Fatal(err)
		}
		size := verify.CutSize(&h, "L1")
		files, headers = append(files, data[:size:size]), append(headers, h)
		data = data[size:]
	}
	return files, headers
}

// finish closes a session and stops the gateway.
func finish(g *packtest.Gateway, s *packtest.Session) *packtest.Gateway {
	if s != nil {
		s.Close()
	}
	g.Stop()
	return g
}

// lie is a log in which something is not as it should be, faithfully sealed
// and packed.
type lie struct {
	finding string
	name    string
	log     func() *packtest.Gateway
}

// changing is the shop with every record put through change.
func changing(change func(*evidence.Draft)) func() *packtest.Gateway {
	return func() *packtest.Gateway {
		g := packtest.New()
		g.PerBlock = 6
		g.Change = change
		g.Boot()
		g.Organise("billing-bot", "reader")
		s := g.Open("billing-bot", "orders")
		s.Do("SELECT ?", "postgres:select", "public.orders")
		s.Do("DROP TABLE public.orders", "postgres:drop", "public.orders")
		return finish(g, s)
	}
}

// edit decodes the body of records of a type, changes it and encodes it again.
func edit[T any](typ evidence.Type, change func(*evidence.Head, *T)) func() *packtest.Gateway {
	return changing(func(d *evidence.Draft) {
		if d.Head.Type != typ {
			return
		}
		var b T
		if err := evidence.DecodeBody(d.Body, &b); err != nil {
			panic(err)
		}
		change(&d.Head, &b)
		d.Body = evidence.EncodeBody(b)
	})
}

// ticketed is a gateway on whose second ticket something is wrong.
func ticketed(change func(r *evidence.TicketRow, now int64)) func() *packtest.Gateway {
	return func() *packtest.Gateway {
		g := packtest.Ticketed()
		list := g.Tickets()
		change(&list[1], g.Now)
		g.ImportTickets(0, list...)
		return finish(g, nil)
	}
}

// separated is a gateway where rights need two people, with an agent.
func separated() *packtest.Gateway {
	g := packtest.New()
	g.Boot()
	g.Organise("billing-bot", "reader")
	g.Separate()
	return g
}

const insert = "INSERT INTO public.orders VALUES (?)"

// held is a session whose agent has asked for an approval of a command, and got
// it.
func held(g *packtest.Gateway) (*packtest.Session, evidence.Position) {
	s := open(g, "cleaner")
	wanted := s.Hold(insert, "postgres:insert", "public.orders")
	g.Approve(wanted, packtest.Bob)
	return s, wanted
}

// sampler is a session of an agent with a limit, and no other role.
func sampler(g *packtest.Gateway) *packtest.Session {
	for _, grant := range g.Registry.Grants() {
		g.Own(evidence.GrantRemove, evidence.RevokeBody{ID: grant.ID, Reason: "in its place", By: packtest.Alice})
	}
	return open(g, "sampler")
}

func open(g *packtest.Gateway, role string) *packtest.Session {
	r := g.Request("billing-bot", role)
	g.Approve(r, packtest.Bob)
	g.Grant(r, packtest.Bob)
	return g.Open("billing-bot", "orders")
}

// bypassed is a shop at whose upstream there was a session beside the agent's:
// the upstream's log, and when it begins.
func bypassed() (g *packtest.Gateway, rows []evidence.ConnectionRow, from int64) {
	g, s := packtest.Shop()
	from = g.Now - 10*packtest.Second
	rows = []evidence.ConnectionRow{g.Logged(s), g.LoggedFrom("203.0.113.9:5000", 7000)}
	s.Close()
	g.Now += 20 * packtest.Second
	return g, rows, from
}

// aroundCluster is a log of a command for a cluster, and what the cluster's audit
// log has: that, and somebody who goes around the gateway.
func aroundCluster() (g *packtest.Gateway, rows []evidence.RequestRow, from int64) {
	g, s := packtest.Cluster()
	from = g.Now - 10*packtest.Second
	rows = []evidence.RequestRow{s.Get("pods", "web"), g.Kubelet(), g.Direct("admin", "203.0.113.9")}
	s.Close()
	for range 4 {
		g.Now += 30 * packtest.Second
		g.Beat()
	}
	return g, rows, from
}

var lies = []lie{
	{"evidence.purpose", "opened-for-nothing", func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.Own(evidence.EvidenceRead, evidence.ReadBody{Object: "sample commands-000000000000", Level: "L2", By: packtest.Alice, Reader: "Audit LLP"})
		return finish(g, s)
	}},
	{"record.body", "unknown-field", changing(func(d *evidence.Draft) {
		if d.Head.Type == evidence.SessionEnd {
			d.Body = []byte(`{"reason":"terminate","commands":2,"denied":1,"mood":"good"}`)
		}
	})},
	{"record.ordinal", "hole", changing(func(d *evidence.Draft) {
		if d.Head.Type == evidence.SessionEnd {
			d.Head.N++
		}
	})},
	{"gateway.boots", "forgotten-record", func() *packtest.Gateway {
		g, s := packtest.Shop()
		s.Close()
		g.Change = func(d *evidence.Draft) {
			if d.Head.Type == evidence.GatewayStart {
				d.Body = bytes.Replace(d.Body, []byte(`"previous":"gw1.1.`), []byte(`"previous":"gw1.1.9`), 1)
			}
		}
		g.Boot()
		return finish(g, nil)
	}},
	{"command.pairing", "no-outcome", func() *packtest.Gateway {
		g, s := packtest.Shop()
		s.Ask("SELECT ?", "postgres:select", "public.orders")
		return finish(g, s)
	}},
	{"command.pairing", "two-outcomes", func() *packtest.Gateway {
		g, s := packtest.Shop()
		p, _ := s.Ask("SELECT ?", "postgres:select", "public.orders")
		s.End(p, evidence.OK)
		s.End(p, evidence.Failed)
		return finish(g, s)
	}},
	{"session.pairing", "end-of-another", changing(func(d *evidence.Draft) {
		if d.Head.Type == evidence.SessionEnd {
			d.Head.Of.Seq--
		}
	})},
	{"command.order", "ok-after-a-crash", func() *packtest.Gateway {
		g, s := packtest.Shop()
		p, _ := s.Ask("SELECT ?", "postgres:select", "public.orders")
		g.Boot()
		s.End(p, evidence.OK)
		s.Lost()
		return finish(g, nil)
	}},
	{"transaction.end", "ended-twice", func() *packtest.Gateway {
		g, s := packtest.Shop()
		first, last := s.Block("SELECT ?", "postgres:select", "public.orders")
		s.Commit(first, last)
		s.Commit(first, last)
		return finish(g, s)
	}},
	{"transaction.end", "before-its-command", func() *packtest.Gateway {
		g, s := packtest.Shop()
		first, _ := s.Block("SELECT ?", "postgres:select", "public.orders")
		open, _ := s.Ask("SELECT ?", "postgres:select", "public.orders")
		s.Commit(first, open)
		s.End(open, evidence.OK)
		return finish(g, s)
	}},
	{"command.resolution", "not-in-doubt", func() *packtest.Gateway {
		g, s := packtest.Shop()
		p, _ := s.Ask("SELECT ?", "postgres:select", "public.orders")
		s.End(p, evidence.OK)
		s.Resolve(p)
		return finish(g, s)
	}},
	{"session.bytes", "unaccounted", changing(func(d *evidence.Draft) {
		if d.Head.Type == evidence.SessionEnd {
			d.Head.Bytes += 17
		}
	})},
	{"session.totals", "commands-uncounted", edit(evidence.SessionEnd, func(_ *evidence.Head, b *evidence.SessionEndBody) { b.Commands-- })},
	{"session.attribution", "another-agent", changing(func(d *evidence.Draft) {
		if d.Head.Type == evidence.SessionEnd {
			d.Head.Agent = "other-bot"
		}
	})},
	{"session.upstream", "shared-connection", func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.Change = func(d *evidence.Draft) {
			d.Body = bytes.Replace(d.Body, []byte("198.51.100.1:1026"), []byte("198.51.100.1:1025"), 1)
		}
		g.Open("billing-bot", "orders").Close()
		return finish(g, s)
	}},
	{"agent.registered", "unregistered", changing(func(d *evidence.Draft) {
		if d.Head.Type == evidence.SessionStart {
			d.Head.Agent = "ghost-bot"
			d.Body = bytes.Replace(d.Body, []byte(`"agent":"billing-bot"`), []byte(`"agent":"ghost-bot"`), 1)
		}
	})},
	{"agent.owner", "another-owner", edit(evidence.SessionStart, func(_ *evidence.Head, b *evidence.SessionStartBody) { b.Owner.ID = "team@example.com" })},
	{"authn.cited", "no-authentication", edit(evidence.SessionStart, func(_ *evidence.Head, b *evidence.SessionStartBody) { b.Authn = "gw1.1.1" })},
	{"authn.credential", "unknown-key", edit(evidence.Authn, func(_ *evidence.Head, b *evidence.AuthnBody) { b.Key = "nobody's" })},
	{"authn.credential", "revoked-key", func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.Own(evidence.CredentialRevoke, evidence.RevokeBody{ID: "billing-bot-key", Reason: "leaked", By: packtest.Alice})
		g.Open("billing-bot", "orders").Close()
		return finish(g, s)
	}},
	{"change.valid", "orphan-grant", func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.Own(evidence.GrantCreate, evidence.GrantBody{Agent: "ghost-bot", Role: "reader", Resource: "orders", Expires: g.Now + packtest.Hour, By: packtest.Alice})
		return finish(g, s)
	}},
	{"change.approved", "self-approval", func() *packtest.Gateway {
		g := separated()
		r := g.Request("billing-bot", "reader")
		g.Approve(r, packtest.Alice)
		g.Grant(r, packtest.Alice)
		return finish(g, nil)
	}},
	{"change.approved", "by-one-person", func() *packtest.Gateway {
		g := separated()
		g.Own(evidence.GrantCreate, evidence.GrantBody{Agent: "billing-bot", Role: "writer", Resource: "orders", Expires: g.Now + packtest.Hour, By: packtest.Alice})
		return finish(g, nil)
	}},
	{"change.approved", "after-the-fact", func() *packtest.Gateway {
		g := separated()
		r := g.Request("billing-bot", "writer")
		g.Grant(r, packtest.Bob)
		g.Approve(r, packtest.Bob)
		return finish(g, nil)
	}},
	{"change.approved", "policy-changed-and-changed-back", func() *packtest.Gateway {
		g := separated()
		before, _ := g.Registry.Bundle()
		files := []evidence.File{{Name: "roles.cedar", Text: before.Files[0].Text + "\n// so that it is another\n"}}
		there := evidence.PolicyBody{Digest: decision.Digest(files, before.Actions), Before: before.Digest, Files: files, Actions: before.Actions, By: packtest.Alice}
		g.Own(evidence.PolicyChange, there)
		back := before
		back.Before, back.By, back.Signature = there.Digest, packtest.Alice, ""
		g.Own(evidence.PolicyChange, back)
		return finish(g, nil)
	}},
	{"change.valid", "wider-than-approved", func() *packtest.Gateway {
		g := separated()
		r := g.Request("billing-bot", "reader")
		g.Approve(r, packtest.Bob)
		a, _ := g.Registry.Approval(r.String())
		wider := a.GrantOf(packtest.Bob)
		wider.Role = "writer"
		g.Own(evidence.GrantCreate, wider)
		return finish(g, nil)
	}},
	{"approval.used", "never-marked", func() *packtest.Gateway {
		g := separated()
		s, wanted := held(g)
		g.Change = func(d *evidence.Draft) {
			if d.Head.Type == evidence.ApprovalUse { // so that it can be used again
				d.Head.Type, d.Body = evidence.SessionNote, evidence.EncodeBody(evidence.NoteBody{Kind: "setup", Origin: "gateway"})
			}
		}
		s.End(s.AskApproved(insert, "postgres:insert", "public.orders", wanted), evidence.OK)
		return finish(g, s)
	}},
	{"approval.used", "by-another-command", func() *packtest.Gateway {
		g := separated()
		s, wanted := held(g)
		g.Change = func(d *evidence.Draft) {
			if d.Head.Type == evidence.ApprovalUse {
				d.Head.Of.Seq--
			}
		}
		s.End(s.AskApproved(insert, "postgres:insert", "public.orders", wanted), evidence.OK)
		return finish(g, s)
	}},
	{"decision.limits", "allowed-beyond", func() *packtest.Gateway {
		g := separated()
		s := sampler(g)
		for range 4 {
			s.Do("SELECT ?", "postgres:select", "public.orders")
		}
		return finish(g, s)
	}},
	{"decision.limits", "refused-too-early", func() *packtest.Gateway {
		g := separated()
		s := sampler(g)
		s.AskLimited("SELECT ?", "postgres:select", "public.orders", evidence.LimitCommands)
		return finish(g, s)
	}},
	{"alert.raised", "burst-unnoticed", func() *packtest.Gateway {
		g, s := packtest.Shop()
		for range 20 {
			s.Do("DROP TABLE public.orders", "postgres:drop", "public.orders")
		}
		return finish(g, s)
	}},
	{"alert.raised", "without-cause", func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.Own(evidence.Alert, evidence.AlertBody{Rule: workpaper.RuleDenials, Severity: "medium", Trigger: s.ID(), Text: "look over there"})
		return finish(g, s)
	}},
	{"alert.acknowledged", "of-no-alert", func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.Change = func(d *evidence.Draft) {
			if d.Head.Type == evidence.AlertAck {
				d.Head.Of = s.ID()
			}
		}
		g.Own(evidence.AlertAck, evidence.AlertAckBody{Disposition: evidence.AlertExpected, By: packtest.Alice})
		return finish(g, s)
	}},
	{"decision.policy", "another-policy", edit(evidence.CommandIntent, func(_ *evidence.Head, b *evidence.IntentBody) { b.Policy = strings.Repeat("0", 64) })},
	{"decision.grants", "no-grant", edit(evidence.CommandIntent, func(_ *evidence.Head, b *evidence.IntentBody) { b.Grants = nil })},
	{"decision.replay", "allowed-though-forbidden", edit(evidence.CommandIntent, func(h *evidence.Head, b *evidence.IntentBody) {
		if h.Outcome == evidence.Denied { // as if it had been let through
			h.Outcome, h.Effect, b.Effect, b.Reason = evidence.Skipped, evidence.Allow, evidence.Allow, ""
			b.Rules, b.Grants = []string{"reader"}, []string{"gw1.1.5"}
		}
	})},
	{"decision.replay", "another-rule", edit(evidence.CommandIntent, func(_ *evidence.Head, b *evidence.IntentBody) {
		if b.Effect == evidence.Allow {
			b.Rules = []string{"writer"}
		}
	})},
	{"decision.denials", "passed-on", changing(func(d *evidence.Draft) {
		if d.Head.Outcome == evidence.Denied {
			d.Head.Outcome = ""
		}
	})},
	{"decision.enforced", "observe-only", edit(evidence.SessionStart, func(_ *evidence.Head, b *evidence.SessionStartBody) { b.Mode = "observe" })},
	{"access.revoked", "after-removal", func() *packtest.Gateway {
		g, s := packtest.Shop()
		registry := g.Registry
		g.Own(evidence.GrantRemove, evidence.RevokeBody{ID: "gw1.1.5", Reason: "no longer needed", By: packtest.Alice})
		removed := g.Registry
		g.Registry = registry // the gateway goes on as if nothing had happened
		s.Do("SELECT ?", "postgres:select", "public.orders")
		g.Registry = removed
		return finish(g, s)
	}},
	{"access.revoked", "after-retirement", func() *packtest.Gateway {
		g, s := packtest.Shop()
		registry := g.Registry
		g.Own(evidence.AgentDisable, evidence.DisableBody{Agent: "billing-bot", Reason: "retired", By: packtest.Alice})
		g.Registry = registry
		s.Do("SELECT ?", "postgres:select", "public.orders")
		return finish(g, s)
	}},
	{"access.lag", "outlived", func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.Own(evidence.AgentDisable, evidence.DisableBody{Agent: "billing-bot", Reason: "retired", By: packtest.Alice})
		g.Now += 5 * packtest.Second
		return finish(g, s)
	}},
	{"gateway.liveness", "weekend-off", func() *packtest.Gateway {
		g, s := packtest.Shop()
		s.Close()
		g.Now += 2 * packtest.Hour
		g.Beat()
		return finish(g, nil)
	}},
	{"gateway.gaps", "recording-gap", func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.Own(evidence.RecordingGap, evidence.GapBody{Cause: "disk full", Sessions: []evidence.Position{s.ID()}})
		return finish(g, s)
	}},
	{"import.connections", "bypass", func() *packtest.Gateway {
		g, rows, from := bypassed()
		g.Own(evidence.Alert, evidence.AlertBody{Rule: workpaper.RuleBypass, Severity: "high", Trigger: g.Reconcile(from, rows, nil, nil)})
		return finish(g, nil)
	}},
	{"import.connections", "bypass-left-out", func() *packtest.Gateway {
		g, rows, from := bypassed()
		g.Reconcile(from, rows, nil, func(b *evidence.ReconBody) { b.Unexplained, b.Allowed, b.Keys = 0, b.Allowed+1, nil })
		return finish(g, nil)
	}},
	{"import.connections", "log-not-reconciled", func() *packtest.Gateway {
		g, rows, _ := bypassed()
		g.Import(evidence.ImportConnections, "orders", rows, len(rows))
		return finish(g, nil)
	}},
	{"import.connections", "session-not-in-the-log", func() *packtest.Gateway {
		g, _, from := bypassed()
		g.Own(evidence.Alert, evidence.AlertBody{Rule: workpaper.RuleUntied, Severity: "medium", Trigger: g.Reconcile(from, nil, nil, nil)})
		return finish(g, nil)
	}},
	{"import.connections", "cluster-bypass", func() *packtest.Gateway {
		g, rows, from := aroundCluster()
		g.Own(evidence.Alert, evidence.AlertBody{Rule: workpaper.RuleBypass, Severity: "high", Trigger: g.Audit(from, rows, nil)})
		return finish(g, nil)
	}},
	{"import.connections", "cluster-bypass-left-out", func() *packtest.Gateway {
		g, rows, from := aroundCluster()
		g.Audit(from, rows, func(b *evidence.ReconBody) { b.Unexplained, b.Allowed, b.Keys = 0, b.Allowed+1, nil })
		return finish(g, nil)
	}},
	{"import.connections", "cluster-command-not-in-the-log", func() *packtest.Gateway {
		g, rows, from := aroundCluster()
		g.Audit(from, rows[1:2], func(b *evidence.ReconBody) { b.Missing, b.Keys = 0, nil })
		return finish(g, nil)
	}},
	{"import.connections", "cluster-copied-id", func() *packtest.Gateway {
		g, rows, from := aroundCluster()
		rows[2].ID = rows[0].ID // of the agent's command, by an administrator
		g.Audit(from, rows[1:], func(b *evidence.ReconBody) { b.Unexplained, b.Gateway, b.Missing, b.Keys = 0, 1, 0, nil })
		return finish(g, nil)
	}},
	{"import.connections", "cluster-log-not-reconciled", func() *packtest.Gateway {
		g, rows, _ := aroundCluster()
		g.Import(evidence.ImportRequests, "prod", rows, 9)
		return finish(g, nil)
	}},
	{"alert.raised", "bypass-unnoticed", func() *packtest.Gateway {
		g, rows, from := bypassed()
		g.Reconcile(from, rows, nil, nil)
		return finish(g, nil)
	}},
	{"import.privileges", "reader-through-an-owner", func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.ImportPrivileges("app", []evidence.PrivilegeRow{{Role: "app", Privileges: []string{}}, {Role: "app", Object: "public.orders", Privileges: []string{"owner", "select"}}})
		return finish(g, s)
	}},
	{"import.config", "server-changed-without-a-ticket", func() *packtest.Gateway {
		g, s := packtest.Shop()
		rule := evidence.ConfigRow{Kind: evidence.ConfigRule, Key: "hostssl database=orders user=app address=10.0.0.1", Value: "scram-sha-256"}
		g.ImportConfig("", nil, rule)
		g.ImportConfig("", nil, evidence.ConfigRow{Kind: evidence.ConfigRule, Key: "host database=all user=all address=0.0.0.0/0", Value: "trust"}, rule)
		return finish(g, s)
	}},
	{"import.config", "server-no-longer-readable", func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.ImportConfig("", nil, evidence.ConfigRow{Kind: evidence.ConfigRule, Key: "local database=all user=all", Value: "peer"})
		g.ImportConfig("", map[string]string{evidence.ConfigRule: "permission denied"})
		return finish(g, s)
	}},
	{"import.tickets", "ticket-made-up", func() *packtest.Gateway {
		g := packtest.Ticketed()
		g.ImportTickets(0, g.Tickets()[:2]...)
		return finish(g, nil)
	}},
	{"import.tickets", "ticket-closed-before", ticketed(func(r *evidence.TicketRow, now int64) { r.Closed = now - packtest.Hour })},
	{"import.tickets", "ticket-created-after", ticketed(func(r *evidence.TicketRow, now int64) { r.Created = now + packtest.Hour })},
	{"import.tickets", "ticket-refused", ticketed(func(r *evidence.TicketRow, _ int64) { r.Approval = evidence.TicketRefused })},
	{"import.tickets", "ticket-approved-after", ticketed(func(r *evidence.TicketRow, now int64) { r.Approved = now + packtest.Hour })},
	{"import.tickets", "ticket-of-somebody-else", ticketed(func(r *evidence.TicketRow, _ int64) { r.Requester = packtest.Bob.Person.ID })},
	{"import.tickets", "ticket-approved-by-somebody-else", ticketed(func(r *evidence.TicketRow, _ int64) { r.Approvers = []string{packtest.Alice.Person.ID} })},
	{"import.tickets", "ticket-used-once-closed", func() *packtest.Gateway {
		g := packtest.Ticketed()
		list := g.Tickets()
		list[2].Closed = g.Now
		g.Now += packtest.Hour
		s := g.Open("billing-bot", "orders")
		s.Close()
		g.ImportTickets(0, list...)
		return finish(g, nil)
	}},
	{"import.privileges", "reader-with-a-cluster-to-itself", func() *packtest.Gateway {
		g, s := packtest.Cluster()
		s.Close()
		resources := g.Registry.Resources()
		resources[1].Protocol = "postgres" // whose actions the policy is about
		g.Own(evidence.ConfigChange, evidence.ConfigBody{Digest: "config-rights", Before: g.Registry.Config(), Text: "rights\n", By: packtest.Alice, Resources: resources})
		g.Import(evidence.ImportRights, "prod", []evidence.RightRow{{Kind: "Group", Subject: "exhibit:agents", Verbs: []string{"*"}, Resources: []string{"*.*"}, By: "all"}}, 1)
		return finish(g, nil)
	}},
	{"access.revoked", "after-its-owner-left", func() *packtest.Gateway {
		g, s := packtest.Shop()
		registry := g.Registry
		g.ImportPeople(g.Left(60))
		g.Registry = registry
		s.Do("SELECT ?", "postgres:select", "public.orders")
		return finish(g, s)
	}},
	{"access.lag", "outlived-its-owner", func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.ImportPeople(g.Left(60))
		g.Now += 5 * packtest.Second
		return finish(g, s)
	}},
	{"import.people", "leaver-unnoticed", func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.Import(evidence.ImportPeople, "", []evidence.PersonRow{g.Left(60)}, 1)
		return finish(g, s)
	}},
	{"import.people", "made-up-leaver", func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.Import(evidence.ImportPeople, "", []evidence.PersonRow{{ID: packtest.Alice.Person.ID, Status: evidence.PersonActive}}, 1)
		g.Own(evidence.PersonLeave, evidence.LeaveBody{Person: packtest.Alice.Person.ID, By: packtest.Alice})
		return finish(g, s)
	}},
	{"import.people", "too-late", func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.ImportPeople(g.Left(3 * 86_400))
		return finish(g, s)
	}},
	{"import.digest", "another-snapshot", func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.Change = func(d *evidence.Draft) {
			if d.Head.Type == evidence.ImportSnapshot {
				d.Body = bytes.Replace(d.Body, []byte(`"status":"active"`), []byte(`"status":"inactiv"`), 1)
			}
		}
		g.ImportPeople(evidence.PersonRow{ID: packtest.Alice.Person.ID, Status: evidence.PersonActive})
		return finish(g, s)
	}},
	{"import.digest", "rows-left-out", func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.Import(evidence.ImportPeople, "", []evidence.PersonRow{{ID: packtest.Alice.Person.ID, Status: evidence.PersonActive}}, 2)
		return finish(g, s)
	}},
	{"gateway.digests", "hot-edit", edit(evidence.GatewayStart, func(_ *evidence.Head, b *evidence.GatewayStartBody) { b.Config = "config-2" })},
	{"access.revoked", "after-its-key", func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.Own(evidence.CredentialRevoke, evidence.RevokeBody{ID: "billing-bot-key", Reason: "copied", By: packtest.Alice})
		s.Do("SELECT ?", "postgres:select", "public.orders")
		return finish(g, s)
	}},
	{"session.principal", "for-nobody", edit(evidence.SessionStart, func(_ *evidence.Head, b *evidence.SessionStartBody) { b.PType = "human" })},
	{"session.encrypted", "agent-in-the-clear", edit(evidence.SessionStart, func(_ *evidence.Head, b *evidence.SessionStartBody) { b.TLS = "" })},
	{"session.encrypted", "system-in-the-clear", edit(evidence.SessionUpstream, func(_ *evidence.Head, b *evidence.SessionUpstreamBody) { b.TLS = "" })},
	{"credential.age", "never-replaced", func() *packtest.Gateway {
		g, s := lasting()
		s.Close()
		later(g, 401)
		return finish(g, g.Open("billing-bot", "orders"))
	}},
	{"grant.unused", "for-a-quarter", func() *packtest.Gateway {
		g, s := lasting()
		s.Close()
		later(g, 91)
		return finish(g, nil)
	}},
	{"alert.heard", "nobody-looked", func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.Own(evidence.Alert, evidence.AlertBody{Rule: "grammar-killed", Severity: "medium", Trigger: s.ID(), Text: "a statement was not understood in time"})
		s.Close()
		later(g, 8)
		return finish(g, nil)
	}},
	{"evidence.readers", "nobody-in-particular", func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.Own(evidence.EvidenceRead, evidence.ReadBody{Purpose: "question", Object: "who orders", Level: "L1"})
		return finish(g, s)
	}},
}

// lasting is a shop whose rights last for years.
func lasting() (*packtest.Gateway, *packtest.Session) {
	g := packtest.New()
	g.Change = func(d *evidence.Draft) {
		var end map[string]any
		switch d.Head.Type {
		case evidence.CredentialEnroll:
			end = map[string]any{"not_after": packtest.Noon + 20_000*packtest.Hour}
		case evidence.GrantCreate:
			end = map[string]any{"expires": packtest.Noon + 20_000*packtest.Hour}
		default:
			return
		}
		var body map[string]any
		decoder := json.NewDecoder(bytes.NewReader(d.Body))
		decoder.UseNumber()
		if err := decoder.Decode(&body); err != nil {
			panic(err)
		}
		maps.Copy(body, end)
		d.Body = evidence.EncodeBody(body)
	}
	g.Boot()
	g.Organise("billing-bot", "reader")
	s := g.Open("billing-bot", "orders")
	s.Do("SELECT ?", "postgres:select", "public.orders")
	return g, s
}

// later stops the gateway and starts it again after some days.
func later(g *packtest.Gateway, days int64) {
	g.Stop()
	g.Now += 24 * days * packtest.Hour
	g.Boot()
}

// forgery is a good pack that someone changed.
type forgery struct {
	finding string
	name    string
	change  func(t testing.TB, g *packtest.Gateway, u unpacked) []entry // more entries, for names that a map can't hold
}

var forgeries = []forgery{
	{"pack.files", "stowaway", func(_ testing.TB, _ *packtest.Gateway, u unpacked) []entry {
		u["pop/extra.csv"] = []byte("a,b\n")
		return nil
	}},
	{"pack.files", "stowaway-in-the-manifest", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		u["auditor-opinion.md"] = []byte("all is well\n")
		u.resign(t, g, nil)
		return nil
	}},
	{"pack.files", "missing", func(_ testing.TB, _ *packtest.Gateway, u unpacked) []entry {
		delete(u, "pop/denials.csv")
		return nil
	}},
	{"pack.files", "twice", func(_ testing.TB, _ *packtest.Gateway, u unpacked) []entry {
		return []entry{{"pop/denials.csv", []byte("nothing was denied\n")}}
	}},
	{"pack.files", "path-upwards", func(_ testing.TB, _ *packtest.Gateway, u unpacked) []entry {
		return []entry{{"../../etc/cron.d/x", []byte("boom\n")}}
	}},
	{"pack.manifest", "unsigned", func(_ testing.TB, _ *packtest.Gateway, u unpacked) []entry {
		delete(u, verify.SignatureFile)
		return nil
	}},
	{"pack.manifest", "reworded", func(_ testing.TB, _ *packtest.Gateway, u unpacked) []entry {
		u[verify.ManifestFile] = bytes.Replace(u[verify.ManifestFile], []byte("Example Ltd"), []byte("Exemplary Ltd"), 1)
		return nil
	}},
	{"pack.manifest", "another-spelling", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		u[verify.ManifestFile] = append(u[verify.ManifestFile], ' ')
		signed, err := note.Sign(&note.Note{Text: verify.SignedText(packtest.Origin, u[verify.ManifestFile])}, g.Signer())
		if err != nil {
			t.Fatal(err)
		}
		u[verify.SignatureFile] = signed
		return nil
	}},
	{"pack.manifest", "fewer-records", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		u.resign(t, g, func(m *verify.Manifest) { m.Range.Records-- })
		return nil
	}},
	{"pack.digests", "changed", func(_ testing.TB, _ *packtest.Gateway, u unpacked) []entry {
		u[verify.TestsFile] = append(u[verify.TestsFile], '\n')
		return nil
	}},
	{"log.checkpoint", "another-key", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		cp := g.Checkpoint()
		signed, err := note.Sign(&note.Note{Text: cp.Text()}, namedSigner(t, packtest.Origin, "somebody else"))
		if err != nil {
			t.Fatal(err)
		}
		u["log/checkpoint"] = signed
		u.resign(t, g, nil)
		return nil
	}},
	{"log.tree", "changed-tile", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		for name := range u {
			if strings.HasPrefix(name, "log/tile/0/") {
				u[name][0] ^= 1
			}
		}
		u.resign(t, g, nil)
		return nil
	}},
	{"log.leaf", "another-block", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		other, s := packtest.Shop() // the same but for one more command
		s.Do("SELECT ?", "postgres:select", "public.orders")
		finish(other, s)
		theirs := unpack(t, create(t, other, at(0), at(3600)))
		files, _ := split(t, u[u.blocks()])
		forged, _ := split(t, theirs[theirs.blocks()])
		files[len(files)-1] = forged[len(files)-1]
		u[u.blocks()] = bytes.Join(files, nil)
		u.resign(t, g, nil)
		return nil
	}},
	{"log.block", "cut-short", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		name := u.blocks()
		u[name] = u[name][:len(u[name])-1]
		u.resign(t, g, nil)
		return nil
	}},
	{"log.block", "changed-body", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		files, headers := split(t, u[u.blocks()])
		at := bytes.IndexByte(files[0], '\n') + 1 + int(headers[0].Sections[ledger.Heads].Size) + 40
		files[0][at] ^= 1
		u.resign(t, g, nil)
		return nil
	}},
	{"log.follows", "left-out", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		name := u.blocks()
		files, _ := split(t, u[name])
		u[name] = bytes.Join(files[:len(files)-1], nil)
		u.resign(t, g, nil)
		return nil
	}},
	{"record.commitment", "another-seed", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		line, rest, _ := bytes.Cut(u[verify.SeedsFile], []byte("\n"))
		var s verify.Seed
		if err := json.Unmarshal(line, &s); err != nil {
			t.Fatal(err)
		}
		s.Seed[0] ^= 1
		u[verify.SeedsFile] = append(s.Encode(), rest...)
		u.resign(t, g, nil)
		return nil
	}},
	{"record.commitment", "no-seed", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		_, u[verify.SeedsFile], _ = bytes.Cut(u[verify.SeedsFile], []byte("\n"))
		u.resign(t, g, nil)
		return nil
	}},
	{"pack.tables", "row-left-out", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		lines := bytes.SplitAfter(u["pop/commands.csv"], []byte("\n"))
		u["pop/commands.csv"] = bytes.Join(slices.Delete(lines, 1, 2), nil)
		u.resign(t, g, nil)
		return nil
	}},
	{"pack.tables", "row-made-up", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		u["pop/grants.jsonl"] = append(u["pop/grants.jsonl"], "{}\n"...)
		u.resign(t, g, nil)
		return nil
	}},
	{"pack.tables", "test-passed", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		u[verify.TestsFile] = bytes.Replace(u[verify.TestsFile], []byte(`"not_tested"`), []byte(`"pass"`), 1)
		u.resign(t, g, nil)
		return nil
	}},
	{"pack.tables", "readme", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		u[verify.ReadmeFile] = append(u[verify.ReadmeFile], "Certified.\n"...)
		u.resign(t, g, nil)
		return nil
	}},
	{"pack.digests", "another-readme", func(t testing.TB, _ *packtest.Gateway, u unpacked) []entry {
		u[verify.ReadmeFile] = append(u[verify.ReadmeFile], "Certified.\n"...)
		return nil
	}},
	workbook("altered-cell", func(t testing.TB, parts *[]entry) {
		change(t, parts, ">billing-bot<", ">harmless-bot<")
	}),
	workbook("added-row", func(t testing.TB, parts *[]entry) {
		change(t, parts, "</row>\n</sheetData>", "</row>\n<row r=\"99\"><c r=\"A99\" s=\"3\"><v>1</v></c></row>\n</sheetData>")
	}),
	workbook("formula", func(t testing.TB, parts *[]entry) {
		change(t, parts, "<v>0</v>", "<f>HYPERLINK(&quot;http://example.com&quot;)</f><v>0</v>")
	}),
	workbook("missing-tab", func(t testing.TB, parts *[]entry) {
		*parts = slices.DeleteFunc(*parts, func(e entry) bool { return e.name == "xl/worksheets/sheet3.xml" })
	}),
	workbook("hidden-tab", func(t testing.TB, parts *[]entry) {
		change(t, parts, `<sheet name="denials"`, `<sheet state="hidden" name="denials"`)
	}),
	workbook("white-on-white", func(t testing.TB, parts *[]entry) { change(t, parts, `rgb="FF9C0006"`, `rgb="FFFFFFFF"`) }),
	workbook("macros", func(t testing.TB, parts *[]entry) {
		*parts = append(*parts, entry{"xl/vbaProject.bin", []byte("Sub Auto_Open()")})
	}),
	workbook("two-of-a-name", func(t testing.TB, parts *[]entry) { *parts = append(*parts, (*parts)[0]) }),
	{"pack.tables", "workbook-with-more-after-it", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		u[verify.SummaryFile] = append(u[verify.SummaryFile], u[verify.SummaryFile]...)
		u.resign(t, g, nil)
		return nil
	}},
	{"pack.tables", "transcript", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		for name := range u {
			if strings.HasPrefix(name, "transcripts/") {
				u[name] = bytes.Replace(u[name], []byte("DROP TABLE"), []byte("SELECT"), 1)
			}
		}
		u.resign(t, g, nil)
		return nil
	}},
	{"pack.tables", "transcript-left-out", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		maps.DeleteFunc(u, func(name string, _ []byte) bool { return strings.HasPrefix(name, "transcripts/") })
		u.resign(t, g, nil)
		return nil
	}},
	{"pack.tables", "workbook-is-none", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		u[verify.SummaryFile] = []byte("see the CSV files")
		u.resign(t, g, nil)
		return nil
	}},
	{"pack.tables", "policy-text", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		for name := range u {
			if strings.HasPrefix(name, "policies/") {
				u[name] = append(u[name], "// harmless\n"...)
			}
		}
		u.resign(t, g, nil)
		return nil
	}},
}

// workbook is a forgery of summary.xlsx by the operator, who signs it.
func workbook(name string, forge func(testing.TB, *[]entry)) forgery {
	return forgery{"pack.tables", "workbook-" + name, func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		b := u[verify.SummaryFile]
		var parts []entry
		for _, f := range openZip(t, b).File {
			r, err := f.Open()
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts, entry{f.Name, data})
		}
		forge(t, &parts)
		u[verify.SummaryFile] = unpacked{}.zip(t, parts...)
		u.resign(t, g, nil)
		return nil
	}}
}

// change changes a text in the first part that has it.
func change(t testing.TB, parts *[]entry, from, to string) {
	t.Helper()
	for i, p := range *parts {
		if bytes.Contains(p.data, []byte(from)) {
			(*parts)[i].data = bytes.Replace(p.data, []byte(from), []byte(to), 1)
			return
		}
	}
	t.Fatalf("no part of the workbook has %s", from)
}

// cutForgeries are of a pack whose period is not the whole log.
var cutForgeries = []forgery{
	{"log.control", "change-left-out", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		files, headers := split(t, u[verify.ContextFile])
		for i, h := range headers {
			if h.Control {
				u[verify.ContextFile] = bytes.Join(slices.Delete(files, i, i+1), nil)
				break
			}
		}
		u.resign(t, g, nil)
		return nil
	}},
	{"pack.context", "out-of-order", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		files, _ := split(t, u[verify.ContextFile])
		slices.Reverse(files)
		u[verify.ContextFile] = bytes.Join(files, nil)
		u.resign(t, g, nil)
		return nil
	}},
	{"pack.range", "period-narrowed", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		u.resign(t, g, func(m *verify.Manifest) { m.Params.From = workpaper.FormatTime(packtest.Noon) })
		return nil
	}},
	{"pack.range", "no-edges", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		delete(u, verify.EdgesFile)
		u.resign(t, g, nil)
		return nil
	}},
	{"session.attribution", "session-left-out", func(t testing.TB, g *packtest.Gateway, u unpacked) []entry {
		// The block with the start of a session that the period goes on with.
		files, headers := split(t, u[verify.ContextFile])
		for i, h := range headers {
			if !h.Control && h.First > 0 {
				u[verify.ContextFile] = bytes.Join(slices.Delete(files, i, i+1), nil)
				// A session that isn't known is not told.
				maps.DeleteFunc(u, func(name string, _ []byte) bool { return strings.HasPrefix(name, "transcripts/gw1.1.11.") })
				break
			}
		}
		u.resign(t, g, nil)
		return nil
	}},
}

func namedSigner(t testing.TB, name, seed string) note.Signer {
	t.Helper()
	key := seedOf(seed)
	s, err := note.NewSigner(fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", name, namedVerifier(t, name, seed).KeyHash(), base64.StdEncoding.EncodeToString(append([]byte{1}, key...))))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func namedVerifier(t testing.TB, name, seed string) note.Verifier {
	t.Helper()
	v, err := note.NewVerifier(verifierKey(t, name, seed))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func verifierKey(t testing.TB, name, seed string) string {
	t.Helper()
	vkey, err := note.NewEd25519VerifierKey(name, ed25519.NewKeyFromSeed(seedOf(seed)).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return vkey
}

func seedOf(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}

// vector is a line of testdata/vectors.json: what any verifier must say.
type vector struct {
	Pack    string            `json:"pack"`
	Trust   *verify.TrustFile `json:"trust,omitempty"`  // default: testdata/trust.json
	TSA     string            `json:"tsa_ca,omitempty"` // file of the trusted authorities' roots
	Sample  string            `json:"sample,omitempty"` // file of a sample of the pack
	Answer  string            `json:"answer,omitempty"` // file of the answer to it
	Finding string            `json:"finding"`          // "" when all is good
	Also    string            `json:"also,omitempty"`   // a finding of integrity that comes with it
}

// The keys of the logs below: the one that a log begins with, and others.
const firstKey, secondKey, thirdKey = "packtest log key", "second log key", "third log key"

// keyed is a log whose key changes, and what an auditor with some of its keys
// must say of it.
type keyed struct {
	finding, name string
	trust         []string // keys, by their seeds
	log           func() *packtest.Gateway
	kept          func(*packtest.Gateway) ledger.Checkpoint // by the auditor
	from, to      int64                                     // the period, in seconds; to 0 is the end
	forge         func(t testing.TB, g *packtest.Gateway, u unpacked)
}

// rotated is the shop with a new key, and whatever comes after.
func rotated(then ...func(*packtest.Gateway)) func() *packtest.Gateway {
	return func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.Rotate(secondKey)
		s.Do("SELECT ?", "postgres:select", "public.orders")
		g.Cut()
		for _, f := range then {
			f(g)
		}
		return finish(g, s)
	}
}

// spoilt is the shop rotated with the record changed before it is sealed.
func spoilt(change func(*evidence.LogKeyBody)) func() *packtest.Gateway {
	return func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.Change = func(d *evidence.Draft) {
			var b evidence.LogKeyBody
			if d.Head.Type != evidence.LogKey || evidence.DecodeBody(d.Body, &b) != nil {
				return
			}
			change(&b)
			d.Body = evidence.EncodeBody(b)
		}
		g.Rotate(secondKey)
		return finish(g, s)
	}
}

func revoked(g *packtest.Gateway) { g.Revoke(firstKey) }

// anotherPolicy puts a policy in force that a key signed; "" is the one in force.
func anotherPolicy(signer string) func(*packtest.Gateway) {
	return func(g *packtest.Gateway) {
		before, _ := g.Registry.Bundle()
		files := []evidence.File{{Name: "roles.cedar", Text: packtest.Policy + "// and no more\n"}}
		b := evidence.PolicyBody{Digest: decision.Digest(files, before.Actions), Before: before.Digest, Files: files, Actions: before.Actions, By: packtest.Alice}
		if signer != "" {
			key, _ := packtest.LogKey(signer)
			if err := ledger.SignPolicy(packtest.Origin, &b, key); err != nil {
				panic(err)
			}
		}
		g.Own(evidence.PolicyChange, b)
	}
}

// newest is what an auditor keeps who was there after all of it.
func newest(g *packtest.Gateway) ledger.Checkpoint { return g.Checkpoint() }

// dropKeys leaves the changes of keys out of a pack, or all but some.
func dropKeys(keep int) func(testing.TB, *packtest.Gateway, unpacked) {
	return func(t testing.TB, g *packtest.Gateway, u unpacked) {
		lines := bytes.SplitAfter(u[verify.KeysFile], []byte("\n"))
		if u[verify.KeysFile] = bytes.Join(lines[:keep], nil); keep == 0 {
			delete(u, verify.KeysFile)
		}
		u.resign(t, g, nil)
	}
}

// late is a log that changes its key after the period, and again.
func late() *packtest.Gateway {
	g, s := packtest.Shop()
	s.Close()
	g.Cut()
	g.Now = packtest.Noon + 50*packtest.Second
	g.Beat()
	g.Rotate(secondKey)
	g.Cut()
	g.Rotate(thirdKey)
	g.Stop()
	g.Cut()
	g.Now += 10 * packtest.Second
	g.Boot()
	return finish(g, nil)
}

var keyedLogs = []keyed{
	{"", "rotated-known-by-the-old-key", []string{firstKey}, rotated(), nil, 0, 0, nil},
	{"", "rotated-known-by-the-new-key", []string{secondKey}, rotated(), nil, 0, 0, nil},
	{"", "rotated-known-by-both", []string{firstKey, secondKey}, rotated(), nil, 0, 0, nil},
	{"", "rotated-since", []string{firstKey}, late, nil, 0, 25, nil},
	{"", "rotated-before", []string{firstKey}, late, nil, 55, 0, nil},
	{"", "revoked-known-by-the-new-key", []string{secondKey}, rotated(revoked), nil, 0, 0, nil},
	{"", "revoked-and-kept-since", []string{firstKey}, rotated(revoked), newest, 0, 0, nil},
	{"log.keys", "followed-from-a-revoked-key", []string{firstKey}, rotated(revoked), nil, 0, 0, nil},
	{"log.keys", "revoked-key-signs", []string{firstKey}, rotated(revoked, func(g *packtest.Gateway) { g.SignAs(firstKey) }), nil, 0, 0, nil},
	{"log.keys", "replaced-key-signs", []string{firstKey, secondKey}, rotated(func(g *packtest.Gateway) { g.SignAs(firstKey) }), nil, 0, 0, nil},
	{"log.keys", "rotation-not-recorded", []string{firstKey, secondKey}, func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.SignAs(secondKey)
		return finish(g, s)
	}, nil, 0, 0, nil},
	{"pack.manifest", "rotation-not-recorded", []string{firstKey}, func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.SignAs(secondKey)
		return finish(g, s)
	}, nil, 0, 0, nil},
	{"log.keys", "rotation-left-out", []string{secondKey}, rotated(), nil, 0, 0, dropKeys(0)},
	{"log.keys", "revocation-left-out", []string{firstKey}, rotated(revoked), nil, 0, 0, dropKeys(1)},
	{"log.keys", "rotation-made-up", []string{firstKey, secondKey}, rotated(), nil, 0, 0, func(t testing.TB, g *packtest.Gateway, u unpacked) {
		other := rotated(func(g *packtest.Gateway) { g.Rotate(thirdKey) })() // of the same log until then
		u[verify.KeysFile] = unpack(t, create(t, other, at(0), at(36000)))[verify.KeysFile]
		u.resign(t, g, nil)
	}},
	{"log.keys", "forged-signature-of-the-old", []string{secondKey}, spoilt(func(b *evidence.LogKeyBody) { b.Signatures[0] = b.Signatures[1] }), nil, 0, 0, nil},
	{"log.keys", "forged-signature-of-the-new", []string{firstKey, secondKey}, spoilt(func(b *evidence.LogKeyBody) { b.Signatures[1] = b.Signatures[0] }), nil, 0, 0, nil},
	{"pack.manifest", "forged-signature-of-the-old", []string{firstKey}, spoilt(func(b *evidence.LogKeyBody) { b.Signatures[0] = b.Signatures[1] }), nil, 0, 0, nil},
	{"", "policy-signed-before-and-after", []string{firstKey}, rotated(anotherPolicy("")), nil, 0, 0, nil},
	{"log.keys", "policy-not-signed", []string{firstKey}, rotated(anotherPolicy("nobody")), nil, 0, 0, nil},
	{"log.keys", "policy-signed-by-a-replaced-key", []string{firstKey}, rotated(anotherPolicy(firstKey)), nil, 0, 0, nil},
	{"log.keys", "another-history-signed", []string{firstKey}, spoilt(func(b *evidence.LogKeyBody) {
		b.Root[0] ^= 1
		old, _ := packtest.LogKey(firstKey)
		next, _ := packtest.LogKey(secondKey)
		if err := ledger.SignKeyChange(packtest.Origin, b, old, next); err != nil {
			panic(err)
		}
	}), nil, 0, 0, nil},
	{"log.keys", "back-to-an-old-key", []string{firstKey}, rotated(func(g *packtest.Gateway) { g.Rotate(firstKey) }), nil, 0, 0, nil},
	{"log.keys", "boot-with-another-key", []string{firstKey}, edit(evidence.GatewayStart, func(_ *evidence.Head, b *evidence.GatewayStartBody) {
		_, b.LogKey = packtest.LogKey(secondKey)
	}), nil, 0, 0, nil},
	{"log.keys", "manifest-by-another-key", []string{firstKey, secondKey}, rotated(), nil, 0, 0, func(t testing.TB, _ *packtest.Gateway, u unpacked) {
		old, _ := packtest.LogKey(firstKey)
		signed, err := note.Sign(&note.Note{Text: verify.SignedText(packtest.Origin, u[verify.ManifestFile])}, old)
		if err != nil {
			t.Fatal(err)
		}
		u[verify.SignatureFile] = signed
	}},
	{"log.keys", "another-spelling", []string{secondKey}, rotated(), nil, 0, 0, func(t testing.TB, g *packtest.Gateway, u unpacked) {
		u[verify.KeysFile] = append([]byte(" "), u[verify.KeysFile]...)
		u.resign(t, g, nil)
	}},
}

// vectors makes every pack of testdata.
func vectors(t testing.TB) (list []vector, packs map[string][]byte) {
	packs = make(map[string][]byte)
	add := func(name, finding string, trust *verify.TrustFile, b []byte) {
		packs[name] = b
		v := vector{Pack: name, Trust: trust, Finding: finding}
		if strings.HasSuffix(name, "-session-left-out.zip") {
			v.Also = "pack.tables"
		}
		list = append(list, v)
	}
	good := finish(packtest.Shop())
	whole := create(t, good, at(0), at(3600))
	cut := packtest.Day()
	part := create(t, cut, at(90), at(160))
	add("good.zip", "", nil, whole)
	add("good-part.zip", "", nil, part)
	for _, l := range lies {
		add(l.finding+"-"+l.name+".zip", l.finding, nil, create(t, l.log(), at(0), at(40_000_000)))
	}
	for _, set := range []struct {
		g         *packtest.Gateway
		pack      []byte
		forgeries []forgery
	}{{good, whole, forgeries}, {cut, part, cutForgeries}} {
		for _, f := range set.forgeries {
			u := unpack(t, set.pack)
			more := f.change(t, set.g, u)
			add(f.finding+"-"+f.name+".zip", f.finding, nil, u.zip(t, more...))
		}
	}
	other := finish(packtest.Shop()).Checkpoint()
	other.Size = 1
	known := verify.NewTrustFile(good.VerifierKey())
	known.Remember(other)
	add("log.known-rewritten.zip", "log.known", known, whole)
	for _, k := range slices.Concat(keyedLogs, disposedLogs) {
		trusted := verify.NewTrustFile()
		for _, name := range k.trust {
			_, vkey := packtest.LogKey(name)
			trusted.Log = append(trusted.Log, vkey)
		}
		g := k.log()
		if k.kept != nil {
			trusted.Remember(k.kept(g))
		}
		b := create(t, g, at(k.from), at(cmp.Or(k.to, 36000)))
		if k.forge != nil {
			u := unpack(t, b)
			k.forge(t, g, u)
			b = u.zip(t)
		}
		name := k.finding + "-" + k.name + ".zip"
		if k.finding == "" {
			name = "good-" + k.name + ".zip"
		}
		add(name, k.finding, trusted, b)
	}
	witness := verify.NewTrustFile(good.VerifierKey())
	witness.Witnesses, witness.Quorum = []string{verifierKey(t, "witness.example.org", "witness")}, 1
	add("log.witnesses-none.zip", "log.witnesses", witness, whole)
	stamp := func(name, finding string, b []byte) {
		add(name, finding, nil, b)
		list[len(list)-1].TSA = "tsa.pem"
	}
	day := stampedDay(tsa)
	stampedWhole := create(t, day, at(0), at(3600))
	stamp("good-stamped.zip", "", stampedWhole)
	stamp("log.stamps-none.zip", "log.stamps", whole)
	stamp("log.stamps-another-authority.zip", "log.stamps", create(t, stampedDay(stamptest.New("other.example.org", stamptest.Certificate{})), at(0), at(3600)))
	for _, f := range stampForgeries {
		u := unpack(t, stampedWhole)
		f.change(t, u)
		u.resign(t, day, nil)
		stamp("log.stamps-"+f.name+".zip", "log.stamps", u.zip(t))
	}
	levelVectors(t, add)
	return append(list, sampleVectors(t, packs)...), packs
}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	text, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatalf("%v\nhint: go test ./verify -run TestVectors -update", err)
	}
	var list []vector
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	text, err = os.ReadFile("testdata/trust.json")
	if err != nil {
		t.Fatal(err)
	}
	usual, err := verify.ParseTrustFile(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range list {
		t.Run(strings.TrimSuffix(v.Pack, ".zip")+v.Answer, func(t *testing.T) {
			if v.Trust == nil {
				v.Trust = usual
			}
			tr, err := v.Trust.Trust()
			if err != nil {
				t.Fatal(err)
			}
			if v.TSA != "" {
				roots, err := os.ReadFile(filepath.Join("testdata", v.TSA))
				if err != nil {
					t.Fatal(err)
				}
				tr.TSA = x509.NewCertPool()
				tr.TSA.AppendCertsFromPEM(roots)
			}
			p, c, err := verify.Open(filepath.Join("testdata", v.Pack))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			r, err := verify.Pack(p, tr, v.samples(t)...)
			if err != nil {
				t.Fatal(err)
			}
			expect(t, r, v.Finding, "decision.replay", v.Also)
		})
	}
}

// expect wants one finding. If that is one of control, no check of integrity
// may fail but those named.
func expect(t *testing.T, r *verify.Report, finding string, also ...string) {
	t.Helper()
	var found, all []string
	integrity := false
	for _, c := range r.Failed() {
		all = append(all, c.ID)
		if c.ID == finding {
			found = append(found, c.ID)
			integrity = c.Kind == verify.Integrity
		}
	}
	if finding == "" && len(all) > 0 || finding != "" && len(found) == 0 {
		var b bytes.Buffer
		_ = r.WriteText(&b)
		t.Errorf("found %q, want %q\n%s", all, finding, b.String())
	}
	for _, c := range r.Failed() {
		if !integrity && c.Kind == verify.Integrity && !slices.Contains(also, c.ID) {
			t.Errorf("a lie told in good form fails %s: %v", c.ID, c.Exceptions)
		}
	}
}

func writeVectors(t *testing.T) {
	list, packs := vectors(t)
	old, err := filepath.Glob("testdata/*.zip")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join("testdata", name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range packs {
		write(name, b)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(list); err != nil {
		t.Fatal(err)
	}
	write("vectors.json", b.Bytes())
	trust, err := verify.NewTrustFile(packtest.New().VerifierKey()).Encode()
	if err != nil {
		t.Fatal(err)
	}
	write("trust.json", trust)
	write("tsa.pem", tsa.PEM())
}

// Every kind of finding that a pack can have has a pack that has it.
func TestEveryFindingHasAVector(t *testing.T) {
	g := finish(packtest.Shop())
	r, err := verify.Pack(openZip(t, create(t, g, at(0), at(3600))), trust(t, g))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Checks {
		if c.State == workpaper.NotTested && c.ID != "log.witnesses" && c.ID != "log.known" && c.ID != "log.stamps" {
			continue // nothing can be found by what isn't tested
		}
		if c.ID == "record.sequence" {
			continue // blocks can't hold it; the tests of workpaper have it
		}
		if !bytes.Contains(text, []byte(`"finding": "`+c.ID+`"`)) {
			t.Errorf("no vector has the finding %s", c.ID)
		}
	}
}

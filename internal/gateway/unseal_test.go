package gateway

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/internal/recorder"
	"github.com/exhibit-gateway/exhibit/verify"
)

// secretly records a command with a statement that is sealed.
func (w *world) secretly(c *recorder.Chain, statement string) evidence.Position {
	w.t.Helper()
	d := &evidence.Draft{
		Head: evidence.Head{Type: evidence.CommandIntent, Agent: "bot", Resource: "orders", Verb: evidence.VerbRead, Effect: evidence.Allow},
		Body: evidence.EncodeBody(evidence.IntentBody{Text: "SELECT ?"}), Sealed: evidence.EncodeBody(evidence.IntentSealed{Raw: []byte(statement)}),
	}
	if _, err := c.Record(w.t.Context(), 0, evidence.Process, d); err != nil {
		w.t.Fatal(err)
	}
	w.put(c, evidence.Head{Type: evidence.CommandResult, Of: d.Head.Pos, Outcome: evidence.OK}, evidence.ResultBody{})
	return d.Head.Pos
}

// wholePack is a pack of everything so far.
func (w *world) wholePack() (*bytes.Buffer, api.Pack) {
	w.t.Helper()
	var b bytes.Buffer
	made, err := w.CreatePack(w.t.Context(), api.PackRequest{From: api.Moment{Time: time.Now().Add(-time.Hour)}, Purpose: "audit"}, packtest.Alice, &b, func(api.Progress) {})
	if err != nil {
		w.t.Fatal(err)
	}
	return &b, made
}

// asking is the request for what is sealed of picked commands of a pack.
func asking(t *testing.T, pack []byte, recipient string, picked ...evidence.Position) (*verify.Sample, api.UnsealRequest) {
	t.Helper()
	z, err := verify.OpenZip(bytes.NewReader(pack), int64(len(pack)))
	if err != nil {
		t.Fatal(err)
	}
	p := verify.SampleParams{Population: "commands", Recipient: recipient}
	for _, pos := range picked {
		p.Picked = append(p.Picked, pos.String())
	}
	s, err := verify.DrawSample(z, p)
	if err != nil {
		t.Fatal(err)
	}
	m, err := verify.CheckSample(z, s)
	if err != nil {
		t.Fatal(err)
	}
	digest := s.Digest()
	r := api.UnsealRequest{ID: s.ID, Sample: hex.EncodeToString(digest[:]), Manifest: s.Pack.Manifest, TreeSize: m.Tree.Size, Last: m.Range.Last.String(),
		Reader: "Audit LLP", Purpose: "fieldwork", Recipient: recipient}
	for _, row := range s.Rows {
		for _, pos := range row.Records {
			r.Records = append(r.Records, pos.String())
		}
	}
	return s, r
}

// What is sealed of a sample leaves the gateway encrypted to the auditor, opens
// against the pack, and is on record before. Nothing else can be read with it.
func TestTheSealedPartsOfASampleAreOpened(t *testing.T) {
	w := newWorld(t)
	auditor, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	c, start := w.open()
	w.secretly(c, "select 'another'")
	quince := w.secretly(c, "select 'quince-4711'")
	w.end(c, start)
	gone, goneStart := w.open()
	erased := w.secretly(gone, "select 'forgotten'")
	w.end(gone, goneStart)
	pack, made := w.wholePack()
	if err := w.keys.Shred(goneStart.Boot, gone.Key()); err != nil {
		t.Fatal(err)
	}
	sample, request := asking(t, pack.Bytes(), auditor.Recipient().String(), quince, erased)

	var answer bytes.Buffer
	out, err := w.UnsealSample(t.Context(), request, packtest.Alice, &answer)
	if err != nil {
		t.Fatal(err)
	}
	if out.Made != made.Made {
		t.Errorf("the pack is %s, want %s", out.Made, made.Made)
	}
	if bytes.Contains(answer.Bytes(), []byte("quince")) || bytes.Contains(answer.Bytes(), []byte(base64.StdEncoding.EncodeToString([]byte("select 'quince")))) {
		t.Error("the answer is in the clear")
	}
	plain, err := age.Decrypt(&answer, auditor)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(plain)
	if err != nil {
		t.Fatal(err)
	}
	for word, want := range map[string]bool{"quince-4711": true, "another": false, "forgotten": false} {
		if got := slices.ContainsFunc(statements(t, text), func(s string) bool { return strings.Contains(s, word) }); got != want {
			t.Errorf("%s was opened: %v", word, got)
		}
	}
	if !strings.Contains(string(text), `{"pos":"`+erased.String()+`","absent":"erased"}`) {
		t.Error("the erased part is not said to be")
	}
	read, err := verify.ReadAnswer(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	trust, err := verify.NewTrustFile(w.keyInForce(w.sealer.Status().Blocks)).Trust()
	if err != nil {
		t.Fatal(err)
	}
	z, err := verify.OpenZip(bytes.NewReader(pack.Bytes()), int64(pack.Len()))
	if err != nil {
		t.Fatal(err)
	}
	report, err := verify.Pack(z, trust, &verify.Sampled{Sample: sample, Answer: read})
	if err != nil {
		t.Fatal(err)
	}
	passed := 0
	for _, check := range report.Checks {
		if check.Kind == verify.Sampling && check.State == "pass" {
			passed++
		}
		if check.Kind == verify.Sampling && check.Failed > 0 {
			t.Errorf("%s: %v", check.ID, check.Exceptions)
		}
	}
	if passed != 3 {
		t.Errorf("%d checks of the sample passed", passed)
	}

	// The next pack tells who got what.
	next, _ := w.wholePack()
	if z, err = verify.OpenZip(bytes.NewReader(next.Bytes()), int64(next.Len())); err != nil {
		t.Fatal(err)
	}
	f, err := z.Open("pop/evidence_access.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	if want := `"reader":"Audit LLP","read_by":"alice@example.com","read_via":"unix peer uid 1000","purpose":"fieldwork","object":"sample ` + sample.ID; !strings.Contains(string(rows), want) {
		t.Errorf("no row has %s:\n%s", want, rows)
	}
}

// statements are those that an answer opens.
func statements(t *testing.T, answer []byte) (list []string) {
	t.Helper()
	for line := range bytes.Lines(answer) {
		var o verify.Opened
		var s evidence.IntentSealed
		if evidence.DecodeBody(bytes.TrimSpace(line), &o) == nil && len(o.Sealed) > 0 {
			if err := evidence.DecodeBody(o.Sealed, &s); err != nil {
				t.Fatal(err)
			}
			list = append(list, string(s.Raw))
		}
	}
	return list
}

// Without a reader, a purpose, somebody to encrypt to, a pack that was made
// here, or a record, nothing is opened, and a refusal opens nothing.
func TestNothingIsOpenedWithoutARecordOfIt(t *testing.T) {
	w := newWorld(t)
	auditor, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	c, start := w.open()
	quince := w.secretly(c, "select 'quince-4711'")
	w.end(c, start)
	pack, _ := w.wholePack()
	_, good := asking(t, pack.Bytes(), auditor.Recipient().String(), quince)
	reads := w.count(evidence.EvidenceRead)
	for name, change := range map[string]func(*api.UnsealRequest){
		"no purpose":     func(r *api.UnsealRequest) { r.Purpose = " " },
		"no reader":      func(r *api.UnsealRequest) { r.Reader = "" },
		"no recipient":   func(r *api.UnsealRequest) { r.Recipient = "auditor" },
		"two recipients": func(r *api.UnsealRequest) { r.Recipient += "\n" + r.Recipient },
		"another pack":   func(r *api.UnsealRequest) { r.Manifest = strings.Repeat("0", 64) },
		"another log":    func(r *api.UnsealRequest) { r.TreeSize = 1 << 40 },
		"no record":      func(r *api.UnsealRequest) { r.Records = []string{"gw1.9.9"} },
		"of another":     func(r *api.UnsealRequest) { r.Records = []string{"gw2.1.1"} },
	} {
		r := good
		change(&r)
		var answer bytes.Buffer
		if _, err := w.UnsealSample(t.Context(), r, packtest.Alice, &answer); problemStatus(err) == 0 || answer.Len() > 0 {
			t.Errorf("%s: error %v and %d bytes", name, err, answer.Len())
		}
	}
	if n := w.count(evidence.EvidenceRead); n != reads {
		t.Errorf("%d reads of what was refused are on record", n-reads)
	}
	if err := w.stop(); err != nil { // nothing can be recorded any more
		t.Fatal(err)
	}
	var answer bytes.Buffer
	_, err = w.UnsealSample(t.Context(), good, packtest.Alice, &answer)
	var p *api.Problem
	if answer.Len() > 0 || err == nil || errors.As(err, &p) && p.Status != http.StatusServiceUnavailable {
		t.Errorf("error %v and %d bytes", err, answer.Len())
	}
}

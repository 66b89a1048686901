package verify_test

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/internal/seal/stamptest"
	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/verify"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// tsa is the authority that the vectors trust.
var tsa = stamptest.New("tsa.example.org", stamptest.Certificate{})

// stampedDay is a log that was stamped once within its day, and once at its end.
func stampedDay(by *stamptest.Authority) *packtest.Gateway {
	by.Change = func(d *stamptest.Draft) { d.Seconds = 1 }
	stamp := func(g *packtest.Gateway) {
		g.Stamp(func(checkpoint []byte) []byte { return by.Token(checkpoint, time.UnixMicro(g.Now+5*packtest.Second)) })
	}
	g, s := packtest.Shop()
	stamp(g)
	for range 10 { // silence would be a finding of another kind
		g.Now += 59 * packtest.Second
		g.Beat()
	}
	s.Do("SELECT ?", "postgres:select", "public.orders")
	finish(g, s)
	stamp(g)
	return g
}

// stampForgery changes the stamped checkpoints of a pack.
type stampForgery struct {
	name   string
	want   string // in the finding
	change func(t testing.TB, u unpacked)
}

var stampForgeries = []stampForgery{
	{"damaged", "signature is not by its certificate", eachStamp(func(list []ledger.Stamped) {
		token := list[1].Token
		token[len(token)-1]++
	})},
	{"swapped", "it is of other bytes than these", eachStamp(func(list []ledger.Stamped) {
		list[0].Token, list[1].Token = list[1].Token, list[0].Token
	})},
	{"of-another-checkpoint", "it is of other bytes than these", eachStamp(func(list []ledger.Stamped) {
		list[0].Checkpoint = list[1].Checkpoint
	})},
	{"backdated", "what it says is not what was signed", eachStamp(func(list []ledger.Stamped) {
		list[1].Token = bytes.ReplaceAll(list[1].Token, []byte("20270115"), []byte("20260115"))
	})},
	{"of-a-rewritten-log", "the log was rewritten", eachStamp(func(list []ledger.Stamped) {
		g, _ := packtest.Shop()
		g.Beat() // instead of what came
		g.Stamp(func(checkpoint []byte) []byte { return tsa.Token(checkpoint, at(9)) })
		list[0] = g.Stamped[0]
	})},
	{"of-an-unsigned-checkpoint", "not a checkpoint to trust", eachStamp(func(list []ledger.Stamped) {
		text, _, _ := strings.Cut(list[0].Checkpoint, "\n\n")
		signed, err := note.Sign(&note.Note{Text: text + "\n"}, forger)
		if err != nil {
			panic(err)
		}
		list[0] = ledger.Stamped{Checkpoint: string(signed), Token: tsa.Token(signed, at(9))}
	})},
	{"cut-off", "unexpected EOF", func(_ testing.TB, u unpacked) {
		u[verify.StampsFile] = u[verify.StampsFile][:len(u[verify.StampsFile])-1]
	}},
	{"not-stamps", "not a file of stamped checkpoints", func(_ testing.TB, u unpacked) { u[verify.StampsFile] = []byte("{}\n") }},
}

// forger has a key of the log's name.
var forger = func() note.Signer {
	skey, _, err := note.GenerateKey(strings.NewReader(strings.Repeat("forger's seed...", 4)), packtest.Origin)
	if err != nil {
		panic(err)
	}
	s, err := note.NewSigner(skey)
	if err != nil {
		panic(err)
	}
	return s
}()

// eachStamp changes the lines of the file.
func eachStamp(change func([]ledger.Stamped)) func(testing.TB, unpacked) {
	return func(t testing.TB, u unpacked) {
		t.Helper()
		var list []ledger.Stamped
		err := ledger.ReadStamps(bytes.NewReader(u[verify.StampsFile]), func(_ []byte, s *ledger.Stamped) error {
			list = append(list, *s)
			return nil
		})
		if err != nil || len(list) != 2 {
			t.Fatalf("%d stamps, %v", len(list), err)
		}
		change(list)
		var b bytes.Buffer
		for _, s := range list {
			line, err := s.Encode()
			if err != nil {
				t.Fatal(err)
			}
			b.Write(line)
		}
		u[verify.StampsFile] = b.Bytes()
	}
}

// verified verifies a pack with these roots.
func verified(t *testing.T, g *packtest.Gateway, b []byte, roots *x509.CertPool) *verify.Report {
	t.Helper()
	tr := trust(t, g)
	tr.TSA = roots
	r, err := verify.Pack(openZip(t, b), tr)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func checkOf(t *testing.T, r *verify.Report, id string) *verify.Check {
	t.Helper()
	for _, c := range r.Checks {
		if c.ID == id {
			return c
		}
	}
	t.Fatalf("no check %s", id)
	return nil
}

func TestStampedPack(t *testing.T) {
	g := stampedDay(tsa)
	b := create(t, g, at(0), at(3600))
	// With the authority: when it was, and how late the stamps are.
	r := verified(t, g, b, tsa.Roots())
	expect(t, r, "")
	s := r.Stamps
	if s == nil || s.Verified != 2 || s.Unstamped != 0 || s.Whole == nil || s.Whole.TreeSize != r.Pack.TreeSize || s.Whole.Authority != "CN=tsa.example.org" {
		t.Fatalf("stamps %+v", s)
	}
	want := time.UnixMicro(g.Now + 6*packtest.Second).UTC().Truncate(time.Second) // a second for the accuracy
	if !s.Whole.NotAfter.Equal(want) || !strings.Contains(r.Stamped, want.Format(time.RFC3339)) {
		t.Errorf("not after %v, want %v: %s", s.Whole.NotAfter, want, r.Stamped)
	}
	if s.Wait < 100 || s.Wait > 700 {
		t.Errorf("the longest wait is %d s", s.Wait)
	}
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil || !strings.Contains(text.String(), "Stamped       the log of ") {
		t.Errorf("%v\n%s", err, text.String())
	}
	// Without: it says so, and that there is something to verify.
	r = verified(t, g, b, nil)
	expect(t, r, "")
	if c := checkOf(t, r, "log.stamps"); c.State != workpaper.NotTested || !strings.Contains(c.Note, "--tsa-ca") || !strings.Contains(r.Stamped, "not verified") || r.Stamps != nil {
		t.Errorf("%s: %s; %s", c.State, c.Note, r.Stamped)
	}
	// With another: they prove nothing, which is not what was demanded.
	r = verified(t, g, b, stamptest.New("other.example.org", stamptest.Certificate{}).Roots())
	expect(t, r, "log.stamps")
	if !strings.Contains(r.Stamped, "no time stamp of an authority that you trust") || r.Stamps.Untrusted != 2 {
		t.Errorf("%s; %+v", r.Stamped, r.Stamps)
	}
	// A pack without any says that there is none.
	plain := finish(packtest.Shop())
	r = verified(t, plain, create(t, plain, at(0), at(3600)), nil)
	if c := checkOf(t, r, "log.stamps"); c.State != workpaper.NotTested || !strings.Contains(r.Stamped, "operator's word") {
		t.Errorf("%s: %s; %s", c.State, c.Note, r.Stamped)
	}
}

// A part of a log has the stamps that say something of it.
func TestAPackHoldsTheStampsOfItsRange(t *testing.T) {
	g := stampedDay(tsa)
	for i := range 3 { // later ones are of no more use
		g.Now += packtest.Second
		g.Boot()
		g.Stop()
		g.Stamp(func(checkpoint []byte) []byte { return tsa.Token(checkpoint, at(1000+int64(i))) })
	}
	other := stamptest.New("other.example.org", stamptest.Certificate{})
	g.Stamp(func(checkpoint []byte) []byte { return other.Token(checkpoint, at(2000)) }) // but for whom another is trusted
	read := func(b []byte) (sizes []uint64) {
		err := ledger.ReadStamps(bytes.NewReader(unpack(t, b)[verify.StampsFile]), func(_ []byte, s *ledger.Stamped) error {
			cp, _, err := s.Open()
			sizes = append(sizes, cp.Size)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return sizes
	}
	first := create(t, g, at(0), at(0))
	one, _ := packtest.Shop()
	if got := read(first); len(got) != 2 || got[0] != one.Checkpoint().Size || got[1] != g.Checkpoint().Size {
		t.Errorf("a pack of the beginning has stamps of %v blocks", got)
	}
	r := verified(t, g, first, tsa.Roots())
	if c := checkOf(t, r, "log.stamps"); c.State != workpaper.Pass || !strings.Contains(c.Note, "1 more are of authorities that you don't trust") || r.Stamps.Whole == nil {
		t.Errorf("%s: %s; %+v", c.State, c.Note, r.Stamps)
	}
	if got := read(create(t, g, at(0), at(3600))); len(got) != 6 {
		t.Errorf("a pack of everything has stamps of %v blocks", got)
	}
}

// What came after the last stamp is said to have none.
func TestAPackWithATailThatIsNotStamped(t *testing.T) {
	g, s := packtest.Shop()
	g.Stamp(func(checkpoint []byte) []byte { return tsa.Token(checkpoint, at(5)) })
	finish(g, s)
	r := verified(t, g, create(t, g, at(0), at(3600)), tsa.Roots())
	expect(t, r, "")
	if r.Stamps.Whole != nil || r.Stamps.Unstamped == 0 || !strings.Contains(r.Stamped, "no stamp covers the last") {
		t.Errorf("%s; %+v", r.Stamped, r.Stamps)
	}
}

// Records that are younger than their stamp tell of a clock that was ahead.
func TestAClockAheadOfItsStamps(t *testing.T) {
	g := finish(packtest.Shop())
	g.Stamp(func(checkpoint []byte) []byte { return tsa.Token(checkpoint, at(-600)) })
	r := verified(t, g, create(t, g, at(0), at(3600)), tsa.Roots())
	expect(t, r, "")
	if c := checkOf(t, r, "log.stamps"); r.Stamps.Later == 0 || !strings.Contains(c.Note, "the gateway's clock was ahead") {
		t.Errorf("%s; %+v", c.Note, r.Stamps)
	}
}

func TestForgedStamps(t *testing.T) {
	g := stampedDay(tsa)
	b := create(t, g, at(0), at(3600))
	for _, f := range stampForgeries {
		t.Run(f.name, func(t *testing.T) {
			u := unpack(t, b)
			f.change(t, u)
			u.resign(t, g, nil)
			r := verified(t, g, u.zip(t), tsa.Roots())
			expect(t, r, "log.stamps")
			var texts []string
			for _, e := range checkOf(t, r, "log.stamps").Exceptions {
				texts = append(texts, e.Text)
			}
			if !strings.Contains(strings.Join(texts, "\n"), f.want) {
				t.Errorf("found %q, want %q", texts, f.want)
			}
		})
	}
}

func TestTheCommandTakesRootsOfAuthorities(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	g := stampedDay(tsa)
	pack := write("pack.zip", create(t, g, at(0), at(3600)))
	believed, err := verify.NewTrustFile(g.VerifierKey()).Encode()
	if err != nil {
		t.Fatal(err)
	}
	trustFile := write("trust.json", believed)
	for name, c := range map[string]struct {
		ca   string
		code int
		want string
	}{
		"its root":       {write("tsa.pem", tsa.PEM()), verify.ExitPass, "by CN=tsa.example.org"},
		"another's":      {write("other.pem", stamptest.New("other", stamptest.Certificate{}).PEM()), verify.ExitFail, "log.stamps"},
		"no certificate": {trustFile, verify.ExitUnusable, "holds no certificate"},
		"no file":        {filepath.Join(dir, "none"), verify.ExitUnusable, "reading the time stamp authorities' roots"},
	} {
		var out bytes.Buffer
		if code := verify.Main("exhibit-verify", []string{pack, "--trust", trustFile, "--tsa-ca", c.ca}, &out, &out); code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: exit code %d\n%s", name, code, out.String())
		}
	}
}

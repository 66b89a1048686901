package verify_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/internal/pack"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/verify"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// heads is a pack of level L0.
func heads(t testing.TB, g *packtest.Gateway, from, to int64) []byte {
	t.Helper()
	var b bytes.Buffer
	_, err := pack.Create(context.Background(), g.Source(), pack.Params{From: at(from), To: at(to), By: packtest.Alice, Level: verify.Heads, Temp: t.TempDir()}, &b)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A pack of heads proves itself, says what heads tell and nothing else, and
// claims no test that needs bodies.
func TestPacksOfHeads(t *testing.T) {
	g := packtest.Day()
	for _, span := range [][2]int64{{0, 3600}, {90, 160}, {125, 3600}} {
		packed := heads(t, g, span[0], span[1])
		r, err := verify.Pack(openZip(t, packed), trust(t, g))
		if err != nil {
			t.Fatal(err)
		}
		expect(t, r, "")
		states := make(map[string]workpaper.State)
		for _, c := range r.Checks {
			states[c.ID] = c.State
		}
		for id, want := range map[string]workpaper.State{
			"record.sequence": workpaper.Pass, "command.pairing": workpaper.Pass, "log.block": workpaper.Pass, "pack.tables": workpaper.Pass,
			"record.commitment": workpaper.NotTested, "decision.replay": workpaper.NotTested, "record.sealed": workpaper.NotTested,
			"agent.registered": workpaper.NotTested, "decision.grants": workpaper.NotTested, "record.body": workpaper.NotTested,
		} {
			if states[id] != want {
				t.Errorf("%v: %s is %s, want %s", span, id, states[id], want)
			}
		}
		u, whole := unpack(t, packed), unpack(t, create(t, g, at(span[0]), at(span[1])))
		for name, data := range u {
			for _, secret := range []string{"SELECT", "public.orders", "198.51.100.1", "OPS-1", "alice@example.com"} {
				if name != verify.ManifestFile && name != verify.ReadmeFile && bytes.Contains(data, []byte(secret)) {
					t.Errorf("%s tells of %s", name, secret)
				}
			}
		}
		// What heads tell is what the whole pack tells.
		for _, p := range workpaper.HeadPopulations() {
			if p.Name == "totals" {
				continue
			}
			some, all := tableOf(t, u, p.Name), tableOf(t, whole, p.Name)
			if len(some) != len(all) {
				t.Errorf("%s has %d rows, %d with bodies", p.Name, len(some), len(all))
				continue
			}
			for i := range some {
				for c, v := range some[i] {
					if v != nil && v != workpaper.SealedCell && v != all[i][c] {
						t.Errorf("%s, row %d: %s is %v, with bodies %v", p.Name, i, c, v, all[i][c])
					}
				}
			}
		}
		totals := string(whole["pop/totals.csv"])
		for line := range strings.Lines(string(u["pop/totals.csv"])) {
			if !strings.Contains(totals, line) {
				t.Errorf("%v: with bodies there is no total %s", span, line)
			}
		}
	}
}

// Lies that heads tell are found without bodies.
func TestLiesInHeads(t *testing.T) {
	for _, l := range lies {
		if l.finding != "command.pairing" && l.finding != "record.ordinal" && l.finding != "session.bytes" {
			continue
		}
		g := l.log()
		r, err := verify.Pack(openZip(t, heads(t, g, 0, 36000)), trust(t, g))
		if err != nil {
			t.Fatal(err)
		}
		expect(t, r, l.finding)
	}
}

// A pack of heads can be sampled, and its rows opened.
func TestPacksOfHeadsAreSampled(t *testing.T) {
	g := packtest.Day()
	packed := heads(t, g, 0, 3600)
	a := &answered{g: g, packed: packed, size: g.Checkpoint().Size}
	a.sample = draw(t, unpack(t, packed), verify.SampleParams{Population: "commands", Seed: "s", N: 3})
	a.made = g.Made(a.sample.Pack.Manifest)
	a.read = g.Asked(a.sample)
	a.head, a.lines = g.Answer(a.sample, a.size, a.made, a.read)
	expect(t, a.verify(t, trust(t, g)), "")
	a.lines[a.sealed(0)].Sealed = []byte(`{"params":["Mg=="]}`)
	expect(t, a.verify(t, trust(t, g)), "sample.sealed")
}

// full is a pack of level L3.
func full(t testing.TB, g *packtest.Gateway) unpacked {
	t.Helper()
	var b bytes.Buffer
	_, err := pack.Create(context.Background(), g.Source(), pack.Params{From: at(0), To: at(3600), By: packtest.Alice, Level: verify.Full,
		Purpose: "audit", Recipient: "age1auditor", Temp: t.TempDir()}, &b)
	if err != nil {
		t.Fatal(err)
	}
	return unpack(t, b.Bytes())
}

// Every sealed part of a whole pack is held against its head.
func TestPacksOfEverything(t *testing.T) {
	g := packtest.Day()
	for _, c := range everythingForgeries {
		u := full(t, g)
		c.change(u)
		u.resign(t, g, nil)
		r, err := verify.Pack(u.fs(), trust(t, g))
		if err != nil {
			t.Fatal(err)
		}
		if expect(t, r, c.finding); c.finding == "" {
			for _, check := range r.Checks {
				if check.ID == "record.sealed" && check.State != workpaper.Pass {
					t.Errorf("record.sealed is %s", check.State)
				}
			}
		}
	}
	u := unpack(t, create(t, g, at(0), at(3600))) // what a level has no place for
	u[verify.SealedFile] = []byte("{}\n")
	u.resign(t, g, nil)
	r, err := verify.Pack(u.fs(), trust(t, g))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, "pack.files")
	u.resign(t, g, func(m *verify.Manifest) { m.Params.Level = "L2" })
	if r, err = verify.Pack(u.fs(), trust(t, g)); err != nil {
		t.Fatal(err)
	}
	expect(t, r, "pack.manifest")
}

// everythingForgeries are what may be done to the sealed parts of a whole pack.
var everythingForgeries = []struct {
	name    string
	change  func(u unpacked)
	finding string
}{
	{"true", func(unpacked) {}, ""},
	{"part-swapped", func(u unpacked) {
		u[verify.SealedFile] = bytes.Replace(u[verify.SealedFile], []byte("MQ=="), []byte("Mg=="), 1)
	}, "record.sealed"},
	{"salt-of-another", func(u unpacked) {
		l := sealedLines(u)
		u[verify.SealedFile] = bytes.Replace(u[verify.SealedFile], saltOf(l[0]), saltOf(l[1]), 1)
	}, "record.sealed"},
	{"left-out", func(u unpacked) { u[verify.SealedFile] = bytes.Join(sealedLines(u)[1:], nil) }, "record.sealed"},
	{"too-much", func(u unpacked) { u[verify.SealedFile] = append(u[verify.SealedFile], sealedLines(u)[0]...) }, "record.sealed"},
	{"no-file", func(u unpacked) { delete(u, verify.SealedFile) }, "record.sealed"},
	{"cut", func(u unpacked) { u[verify.SealedFile] = u[verify.SealedFile][:100] }, "record.sealed"},
}

func sealedLines(u unpacked) [][]byte {
	return bytes.SplitAfter(bytes.TrimSuffix(u[verify.SealedFile], []byte("\n")), []byte("\n"))
}

func saltOf(line []byte) []byte {
	_, rest, _ := bytes.Cut(line, []byte(`"salt":"`))
	s, _, _ := bytes.Cut(rest, []byte(`"`))
	return s
}

// levelVectors are packs of other levels.
func levelVectors(t testing.TB, add func(name, finding string, trust *verify.TrustFile, b []byte)) {
	add("good-heads.zip", "", nil, heads(t, packtest.Day(), 90, 160))
	g := packtest.Day()
	for _, f := range everythingForgeries {
		u := full(t, g)
		f.change(u)
		u.resign(t, g, nil)
		name := "good-everything.zip"
		if f.finding != "" {
			name = f.finding + "-" + f.name + ".zip"
		}
		add(name, f.finding, nil, u.zip(t))
	}
}

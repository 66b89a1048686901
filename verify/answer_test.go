package verify_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/verify"
)

// answered is a pack, a sample of it, and the true answer to that.
type answered struct {
	t      testing.TB
	g      *packtest.Gateway
	packed []byte
	size   uint64 // of the pack's tree
	sample *verify.Sample
	made   evidence.Position
	read   evidence.Position
	head   verify.AnswerHead
	lines  []verify.Opened
}

func answer(t testing.TB) *answered {
	t.Helper()
	g := packtest.Day()
	a := &answered{t: t, g: g, packed: create(t, g, at(0), at(3600))}
	u := unpack(t, a.packed)
	a.size = g.Checkpoint().Size
	a.sample = draw(t, u, verify.SampleParams{Population: "commands", Seed: "s", N: 4, Strata: []string{"denied", "all"}})
	g.Beat()
	a.made = g.Made(a.sample.Pack.Manifest)
	a.read = g.Asked(a.sample)
	a.head, a.lines = g.Answer(a.sample, a.size, a.made, a.read)
	return a
}

// verify verifies the pack with the answer as it stands.
func (a *answered) verify(t testing.TB, tr verify.Trust) *verify.Report {
	t.Helper()
	read, err := verify.ReadAnswer(bytes.NewReader(a.file()))
	if err != nil {
		t.Fatal(err)
	}
	r, err := verify.Pack(openZip(t, a.packed), tr, &verify.Sampled{Sample: a.sample, Answer: read})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// sealed is the index of the nth line with a sealed part.
func (a *answered) sealed(n int) int {
	for i := range a.lines {
		if a.lines[i].Absent == "" {
			if n--; n < 0 {
				return i
			}
		}
	}
	panic("too few")
}

// What is opened for a sample is held against the heads of the pack, and the
// order of pack and sample against the log.
func TestAnswersToSamples(t *testing.T) {
	for _, c := range answers {
		t.Run(c.name, func(t *testing.T) {
			a := answer(t)
			tr := trust(t, a.g)
			c.change(a)
			r := a.verify(t, tr)
			expect(t, r, c.finding)
			var text strings.Builder
			if r.WriteText(&text) != nil || !strings.Contains(text.String(), c.says) {
				t.Errorf("the report says nothing of %q:\n%s", c.says, text.String())
			}
		})
	}
}

// What opens one part opens no other: the salts of a session differ, and each
// fits its own record alone.
func TestAnswersOpenNoOtherRecord(t *testing.T) {
	a := answer(t)
	salts := make(map[string]bool)
	for _, l := range a.lines {
		if l.Absent != "" {
			continue
		}
		if salts[l.Salt] {
			t.Errorf("record %s shares its salt", l.Pos)
		}
		salts[l.Salt] = true
	}
	if len(salts) < 2 {
		t.Fatalf("%d parts are opened", len(salts))
	}
}

// Erased parts are told apart from refused ones: nobody has them.
func TestErasedPartsOfASampleAreCounted(t *testing.T) {
	a := answer(t)
	i := a.sealed(0)
	a.lines[i] = verify.Opened{Pos: a.lines[i].Pos, Absent: verify.AbsentErased}
	r := a.verify(t, trust(t, a.g))
	expect(t, r, "")
	for _, c := range r.Checks {
		if c.ID == "sample.sealed" && !strings.Contains(c.Note, "Of 1 record the key was destroyed") {
			t.Errorf("the note is %q", c.Note)
		}
	}
}

func TestWhatIsNoAnswer(t *testing.T) {
	a := answer(t)
	head := string(evidence.EncodeBody(&a.head)) + "\n"
	line := string(a.lines[a.sealed(0)].Encode())
	for name, text := range map[string]string{
		"empty":           "",
		"no header":       line,
		"another version": strings.Replace(head, `"version":1`, `"version":2`, 1),
		"twice":           head + line + line,
		"no salt":         head + strings.Replace(line, `"salt":"`, `"salt":"!`, 1),
		"neither":         head + `{"pos":"gw1.1.1"}` + "\n",
		"both":            head + strings.Replace(line, `}}`, `},"absent":"none"}`, 1),
		"unknown key":     head + strings.Replace(line, `"pos"`, `"why":"","pos"`, 1),
	} {
		if _, err := verify.ReadAnswer(strings.NewReader(text)); err == nil {
			t.Errorf("%s: taken for an answer", name)
		}
	}
}

// file is the answer's file.
func (a *answered) file() []byte {
	file := append(evidence.EncodeBody(&a.head), '\n')
	for i := range a.lines {
		file = append(file, a.lines[i].Encode()...)
	}
	return file
}

// answers are what an answer may be, and what is found of it.
var answers = []struct {
	name          string
	change        func(*answered)
	finding, says string
}{
	{"true", func(*answered) {}, "", ""},
	{"a-part-swapped", func(a *answered) {
		i := a.sealed(0)
		a.lines[i].Sealed = []byte(`{"params":["Mg=="]}`)
	}, "sample.sealed", "not the one that its head commits to"},
	{"the-salt-of-another-record", func(a *answered) {
		i, j := a.sealed(0), a.sealed(1)
		a.lines[i].Salt, a.lines[j].Salt = a.lines[j].Salt, a.lines[i].Salt
	}, "sample.sealed", "not the one that its head commits to"},
	{"a-part-of-a-record-without-one", func(a *answered) {
		for i := range a.lines {
			if a.lines[i].Absent == verify.AbsentNone {
				a.lines[i].Absent, a.lines[i].Sealed, a.lines[i].Salt = "", []byte(`{}`), a.lines[a.sealed(0)].Salt
				return
			}
		}
	}, "sample.sealed", "not the one that its head commits to"},
	{"a-part-denied", func(a *answered) {
		i := a.sealed(0)
		a.lines[i] = verify.Opened{Pos: a.lines[i].Pos, Absent: verify.AbsentNone}
	}, "sample.sealed", "the answer says that it has none"},
	{"a-record-left-out", func(a *answered) { a.lines = a.lines[1:] }, "sample.sealed", "the answer says nothing of it"},
	{"a-record-that-was-not-sampled", func(a *answered) {
		t := a.t
		for line := range bytes.Lines(unpack(t, a.packed)["pop/commands.jsonl"]) {
			id, _, _ := strings.Cut(strings.TrimPrefix(string(line), `{"command_id":"`), `"`)
			pos, err := evidence.ParsePosition(id)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(evidence.EncodeBody(a.sample)), `"`+id+`"`) {
				a.lines = append(a.lines, a.g.Opened(pos))
				return
			}
		}
		t.Fatal("every row is sampled")
	}, "sample.sealed", "belongs to no row"},
	{"the-pack-recorded-after-its-sample", func(a *answered) {
		late := a.g.Made(a.sample.Pack.Manifest)
		a.head, a.lines = a.g.Answer(a.sample, a.size, late, a.read)
	}, "sample.order", "made after its sample was answered"},
	{"the-record-of-another-pack", func(a *answered) {
		other := a.g.Made(strings.Repeat("0", 64))
		read := a.g.Asked(a.sample)
		a.head, a.lines = a.g.Answer(a.sample, a.size, other, read)
	}, "sample.order", "not the record that this pack was made"},
	{"a-record-of-less", func(a *answered) {
		less := *a.sample
		less.Rows = less.Rows[1:]
		a.head, _ = a.g.Answer(a.sample, a.size, a.made, a.g.Asked(&less))
	}, "sample.order", "not the record that this sample was answered"},
	{"to-another-sample", func(a *answered) { a.head.Sample = strings.Repeat("0", 64) }, "sample.order", "another sample, or of another pack"},
	{"a-head-changed", func(a *answered) { a.head.Made.Head = strings.Replace(a.head.Made.Head, `"t":1`, `"t":2`, 1) }, "sample.order", "do not prove it"},
	{"a-body-changed", func(a *answered) { a.head.Read.Body = strings.Replace(a.head.Read.Body, "Audit LLP", "Nobody", 1) }, "sample.order", "does not match the commitment"},
	{"a-path-cut", func(a *answered) { a.head.Made.Tree = a.head.Made.Tree[1:] }, "sample.order", "does not hold block"},
	{"another-history", func(a *answered) { a.head.Growth[0][0] ^= 1 }, "sample.order", "the log was rewritten"},
	{"an-unsigned-checkpoint", func(a *answered) { a.head.Checkpoint = strings.Replace(a.head.Checkpoint, "\n\n— ", "\n\n— x", 1) }, "sample.order", "not a checkpoint to trust"},
}

// sampleVectors are a pack with a sample that is what it says, and one that
// isn't; and with answers to the first.
func sampleVectors(t testing.TB, packs map[string][]byte) (list []vector) {
	const pack, sample, swapped = "good-sampled.zip", "sample.json", "sample-swapped.json"
	encode := func(s *verify.Sample) []byte {
		b, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	a := answer(t)
	packs[pack], packs[sample] = a.packed, encode(a.sample)
	forged := *a.sample
	forged.Rows = slices.Clone(forged.Rows)
	forged.Rows[0].ID = "gw1.1.1"
	packs[swapped] = encode(&forged)
	list = append(list, vector{Pack: pack, Sample: swapped, Finding: "sample.drawn"})
	for _, c := range answers {
		a := answer(t)
		c.change(a)
		name := "answer-" + c.name + ".jsonl"
		packs[name] = a.file()
		list = append(list, vector{Pack: pack, Sample: sample, Answer: name, Finding: c.finding})
	}
	return list
}

// samples are the vector's sample and the answer to it.
func (v *vector) samples(t *testing.T) []*verify.Sampled {
	t.Helper()
	if v.Sample == "" {
		return nil
	}
	text, err := os.ReadFile(filepath.Join("testdata", v.Sample))
	if err != nil {
		t.Fatal(err)
	}
	s := &verify.Sampled{}
	if s.Sample, err = verify.ParseSample(text); err != nil {
		t.Fatal(err)
	}
	if v.Answer != "" {
		if text, err = os.ReadFile(filepath.Join("testdata", v.Answer)); err != nil {
			t.Fatal(err)
		}
		if s.Answer, err = verify.ReadAnswer(bytes.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	return []*verify.Sampled{s}
}

package verify_test

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/verify"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// unended is a pack with a command that nobody saw the end of.
func unended(t *testing.T) *verify.Report {
	t.Helper()
	g, s := packtest.Shop()
	s.Ask("SELECT ?", "postgres:select", "public.orders")
	s.Close()
	g.Stop()
	r, err := verify.Pack(openZip(t, create(t, g, at(0), at(3600))), trust(t, g))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A person who reads no program reads the report: what failed with who, when
// and what was meant, what nobody tested and why, and each criterion in a line.
func TestTheReportIsForPeople(t *testing.T) {
	r := unended(t)
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	from := 0
	for _, want := range []string{
		"FAIL: The evidence is sound, and 1 control test has exceptions.\n",
		"Organisation  Example Ltd\n",
		"Checked\n",
		"checks of the evidence: is it whole, unaltered, and what the tables say\n",
		"control tests: did the controls work, by the records\n",
		"FAILED\n  Every command ended exactly once, or is open at the end of the range\n",
		"command.pairing: 1 exception among 3 commands. Of CC6.1, CC7.2, PI1.3. All of them are in pop/commands.csv.\n",
		"    - 2027-01-15T08:00:00.0", "command.intent of billing-bot on orders in session gw1.1.", "      has no outcome, and its session has ended\n",
		"Not tested, and why\n",
		"log.witnesses: No witness is trusted: operator-only integrity\n",
		"EX-801: not in use: this version records nothing of it\n",
		"Did not occur in the period (so nothing is known of how these work)\n",
		"Passed, each over the whole of its population\n",
		"By criterion",
		"CC6.1 ", "failed: command.pairing\n",
		"It is no auditor's opinion.\n",
	} {
		i := strings.Index(text[from:], want)
		if i < 0 {
			t.Fatalf("the report has no %q after its byte %d:\n%s", want, from, text)
		}
		from += i + len(want)
	}
}

// The JSON says the same of criteria as the text, and counts the verifier's own
// checks in: the matrix in a pack can't.
func TestCriteriaCountTheVerifiersChecks(t *testing.T) {
	r := unended(t)
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Criteria []workpaper.Standing `json:"criteria"`
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	of := func(list []workpaper.Standing, id string) workpaper.Standing {
		i := slices.IndexFunc(list, func(s workpaper.Standing) bool { return s.Criterion == id })
		if i < 0 {
			t.Fatalf("no criterion %s", id)
		}
		return list[i]
	}
	if s := of(got.Criteria, "CC7.2"); s.Fail != 1 || s.Exceptions != 1 || !slices.Equal(s.Failing, []string{"command.pairing"}) {
		t.Errorf("CC7.2: %+v", s)
	}
	if s := of(got.Criteria, "CC2.1"); s.Pass < 3+5+3 || !slices.Contains(s.Untested, "log.witnesses") {
		t.Errorf("CC2.1 rests on the verifier's checks, and says %+v", s)
	}
	if s := of(got.Criteria, "CC6.4"); s.Pass != 0 || s.NotTested != 1 {
		t.Errorf("CC6.4 is outside, and says %+v", s)
	}
}

// How far the verifier is shows on a terminal, and nowhere else.
func TestProgressIsForTerminals(t *testing.T) {
	var calls, last, total uint64
	g, s := packtest.Shop()
	pack := openZip(t, create(t, finish(g, s), at(0), at(3600)))
	r, err := verify.PackWith(func(done, of uint64) {
		calls++
		if done <= last {
			t.Errorf("%d records after %d", done, last)
		}
		last, total = done, of
	}, pack, trust(t, g))
	if err != nil {
		t.Fatal(err)
	}
	if calls == 0 || last != total || total != r.Pack.Range.Records {
		t.Errorf("%d calls, the last with %d of %d records; there are %d", calls, last, total, r.Pack.Range.Records)
	}
	for _, c := range []struct {
		done, total uint64
		took        time.Duration
		want        string
	}{
		{250_000, 1_000_000, time.Second, "checked 250000 of 1000000 records (25 %), 3s left"},
		{7, 0, time.Second, "checked 7 records"},
		{7, 5, time.Second, "checked 7 records"}, // a manifest that lies
	} {
		if got := verify.ProgressLine(c.done, c.total, c.took); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	var out, progress bytes.Buffer
	if code := verify.Main("exhibit-verify", []string{filepath.Join("testdata", "good.zip"), "--trust", filepath.Join("testdata", "trust.json")}, &out, &progress); code != 0 || progress.Len() > 0 {
		t.Errorf("exit code %d, and to what is no terminal %q", code, progress.String())
	}
}

package verify_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/internal/pack"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/verify"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// at is a time of the synthetic log, in seconds after noon.
func at(seconds int64) time.Time {
	return time.UnixMicro(packtest.Noon + seconds*packtest.Second).UTC()
}

// create makes a pack of a synthetic log.
func create(t testing.TB, g *packtest.Gateway, from, to time.Time) []byte {
	t.Helper()
	var b bytes.Buffer
	_, err := pack.Create(context.Background(), g.Source(), pack.Params{Plain: true,
		From: from, To: to, By: packtest.Alice, Organisation: "Example Ltd", Generator: verify.Generator{Version: "1.0.0"}, Temp: t.TempDir(),
	}, &b)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func trust(t testing.TB, g *packtest.Gateway) verify.Trust {
	t.Helper()
	tr, err := verify.NewTrustFile(g.VerifierKey()).Trust()
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func openZip(t testing.TB, b []byte) *zip.Reader {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestGoodPacksPass(t *testing.T) {
	for name, c := range map[string]struct {
		g        *packtest.Gateway
		from, to int64
	}{
		"a whole log":         {packtest.Day(), 0, 3600},
		"a period within":     {packtest.Day(), 90, 160},
		"a period of silence": {packtest.Day(), 45, 60},
		"up to its end":       {packtest.Day(), 125, 3600},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := verify.Pack(openZip(t, create(t, c.g, at(c.from), at(c.to))), trust(t, c.g))
			if err != nil {
				t.Fatal(err)
			}
			expect(t, r, "")
		})
	}
}

func TestPeriodWithoutRecordsIsNoPack(t *testing.T) {
	_, err := pack.Create(context.Background(), packtest.Day().Source(), pack.Params{From: at(7200), To: at(7300), Temp: t.TempDir()}, io.Discard)
	if !errors.Is(err, pack.ErrNoRecords) {
		t.Errorf("got %v", err)
	}
}

func TestEqualLogsGiveEqualPacks(t *testing.T) {
	if !bytes.Equal(create(t, packtest.Day(), at(90), at(160)), create(t, packtest.Day(), at(90), at(160))) {
		t.Error("two packs of the same log and period differ")
	}
}

func TestErasedScopeIsReportedAsNotTested(t *testing.T) {
	g, s := packtest.Shop()
	finish(g, s)
	g.Erase(s)
	r, err := verify.Pack(openZip(t, create(t, g, at(0), at(3600))), trust(t, g))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, "")
	for _, c := range r.Checks {
		if c.ID == "record.commitment" && !strings.Contains(c.Note, "erased") {
			t.Errorf("its note is %q", c.Note)
		}
	}
}

func TestWitnessedPack(t *testing.T) {
	g := finish(packtest.Shop())
	var b bytes.Buffer
	witness := namedSigner(t, "witness.example.org", "witness")
	if _, err := pack.Create(context.Background(), g.Source(witness), pack.Params{From: at(0), To: at(3600), By: packtest.Alice, Temp: t.TempDir()}, &b); err != nil {
		t.Fatal(err)
	}
	tr := trust(t, g)
	tr.Witnesses, tr.Quorum = []note.Verifier{namedVerifier(t, "witness.example.org", "witness")}, 1
	r, err := verify.Pack(openZip(t, b.Bytes()), tr)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, "")
	if !strings.HasPrefix(r.Integrity, "witnessed by 1") {
		t.Errorf("integrity: %s", r.Integrity)
	}
}

// Witnesses that the auditor demands have seen the true rotation: with them a
// revoked key leads on.
func TestWitnessesVouchForARotation(t *testing.T) {
	g := rotated(revoked)()
	var b bytes.Buffer
	witness := namedSigner(t, "witness.example.org", "witness")
	if _, err := pack.Create(context.Background(), g.Source(witness), pack.Params{From: at(0), To: at(3600), By: packtest.Alice, Temp: t.TempDir()}, &b); err != nil {
		t.Fatal(err)
	}
	_, first := packtest.LogKey(firstKey)
	tr, err := verify.NewTrustFile(first).Trust()
	if err != nil {
		t.Fatal(err)
	}
	for quorum, finding := range []string{"log.keys", ""} {
		tr.Witnesses, tr.Quorum = []note.Verifier{namedVerifier(t, "witness.example.org", "witness")}, quorum
		r, err := verify.Pack(openZip(t, b.Bytes()), tr)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, r, finding)
	}
}

// Whatever is changed in the changes of keys the pack fails, also when the
// manifest is made to fit.
func TestAnyChangeOfTheKeysFileIsFound(t *testing.T) {
	g := rotated(revoked)()
	whole := create(t, g, at(0), at(3600))
	tr := trust(t, g)
	for i := 0; i < len(unpack(t, whole)[verify.KeysFile]); i += 13 {
		u := unpack(t, whole)
		u[verify.KeysFile][i] ^= 1
		u.resign(t, g, nil)
		r, err := verify.Pack(u.fs(), tr)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, r, "log.keys")
	}
}

// What a pack can't prove its report says.
func TestChangesOfKeysAfterTheRangeAreNotComplete(t *testing.T) {
	g := late()
	for to, told := range map[int64]bool{25: true, 36000: false} {
		r, err := verify.Pack(openZip(t, create(t, g, at(0), at(to))), trust(t, g))
		if err != nil {
			t.Fatal(err)
		}
		expect(t, r, "")
		for _, c := range r.Checks {
			if c.ID == "log.keys" && strings.Contains(c.Note, "may have been left out") != told {
				t.Errorf("up to %d the note is %q", to, c.Note)
			}
		}
	}
}

func TestLogThatGrewFromAKnownCheckpoint(t *testing.T) {
	g, s := packtest.Shop()
	old := g.Checkpoint()
	finish(g, s)
	f := verify.NewTrustFile(g.VerifierKey())
	f.Remember(old)
	tr, err := f.Trust()
	if err != nil {
		t.Fatal(err)
	}
	r, err := verify.Pack(openZip(t, create(t, g, at(0), at(3600))), tr)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, "")
	for _, c := range r.Checks {
		if c.ID == "log.known" && c.State != workpaper.Pass {
			t.Errorf("log.known is %s", c.State)
		}
	}
}

// Whatever byte of a pack is changed, the pack fails: as it is, and when the
// operator makes the manifest true again and signs it.
func TestFlippedBytes(t *testing.T) {
	g := packtest.Day()
	good := unpack(t, create(t, g, at(90), at(160)))
	tr := trust(t, g)
	fails := func(u unpacked) bool {
		r, err := verify.Pack(u.fs(), tr)
		if err != nil {
			t.Fatal(err)
		}
		return r.ExitCode() == verify.ExitFail
	}
	if fails(good) {
		t.Fatal("the pack fails unchanged")
	}
	for name, data := range good {
		for i, at := range regions(data) {
			u := maps.Clone(good)
			u[name] = bytes.Clone(data)
			u[name][at] ^= 1 << (i % 8)
			if !fails(u) {
				t.Errorf("%s passes with byte %d changed", name, at)
			}
			if name == verify.ManifestFile || name == verify.SignatureFile {
				continue
			}
			u.resign(t, g, nil)
			if !fails(u) {
				t.Errorf("%s passes with byte %d changed and the manifest signed again", name, at)
			}
		}
	}
}

// regions picks bytes: the first and the last few, and some in between.
func regions(data []byte) (list []int) {
	n := len(data)
	step := max(1, n/3)
	for i := 0; i < n; i += step {
		list = append(list, i)
	}
	if n > 1 {
		list = append(list, n-2, n-1)
	}
	return list
}

// Whatever a file of a pack is replaced with, verifying neither panics nor
// passes.
func FuzzPack(f *testing.F) {
	g := finish(packtest.Shop())
	good := unpack(f, create(f, g, at(0), at(3600)))
	names := slices.Sorted(maps.Keys(good))
	for i, name := range names {
		f.Add(uint8(i), true, good[name])
	}
	tr := trust(f, g)
	f.Fuzz(func(t *testing.T, i uint8, resign bool, data []byte) {
		name := names[int(i)%len(names)]
		u := maps.Clone(good)
		u[name] = data
		if resign && name != verify.ManifestFile && name != verify.SignatureFile {
			u.resign(t, g, nil)
		}
		r, err := verify.Pack(u.fs(), tr)
		if err != nil {
			t.Fatal(err)
		}
		if r.ExitCode() == verify.ExitPass && !bytes.Equal(data, good[name]) && name != verify.SignatureFile {
			t.Errorf("%s passes as %q", name, data)
		}
		if r.WriteText(io.Discard) != nil || r.WriteJSON(io.Discard) != nil {
			t.Error("the report can't be written")
		}
	})
}

func TestFilesCutShort(t *testing.T) {
	g := packtest.Day()
	good := unpack(t, create(t, g, at(90), at(160)))
	tr := trust(t, g)
	for name, data := range good {
		for _, keep := range []int{0, len(data) / 2, len(data) - 1} {
			if keep < 0 || keep == len(data) {
				continue // it is empty: nothing of that happened
			}
			u := maps.Clone(good)
			u[name] = data[:keep]
			if r, err := verify.Pack(u.fs(), tr); err != nil || r.ExitCode() != verify.ExitFail {
				t.Errorf("%s cut to %d bytes passes: %v", name, keep, err)
			}
		}
	}
}

// A zip of a few kilobytes that holds much more costs no memory and
// stops at the first difference.
func TestZipBomb(t *testing.T) {
	g := finish(packtest.Shop())
	u := unpack(t, create(t, g, at(0), at(3600)))
	bomb := make([]byte, 48<<20)
	for _, name := range []string{"pop/commands.csv", verify.SeedsFile, u.blocks(), "log/checkpoint", verify.ReadmeFile, verify.SignatureFile} {
		v := maps.Clone(u)
		v[name] = bomb
		if name != verify.SignatureFile {
			v.resign(t, g, nil)
		}
		packed := v.zip(t)
		z := openZip(t, packed)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r, err := verify.Pack(z, trust(t, g))
		runtime.ReadMemStats(&after)
		if err != nil || r.ExitCode() != verify.ExitFail {
			t.Errorf("%s: passes: %v", name, err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 24<<20 {
			t.Errorf("%s: verifying allocated %d MiB", name, used>>20)
		}
	}
}

// README.pdf is a rendering: nothing rests on what it says, and still nobody but
// the operator can change it.
func TestPaperIsTheManifestsAndProvesNothing(t *testing.T) {
	g := finish(packtest.Shop())
	var b bytes.Buffer
	if _, err := pack.Create(t.Context(), g.Source(), pack.Params{From: at(0), To: at(3600), By: packtest.Alice, Temp: t.TempDir()}, &b); err != nil {
		t.Fatal(err)
	}
	u := unpack(t, b.Bytes())
	if !bytes.HasPrefix(u[verify.PrintFile], []byte("%PDF-")) {
		t.Fatalf("%s begins with %.20q", verify.PrintFile, u[verify.PrintFile])
	}
	u[verify.PrintFile] = append(u[verify.PrintFile], "Certified.\n"...)
	for _, finding := range []string{"pack.digests", ""} {
		r, err := verify.Pack(u.fs(), trust(t, g))
		if err != nil {
			t.Fatal(err)
		}
		expect(t, r, finding)
		u.resign(t, g, nil)
	}
}

// A pack that somebody packed again, with what they had, is told from one that
// was altered.
func TestCompressedWorkbookIsAskedForAsItIs(t *testing.T) {
	g := finish(packtest.Shop())
	u := unpack(t, create(t, g, at(0), at(3600)))
	book := u[verify.SummaryFile]
	delete(u, verify.SummaryFile)
	r, err := verify.Pack(openZip(t, u.zip(t, entry{verify.SummaryFile, book})), trust(t, g))
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if want := "summary.xlsx is compressed within the pack"; !strings.Contains(text.String(), want) {
		t.Errorf("the report doesn't say %q:\n%s", want, &text)
	}
}

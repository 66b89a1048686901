package pack_test

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/exhibit-gateway/exhibit/internal/pack"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/verify"
)

var update = flag.Bool("update", false, "write examples/pack")

const (
	samplePack  = "../../examples/pack/sample.zip"
	sampleTrust = "../../examples/pack/trust.json"
	maxSample   = 1 << 20
)

// unpacked reads a pack's files, and those of the workbook in it under its name.
func unpacked(t *testing.T, b []byte, under string) map[string]string {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if f.Name == verify.SummaryFile {
			maps.Copy(files, unpacked(t, data, f.Name+"/"))
			continue
		}
		files[under+f.Name] = string(data)
	}
	return files
}

// The sample is what today's code makes. Files that are compressed in themselves,
// and the manifest with their digests, may differ with the compressor.
func TestSamplePackIsOfToday(t *testing.T) {
	g := packtest.Day()
	p := params(t)
	p.Organisation, p.Generator.Version, p.Purpose = "Example Ltd", "sample", "sample"
	var b bytes.Buffer
	if _, err := pack.Create(t.Context(), g.Source(), p, &b); err != nil {
		t.Fatal(err)
	}
	trust, err := json.MarshalIndent(verify.NewTrustFile(g.VerifierKey()), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(samplePack, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(sampleTrust, append(trust, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const hint = "hint: go test ./internal/pack -run TestSamplePack -update"
	have, err := os.ReadFile(samplePack)
	if err != nil {
		t.Fatalf("%v\n%s", err, hint)
	}
	if len(have) > maxSample {
		t.Errorf("it has %d bytes, which is more than a sample should", len(have))
	}
	got, want := unpacked(t, have, ""), unpacked(t, b.Bytes(), "")
	for _, name := range []string{verify.PrintFile, verify.ManifestFile, verify.SignatureFile} {
		if got[name] == "" {
			t.Errorf("it has no %s", name)
		}
		delete(got, name)
		delete(want, name)
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%s is another today\n%s", name, hint)
		}
		delete(got, name)
	}
	for name := range got {
		t.Errorf("%s isn't in a pack of today\n%s", name, hint)
	}
	if b, err := os.ReadFile(sampleTrust); err != nil || string(b) != string(trust)+"\n" {
		t.Errorf("its trust file is another today: %v\n%s", err, hint)
	}
}

// It is checked as its README says.
func TestSamplePackVerifies(t *testing.T) {
	var out, errs bytes.Buffer
	if code := verify.Main("exhibit-verify", []string{samplePack, "--trust", sampleTrust}, &out, &errs); code != verify.ExitPass {
		t.Errorf("exit code %d\n%s%s", code, &out, &errs)
	}
}

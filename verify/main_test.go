package verify_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/verify"
)

// run runs the command in a folder with a good pack, its trust file and an
// altered pack.
func run(t *testing.T, dir string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	for i, a := range args {
		if strings.HasSuffix(a, ".zip") || strings.HasSuffix(a, ".json") || a == "folder" {
			args[i] = filepath.Join(dir, a)
		}
	}
	var out, err bytes.Buffer
	code = verify.Main("exhibit-verify", args, &out, &err)
	return code, out.String(), err.String()
}

func folder(t *testing.T) (string, *packtest.Gateway) {
	t.Helper()
	dir := t.TempDir()
	g := finish(packtest.Shop())
	good := create(t, g, at(0), at(3600))
	u := unpack(t, good)
	for name, data := range u {
		path := filepath.Join(dir, "folder", filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	u["pop/commands.csv"] = bytes.Replace(u["pop/commands.csv"], []byte(",deny,"), []byte(",allow,"), 1)
	trust, err := verify.NewTrustFile(g.VerifierKey()).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"good.zip": good, "altered.zip": u.zip(t), "not.zip": []byte("not a zip"), "trust.json": trust, "empty.json": []byte("{}")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, g
}

func TestCommand(t *testing.T) {
	dir, g := folder(t)
	log := g.VerifierKey()
	_, other := packtest.LogKey(secondKey)
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string // beginnings
	}{
		{[]string{"good.zip", "--trust", "trust.json"}, 0, "PASS: The evidence is sound", ""},
		{[]string{"--trust", "trust.json", "folder"}, 0, "PASS: The evidence is sound", ""},
		{[]string{"altered.zip", "--trust", "trust.json"}, 1, "FAIL: This pack is not to be relied on", ""},
		{[]string{"not.zip", "--trust", "trust.json"}, 2, "", "error: opening the pack: not a zip file"},
		{[]string{"absent.zip", "--trust", "trust.json"}, 2, "", "error: opening the pack: "},
		{[]string{"good.zip", "--trust", "absent.json"}, 2, "", "error: reading the trust file: "},
		{[]string{"good.zip", "--trust", "empty.json"}, 2, "", "error: not a usable trust file: it names no key of the log\nhint: "},
		{[]string{"good.zip", "--log-key", log}, 0, "PASS: The evidence is sound", ""},
		{[]string{"good.zip", "--log-key", other, "--trust", "trust.json"}, 0, "PASS: The evidence is sound", ""},
		{[]string{"good.zip", "--log-key", other}, 1, "FAIL: This pack is not to be relied on", ""},
		{[]string{"good.zip", "--log-key", "elsewhere"}, 2, "", "error: not a usable trust file: a verifier key looks like"},
		{[]string{"good.zip", "--log-key", log, "--remember"}, 2, "", "usage: "},
		{[]string{"good.zip"}, 2, "", "usage: exhibit-verify PACK --trust FILE"},
		{[]string{"--help"}, 0, "", "usage: "},
		{[]string{"--colour"}, 2, "", "flag provided but not defined"},
	} {
		name := strings.Join(c.args, " ")
		code, stdout, stderr := run(t, dir, c.args...)
		if code != c.code || !strings.HasPrefix(stdout, c.stdout) || !strings.HasPrefix(stderr, c.stderr) || (c.stderr == "") != (stderr == "") {
			t.Errorf("%s: %d\nstdout %.200q\nstderr %.200q", name, code, stdout, stderr)
		}
	}
}

func TestCommandAsJSON(t *testing.T) {
	dir, _ := folder(t)
	code, stdout, _ := run(t, dir, "altered.zip", "--json", "--trust", "trust.json")
	var r struct {
		Verdict string
		Checks  []struct {
			ID, Kind, State string
			Exceptions      []struct{ Text string }
		}
	}
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatal(err)
	}
	if code != 1 || r.Verdict != "fail" {
		t.Errorf("%d %s", code, r.Verdict)
	}
	for _, c := range r.Checks {
		if c.ID == "pack.tables" && (c.Kind != "integrity" || c.State != "fail" || len(c.Exceptions) != 1) {
			t.Errorf("%+v", c)
		}
	}
}

// A checkpoint kept from one visit is what the log of the next must grow from.
func TestCommandRemembers(t *testing.T) {
	dir, g := folder(t)
	if code, _, stderr := run(t, dir, "good.zip", "--trust", "trust.json", "--remember"); code != 0 {
		t.Fatal(stderr)
	}
	g.Boot()
	g.Beat()
	write := func(name string, g *packtest.Gateway) {
		if err := os.WriteFile(filepath.Join(dir, name), create(t, g, at(0), at(3600)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("grown.zip", g)
	if code, stdout, _ := run(t, dir, "grown.zip", "--trust", "trust.json"); code != 0 || !strings.Contains(stdout, "proven against you before it") {
		t.Errorf("%d %s", code, stdout)
	}
	other, s := packtest.Shop()
	s.Do("SELECT ?", "postgres:select", "public.orders")
	write("rewritten.zip", finish(other, s))
	if code, stdout, _ := run(t, dir, "rewritten.zip", "--trust", "trust.json"); code != 1 || !strings.Contains(stdout, "log.known") {
		t.Errorf("%d %s", code, stdout)
	}
}

// An auditor who kept a checkpoint since the rotation is not thrown back by the
// revocation of the key that they know; one who didn't is told what to do.
func TestARevocationBetweenTwoVisits(t *testing.T) {
	dir, _ := folder(t)
	g, s := packtest.Shop()
	first := g.VerifierKey()
	g.Rotate(secondKey)
	s.Close()
	write := func(name string) {
		if err := os.WriteFile(filepath.Join(dir, name), create(t, g, at(0), at(3600)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("rotated.zip")
	if code, stdout, _ := run(t, dir, "rotated.zip", "--trust", "trust.json", "--remember"); code != 0 || !strings.Contains(stdout, "which signed over to") {
		t.Fatalf("%d %s", code, stdout)
	}
	g.Revoke("packtest log key")
	write("revoked.zip")
	if code, stdout, _ := run(t, dir, "revoked.zip", "--trust", "trust.json"); code != 0 || !strings.Contains(stdout, "was revoked by record") {
		t.Errorf("kept: %d %s", code, stdout)
	}
	if code, stdout, _ := run(t, dir, "revoked.zip", "--log-key", first); code != 1 || !strings.Contains(stdout, "by the way you got the other") {
		t.Errorf("not kept: %d %s", code, stdout)
	}
	if code, stdout, _ := run(t, dir, "revoked.zip", "--log-key", g.VerifierKey()); code != 0 {
		t.Errorf("the new key: %d %s", code, stdout)
	}
}

// hollow is a file of zeros with an end record that claims a large directory.
type hollow struct {
	size int64
	end  []byte
}

func (h hollow) ReadAt(b []byte, at int64) (int, error) {
	clear(b)
	if from := h.size - int64(len(h.end)); at+int64(len(b)) > from {
		copy(b[max(0, from-at):], h.end[max(0, at-from):])
	}
	if at+int64(len(b)) > h.size {
		return int(h.size - at), io.EOF
	}
	return len(b), nil
}

func TestZipWithADirectoryOfGigabytes(t *testing.T) {
	end := make([]byte, 22)
	copy(end, "PK\x05\x06")
	for _, c := range []struct{ length, offset uint32 }{{2 << 30, 0}, {100, 5}, {1<<32 - 1, 1<<32 - 1}} {
		binary.LittleEndian.PutUint32(end[12:], c.length)
		binary.LittleEndian.PutUint32(end[16:], c.offset)
		if _, err := verify.OpenZip(hollow{3 << 30, end}, 3<<30); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%+v: got %v", c, err)
		}
	}
}

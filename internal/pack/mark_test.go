package pack_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/internal/pack"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/verify"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// entries are the digests of a pack's files, and of the parts of its workbook,
// as they are once they are unpacked. How they are deflated is nobody's business,
// so the manifest's line of the workbook isn't among them, nor is what signs it.
func entries(t *testing.T, b []byte) map[string]string {
	t.Helper()
	list := make(map[string]string)
	var walk func(under string, b []byte)
	walk = func(under string, b []byte) {
		z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range z.File {
			data, err := fs.ReadFile(z, f.Name)
			if err != nil {
				t.Fatalf("%s: %v", f.Name, err)
			}
			switch f.Name {
			case verify.SummaryFile:
				walk(f.Name+"/", data)
				continue
			case verify.SignatureFile:
				continue
			case verify.ManifestFile:
				var m verify.Manifest
				if err := json.Unmarshal(data, &m); err != nil {
					t.Fatal(err)
				}
				m.Files = slices.DeleteFunc(m.Files, func(f verify.File) bool { return f.Path == verify.SummaryFile })
				if data, err = m.Encode(); err != nil {
					t.Fatal(err)
				}
			}
			sum := sha256.Sum256(data)
			list[under+f.Name] = hex.EncodeToString(sum[:])
		}
	}
	walk("", b)
	return list
}

// dying is an archive that stops giving blocks after some, as if the process had.
type dying struct {
	pack.Archive
	left int
}

var errDied = errors.New("killed")

func (d *dying) Get(ctx context.Context, name string) ([]byte, error) {
	if d.left--; d.left < 0 {
		return nil, errDied
	}
	return d.Archive.Get(ctx, name)
}

func keptParams(t *testing.T) pack.Params {
	p := largeParams(t)
	p.Keep = pack.Keeping{Dir: filepath.Join(t.TempDir(), "kept"), Request: "all of it"}
	return p
}

// torn adds to every spool what a process wrote after its last mark.
func torn(t *testing.T, dir string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.Name() == "mark" {
			continue
		}
		f, err := os.OpenFile(filepath.Join(dir, e.Name()), os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = f.WriteString("half a row")
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "99999"), []byte("a file that was begun later"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// verified is a pack's verdict.
func verified(t *testing.T, key string, b []byte) {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(key)
	if err != nil {
		t.Fatal(err)
	}
	r, err := verify.Pack(z, verify.Trust{Log: []note.Verifier{v}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Checks {
		if c.Kind == verify.Integrity && c.State == workpaper.Fail {
			t.Errorf("%s fails: %+v", c.ID, c)
		}
	}
}

// Killed at any moment, again and again, a pack goes on from its last mark and
// comes out as one that was never interrupted.
func TestAnInterruptedPackGoesOn(t *testing.T) {
	logs := map[string]func() (pack.Source, string){
		"of everything": func() (pack.Source, string) {
			g := packtest.Liar()
			return g.Source(), g.VerifierKey()
		},
		"of many commands": func() (pack.Source, string) {
			folder := packtest.Folder(t.TempDir())
			if err := folder.Fill(12_000); err != nil {
				t.Fatal(err)
			}
			return folder.Source(), packtest.New().VerifierKey()
		},
	}
	for name, log := range logs {
		for _, level := range []string{verify.Bodies, verify.Heads} {
			src, key := log()
			p := keptParams(t)
			p.Level = level
			whole := p
			whole.Keep = pack.Keeping{}
			var want bytes.Buffer
			if _, err := pack.Create(t.Context(), src, whole, &want); err != nil {
				t.Fatal(err)
			}
			rnd := rand.New(rand.NewPCG(7, uint64(len(name))))
			for round := range 3 {
				var got bytes.Buffer
				var res *pack.Result
				killed, resumed := 0, uint64(0)
				for {
					got.Reset()
					next := src
					left := 1 << 30
					if killed < 4 {
						left = 1 + rnd.IntN(60)
					}
					next.Archive = &dying{src.Archive, left}
					var err error
					if res, err = pack.Create(t.Context(), next, p, &got); err == nil {
						break
					}
					if !errors.Is(err, errDied) {
						t.Fatal(err)
					}
					if killed++; exists(filepath.Join(p.Keep.Dir, "mark")) {
						torn(t, p.Keep.Dir)
					}
				}
				resumed = max(resumed, res.Resumed)
				if res.Again != "" {
					t.Errorf("%s, %s: began again: %s", name, level, res.Again)
				}
				a, b := entries(t, got.Bytes()), entries(t, want.Bytes())
				if !maps.Equal(a, b) {
					for file := range b {
						if a[file] != b[file] {
							t.Errorf("%s, %s, round %d (killed %d times, went on from %d records): %s differs", name, level, round, killed, resumed, file)
						}
					}
					if len(a) != len(b) {
						t.Errorf("%s, %s: %d files, want %d", name, level, len(a), len(b))
					}
				}
				if exists(p.Keep.Dir) {
					t.Errorf("%s, %s: %s stays behind", name, level, p.Keep.Dir)
				}
				if round == 0 {
					verified(t, key, got.Bytes())
				}
			}
		}
	}
}

// killedLog and killedKept tell TestKilledPack what to pack, and where to keep it.
const killedLog, killedKept = "EXHIBIT_KILLED_LOG", "EXHIBIT_KILLED_KEPT"

// TestKilledPack is the process that is killed.
func TestKilledPack(t *testing.T) {
	log := os.Getenv(killedLog)
	if log == "" {
		t.Skip("it is part of TestAPackThatIsKilledGoesOn")
	}
	p := largeParams(t)
	p.Keep = pack.Keeping{Dir: os.Getenv(killedKept), Request: "all of it"}
	if _, err := pack.Create(t.Context(), packtest.Folder(log).Source(), p, io.Discard); err != nil {
		t.Fatal(err)
	}
}

// With SIGKILL, which nobody can prepare for.
func TestAPackThatIsKilledGoesOn(t *testing.T) {
	log := t.TempDir()
	if err := packtest.Folder(log).Fill(30_000); err != nil {
		t.Fatal(err)
	}
	p := keptParams(t)
	whole := p
	whole.Keep = pack.Keeping{}
	var got, want bytes.Buffer
	if _, err := pack.Create(t.Context(), packtest.Folder(log).Source(), whole, &want); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(3, 5))
	for range 3 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledPack$")
		cmd.Env = append(os.Environ(), killedLog+"="+log, killedKept+"="+p.Keep.Dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for begun := false; !begun; begun = exists(filepath.Join(p.Keep.Dir, "mark")) {
			select {
			case err := <-ended:
				t.Fatalf("it ended before it could be killed: %v", err)
			case <-time.After(time.Millisecond):
			}
		}
		select {
		case err := <-ended:
			t.Log("it was faster:", err)
		case <-time.After(time.Duration(rnd.IntN(150)) * time.Millisecond):
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			t.Log(<-ended)
		}
	}
	res, err := pack.Create(t.Context(), packtest.Folder(log).Source(), p, &got)
	if err != nil || res.Again != "" {
		t.Fatalf("%+v, %v", res, err)
	}
	t.Logf("it went on from %d of %d records", res.Resumed, res.Manifest.Range.Records)
	if !maps.Equal(entries(t, got.Bytes()), entries(t, want.Bytes())) {
		t.Error("it isn't the pack that was never killed")
	}
	if exists(p.Keep.Dir) {
		t.Error("something stays behind")
	}
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// interrupted is the folder of a pack that was begun and has a mark.
func interrupted(t *testing.T) (pack.Source, pack.Params) {
	t.Helper()
	folder := packtest.Folder(t.TempDir())
	if err := folder.Fill(12_000); err != nil {
		t.Fatal(err)
	}
	src, p := folder.Source(), keptParams(t)
	dead := src
	dead.Archive = &dying{src.Archive, 12}
	if _, err := pack.Create(t.Context(), dead, p, io.Discard); !errors.Is(err, errDied) || !exists(filepath.Join(p.Keep.Dir, "mark")) {
		t.Fatalf("it wasn't interrupted behind a mark: %v", err)
	}
	return src, p
}

// What a mark isn't of begins again, and says so; what can't be told is refused.
func TestAMarkThatDoesntFitIsNotGoneOnFrom(t *testing.T) {
	spool := func(p *pack.Params) string {
		list, err := os.ReadDir(p.Keep.Dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if i, err := e.Info(); err == nil && e.Name() != "mark" && i.Size() > 100 {
				return filepath.Join(p.Keep.Dir, e.Name())
			}
		}
		t.Fatal("nothing was spooled")
		return ""
	}
	flip := func(name string, at int64) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b[(int64(len(b))+at)%int64(len(b))] ^= 1
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for what, c := range map[string]struct {
		change func(*pack.Source, *pack.Params)
		says   string
	}{
		"another version": {func(_ *pack.Source, p *pack.Params) { p.Generator.Version = "v2" }, "another version"},
		"another request": {func(_ *pack.Source, p *pack.Params) { p.Keep.Request = "a part of it" }, "another pack"},
		"a damaged mark":  {func(_ *pack.Source, p *pack.Params) { flip(filepath.Join(p.Keep.Dir, "mark"), 500) }, "damaged"},
		"a damaged end":   {func(_ *pack.Source, p *pack.Params) { flip(filepath.Join(p.Keep.Dir, "mark"), -5) }, "damaged"},
		"a damaged spool": {func(_ *pack.Source, p *pack.Params) { flip(spool(p), 50) }, "damaged"},
		"a spool cut off": {func(_ *pack.Source, p *pack.Params) { _ = os.Truncate(spool(p), 20) }, "cut off"},
		"a spool is gone": {func(_ *pack.Source, p *pack.Params) { _ = os.Remove(spool(p)) }, "no such file"},
		"an empty mark":   {func(_ *pack.Source, p *pack.Params) { _ = os.Truncate(filepath.Join(p.Keep.Dir, "mark"), 0) }, "cut off"},
		"half of one":     {func(_ *pack.Source, p *pack.Params) { _ = os.Truncate(filepath.Join(p.Keep.Dir, "mark"), 1000) }, "damaged"},
		"another log": {func(s *pack.Source, _ *pack.Params) {
			g := packtest.Day()
			*s = g.Source()
		}, "doesn't fit"},
	} {
		src, p := interrupted(t)
		c.change(&src, &p)
		var b bytes.Buffer
		res, err := pack.Create(t.Context(), src, p, &b)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if res.Resumed != 0 || !strings.Contains(res.Again, c.says) {
			t.Errorf("%s: went on from %d records, %q; want %q", what, res.Resumed, res.Again, c.says)
		}
		if exists(p.Keep.Dir) {
			t.Errorf("%s: something stays behind", what)
		}
		verified(t, packtest.New().VerifierKey(), b.Bytes())
	}
}

// A log grows while nobody goes on. What is new is packed with the rest, unless it
// asks for what the context of then doesn't have.
func TestAnInterruptedPackOfALogThatGrew(t *testing.T) {
	for _, c := range []struct {
		what  string
		then  func(g *packtest.Gateway, early *packtest.Session)
		again string
	}{
		{"by a session", func(g *packtest.Gateway, _ *packtest.Session) {
			s := g.Open("billing-bot", "orders")
			s.Do("SELECT ?", "postgres:select", "public.orders")
			s.Close()
		}, ""},
		{"by a session of before the range", func(_ *packtest.Gateway, early *packtest.Session) {
			early.Do("SELECT ?", "postgres:select", "public.orders")
			early.Close()
		}, "refers to block"},
	} {
		g, s := packtest.Shop()
		s.Close()
		early := g.Open("billing-bot", "orders")
		for range 8 {
			g.Beat()
		}
		p := keptParams(t)
		p.From = time.UnixMicro(g.Now)
		for range 40 {
			g.Beat()
		}
		src := g.Source()
		src.Archive = &dying{src.Archive, 12}
		if _, err := pack.Create(t.Context(), src, p, io.Discard); !errors.Is(err, errDied) || !exists(filepath.Join(p.Keep.Dir, "mark")) {
			t.Fatalf("%s: it wasn't interrupted behind a mark: %v", c.what, err)
		}
		c.then(g, early)
		g.Beat()
		src = g.Source()
		whole := p
		whole.Keep = pack.Keeping{}
		var got, want bytes.Buffer
		res, err := pack.Create(t.Context(), src, p, &got)
		_, err2 := pack.Create(t.Context(), src, whole, &want)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		if (res.Resumed == 0) != (c.again != "") || !strings.Contains(res.Again, c.again) {
			t.Errorf("%s: went on from %d records, %q", c.what, res.Resumed, res.Again)
		}
		if !maps.Equal(entries(t, got.Bytes()), entries(t, want.Bytes())) {
			t.Errorf("%s: it isn't the pack of the log as it is", c.what)
		}
		verified(t, g.VerifierKey(), got.Bytes())
	}
}

// Blocks that were packed before the mark are copied, not read: they have to be
// the same bytes.
func TestABlockThatChangedSinceTheMarkIsNoticed(t *testing.T) {
	src, p := interrupted(t)
	src.Archive = changed{src.Archive}
	if _, err := pack.Create(t.Context(), src, p, io.Discard); err == nil || !strings.Contains(err.Error(), "isn't what it was") {
		t.Errorf("the error is %v", err)
	}
	if !exists(filepath.Join(p.Keep.Dir, "mark")) {
		t.Error("and the mark is gone")
	}
}

// changed is an archive whose first block has another byte in its heads.
type changed struct{ pack.Archive }

func (c changed) Get(ctx context.Context, name string) ([]byte, error) {
	b, err := c.Archive.Get(ctx, name)
	if name == ledger.BlockPath(0) && err == nil {
		b = bytes.Clone(b)
		b[len(b)/4] ^= 1
	}
	return b, err
}

// A full disk interrupts like anything else. Who makes room goes on.
func TestAPackGoesOnOnceThereIsRoom(t *testing.T) {
	folder := packtest.Folder(t.TempDir())
	if err := folder.Fill(12_000); err != nil {
		t.Fatal(err)
	}
	src, p := folder.Source(), keptParams(t)
	if _, err := pack.Create(t.Context(), src, p, &fullDisk{left: 900_000}); err == nil {
		t.Fatal("a full disk is no error")
	}
	var b bytes.Buffer
	res, err := pack.Create(t.Context(), src, p, &b)
	if err != nil || res.Resumed == 0 {
		t.Fatalf("went on from %+v, %v", res, err)
	}
	verified(t, packtest.New().VerifierKey(), b.Bytes())
}

// Nobody else reads what is kept, and of what is sealed nothing is.
func TestWhatIsKeptIsPrivate(t *testing.T) {
	_, p := interrupted(t)
	err := filepath.WalkDir(p.Keep.Dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i, err := d.Info()
		if err == nil && i.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is %s", name, i.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	g, s := packtest.Shop()
	s.Close()
	src, full := g.Source(), keptParams(t)
	full.Level, full.Purpose, full.Recipient = verify.Full, "audit", "age1"
	src.Archive = &dying{src.Archive, 3}
	if _, err := pack.Create(t.Context(), src, full, io.Discard); !errors.Is(err, errDied) {
		t.Fatal(err)
	}
	if exists(full.Keep.Dir) {
		t.Error("a pack with what is sealed was kept")
	}
}

// Marks that are never due cost nothing, and an interruption before the first
// leaves nothing.
func TestNothingStaysOfAPackWithoutAMark(t *testing.T) {
	g, s := packtest.Shop()
	s.Close()
	src, p := g.Source(), keptParams(t)
	p.Keep.Every = time.Hour
	dead := src
	dead.Archive = &dying{src.Archive, 3}
	if _, err := pack.Create(t.Context(), dead, p, io.Discard); !errors.Is(err, errDied) || exists(p.Keep.Dir) {
		t.Errorf("%v, and there is %s", err, p.Keep.Dir)
	}
	if _, err := pack.Create(t.Context(), src, p, io.Discard); err != nil || exists(p.Keep.Dir) {
		t.Errorf("%v, and there is %s", err, p.Keep.Dir)
	}
}

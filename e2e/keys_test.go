package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"filippo.io/age"

	"github.com/exhibit-gateway/exhibit/internal/keys"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// planted are what agents asked and what nobody may read in a stolen folder.
const (
	plantedText  = "planted-literal-58c1"
	plantedParam = "planted-parameter-e07b"
)

// TestAStolenFolderWithoutItsKeystoreReadsNothing plants texts in statements and
// parameters, takes the data folder away but for the keystore, and reads all of
// it that can be read: heads and bodies, as they are for everybody, and no
// sealed byte.
func TestAStolenFolderWithoutItsKeystoreReadsNothing(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	_, err := c.Exec(t.Context(), "select '"+plantedText+"'")
	w.ok(err)
	_, err = c.Exec(t.Context(), "select $1::text", plantedParam)
	w.ok(err)
	w.ok(c.Close(t.Context()))
	if !w.serverSaw(plantedText) || !w.serverSaw(plantedParam) {
		t.Fatal("nothing was planted")
	}
	w.passes()
	stolen := w.path("stolen")
	search := func() (files, bytesRead int) {
		t.Helper()
		w.ok(filepath.WalkDir(stolen, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, planted := range []string{plantedText, plantedParam, upstreamSecret} {
				if holds(b, planted) {
					t.Errorf("%s holds %q", path, planted)
				}
			}
			files, bytesRead = files+1, bytesRead+len(b)
			return nil
		}))
		return files, bytesRead
	}
	take := func() {
		t.Helper()
		w.ok(os.RemoveAll(stolen))
		w.ok(os.Mkdir(stolen, 0o700))
		for _, part := range []string{"journal", "archive", "log", "keys"} {
			w.ok(os.CopyFS(filepath.Join(stolen, part), os.DirFS(w.path("data/"+part))))
		}
	}
	take() // while it runs
	files, n := search()
	w.stop(syscall.SIGTERM)
	take() // and when it has ended
	files2, n2 := search()
	t.Logf("%d files with %d bytes while it ran, %d with %d afterwards", files, n, files2, n2)

	// With any identity but the keystore's the sealed chunks stay shut. With that
	// one, which was not stolen, they hold what was planted.
	thief, err := age.GenerateX25519Identity()
	w.ok(err)
	text, err := os.ReadFile(w.path("data/keystore/gateway.age"))
	w.ok(err)
	own, err := age.ParseX25519Identity(strings.TrimSpace(string(text)))
	w.ok(err)
	if parts := w.sealedIn(stolen, thief); len(parts) > 0 {
		t.Errorf("a strange identity opened %d sealed parts", len(parts))
	}
	all := bytes.Join(w.sealedIn(stolen, own), nil)
	if !holds(all, plantedText) || !holds(all, plantedParam) {
		t.Error("the gateway's own identity doesn't find what was planted: nothing was tested")
	}

	// Nor does a gateway start on it.
	w.ok(os.Rename(w.path("data/keystore"), w.path("keystore.kept")))
	out, err := w.exhibit("serve", "--config", w.path("exhibit.yaml"))
	if err == nil || !strings.Contains(out, "keystore") {
		t.Errorf("a gateway without a keystore: %v\n%s", err, out)
	}
	w.ok(os.Rename(w.path("keystore.kept"), w.path("data/keystore")))
	w.start()
}

// holds reports whether b has a text, as it is or in base64 at any place.
func holds(b []byte, text string) bool {
	found := bytes.Contains(b, []byte(text))
	for shift := range 3 {
		encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat(" ", shift) + text))
		found = found || bytes.Contains(b, []byte(encoded[4:len(encoded)-4])) // the ends depend on what is beside
	}
	return found
}

// sealedIn opens all sealed parts of the blocks in a data folder that an
// identity opens, having looked at all the rest.
func (w *world) sealedIn(data string, id *age.X25519Identity) (parts [][]byte) {
	w.t.Helper()
	store, err := keys.Open(filepath.Join(data, "keys"), id, nil)
	w.ok(err)
	defer store.Close()
	chunks := 0
	w.ok(filepath.WalkDir(filepath.Join(data, "archive"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".block") {
			return err
		}
		file, err := os.ReadFile(path)
		w.ok(err)
		b, err := ledger.ParseBlock(file)
		w.ok(err)
		for _, r := range b.Records {
			for _, planted := range []string{plantedText, plantedParam} {
				if holds(r.HeadBytes, planted) || holds(r.Body, planted) {
					w.t.Errorf("record %s holds %q in the clear", r.Head.Pos, planted)
				}
			}
		}
		list, err := b.Chunks()
		w.ok(err)
		for _, c := range list {
			chunks++
			scope, err := store.Scope(c.Boot, c.Slot)
			if err != nil {
				continue
			}
			plain, err := scope.OpenChunk(ledger.ChunkAAD(b.Origin, b.Block, c.Boot, c.Slot), c.Data)
			w.ok(err)
			opened, err := c.Parts(plain)
			w.ok(err)
			parts = append(parts, opened...)
		}
		return nil
	}))
	if chunks == 0 {
		w.t.Error("no block has a sealed chunk")
	}
	return parts
}

// TestACrashLeavesNoKeysInADump asks the kernel what it would dump of the
// gateway.
func TestACrashLeavesNoKeysInADump(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux is asked not to dump")
	}
	w := newWorld(t)
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", w.serve.Process.Pid))
	w.ok(err)
	if !regexp.MustCompile(`(?m)^Max core file size +0 +0 `).Match(limits) {
		t.Errorf("the gateway's limits are\n%s", limits)
	}
	w.stop(syscall.SIGABRT) // which dumps what may be dumped
	if status, ok := w.serve.ProcessState.Sys().(syscall.WaitStatus); !ok || status.CoreDump() {
		t.Errorf("the gateway ended: %v", w.serve.ProcessState)
	}
	w.start()
	w.passes()
}

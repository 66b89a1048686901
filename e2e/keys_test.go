package e2e

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
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
	t.Parallel()
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
	if parts := w.sealedIn(stolen, thief); len(parts) > 0 {
		t.Errorf("a strange identity opened the parts of %d scopes", len(parts))
	}
	all := bytes.Join(slices.Collect(maps.Values(w.sealedIn(stolen, w.identity()))), nil)
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

// identity is the gateway's own.
func (w *world) identity() *age.X25519Identity {
	w.t.Helper()
	text, err := os.ReadFile(w.path("data/keystore/gateway.age"))
	w.ok(err)
	id, err := age.ParseX25519Identity(strings.TrimSpace(string(text)))
	w.ok(err)
	return id
}

// TestAShreddedSessionProvesWhatItDid destroys the key of one of two sessions.
// Its sealed parts open for nobody, those of the other for gateway and auditor,
// and the pack passes as before.
func TestAShreddedSessionProvesWhatItDid(t *testing.T) {
	t.Parallel()
	auditor, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(c string) string {
		return strings.Replace(c, "\nauditors: []", "\nauditors: ["+auditor.Recipient().String()+"]", 1)
	})
	for _, text := range []string{plantedText, plantedParam} {
		c := w.connect()
		_, err := c.Exec(t.Context(), "select '"+text+"'")
		w.ok(err)
		w.ok(c.Close(t.Context()))
	}
	w.passes()
	rows := w.did("--agent", "bot")
	w.stop(syscall.SIGTERM)
	readers := map[string]*age.X25519Identity{"the gateway": w.identity(), "the auditor": auditor}
	var shredded scope
	for name, id := range readers {
		found := 0
		for at, parts := range w.sealedIn(w.path("data"), id) {
			switch {
			case holds(parts, plantedText):
				shredded = at
				found++
			case holds(parts, plantedParam):
				found++
			}
		}
		if found != 2 {
			t.Fatalf("before, %s finds %d of 2 texts", name, found)
		}
	}
	store, err := keys.Open(w.path("data/keys"), readers["the gateway"], nil)
	w.ok(err)
	w.ok(errors.Join(store.Shred(shredded.boot, shredded.slot), store.Close()))
	for name, id := range readers {
		all := bytes.Join(slices.Collect(maps.Values(w.sealedIn(w.path("data"), id))), nil)
		if holds(all, plantedText) {
			t.Errorf("%s opens what was shredded", name)
		}
		if !holds(all, plantedParam) {
			t.Errorf("%s doesn't open the other session", name)
		}
	}
	w.start()
	if got := w.did("--agent", "bot"); len(got) != len(rows) || len(got) == 0 {
		t.Errorf("%d commands, %d before", len(got), len(rows))
	}
	w.passes()
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

// scope is whose key it is.
type scope struct{ boot, slot uint64 }

// sealedIn opens all sealed parts of the blocks in a data folder that an
// identity opens, having looked at all the rest.
func (w *world) sealedIn(data string, id *age.X25519Identity) map[scope][]byte {
	w.t.Helper()
	parts := map[scope][]byte{}
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
			key, err := store.Scope(c.Boot, c.Slot)
			if err != nil {
				continue
			}
			plain, err := key.OpenChunk(ledger.ChunkAAD(b.Origin, b.Block, c.Boot, c.Slot), c.Data)
			w.ok(err)
			opened, err := c.Parts(plain)
			w.ok(err)
			at := scope{c.Boot, c.Slot}
			parts[at] = append(parts[at], bytes.Join(opened, nil)...)
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
	t.Parallel()
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

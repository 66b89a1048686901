package gateway

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/internal/seal"
	"github.com/exhibit-gateway/exhibit/ledger"
)

func newIdentity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// backup flushes and backs up.
func (w *world) backup(to ...age.Recipient) []byte {
	w.t.Helper()
	if _, err := w.Flush(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := Backup(w.t.Context(), BackupParams{Data: w.opened.Data, Keys: to}, &b); err != nil {
		w.t.Fatal(err)
	}
	return b.Bytes()
}

// reopened opens a gateway of the same settings on another data folder.
func (w *world) reopened(data string, known ...ledger.Checkpoint) (*Gateway, error) {
	s := w.opened
	s.Data, s.Known = data, known
	return Open(w.t.Context(), s, nil, slog.New(slog.DiscardHandler))
}

func TestARestoredGatewayGoesOn(t *testing.T) {
	w := newWorld(t, func(s *Settings) { s.Sealing.BlockBytes = 1 }) // a block for each record
	id := newIdentity(t)
	chain, start := w.open()
	for range 200 { // more leaves than a tile holds
		w.do(chain, "select 1")
	}
	backup := w.backup(id.Recipient())
	status := w.sealer.Status()
	w.end(chain, start)

	data := filepath.Join(t.TempDir(), "data")
	r, err := Restore(t.Context(), RestoreParams{Data: data, Identity: []age.Identity{id}, Known: []ledger.Checkpoint{status.Checkpoint}}, bytes.NewReader(backup))
	if err != nil {
		t.Fatal(err)
	}
	if !r.Keys || r.Blocks != status.Blocks || r.Fsck.Root != status.Checkpoint.Root.String() {
		t.Errorf("restored %+v", r)
	}
	g, err := w.reopened(data)
	if err != nil {
		t.Fatal(err)
	}
	// The next boot names the last record that it knows, and ends the session
	// that the backup holds open.
	var first evidence.GatewayStartBody
	ended := 0
	err = g.sealer.Scan(t.Context(), 0, func(r *evidence.Record) error {
		switch {
		case r.Head.Pos.Boot == 2 && r.Head.Type == evidence.GatewayStart:
			return evidence.DecodeBody(r.Body, &first)
		case r.Head.Pos.Boot == 2 && r.Head.Type == evidence.SessionEnd && r.Head.Of == start:
			ended++
		}
		return nil
	})
	if err != nil || first.Previous != status.Last || first.Clean || ended != 1 {
		t.Errorf("boot 2 begins with %+v and ends %d sessions: %v", first, ended, err)
	}
	if err := g.Abandon(); err != nil {
		t.Error(err)
	}
	report, err := Fsck(t.Context(), data, []ledger.Checkpoint{status.Checkpoint}, nil)
	if err != nil || len(report.Problems) > 0 {
		t.Errorf("fsck: %+v, %v", report, err)
	}
}

func TestABackupHoldsNoKeyInTheClear(t *testing.T) {
	w := newWorld(t)
	id := newIdentity(t)
	secret, err := os.ReadFile(filepath.Join(w.opened.Data, keystoreDirName, logKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	plain, sealed := w.backup(), w.backup(id.Recipient())
	for name, b := range map[string][]byte{"without keys": plain, "with keys": sealed} {
		if bytes.Contains(b, bytes.TrimSpace(secret)) {
			t.Errorf("%s: the log's key is in it", name)
		}
	}
	for name, r := range map[string]RestoreParams{"none in it": {Identity: []age.Identity{id}}, "no identity": {}} {
		from := plain
		if name == "no identity" {
			from = sealed
		}
		r.Data = filepath.Join(t.TempDir(), "data")
		if restored, err := Restore(t.Context(), r, bytes.NewReader(from)); err != nil || restored.Keys {
			t.Errorf("%s: %+v, %v", name, restored, err)
		}
		if _, err := w.reopened(r.Data); !errors.Is(err, ErrKeystore) {
			t.Errorf("%s: a gateway opens without keys: %v", name, err)
		}
		if report, err := Fsck(t.Context(), r.Data, nil, nil); err != nil || len(report.Problems) > 0 {
			t.Errorf("%s: fsck: %+v, %v", name, report, err)
		}
	}
	p := RestoreParams{Data: filepath.Join(t.TempDir(), "data"), Identity: []age.Identity{newIdentity(t)}}
	if _, err := Restore(t.Context(), p, bytes.NewReader(sealed)); !errors.Is(err, ErrBackup) {
		t.Errorf("keys open with another identity: %v", err)
	}
}

func TestAnOlderCopyIsRecognised(t *testing.T) {
	w := newWorld(t)
	id := newIdentity(t)
	old := w.backup(id.Recipient())
	chain, start := w.open()
	w.do(chain, "select 1")
	w.end(chain, start)
	if _, err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	known := w.sealer.Status().Checkpoint

	data := filepath.Join(t.TempDir(), "data")
	p := RestoreParams{Data: data, Identity: []age.Identity{id}, Known: []ledger.Checkpoint{known}}
	if _, err := Restore(t.Context(), p, bytes.NewReader(old)); !errors.Is(err, ErrBackup) || !strings.Contains(err.Error(), "old copy") {
		t.Errorf("restored: %v", err)
	}
	if _, err := os.Stat(data); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something is left: %v", err)
	}
	foreign := ledger.Checkpoint{Origin: "elsewhere.example/gw9", Size: 99}
	p.Known = []ledger.Checkpoint{foreign}
	if _, err := Restore(t.Context(), p, bytes.NewReader(old)); !errors.Is(err, ErrBackup) || !strings.Contains(err.Error(), "none of the known") {
		t.Errorf("held against another log only: %v", err)
	}
	p.Known = nil
	if _, err := Restore(t.Context(), p, bytes.NewReader(old)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.reopened(data, foreign); err == nil {
		t.Error("opened, held against another log only")
	}
	if _, err := w.reopened(data, foreign, known); !errors.Is(err, seal.ErrDiverged) || !strings.Contains(err.Error(), "restore a newer one") {
		t.Errorf("opened: %v", err)
	}
	report, err := Fsck(t.Context(), data, []ledger.Checkpoint{known}, nil)
	if err != nil || len(report.Problems) != 1 || !strings.Contains(report.Problems[0].Message, "old copy") {
		t.Errorf("fsck: %+v, %v", report, err)
	}
}

func TestRestoreRefusesWhatIsNoBackup(t *testing.T) {
	w := newWorld(t)
	good := w.backup()
	broken := map[string][]byte{
		"nothing":                 nil,
		"cut off":                 good[:len(good)/2],
		"of nobody":               bytes.ReplaceAll(good, []byte(packtest.Origin), bytes.Repeat([]byte("x"), len(packtest.Origin))),
		"a name that leads out":   renamed(t, good, "archive/../../evil"),
		"a name at the top":       renamed(t, good, "exhibit.yaml"),
		"keys in the clear":       renamed(t, good, "keystore/log.key"),
		"a name that is taken":    renamed(t, good, logDir+"/"+ledger.CheckpointPath),
		"a block that is missing": renamed(t, good, "archive/elsewhere"),
	}
	flipped := bytes.Clone(good)
	flipped[len(good)-1024-600] ^= 1 // in the last block: what follows is padding
	broken["a block that was changed"] = flipped
	for name, b := range broken {
		data := filepath.Join(t.TempDir(), "data")
		if _, err := Restore(t.Context(), RestoreParams{Data: data}, bytes.NewReader(b)); !errors.Is(err, ErrBackup) {
			t.Errorf("%s: %v", name, err)
		}
		if left, err := os.ReadDir(filepath.Dir(data)); err != nil || len(left) > 0 {
			t.Errorf("%s: it left %v, %v", name, left, err)
		}
	}
	if _, err := Restore(t.Context(), RestoreParams{Data: w.opened.Data}, bytes.NewReader(good)); err == nil {
		t.Error("a data folder in use was written over")
	}
}

// renamed is a backup whose first block has another name.
func renamed(t *testing.T, backup []byte, name string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for in := tar.NewReader(bytes.NewReader(backup)); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == archiveDir+"/"+ledger.BlockPath(0) {
			h.Name = name
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, in); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A backup of a log that grows under its hands is one of some moment.
func TestABackupUnderWay(t *testing.T) {
	w := newWorld(t, func(s *Settings) { s.Sealing.BlockBytes = 1 })
	id := newIdentity(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		chain, _ := w.open()
		for ctx.Err() == nil {
			w.do(chain, "select 1")
			time.Sleep(time.Millisecond)
		}
	}()
	defer func() { cancel(); <-done }()
	for range 8 {
		var b bytes.Buffer
		if _, err := Backup(t.Context(), BackupParams{Data: w.opened.Data, Keys: []age.Recipient{id.Recipient()}}, &b); err != nil {
			t.Fatal(err)
		}
		data := filepath.Join(t.TempDir(), "data")
		if _, err := Restore(t.Context(), RestoreParams{Data: data, Identity: []age.Identity{id}}, &b); err != nil {
			t.Fatal(err)
		}
		g, err := w.reopened(data)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Abandon(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

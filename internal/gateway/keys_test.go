package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/ledger"
)

func (w *world) keystore(name string) string {
	return filepath.Join(w.opened.Data, keystoreDirName, name)
}

// statuses are those of the log's keys, the oldest first.
func (w *world) statuses() (list []string) {
	w.t.Helper()
	keys, err := w.LogKeys(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, k := range keys.Keys {
		list = append(list, k.Status)
	}
	return list
}

func (w *world) wants(statuses ...string) {
	w.t.Helper()
	if got := w.statuses(); !slices.Equal(got, statuses) {
		w.t.Errorf("the keys are %q, want %q", got, statuses)
	}
}

func (w *world) sound() {
	w.t.Helper()
	report, err := w.Fsck(w.t.Context(), nil, func(api.Progress) {})
	if err != nil || len(report.Problems) > 0 {
		w.t.Errorf("fsck: %+v, %v", report, err)
	}
}

// again ends the gateway and serves its folder once more.
func (w *world) again() {
	w.t.Helper()
	if err := w.stop(); err != nil {
		w.t.Fatal(err)
	}
	g, err := Open(w.t.Context(), w.opened, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	w.runs(g)
}

func TestTheLogsKeyIsRotatedAndRevoked(t *testing.T) {
	w := newWorld(t)
	first := w.material.log.verifier
	prepared, err := w.RotateLogKey(t.Context(), api.KeyRotation{Prepare: true}, packtest.Alice)
	if err != nil {
		t.Fatal(err)
	}
	w.wants("in force", "prepared")
	secret, err := os.ReadFile(w.keystore(nextKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	known, err := w.sealedNow()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := w.RotateLogKey(t.Context(), api.KeyRotation{Reason: "yearly"}, packtest.Alice)
	if err != nil {
		t.Fatal(err)
	}
	w.wants("replaced", "in force")
	if now := keys.Keys[1]; now.Key != prepared.Keys[1].Key || now.From.By.Person.ID != packtest.Alice.Person.ID || now.From.Reason != "yearly" || keys.Keys[0].Blocks < known.Size {
		t.Errorf("the keys are %+v", keys.Keys)
	}
	// The new key lies where the old one lay, which is gone.
	if text, err := os.ReadFile(w.keystore(logKeyFile)); err != nil || !bytes.Equal(text, secret) {
		t.Errorf("log.key is not the prepared one: %v", err)
	}
	for _, name := range []string{logKeyFile, verifierFile} {
		if info, err := os.Stat(w.keystore(name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if pub, err := readVerifier(w.opened.Data); err != nil || pub != keys.Keys[1].Key {
		t.Errorf("log.pub is %s, %v", pub, err)
	}
	status, err := w.Flush(t.Context())
	if err != nil || status.Key != keys.Keys[1].Key {
		t.Errorf("status %+v, %v", status, err)
	}
	// What was kept before holds, with a gateway that runs.
	report, err := w.Fsck(t.Context(), []ledger.Checkpoint{known}, nil)
	if err != nil || len(report.Problems) > 0 {
		t.Errorf("fsck: %+v, %v", report, err)
	}
	known.Root[0] ^= 1
	report, err = w.Fsck(t.Context(), []ledger.Checkpoint{known}, nil)
	if err != nil || len(report.Problems) != 1 {
		t.Errorf("fsck against another history: %+v, %v", report, err)
	}

	if _, err := w.RevokeLogKey(t.Context(), api.KeyRevocation{Key: keys.Keys[1].ID, Reason: "x"}, packtest.Alice); problemStatus(err) != 409 {
		t.Errorf("the key in force is revoked: %v", err)
	}
	if _, err := w.RevokeLogKey(t.Context(), api.KeyRevocation{Key: "00000000", Reason: "x"}, packtest.Alice); problemStatus(err) != 404 {
		t.Errorf("a stranger is revoked: %v", err)
	}
	if _, err := w.RevokeLogKey(t.Context(), api.KeyRevocation{Key: first, Reason: "copied"}, packtest.Alice); err != nil {
		t.Fatal(err)
	}
	w.wants("revoked", "in force")
	if _, err := w.RevokeLogKey(t.Context(), api.KeyRevocation{Key: first, Reason: "copied"}, packtest.Alice); problemStatus(err) != 409 {
		t.Errorf("revoked twice: %v", err)
	}
	w.again()
	w.wants("revoked", "in force")
	if _, err := w.RotateLogKey(t.Context(), api.KeyRotation{}, packtest.Alice); err != nil {
		t.Fatal(err)
	}
	w.wants("revoked", "replaced", "in force")
	w.sound()
}

// sealedNow is the checkpoint of all that is recorded.
func (w *world) sealedNow() (ledger.Checkpoint, error) {
	_, err := w.Flush(w.t.Context())
	return w.sealer.Status().Checkpoint, err
}

// A crash leaves a rotation in one of its states; the next start goes on from
// it. (e2e has crashes that are real.)
func TestARotationGoesOnAfterACrash(t *testing.T) {
	record := func(w *world) *logKey {
		next, err := makeNextKey(w.opened.Data, w.opened.Origin)
		if err != nil {
			w.t.Fatal(err)
		}
		w.changing.Lock()
		defer w.changing.Unlock()
		w.material.next = next
		w.sealer.Hold(next)
		err = w.changeKeys(context.Background(), evidence.LogKeyBody{
			Change: ledger.KeyRotated, Old: w.material.log.verifier, New: next.verifier, By: packtest.Alice,
		}, w.material.log, *next)
		if err != nil {
			w.t.Fatal(err)
		}
		return next
	}
	rename := func(w *world) {
		if err := os.Rename(w.keystore(nextKeyFile), w.keystore(logKeyFile)); err != nil {
			w.t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		crash func(w *world)
		want  []string
	}{
		"made": {func(w *world) {
			if _, err := makeNextKey(w.opened.Data, w.opened.Origin); err != nil {
				w.t.Fatal(err)
			}
		}, []string{"in force", "prepared"}},
		"recorded and sealed": {func(w *world) { record(w) }, []string{"replaced", "in force"}},
		"promoted in part": {func(w *world) {
			record(w)
			if err := w.stop(); err != nil { // seals it
				w.t.Fatal(err)
			}
			rename(w)
		}, []string{"replaced", "in force"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.crash(w)
			w.again()
			w.wants(c.want...)
			key := w.material.log.verifier
			if pub, err := readVerifier(w.opened.Data); err != nil || pub != key {
				t.Errorf("log.pub is %s, in place is %s: %v", pub, key, err)
			}
			if _, err := w.RotateLogKey(t.Context(), api.KeyRotation{}, packtest.Alice); err != nil {
				t.Fatal(err)
			}
			w.again()
			w.sound()
			if _, err := os.Stat(w.keystore(nextKeyFile)); !os.IsNotExist(err) {
				t.Errorf("a key that signs is left beside its place: %v", err)
			}
		})
	}
}

func TestAKeystoreOfBeforeTheRotationIsRefused(t *testing.T) {
	w := newWorld(t)
	old, err := os.ReadFile(w.keystore(logKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.RotateLogKey(t.Context(), api.KeyRotation{}, packtest.Alice); err != nil {
		t.Fatal(err)
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.keystore(logKeyFile), old, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.reopened(w.opened.Data); err == nil || !strings.Contains(err.Error(), "newest keystore") {
		t.Errorf("opened: %v", err)
	}
}

// Backups go on across rotations, and leave a record, as do restores.
func TestBackupsAndRestoresAreOnRecord(t *testing.T) {
	w := newWorld(t)
	id := newIdentity(t)
	known, err := w.sealedNow()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.RotateLogKey(t.Context(), api.KeyRotation{}, packtest.Alice); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Backup(t.Context(), api.Backup{Recipients: []string{id.Recipient().String()}}, packtest.Alice); err != nil {
		t.Fatal(err)
	}
	backup := w.backup(id.Recipient())
	data := filepath.Join(t.TempDir(), "data")
	r, err := Restore(t.Context(), RestoreParams{Data: data, Identity: []age.Identity{id}, Known: []ledger.Checkpoint{known}}, bytes.NewReader(backup))
	if err != nil {
		t.Fatal(err)
	}
	if err := NoteBackup(data, evidence.BackupBody{By: evidence.By{Via: "exhibit backup, uid 7"}}); err != nil {
		t.Fatal(err)
	}
	g, err := w.reopened(data)
	if err != nil {
		t.Fatal(err)
	}
	var backups []evidence.BackupBody
	var restores []evidence.RestoreBody
	err = g.sealer.Scan(t.Context(), 0, func(r *evidence.Record) error {
		switch r.Head.Type {
		case evidence.LogBackup:
			backups = append(backups, evidence.BackupBody{})
			return evidence.DecodeBody(r.Body, &backups[len(backups)-1])
		case evidence.LogRestore:
			restores = append(restores, evidence.RestoreBody{})
			return evidence.DecodeBody(r.Body, &restores[len(restores)-1])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(backups) != 2 || !backups[0].Keys || backups[0].By.Person.ID != packtest.Alice.Person.ID || backups[1].By.Via != "exhibit backup, uid 7" {
		t.Errorf("backups on record: %+v", backups)
	}
	if len(restores) != 1 || restores[0].Blocks != r.Blocks || restores[0].Root.String() != r.Root || restores[0].Made != r.Made.UnixMicro() || !restores[0].Keys {
		t.Errorf("restores on record: %+v, restored %+v", restores, r.BackupInfo)
	}
	if err := g.Abandon(); err != nil {
		t.Fatal(err)
	}
	// It was noted once.
	if g, err = w.reopened(data); err != nil {
		t.Fatal(err)
	}
	n := 0
	err = g.sealer.Scan(t.Context(), 0, func(r *evidence.Record) error {
		if r.Head.Type == evidence.LogRestore {
			n++
		}
		return nil
	})
	if err != nil || n != 1 {
		t.Errorf("%d restores on record after another start: %v", n, err)
	}
	if err := g.Abandon(); err != nil {
		t.Fatal(err)
	}
}

// A note that nobody can read keeps no gateway from starting, and asks a person.
func TestANoteThatCannotBeReadRaisesAnAlert(t *testing.T) {
	w := newWorld(t)
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	note, _ := json.Marshal(map[string]any{"restore": map[string]any{"secret": "x"}})
	if err := os.WriteFile(filepath.Join(w.opened.Data, unrecordedFile), append(note, "\nnonsense\n{}\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	w.again()
	if _, err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := w.count(evidence.Alert); n != 3 {
		t.Errorf("%d alerts", n)
	}
	if n := w.count(evidence.LogRestore); n != 0 {
		t.Errorf("%d restores on record", n)
	}
}

// A key that goes while its backup is made would be missed by who restores it.
func TestABackupAcrossARotationIsMadeAgain(t *testing.T) {
	w := newWorld(t)
	id := newIdentity(t)
	if _, err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	rotated := false
	p := BackupParams{Data: w.opened.Data, Keys: []age.Recipient{id.Recipient()}, Progress: func(api.Progress) {
		if rotated {
			return
		}
		rotated = true
		if _, err := w.RotateLogKey(t.Context(), api.KeyRotation{}, packtest.Alice); err != nil {
			t.Error(err)
		}
	}}
	if _, err := Backup(t.Context(), p, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "make it again") {
		t.Errorf("backed up across a rotation: %v", err)
	}
	var b bytes.Buffer
	if _, err := Backup(t.Context(), p, &b); err != nil {
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
}

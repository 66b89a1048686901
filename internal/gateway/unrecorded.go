package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
)

// unrecordedFile tells of what was done with the data folder while no gateway
// ran there, a line each, for the next start to record. It is the word of who
// may write the folder: what nobody noted is on no record.
const (
	unrecordedFile = "unrecorded.jsonl"
	maxUnrecorded  = 64 << 10
)

// unrecorded is one line; one of its fields is set.
type unrecorded struct {
	Backup  *evidence.BackupBody  `json:"backup,omitempty"`
	Restore *evidence.RestoreBody `json:"restore,omitempty"`
}

// NoteBackup has the next start of a gateway record a backup that was made
// while none ran.
func NoteBackup(data string, b evidence.BackupBody) error {
	f, err := os.OpenFile(filepath.Join(data, unrecordedFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("noting the backup: %w", err)
	}
	_, err = f.Write(noteLine(unrecorded{Backup: &b}))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("noting the backup: %w", err)
	}
	return nil
}

func noteLine(u unrecorded) []byte { return append(evidence.EncodeBody(u), '\n') }

// recordNoted records what the file tells, and removes it. A crash in between
// records it twice, with the same times.
func (g *Gateway) recordNoted(ctx context.Context) error {
	name := filepath.Join(g.opened.Data, unrecordedFile)
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading what is not on record: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxUnrecorded))
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("reading what is not on record: %w", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		var u unrecorded
		d := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		d.DisallowUnknownFields()
		switch err := d.Decode(&u); {
		case err == nil && u.Backup != nil:
			err = g.record(ctx, evidence.Power, evidence.LogBackup, u.Backup)
			if err != nil {
				return err
			}
		case err == nil && u.Restore != nil:
			if err := g.record(ctx, evidence.Power, evidence.LogRestore, u.Restore); err != nil {
				return err
			}
			g.log.Warn("the data folder was restored from a backup", "blocks", u.Restore.Blocks, "by", u.Restore.By.Via)
		default:
			g.Alert("unrecorded", "medium", "something was noted of the data folder while no gateway ran, and the note can't be read")
		}
	}
	if err := os.Remove(name); err != nil {
		return fmt.Errorf("forgetting what is on record now: %w", err)
	}
	return syncDir(g.opened.Data)
}

// Backup implements api.Log.
func (g *Gateway) Backup(ctx context.Context, b api.Backup, by evidence.By) (api.LogStatus, error) {
	err := g.record(ctx, evidence.Power, evidence.LogBackup, evidence.BackupBody{Keys: len(b.Recipients) > 0, Recipients: b.Recipients, By: by})
	if err != nil {
		return api.LogStatus{}, api.Unavailable("the backup cannot be recorded, so none is made", "")
	}
	return g.Flush(ctx)
}

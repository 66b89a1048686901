package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/gateway"
	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/verify"
)

const knownUsage = "trust file, or checkpoint, that the log must have grown from"

// knownOf reads checkpoints that somebody kept: those of a trust file, or one
// by itself.
func knownOf(file string) ([]ledger.Checkpoint, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading known checkpoints: %w", err)
	}
	if strings.HasPrefix(strings.TrimSpace(string(text)), "{") {
		f, err := verify.ParseTrustFile(text)
		if err != nil {
			return nil, err
		}
		t, err := f.Trust()
		if err == nil && len(t.Known) == 0 {
			err = hinted{fmt.Errorf("%s holds no known checkpoint", file), "exhibit verify --remember writes one to a trust file"}
		}
		return t.Known, err
	}
	body, _, _ := strings.Cut(string(text), "\n\n")
	cp, err := ledger.ParseCheckpoint(strings.TrimSuffix(body, "\n") + "\n")
	if err != nil {
		return nil, fmt.Errorf("reading known checkpoints: %s: %w", file, err)
	}
	return []ledger.Checkpoint{cp}, nil
}

func newBackup(a *app) *cobra.Command {
	var output string
	var recipients []string
	c := &cobra.Command{
		Use: "backup -o FILE [--with-keys RECIPIENT]", Short: "Copy the log to one file", GroupID: groupEvidence, Args: exactly(),
		Long: `Copies blocks, tree and checkpoints of the data folder to one file, also while the
gateway runs, which first puts on record that you do, and seals what it has. It
needs the right to read the data folder. While no gateway runs the next start
records it, if you may write there.

Without --with-keys the file holds no key: neither the gateway's own nor those of
sessions, without which sealed statements can't be read and no gateway goes on
with the log. With it they are in the file, encrypted to an age recipient whose
identity should lie elsewhere than the backups. A backup of session keys outlives
their erasure. The configuration, policies, secrets of upstreams, and what agents
do after the moment of the backup are never in it.`,
		Example: `  exhibit backup -o /backup/gw1-2026-07-01.tar
  exhibit backup -o gw1.tar --with-keys age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output == "" {
				return usagef("%s needs --output", cmd.CommandPath())
			}
			to, err := recipientsOf(recipients)
			if err != nil {
				return err
			}
			return a.backup(cmd.Context(), output, recipients, to)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "file to write; must not exist")
	c.Flags().StringSliceVar(&recipients, "with-keys", nil, "age recipient of the keys; may be given several times")
	return c
}

func recipientsOf(list []string) (to []age.Recipient, err error) {
	for _, text := range list {
		r, err := age.ParseRecipients(strings.NewReader(text))
		if err != nil || len(r) != 1 {
			return nil, hinted{usagef("--with-keys wants an age recipient"), "age-keygen makes an identity and says its recipient, which begins with age1"}
		}
		to = append(to, r...)
	}
	return to, nil
}

func (a *app) backup(ctx context.Context, output string, recipients []string, to []age.Recipient) error {
	data, err := a.dataFolder()
	if err != nil {
		return err
	}
	if _, err := os.Lstat(output); err == nil {
		return hinted{fmt.Errorf("%s exists", output), "a backup is never overwritten: choose another name"}
	}
	recorded, err := a.recordBackup(ctx, recipients)
	if err != nil {
		return err
	}
	part := output + ".part"
	w, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("creating the backup's file: %w", err)
	}
	sum := sha256.New()
	progress, done := a.tracker()
	info, err := gateway.Backup(ctx, gateway.BackupParams{Data: data, Keys: to, Progress: progress}, io.MultiWriter(w, sum))
	done()
	err = errors.Join(err, w.Sync(), w.Close())
	if err == nil {
		err = os.Rename(part, output)
	}
	if err != nil {
		return errors.Join(err, os.Remove(part))
	}
	if !recorded {
		if err := a.noteBackup(data, info.Made, recipients); err != nil {
			return err
		}
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	a.say("Wrote %s: %s of %s, root %s", output, count(int(info.Blocks), "block"), info.Origin, info.Root)
	a.say("SHA-256 %s", digest)
	if !info.Keys {
		a.say("It holds no keys: back up keystore and keys of %s apart from it, or use --with-keys", data)
	}
	return a.jsonOnly(struct {
		gateway.BackupInfo

		Digest string `json:"digest"`
	}{info, digest})
}

// dataFolder is where the gateway's data lies.
func (a *app) dataFolder() (string, error) {
	if a.data != "" {
		return a.data, nil
	}
	c, err := a.loadConfig()
	if err != nil {
		return "", err
	}
	return c.Data, nil
}

// recordBackup has a running gateway record the backup and seal it with all
// that came before. Of one that doesn't run everything is sealed, unless it
// crashed; the next one records the backup.
func (a *app) recordBackup(ctx context.Context, recipients []string) (recorded bool, err error) {
	err = a.ask(func(c *api.Client) error {
		_, err := c.Backup(ctx, api.Backup{Recipients: recipients})
		return err
	})
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		a.say("No gateway runs here. If it crashed, its last records are in its journal only, and not in this backup")
		return false, nil
	}
	return true, err
}

// noteBackup leaves word of a backup for the next start of the gateway.
func (a *app) noteBackup(data string, made time.Time, recipients []string) error {
	err := gateway.NoteBackup(data, evidence.BackupBody{
		Made: made.UnixMicro(), Keys: len(recipients) > 0, Recipients: recipients,
		By: evidence.By{Via: fmt.Sprintf("exhibit backup, uid %d", os.Getuid())},
	})
	if errors.Is(err, fs.ErrPermission) {
		a.say("It is on no record: you may not write to %s", data)
		return nil
	}
	return err
}

func newRestore(a *app) *cobra.Command {
	var identity, known string
	c := &cobra.Command{
		Use: "restore FILE --data FOLDER [--identity FILE]", Short: "Make a data folder of a backup", GroupID: groupEvidence, Args: exactly("FILE"),
		Long: `Makes a data folder of a backup, checks all of it as exhibit log fsck does, and
puts it in place only then. The folder must be empty or not be there.

With --identity, the age identity of the backup's --with-keys, the keys are
restored too, and a gateway can go on with the log. It MUST be the newest copy: a
gateway on an older one would sign a second history. A witness that has seen more
keeps it from starting; so does --known, here and at exhibit serve.`,
		Example: `  exhibit restore gw1.tar --data /var/lib/exhibit --identity backup.age --known trust.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.data == "" {
				return usagef("%s needs --data", cmd.CommandPath())
			}
			return a.restore(cmd.Context(), args[0], identity, known)
		},
	}
	c.Flags().StringVar(&identity, "identity", "", "file with the age identity of the keys")
	c.Flags().StringVar(&known, "known", "", knownUsage)
	return c
}

func (a *app) restore(ctx context.Context, file, identity, known string) (err error) {
	p := gateway.RestoreParams{Data: a.data}
	if p.Known, err = knownOf(known); err != nil {
		return err
	}
	if identity != "" {
		text, err := os.ReadFile(identity)
		if err != nil {
			return fmt.Errorf("reading the identity: %w", err)
		}
		if p.Identity, err = age.ParseIdentities(strings.NewReader(string(text))); err != nil {
			return fmt.Errorf("reading the identity in %s: %w", identity, err)
		}
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("reading the backup: %w", err)
	}
	defer f.Close()
	progress, done := a.tracker()
	p.Progress = progress
	r, err := gateway.Restore(ctx, p, f)
	done()
	if err != nil {
		return err
	}
	a.say("Restored %s: %s, %s of %s, made %s; everything is in order", a.data, count(int(r.Blocks), "block"), count(int(r.Fsck.Records), "record"), r.Origin, stamp(r.Made))
	if !r.Keys {
		a.say("Without keys: it can be checked (exhibit log fsck --offline), and no gateway runs on it until keystore and keys are put there")
	}
	return a.jsonOnly(r)
}

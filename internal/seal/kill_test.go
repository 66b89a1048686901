package seal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/archive"
	"github.com/exhibit-gateway/exhibit/internal/journal"
	"github.com/exhibit-gateway/exhibit/internal/keys"
	"github.com/exhibit-gateway/exhibit/internal/recorder"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// The child of TestKill finds here where to work, and its key.
const (
	killDir = "SEAL_TEST_KILL_DIR"
	killKey = "SEAL_TEST_KILL_KEY"
)

// noKeys is for records without sealed parts.
type noKeys struct{}

func (noKeys) Scope(boot, slot uint64) (*keys.Scope, error) {
	return nil, fmt.Errorf("key %d.%d: %w", boot, slot, keys.ErrShredded)
}

// killed is a gateway that the test kills.
type killed struct {
	journal *journal.Journal
	archive *archive.Folder
	sealer  *Sealer
}

func openKilled(ctx context.Context, dir, skey string) (*killed, error) {
	signer, err := note.NewSigner(skey)
	if err != nil {
		return nil, err
	}
	k := &killed{}
	if k.journal, err = journal.Open(filepath.Join(dir, "journal"), journal.Options{SegmentBytes: 16 << 10, ReserveBytes: -1}); err != nil {
		return nil, err
	}
	if k.archive, err = archive.OpenFolder(filepath.Join(dir, "archive")); err != nil {
		return nil, err
	}
	k.sealer, err = Open(ctx, Config{
		Dir: filepath.Join(dir, "log"), Signer: signer, Interval: time.Millisecond, MaxBytes: 1 << 10,
		Logger: slog.New(slog.DiscardHandler),
	}, k.journal, k.archive, noKeys{})
	return k, err
}

// TestKillChild is the process that TestKill kills: it records and seals as fast
// as it can, and says which records were durable.
func TestKillChild(t *testing.T) {
	dir := os.Getenv(killDir)
	if dir == "" {
		t.Skip("run by TestKill")
	}
	k, err := openKilled(t.Context(), dir, os.Getenv(killKey))
	check(t, err)
	boot := uint64(1)
	check(t, k.sealer.Scan(t.Context(), 0, func(r *evidence.Record) error { boot = r.Head.Pos.Boot + 1; return nil }))
	go func() { fmt.Println("run:", k.sealer.Run(t.Context())) }()
	for seq := uint64(0); ; seq++ {
		h := evidence.Head{Pos: evidence.Position{Gateway: "gw1", Boot: boot, Seq: seq}, Type: evidence.Heartbeat, Time: 1, N: seq + 1}
		lsn, err := k.journal.Append((&recorder.Entry{Head: evidence.AppendHead(nil, &h)}).Append(nil))
		check(t, err)
		check(t, k.journal.Wait(lsn, journal.Synced))
		fmt.Println("durable:", h.Pos)
		if seq%50 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// TestKill kills a sealing process at random moments. Whatever it called durable
// must be in the log, once, and nothing in the log may be out of order.
func TestKill(t *testing.T) {
	t.Parallel()
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	dir := t.TempDir()
	skey, vkey, err := note.GenerateKey(nil, origin)
	check(t, err)
	verifier, err := ledger.NewVerifier(vkey)
	check(t, err)
	durable := map[string]bool{}
	for range rounds {
		for _, pos := range killOne(t, dir, skey, time.Duration(50+rand.IntN(600))*time.Millisecond) {
			durable[pos] = true
		}
	}
	k, err := openKilled(t.Context(), dir, skey)
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- k.sealer.Run(ctx) }()
	check(t, k.sealer.Flush(t.Context()))
	blocks := k.sealer.Status().Blocks
	cancel()
	check(t, <-ran)

	var last evidence.Position
	check(t, k.sealer.Scan(t.Context(), 0, func(r *evidence.Record) error {
		if !last.IsZero() && !ledger.Continues(last, r.Head.Pos) {
			return fmt.Errorf("%s follows %s", r.Head.Pos, last)
		}
		last = r.Head.Pos
		delete(durable, last.String())
		return nil
	}))
	for pos := range durable {
		t.Errorf("%s was durable and is nowhere", pos)
	}
	report, err := Fsck{Log: verifier, Archive: k.archive.FS(), Tree: os.DirFS(filepath.Join(dir, "log"))}.Run(t.Context())
	check(t, err)
	for _, f := range report.Findings {
		t.Errorf("fsck: %+v", f)
	}
	t.Logf("%d boots, %d records, %d blocks", last.Boot, report.Records, blocks)
	check(t, errors.Join(k.sealer.Close(), k.journal.Close(), k.archive.Close()))
}

// killOne runs a child for a while and returns what it called durable.
func killOne(t *testing.T, dir, skey string, after time.Duration) (durable []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKillChild$", "-test.v")
	cmd.Env = append(os.Environ(), killDir+"="+dir, killKey+"="+skey)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	lines := bufio.NewScanner(out)
	var timer *time.Timer
	for lines.Scan() {
		if pos, ok := strings.CutPrefix(lines.Text(), "durable: "); ok {
			if timer == nil {
				timer = time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
			}
			if _, err := evidence.ParsePosition(pos); err == nil { // not cut short
				durable = append(durable, pos)
			}
		} else if strings.HasPrefix(lines.Text(), "run:") || strings.Contains(lines.Text(), "FAIL") {
			t.Errorf("the child says: %s", lines.Text())
		}
	}
	_ = cmd.Wait()
	if len(durable) == 0 {
		t.Error("the child recorded nothing")
	}
	return durable[:max(len(durable)-1, 0)] // the last line may be cut to another position
}

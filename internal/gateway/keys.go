package gateway

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/failpoint"
	"github.com/exhibit-gateway/exhibit/internal/seal"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// A rotation goes through these states, and a crash leaves it in one of them:
//
//	made      log.next is in the keystore; nothing says that it signs
//	recorded  a log.key record is durable: it decides, by position
//	sealed    the block with the record is in the log: the new key signs
//	promoted  log.next has become log.key; the old key is gone
//
// Which key signs follows from the records (seal.Sealer), so that going from
// recorded to promoted can be tried again, also by the next boot.

// settleTimeout is how long who rotates waits for the new key to sign.
const settleTimeout = 15 * time.Second

// openKeys folds the history of the log's keys, by position: the sealed ones,
// and what the journal holds on top of them. Control are those that the proven
// records hold from a position on.
func (g *Gateway) openKeys(from evidence.Position, control []evidence.Record) error {
	keys := g.sealer.Keys()
	sealed := slices.DeleteFunc(slices.Clone(keys.Changes()), func(c ledger.KeyChange) bool { return c.Pos.Before(from) })
	if len(control) < len(sealed) {
		return fmt.Errorf("%w: the log's proven records do not hold every change of its keys; run exhibit log fsck", seal.ErrDiverged)
	}
	blocks := g.sealer.Status().Blocks
	for i := range control {
		if i < len(sealed) {
			if sealed[i].Pos != control[i].Head.Pos {
				return fmt.Errorf("%w: log.key %s is not among the log's proven records; run exhibit log fsck", seal.ErrDiverged, sealed[i].Pos)
			}
			continue
		}
		if err := keys.Apply(blocks, &control[i]); err != nil {
			return fmt.Errorf("the log's keys: %w", err)
		}
	}
	if err := keys.Begin(g.material.log.verifier); err != nil {
		return fmt.Errorf("the log's keys: %w", err)
	}
	g.logKeys.Store(keys)
	return g.promote()
}

// promote puts the key that signs in its place in the keystore, if it isn't
// there yet.
func (g *Gateway) promote() error {
	next := g.material.next
	sealed := g.sealer.Keys().Current()
	if next != nil && sealed != nil && sealed.Text == next.verifier {
		if err := promoteKey(g.opened.Data, next); err != nil {
			return err
		}
		g.material.log, g.material.next = *next, nil
		g.log.Info("the log has a new key", "key", next.verifier)
		failpoint.Hit("log key switched")
	}
	dir := filepath.Join(g.opened.Data, keystoreDirName)
	if text, err := os.ReadFile(filepath.Join(dir, verifierFile)); err == nil && strings.TrimSpace(string(text)) == g.material.log.verifier {
		return nil
	}
	return replaceFile(filepath.Join(dir, verifierFile), []byte(g.material.log.verifier+"\n"))
}

// settled reports whether the key that the records put in force is the one in
// its place. The caller holds changing.
func (g *Gateway) settled() bool { return g.logKeys.Load().Current().Text == g.material.log.verifier }

// settle seals a rotation that is on record, and puts its key in place. The
// caller holds changing.
func (g *Gateway) settle(ctx context.Context) error {
	if g.settled() {
		return nil
	}
	if err := g.sealer.Flush(ctx); err != nil {
		return err
	}
	failpoint.Hit("log key sealed")
	return g.promote()
}

// settleKeys finishes what rotations left to be done, also those of the boot
// before.
func (g *Gateway) settleKeys(ctx context.Context) error {
	for {
		err := g.settleSoon(ctx)
		if err != nil && ctx.Err() == nil {
			g.log.Warn("the log's new key is not in place yet; it will be tried again", "cause", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settleTimeout):
		}
	}
}

// settleSoon is settle for who can come back: it holds up no other change for
// long.
func (g *Gateway) settleSoon(ctx context.Context) error {
	g.changing.Lock()
	defer g.changing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	return g.settle(ctx)
}

// RotateLogKey implements api.Log.
func (g *Gateway) RotateLogKey(ctx context.Context, r api.KeyRotation, by evidence.By) (api.LogKeys, error) {
	g.changing.Lock()
	defer g.changing.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*settleTimeout)
	defer cancel()
	if err := g.settle(ctx); err != nil {
		return api.LogKeys{}, api.Unavailable("the rotation before is not finished: "+err.Error(), "exhibit log status says what keeps records from being sealed")
	}
	if g.material.next == nil {
		next, err := makeNextKey(g.opened.Data, g.opened.Origin)
		if err != nil {
			return api.LogKeys{}, err
		}
		g.material.next = next
		g.sealer.Hold(next)
		failpoint.Hit("log key made")
	}
	if r.Prepare {
		return g.LogKeys(ctx)
	}
	next := g.material.next
	err := g.changeKeys(ctx, evidence.LogKeyBody{
		Change: ledger.KeyRotated, Old: g.material.log.verifier, New: next.verifier, Reason: r.Reason, By: by,
	}, g.material.log, *next)
	if err != nil {
		return api.LogKeys{}, err
	}
	failpoint.Hit("log key recorded")
	if err := g.settle(ctx); err != nil {
		// It is on record and so in force; settleKeys goes on with it.
		g.log.Warn("the log's new key is on record and does not sign yet", "cause", err)
	}
	return g.LogKeys(ctx)
}

// RevokeLogKey implements api.Log.
func (g *Gateway) RevokeLogKey(ctx context.Context, r api.KeyRevocation, by evidence.By) (api.LogKeys, error) {
	g.changing.Lock()
	defer g.changing.Unlock()
	if err := g.settle(ctx); err != nil {
		return api.LogKeys{}, api.Unavailable("a rotation is not finished: "+err.Error(), "exhibit log status says what keeps records from being sealed")
	}
	k := g.logKeys.Load().Find(r.Key)
	switch {
	case k == nil:
		return api.LogKeys{}, api.NotFound(fmt.Sprintf("the log never had a key %.100q", r.Key), "exhibit log keys lists them")
	case k.Until == nil:
		return api.LogKeys{}, api.Conflict("key "+k.ID()+" is in force, and a log without a key signs nothing", "put another in its place first: exhibit log rotate-key")
	case k.Revoked != nil:
		return api.LogKeys{}, api.Conflict(fmt.Sprintf("key %s was revoked by %s", k.ID(), k.Revoked.Pos), "")
	}
	err := g.changeKeys(ctx, evidence.LogKeyBody{
		Change: ledger.KeyRevoked, Old: k.Text, New: g.material.log.verifier, Reason: r.Reason, By: by,
	}, g.material.log)
	if err != nil {
		return api.LogKeys{}, err
	}
	return g.LogKeys(ctx)
}

// changeKeys signs a change of keys after all that is recorded, and records it.
// The caller holds changing.
func (g *Gateway) changeKeys(ctx context.Context, b evidence.LogKeyBody, by ...logKey) error {
	// What the statement names must be signed by the key that goes.
	if err := g.sealer.Flush(ctx); err != nil {
		return api.Unavailable("the log cannot be sealed, and so its keys not changed: "+err.Error(), "exhibit log status says more")
	}
	st := g.sealer.Status()
	b.Size, b.Root = st.Checkpoint.Size, st.Checkpoint.Root
	signers := make([]note.Signer, len(by))
	for i := range by {
		signers[i] = by[i]
	}
	if err := ledger.SignKeyChange(g.opened.Origin, &b, signers...); err != nil {
		return err
	}
	// Nothing that a reader would refuse is recorded: no log goes on with it.
	next := g.logKeys.Load().Clone()
	last := g.recorder.Last()
	last.Seq++
	if err := next.Change(ledger.KeyChange{Pos: last, Block: st.Blocks, Body: b}); err != nil {
		return fmt.Errorf("changing the log's keys: %w", err)
	}
	pos, err := g.control(ctx, evidence.Head{Type: evidence.LogKey}, b)
	if err != nil {
		return err
	}
	next = g.logKeys.Load().Clone()
	if err := next.Change(ledger.KeyChange{Pos: pos, Block: st.Blocks, Time: g.clock.now().UnixMicro(), Body: b}); err != nil {
		return fmt.Errorf("changing the log's keys: %w", err)
	}
	g.logKeys.Store(next)
	g.log.Info("the keys of the log were changed", "change", b.Change, "old", b.Old, "new", b.New, "position", pos.String())
	return nil
}

// LogKeys implements api.Log.
func (g *Gateway) LogKeys(context.Context) (api.LogKeys, error) {
	out := api.LogKeys{Origin: g.opened.Origin}
	sealed := g.sealer.Keys()
	for _, k := range g.logKeys.Load().List() {
		a := api.LogKey{ID: k.ID(), Key: k.Text, Status: "in force"}
		if k.From != nil {
			a.From = keyChange(k.From)
			if sealed.Find(k.Text) == nil {
				a.Status = "recorded"
			}
		}
		if k.Until != nil {
			a.Status, a.Until = "replaced", keyChange(k.Until)
			if at := sealed.Find(k.Text); at != nil && at.Until != nil {
				a.Blocks = at.Until.Block
			}
		}
		if k.Revoked != nil {
			a.Status, a.Revoked = "revoked", keyChange(k.Revoked)
		}
		out.Keys = append(out.Keys, a)
	}
	if next, err := readNextKey(filepath.Join(g.opened.Data, keystoreDirName)); err == nil && next != nil && g.logKeys.Load().Find(next.verifier) == nil {
		out.Keys = append(out.Keys, api.LogKey{ID: fmt.Sprintf("%08x", next.KeyHash()), Key: next.verifier, Status: "prepared"})
	}
	return out, nil
}

func keyChange(c *ledger.KeyChange) *api.Change {
	return &api.Change{Position: c.Pos.String(), Time: moment(c.Time), By: c.Body.By, Reason: c.Body.Reason}
}

// keyInForce is the verifier key of the published checkpoint.
func (g *Gateway) keyInForce(size uint64) string {
	if k := g.sealer.Keys().At(size); k != nil {
		return k.Text
	}
	return g.logKeys.Load().List()[0].Text
}

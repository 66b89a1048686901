package workpaper

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

const retentionTable = "retention"

// retentionPopulation is of segments of the log: each disposal, what lies between
// the last of them and the range, and the range by the months of its blocks.
func retentionPopulation() Table {
	return Table{Name: retentionTable, Columns: columns("segment:n", "state:n", "last_pos:n", "from:t", "to:t", "blocks:#", "records:#", "stored_until:t", "lock_mode:n",
		"disposed_at:t", "disposed_pos:n", "disposed_by", "disposed_via", "request_id:n", "approved_by", "reason", "kept_blocks:#", "digest")}
}

// lockNone is what keeps the files of an archive from being changed: it is a
// folder, and nothing does.
const lockNone = "none"

// Stored is a block of the range as its header says.
type Stored struct {
	Number   uint64
	Records  uint64
	Last     evidence.Position
	From, To int64         // times of its first and last record
	Leaf     evidence.Hash // of its header
}

// retention is what a fold knows of the blocks of its range.
type retention struct {
	segments []segment
}

// segment is a run of blocks.
type segment struct {
	first, last uint64
	month       int64 // of its first block, since year 0
	from, to    int64
	pos         evidence.Position
	records     uint64
	digest      runDigest
}

// Stored notes the next block of the range, before its records.
func (f *Fold) Stored(b *Stored) {
	t := time.UnixMicro(b.From).UTC()
	month := int64(t.Year())*12 + int64(t.Month())
	s := f.retention.newest()
	if s == nil || month > s.month { // a clock that is set back begins none
		f.retention.segments = append(f.retention.segments, segment{first: b.Number, month: month, from: b.From})
		s = f.retention.newest()
	}
	s.last, s.pos, s.to = b.Number, b.Last, max(s.to, b.To)
	s.records += b.Records
	s.digest.add(b.Leaf)
}

func (r *retention) newest() *segment {
	if len(r.segments) == 0 {
		return nil
	}
	return &r.segments[len(r.segments)-1]
}

// disposed makes the tests of a disposal, whose record the registry took or, for
// a reason, refused.
func (f *Fold) disposed(h *evidence.Head, body []byte, before *decision.Registry, err error) {
	t := f.tests
	t.disposalEarly.Population++
	t.disposalHeld.Population++
	t.disposalGap.Population++
	var b evidence.DisposalBody
	if evidence.DecodeBody(body, &b) == nil && (b.Request != "" || before.Separated()) {
		t.disposalApproved.Population++
	}
	if err == nil {
		f.counts.disposals++
		f.counts.disposedBlocks += b.Blocks
		return
	}
	fails := &t.disposalGap
	switch {
	case errors.Is(err, decision.ErrHeld):
		fails = &t.disposalHeld
	case errors.Is(err, decision.ErrEarly), errors.Is(err, decision.ErrStale) && b.Request == "":
		fails = &t.disposalEarly
	case b.Request != "" && !errors.Is(err, decision.ErrGap), errors.Is(err, decision.ErrNotApproved):
		fails = &t.disposalApproved
	}
	fails.Except(h.Pos, "%.300s", err)
}

// retentionRows writes the rows of disposals, of what is kept before the range
// and not in it, and of the range.
func (f *Fold) retentionRows() error {
	for _, d := range f.registry.Disposals() {
		if err := f.disposalRow(&d); err != nil {
			return err
		}
	}
	if len(f.retention.segments) == 0 {
		return nil
	}
	if first, from := f.retention.segments[0].first, f.registry.Undisposed(); from < first {
		if err := f.row(retentionTable, fmt.Sprintf("%d-%d", from, first-1), "outside", "", "", "", count(first-from), "", "", lockNone, "", "", "", "", "", "", "", "", ""); err != nil {
			return err
		}
	}
	keep := f.registry.ConfigBody().Retention
	for i := range f.retention.segments {
		s := &f.retention.segments[i]
		until := ""
		if keep > 0 {
			until = FormatTime(s.to + keep*time.Second.Microseconds())
		}
		if err := f.row(retentionTable, fmt.Sprintf("%d-%d", s.first, s.last), "kept", pos(s.pos), FormatTime(s.from), FormatTime(s.to),
			count(s.last-s.first+1), count(s.records), until, lockNone, "", "", "", "", "", "", "", "", s.digest.root().String()); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fold) disposalRow(d *decision.Disposed) error {
	var end struct {
		Gateway string `json:"gateway"`
		Boot    uint64 `json:"boot"`
		Last    uint64 `json:"last"`
		To      int64  `json:"to"`
	}
	if err := json.Unmarshal([]byte(d.End), &end); err != nil {
		return fmt.Errorf("disposal %s: its header: %w", d.At, err) // which the registry has read
	}
	a, _ := f.registry.Approval(d.Request)
	p := decidedBy(&a)
	kept := d.Last - d.First + 1 + uint64(len(d.Released)) - d.Blocks
	last := evidence.Position{Gateway: end.Gateway, Boot: end.Boot, Seq: end.Last}
	return f.row(retentionTable, fmt.Sprintf("%d-%d", d.First, d.Last), "disposed", pos(last), "", FormatTime(end.To),
		count(d.Blocks), count(d.Records), FormatTime(end.To+d.Retention*time.Second.Microseconds()), lockNone,
		FormatTime(d.Time), pos(d.At), d.By.Person.ID, d.By.Via, d.Request, join(p.approvers), d.Reason, count(kept), d.Digest.String())
}

// runDigest is the RFC 6962 tree hash over the leaf hashes of a run of blocks: a
// hash for each complete subtree so far.
type runDigest struct {
	n     uint64
	stack []evidence.Hash
}

func (d *runDigest) add(leaf evidence.Hash) {
	h := leaf
	for n := d.n; n&1 == 1; n >>= 1 {
		top := len(d.stack) - 1
		h = nodeHash(d.stack[top], h)
		d.stack = d.stack[:top]
	}
	d.stack = append(d.stack, h)
	d.n++
}

func (d *runDigest) root() evidence.Hash {
	h := d.stack[len(d.stack)-1]
	for i := len(d.stack) - 2; i >= 0; i-- {
		h = nodeHash(d.stack[i], h)
	}
	return h
}

func nodeHash(left, right evidence.Hash) evidence.Hash {
	b := make([]byte, 0, 1+2*sha256.Size)
	b = append(append(append(b, 0x01), left[:]...), right[:]...)
	return sha256.Sum256(b)
}

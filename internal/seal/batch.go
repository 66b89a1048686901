package seal

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/journal"
	"github.com/exhibit-gateway/exhibit/internal/keys"
	"github.com/exhibit-gateway/exhibit/internal/recorder"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// batch is the records of the next block, as far as they were read.
type batch struct {
	records []evidence.Record
	entries []recorder.Entry // their sealed parts
	bytes   int              // of the journal
	end     journal.LSN      // just past the last of them; 0 before the first was read
	seen    time.Time        // when the first of them was read
	rooms   rooms            // which records and entries alias
}

// rooms are memory for payloads that live as long as a batch. It is taken anew
// for each: memory that a process has touched costs much less than what it gets
// and gives back with every block.
type rooms struct {
	all [][]byte
	n   int // in use
}

// roomSize is the size of a room.
const roomSize = 256 << 10

// hold returns a copy of b.
func (r *rooms) hold(b []byte) []byte {
	if len(b) > roomSize/4 {
		return bytes.Clone(b)
	}
	if r.n == 0 || cap(r.all[r.n-1])-len(r.all[r.n-1]) < len(b) {
		if r.n == len(r.all) {
			r.all = append(r.all, make([]byte, 0, roomSize))
		}
		r.n++
	}
	room := &r.all[r.n-1]
	at := len(*room)
	*room = append(*room, b...)
	return (*room)[at:len(*room):len(*room)]
}

// reset lets all of them be used again.
func (r *rooms) reset() {
	for i := range r.all {
		r.all[i] = r.all[i][:0]
	}
	r.n = 0
}

// cutBlock is a block ready to be sealed.
type cutBlock struct {
	header ledger.Header
	file   []byte
	end    journal.LSN // just past its last record; 0 when that isn't known

	changes []evidence.Record // of the log's keys, among its records
}

// errFull ends reading at a record that belongs to the next block.
var errFull = errors.New("the block is full")

// read adds what the journal has and reports whether the batch is complete: it
// has reached its size, or the next record is of another boot. A batch without
// records begins after the block before, at upTo.
func (b *batch) read(j Journal, before *ledger.Header, upTo journal.LSN, maxBytes int) (full bool, err error) {
	from, last := upTo, lastPosition(before)
	if n := len(b.records); n > 0 {
		from, last = b.end, b.records[n-1].Head.Pos
	}
	_, err = j.Read(from, func(next journal.LSN, payload []byte) error {
		r, e, err := decode(b.rooms.hold(payload))
		if err != nil {
			return fmt.Errorf("%w: journal before %d: %w", ErrDiverged, next, err)
		}
		if n := len(b.records); n > 0 {
			if r.Head.Pos.Boot != last.Boot || b.bytes+len(payload) > maxBytes || n == ledger.MaxRecords {
				return errFull
			}
		}
		if err := continues(last, r.Head.Pos); err != nil {
			return err
		}
		if len(b.records) == 0 {
			b.seen = time.Now()
		}
		b.records, b.entries = append(b.records, r), append(b.entries, e)
		b.bytes += len(payload)
		b.end, last = next, r.Head.Pos
		return nil
	})
	if errors.Is(err, errFull) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the journal: %w", err)
	}
	return b.bytes >= maxBytes, nil
}

// reset empties the batch. Its arrays and rooms serve the next one, which is about
// as large: nothing of its records may be in use any more.
func (b *batch) reset() {
	clear(b.records)
	clear(b.entries)
	b.rooms.reset()
	*b = batch{records: b.records[:0], entries: b.entries[:0], rooms: b.rooms}
}

func (b *batch) oldest() oldest {
	if len(b.records) == 0 {
		return oldest{}
	}
	return oldest{max(b.records[0].Head.Time, 1), b.seen}
}

// continues checks that a record may come right after last, the zero position
// for a log that has none.
func continues(last, pos evidence.Position) error {
	switch {
	case last.IsZero() && pos.Seq != 0:
		return fmt.Errorf("%w: the journal begins with record %s and the log is empty: records before it are gone; "+
			"put back the archive and the log directory that belong to this journal", ErrDiverged, pos)
	case !last.IsZero() && !ledger.Continues(last, pos):
		return fmt.Errorf("%w: record %s follows %s: records between them are gone, or the journal is of another history; "+
			"put back the journal that belongs to this log", ErrDiverged, pos, last)
	}
	return nil
}

// decode decodes a payload of the journal, which record and entry alias.
func decode(payload []byte) (evidence.Record, recorder.Entry, error) {
	e, err := recorder.DecodeEntry(payload)
	if err != nil {
		return evidence.Record{}, e, err
	}
	h, err := evidence.ParseHead(string(e.Head))
	if err != nil {
		return evidence.Record{}, e, err
	}
	return evidence.Record{Head: h, HeadBytes: e.Head, Body: e.Body, SealedHash: e.SealedHash}, e, nil
}

// build makes the block that comes after the last one cut.
func (s *Sealer) build(b *batch) (*cutBlock, error) {
	h := ledger.Header{Origin: s.cfg.Origin, PrevControl: -1}
	if last, _ := s.front(); last != nil {
		h.Block, h.Prev, h.PrevControl = last.Block+1, last.Hash(), last.PrevControl
		if last.Control {
			h.PrevControl = int64(last.Block)
		}
	}
	chunks, err := s.chunks(h.Block, b)
	if err != nil {
		return nil, fmt.Errorf("block %d: %w", h.Block, err)
	}
	h, file, err := ledger.Build(h, b.records, chunks)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDiverged, err)
	}
	return &cutBlock{h, file, b.end, keyChanges(b.records)}, nil
}

// scope is where a scope's secret is kept.
type scope struct{ boot, slot uint64 }

// scopeOf is the scope of a record: a session's keys are those of the boot in
// which it started, also when a later boot ends it.
func scopeOf(h *evidence.Head, slot uint64) scope {
	if h.Session.IsZero() {
		return scope{h.Pos.Boot, slot}
	}
	return scope{h.Session.Boot, slot}
}

// chunks encrypts the sealed parts anew, together for each scope. Parts of a
// scope that was erased are left out; their hashes stay.
func (s *Sealer) chunks(block uint64, b *batch) ([]ledger.Chunk, error) {
	var order []scope
	members := make(map[scope][]int)
	for i := range b.records {
		if h := &b.records[i].Head; h.HasSealed {
			sc := scopeOf(h, b.entries[i].Slot)
			if members[sc] == nil {
				order = append(order, sc)
			}
			members[sc] = append(members[sc], i)
		}
	}
	var chunks []ledger.Chunk
	for _, sc := range order {
		key, err := s.keys.Scope(sc.boot, sc.slot)
		if errors.Is(err, keys.ErrShredded) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("sealed parts: %w", err)
		}
		parts := make([][]byte, len(members[sc]))
		for i, at := range members[sc] {
			if parts[i], err = openPart(key, &b.records[at], &b.entries[at]); err != nil {
				return nil, err
			}
		}
		c := ledger.Chunk{Boot: sc.boot, Slot: sc.slot, Records: members[sc]}
		var plain []byte
		plain, c.Raw = ledger.PackParts(parts)
		if c.Data, err = key.SealChunk(ledger.ChunkAAD(s.cfg.Origin, block, sc.boot, sc.slot), plain); err != nil {
			return nil, fmt.Errorf("sealed parts: %w", err)
		}
		chunks = append(chunks, c)
	}
	return chunks, nil
}

// openPart decrypts a record's sealed part as the journal has it, and checks
// that it is the one that the record commits to: afterwards nobody could.
func openPart(key *keys.Scope, r *evidence.Record, e *recorder.Entry) ([]byte, error) {
	part, err := key.Open(r.Head.N, e.Cipher)
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", r.Head.Pos, err)
	}
	if err := r.CheckSealed(key.Sealed().Salt(r.Head.N), part); err != nil {
		return nil, err
	}
	return part, nil
}

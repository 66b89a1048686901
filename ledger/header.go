package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Sections of a block, in their order in the file. A file that was cut after
// any of them is still readable.
const (
	Heads  = iota // zstd of the heads, one per line
	Bodies        // zstd of the bodies, one per line, empty where there is none
	Hashes        // sealed hashes of the records that have a sealed part, 32 bytes each
	Sealed        // a directory and one encrypted chunk per key scope

	NumSections
)

// SectionNames are the names of the sections in a header.
var SectionNames = [NumSections]string{"heads", "bodies", "hashes", "sealed"}

// Limits that every block keeps. They bound what a hostile file can cost.
const (
	MaxHeader  = 4 << 10  // bytes of an encoded header
	MaxSection = 32 << 20 // bytes of a section, stored and raw alike
	MaxRecords = 1 << 17  // records in a block
)

// maxInt is the largest integer in a header (RFC 8259 section 6, I-JSON).
const maxInt = 1<<53 - 1

// Header is what a block is, and what its leaf in the log says. It has exactly
// one encoding.
type Header struct {
	Origin  string        `json:"origin"`  // of the log
	Block   uint64        `json:"block"`   // number; also the index of its leaf
	Gateway string        `json:"gateway"` // that wrote the records
	Boot    uint64        `json:"boot"`    // all records are of this boot
	First   uint64        `json:"first"`   // seq of the first record
	Last    uint64        `json:"last"`    // seq of the last
	Count   uint64        `json:"count"`   // records: last - first + 1
	From    int64         `json:"from"`    // t of the first record, microseconds since the epoch
	To      int64         `json:"to"`      // t of the last; a clock that was set back makes it the smaller
	Root    evidence.Hash `json:"root"`    // RFC 6962 tree hash over the record hashes
	Prev    evidence.Hash `json:"prev"`    // Hash of the header before; zero in block 0
	Control bool          `json:"control"` // the block holds control records
	// PrevControl is the newest earlier block that holds control records, -1
	// when there is none.
	PrevControl int64                `json:"prev_control"`
	Sections    [NumSections]Section `json:"sections"`
}

// Section describes one section of a block.
type Section struct {
	Name   string        `json:"name"`
	Size   uint64        `json:"size"`   // bytes in the file
	Raw    uint64        `json:"raw"`    // bytes once decompressed; of the sealed section, the sum over its chunks
	Digest evidence.Hash `json:"sha256"` // of the bytes in the file
}

// Errors that callers tell apart.
var (
	ErrHeader = errors.New("not a block header")
	ErrBlock  = errors.New("not a valid block")
	ErrChain  = errors.New("block does not continue the one before")
)

// encodedHeader puts the version first.
type encodedHeader struct {
	V int `json:"v"`
	Header
}

// Encode returns the one encoding of h: JSON in the order of the fields above,
// without spaces. h must be valid, as Check says.
func (h *Header) Encode() []byte {
	b, err := json.Marshal(encodedHeader{1, *h})
	if err != nil {
		panic("ledger: encoding a header: " + err.Error()) // it holds strings, integers and digests only
	}
	return b
}

// ParseHeader parses the encoding that Encode writes and refuses every other
// spelling.
func ParseHeader(b []byte) (Header, error) {
	if len(b) > MaxHeader {
		return Header{}, fmt.Errorf("%w: %d bytes, the limit is %d", ErrHeader, len(b), MaxHeader)
	}
	var e encodedHeader
	if err := json.Unmarshal(b, &e); err != nil {
		return Header{}, fmt.Errorf("%w: %w", ErrHeader, err)
	}
	if e.V != 1 {
		return Header{}, fmt.Errorf("%w: version %d, this program reads version 1", ErrHeader, e.V)
	}
	if err := e.Check(); err != nil {
		return Header{}, err
	}
	// One encoding: what was read must be what would have been written. This
	// refuses spaces, escapes, duplicate, unknown and misplaced keys at once.
	if !bytes.Equal(e.Encode(), b) {
		return Header{}, fmt.Errorf("%w: not in its one encoding", ErrHeader)
	}
	return e.Header, nil
}

// Hash is the RFC 6962 leaf hash of the header: leaf Block of the log's tree,
// and Prev of the header that follows.
func (h *Header) Hash() evidence.Hash { return evidence.Hash(tlog.RecordHash(h.Encode())) }

// FirstPosition is the position of the block's first record.
func (h *Header) FirstPosition() evidence.Position {
	return evidence.Position{Gateway: h.Gateway, Boot: h.Boot, Seq: h.First}
}

// LastPosition is the position of the block's last record.
func (h *Header) LastPosition() evidence.Position {
	return evidence.Position{Gateway: h.Gateway, Boot: h.Boot, Seq: h.Last}
}

// Check reports whether h is a header that can stand by itself.
func (h *Header) Check() error {
	for _, n := range []uint64{h.Block, h.Boot, h.First, h.Last, uint64(h.From), uint64(h.To), uint64(h.PrevControl + 1)} {
		if n > maxInt {
			return fmt.Errorf("%w: a number is out of range", ErrHeader)
		}
	}
	switch {
	case !ValidOrigin(h.Origin):
		return fmt.Errorf("%w: origin %.80q", ErrHeader, h.Origin)
	case !evidence.ValidGateway(h.Gateway):
		return fmt.Errorf("%w: gateway %.80q", ErrHeader, h.Gateway)
	case h.Count == 0 || h.Count > MaxRecords || h.Last < h.First || h.Last-h.First+1 != h.Count:
		return fmt.Errorf("%w: records %d to %d can't be %d", ErrHeader, h.First, h.Last, h.Count)
	case h.PrevControl >= 0 && uint64(h.PrevControl) >= h.Block:
		return fmt.Errorf("%w: block %d names %d as an earlier one", ErrHeader, h.Block, h.PrevControl)
	case h.Block == 0 && h.Prev != evidence.Hash{}:
		return fmt.Errorf("%w: block 0 names a block before it", ErrHeader)
	}
	for i, s := range h.Sections {
		switch {
		case s.Name != SectionNames[i]:
			return fmt.Errorf("%w: section %d is named %.80q", ErrHeader, i, s.Name)
		case s.Size > MaxSection || s.Raw > MaxSection:
			return fmt.Errorf("%w: section %s is larger than %d bytes", ErrHeader, s.Name, MaxSection)
		}
	}
	if s := h.Sections[Hashes]; s.Raw != s.Size || s.Size%32 != 0 || s.Size > 32*h.Count {
		return fmt.Errorf("%w: size of section hashes", ErrHeader)
	}
	return nil
}

// ValidOrigin reports whether s can name a log: 1 to 128 characters of A-Z,
// a-z, 0-9 and "._:@/-", a subset of what C2SP signed-note allows as the name
// of a key.
func ValidOrigin(s string) bool { return evidence.ValidName(s) && !strings.Contains(s, "+") }

// Follows reports whether h continues prev, its predecessor in the log: number,
// hash, gateway, sequence and the chain of control blocks. A nil prev asks
// whether h can be the first block of a log.
func (h *Header) Follows(prev *Header) error {
	if prev == nil {
		if h.Block != 0 || h.First != 0 || h.PrevControl != -1 {
			return fmt.Errorf("%w: block %d begins at seq %d with earlier control block %d; a log begins with block 0, seq 0 and -1",
				ErrChain, h.Block, h.First, h.PrevControl)
		}
		return nil
	}
	control := prev.PrevControl
	if prev.Control {
		control = int64(prev.Block)
	}
	switch {
	case h.Origin != prev.Origin || h.Gateway != prev.Gateway:
		return fmt.Errorf("%w: block %d is of gateway %s in log %s, block %d of %s in %s",
			ErrChain, h.Block, h.Gateway, h.Origin, prev.Block, prev.Gateway, prev.Origin)
	case h.Block != prev.Block+1:
		return fmt.Errorf("%w: block %d comes after block %d", ErrChain, h.Block, prev.Block)
	case h.Prev != prev.Hash():
		return fmt.Errorf("%w: block %d names another block %d than this one", ErrChain, h.Block, prev.Block)
	case !Continues(prev.LastPosition(), h.FirstPosition()):
		return fmt.Errorf("%w: block %d begins with record %s, block %d ended with %s",
			ErrChain, h.Block, h.FirstPosition(), prev.Block, prev.LastPosition())
	case h.PrevControl != control:
		return fmt.Errorf("%w: block %d names %d as the control block before it, it is %d", ErrChain, h.Block, h.PrevControl, control)
	}
	return nil
}

// Continues reports whether a record at next may come right after one at last:
// the next of its boot, or the first of a later one.
func Continues(last, next evidence.Position) bool {
	if last.Gateway != next.Gateway {
		return false
	}
	return next.Boot == last.Boot && next.Seq == last.Seq+1 || next.Boot > last.Boot && next.Seq == 0
}

// ControlBlocks returns the numbers, oldest first, of the blocks up to newest
// that hold control records, by walking the chain that headers form. Get
// returns the header of a block.
func ControlBlocks(newest *Header, get func(block uint64) (Header, error)) ([]uint64, error) {
	var list []uint64
	h := *newest
	if h.Control {
		list = append(list, h.Block)
	}
	for h.PrevControl >= 0 {
		n := uint64(h.PrevControl) // Check has seen that it is less than h.Block: the walk ends
		prev, err := get(n)
		if err != nil {
			return nil, fmt.Errorf("walking the control chain to block %d: %w", n, err)
		}
		if prev.Block != n || !prev.Control || prev.Origin != newest.Origin {
			return nil, fmt.Errorf("%w: block %d is named as holding control records and doesn't", ErrChain, n)
		}
		list = append(list, n)
		h = prev
	}
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
		list[i], list[j] = list[j], list[i]
	}
	return list, nil
}

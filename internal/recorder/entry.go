package recorder

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Entry is a record as it lies in the journal: the sealed part encrypted under
// its scope's key, everything else as the block will hold it.
type Entry struct {
	Head       []byte        // exact bytes
	Body       []byte        // nil without one
	SealedHash evidence.Hash // zero without a sealed part
	Slot       uint64        // of the scope's secret in the boot's key file
	Cipher     []byte        // the sealed part, AES-256-GCM (docs/spec/record.md); nil without one
}

// ErrEntry is wrapped by every failure to decode an entry.
var ErrEntry = errors.New("not a journal entry")

// Append appends the entry's bytes to b: head, body and cipher each behind
// their length, the slot, and the sealed hash when there is a cipher.
func (e *Entry) Append(b []byte) []byte {
	b = appendBytes(b, e.Head)
	b = appendBytes(b, e.Body)
	b = binary.AppendUvarint(b, e.Slot)
	b = appendBytes(b, e.Cipher)
	if len(e.Cipher) > 0 {
		b = append(b, e.SealedHash[:]...)
	}
	return b
}

func appendBytes(b, part []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(part))), part...)
}

// DecodeEntry decodes what Append wrote. The entry aliases b.
func DecodeEntry(b []byte) (e Entry, err error) {
	d := decoder{b: b}
	e.Head = d.bytes()
	e.Body = d.bytes()
	e.Slot = d.uvarint()
	e.Cipher = d.bytes()
	if len(e.Cipher) > 0 {
		copy(e.SealedHash[:], d.take(32))
	}
	if d.bad || len(d.b) != 0 || len(e.Head) == 0 {
		return Entry{}, fmt.Errorf("%w: %d bytes, malformed", ErrEntry, len(b))
	}
	return e, nil
}

type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

// bytes returns nil for an empty part.
func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n == 0 {
		return nil
	}
	return d.take(n)
}

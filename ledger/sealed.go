package ledger

import (
	"encoding/binary"
	"fmt"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Chunk is the sealed parts of one key scope in one block: encrypted together,
// and erased together by destroying the scope's key.
type Chunk struct {
	Boot, Slot uint64 // where the scope's secret is kept: slot of a boot's key file; slot 0 is the boot's own scope
	Records    []int  // which records of the block, by index, ascending
	Raw        uint64 // bytes of the packed parts, once decrypted and decompressed
	Data       []byte // encrypted; its additional data is ChunkAAD
}

// ChunkAAD is the additional authenticated data of a chunk: it ties a
// ciphertext to its log, block and scope.
func ChunkAAD(origin string, block, boot, slot uint64) []byte {
	return fmt.Appendf(nil, "exhibit/v1/chunk\n%s\n%d\n%d.%d\n", origin, block, boot, slot)
}

// PackParts returns the plaintext of a chunk that holds parts, in the order of
// its Records, and the chunk's Raw.
func PackParts(parts [][]byte) (plain []byte, raw uint64) {
	var b []byte
	for _, p := range parts {
		b = append(binary.AppendUvarint(b, uint64(len(p))), p...)
	}
	return compress(b), uint64(len(b))
}

// Parts returns the sealed parts in the plaintext of c, one for each of its
// Records. They prove nothing until checked against their sealed hashes.
func (c *Chunk) Parts(plain []byte) ([][]byte, error) {
	b, err := decompress(plain, c.Raw)
	if err != nil {
		return nil, fmt.Errorf("sealed parts of scope %d.%d: %w", c.Boot, c.Slot, err)
	}
	parts := make([][]byte, len(c.Records))
	for i := range parts {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return nil, fmt.Errorf("sealed parts of scope %d.%d: malformed at part %d", c.Boot, c.Slot, i)
		}
		parts[i], b = b[size:uint64(size)+n], b[uint64(size)+n:]
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("sealed parts of scope %d.%d: %d bytes too many", c.Boot, c.Slot, len(b))
	}
	return parts, nil
}

// appendChunks returns the sealed section: a directory of unsigned varints,
// then the chunks. Without chunks it is empty.
func appendChunks(chunks []Chunk) (section []byte, raw uint64) {
	if len(chunks) == 0 {
		return nil, 0
	}
	b := binary.AppendUvarint(nil, uint64(len(chunks)))
	for _, c := range chunks {
		for _, n := range []uint64{c.Boot, c.Slot, c.Raw, uint64(len(c.Data)), uint64(len(c.Records))} {
			b = binary.AppendUvarint(b, n)
		}
		next := 0
		for _, i := range c.Records { // as distances: mostly one byte each
			b = binary.AppendUvarint(b, uint64(i-next))
			next = i + 1
		}
		raw += c.Raw
	}
	for _, c := range chunks {
		b = append(b, c.Data...)
	}
	return b, raw
}

// Chunks returns the chunks of the sealed section; they alias the block's file.
// Records whose scope was erased before the block was made are in none.
func (b *Block) Chunks() ([]Chunk, error) {
	if b.Present <= Sealed {
		return nil, fmt.Errorf("%w: the sealed section of block %d was cut", ErrBlock, b.Block)
	}
	if len(b.sealed) == 0 {
		return nil, nil
	}
	d := directory{rest: b.sealed, left: b.Sections[Sealed].Raw, seen: make([]bool, b.Count)}
	var chunks []Chunk
	var sizes []uint64
	for n := d.uvarint(b.Count); n > 0 && !d.bad; n-- {
		c, size := d.entry(b.Records)
		chunks, sizes = append(chunks, c), append(sizes, size)
	}
	for i, size := range sizes {
		if d.bad || size > uint64(len(d.rest)) {
			d.bad = true
			break
		}
		chunks[i].Data, d.rest = d.rest[:size:size], d.rest[size:]
	}
	if d.bad || len(chunks) == 0 || len(d.rest) > 0 || d.left > 0 {
		return nil, fmt.Errorf("%w: block %d: directory of the sealed section is malformed", ErrBlock, b.Block)
	}
	return chunks, nil
}

// directory walks the directory of a sealed section; once bad, it stays so.
type directory struct {
	rest []byte
	left uint64 // of the section's raw bytes
	seen []bool // records that a chunk has claimed
	bad  bool
}

func (d *directory) uvarint(limit uint64) uint64 {
	n, size := binary.Uvarint(d.rest)
	if d.bad || size <= 0 || n > limit {
		d.bad = true
		return 0
	}
	d.rest = d.rest[size:]
	return n
}

func (d *directory) entry(records []evidence.Record) (c Chunk, size uint64) {
	c = Chunk{Boot: d.uvarint(maxInt), Slot: d.uvarint(maxInt), Raw: d.uvarint(d.left)}
	d.left -= c.Raw
	size = d.uvarint(MaxSection)
	next := uint64(0)
	n := d.uvarint(uint64(len(records)))
	d.bad = d.bad || n == 0
	for ; n > 0 && !d.bad; n-- {
		i := next + d.uvarint(uint64(len(records)))
		if d.bad || i >= uint64(len(records)) || d.seen[i] || !records[i].Head.HasSealed {
			d.bad = true
			break
		}
		d.seen[i] = true
		c.Records = append(c.Records, int(i))
		next = i + 1
	}
	return c, size
}

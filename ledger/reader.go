package ledger

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Reader reads a stream of block files, one after the other, of which each was
// cut to the same number of sections.
type Reader struct {
	r        *bufio.Reader
	sections int
}

// NewReader returns a reader of blocks that hold their first sections only:
// Heads+1, Bodies+1, Hashes+1, or NumSections for whole ones.
func NewReader(r io.Reader, sections int) *Reader {
	return &Reader{bufio.NewReaderSize(r, max(MaxHeader+1, 64<<10)), sections}
}

// Next returns the next block, checked as by ParseBlock, or io.EOF at the end.
// Whether it follows the one before is for the caller to ask.
func (r *Reader) Next() (*Block, error) {
	line, err := r.r.ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF) && len(line) == 0:
		return nil, io.EOF
	case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("reading blocks: %w", err)
	case err != nil || len(line) > MaxHeader+1:
		return nil, fmt.Errorf("%w: a header line is too long or cut short", ErrBlock)
	}
	h, err := ParseHeader(line[:len(line)-1])
	if err != nil {
		return nil, err
	}
	var size int64
	for _, s := range h.Sections[:r.sections] {
		size += int64(s.Size)
	}
	// The buffer grows with what is read, not with what the header claims.
	var file bytes.Buffer
	file.Write(line)
	if _, err := io.CopyN(&file, r.r, size); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: block %d is cut short", ErrBlock, h.Block)
	} else if err != nil {
		return nil, fmt.Errorf("reading block %d: %w", h.Block, err)
	}
	b, err := ParseBlock(file.Bytes())
	if err != nil {
		return nil, err
	}
	if b.Present < r.sections {
		return nil, fmt.Errorf("%w: block %d lacks sections", ErrBlock, h.Block)
	}
	return b, nil
}

package ledger

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// StampsFile is where stamped checkpoints are kept: in a gateway's data folder,
// and in the log of a pack.
const StampsFile = "stamps.jsonl"

// Stamped is a checkpoint with a time stamp of it: a line of StampsFile.
type Stamped struct {
	Checkpoint string `json:"checkpoint"` // the signed note, which is what was stamped
	Token      []byte `json:"token"`      // TimeStampToken (RFC 3161), DER
}

// maxStampedLine bounds a line: a checkpoint and a token in base64.
const maxStampedLine = maxCheckpoint + 2*MaxStamp

// Encode returns the line.
func (s *Stamped) Encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(s)
	return b.Bytes(), err
}

// Open parses what the line holds and proves nothing: the checkpoint isn't
// verified, nor is the stamp, but that it is of this checkpoint.
func (s *Stamped) Open() (Checkpoint, *Stamp, error) {
	body, _, ok := bytes.Cut([]byte(s.Checkpoint), []byte("\n\n"))
	if !ok {
		return Checkpoint{}, nil, fmt.Errorf("%w: it is not a signed note", ErrCheckpoint)
	}
	cp, err := ParseCheckpoint(string(body) + "\n")
	if err != nil {
		return cp, nil, err
	}
	stamp, err := ParseStamp(s.Token, []byte(s.Checkpoint))
	return cp, stamp, err
}

// ErrStampsFile is wrapped by every failure to read the lines of a StampsFile.
var ErrStampsFile = errors.New("not a file of stamped checkpoints")

// ReadStamps calls fn for each line of a StampsFile, in order. A line that was
// not written to its end, which can only be the last, is an io.ErrUnexpectedEOF.
func ReadStamps(r io.Reader, fn func(line []byte, s *Stamped) error) error {
	lines := bufio.NewReaderSize(r, maxStampedLine)
	for n := 1; ; n++ {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%w: line %d: %w", ErrStampsFile, n, io.ErrUnexpectedEOF)
		case err != nil:
			return fmt.Errorf("%w: line %d: %w", ErrStampsFile, n, err)
		}
		var s Stamped
		if err := json.Unmarshal(line, &s); err != nil {
			return fmt.Errorf("%w: line %d: %w", ErrStampsFile, n, err)
		}
		// Encoding it again must give the same bytes: that refuses unknown and
		// duplicate keys and every other spelling.
		if again, err := s.Encode(); err != nil || !bytes.Equal(again, line) {
			return fmt.Errorf("%w: line %d is not in its one encoding", ErrStampsFile, n)
		}
		if err := fn(line, &s); err != nil {
			return err
		}
	}
}

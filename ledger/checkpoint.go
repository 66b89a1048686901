package ledger

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Checkpoint is a statement of a log's size and root (C2SP tlog-checkpoint).
type Checkpoint struct {
	Origin     string
	Size       uint64        // leaves, hence blocks
	Root       evidence.Hash // RFC 6962 tree hash
	Extensions []string      // further lines; none means anything here

	Note         []byte        // the signed note, as it was verified
	Cosignatures []Cosignature // of the witnesses asked for, in the note's order
}

// Cosignature says that a witness saw the checkpoint and that it is consistent
// with every one it had seen of the log.
type Cosignature struct {
	Witness string // name of its key
	Time    int64  // seconds since the epoch, 0 when its kind of signature has none
}

// ErrCheckpoint is wrapped by every failure to parse or verify a checkpoint.
var ErrCheckpoint = errors.New("not a checkpoint to trust")

// maxCheckpoint bounds a signed note; a body of three lines and a hundred
// signatures fit.
const maxCheckpoint = 64 << 10

// OpenCheckpoint verifies a signed checkpoint: it must be signed by a key of
// the log, whose name must be its origin, and cosigned by at least quorum of
// the witnesses. The verifiers must come from a place that the log's operator
// doesn't control.
func OpenCheckpoint(msg []byte, log, witnesses []note.Verifier, quorum int) (Checkpoint, error) {
	if len(msg) > maxCheckpoint {
		return Checkpoint{}, fmt.Errorf("%w: %d bytes, the limit is %d", ErrCheckpoint, len(msg), maxCheckpoint)
	}
	n, err := note.Open(msg, note.VerifierList(append(append([]note.Verifier(nil), log...), witnesses...)...))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	cp, err := ParseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	cp.Note = msg
	signed := false
	for _, s := range n.Sigs { // verified ones; note.Open keeps one for each key
		if s.Name == cp.Origin && holds(log, s) {
			signed = true
		} else if holds(witnesses, s) {
			cp.Cosignatures = append(cp.Cosignatures, Cosignature{s.Name, cosignatureTime(s)})
		}
	}
	if !signed {
		return Checkpoint{}, fmt.Errorf("%w: no key of the log is named %s and has signed it", ErrCheckpoint, cp.Origin)
	}
	if len(cp.Cosignatures) < quorum {
		return Checkpoint{}, fmt.Errorf("%w: %d of the witnesses cosigned it, %d are needed", ErrCheckpoint, len(cp.Cosignatures), quorum)
	}
	return cp, nil
}

func holds(list []note.Verifier, s note.Signature) bool {
	for _, v := range list {
		if v.Name() == s.Name && v.KeyHash() == s.Hash {
			return true
		}
	}
	return false
}

// ParseCheckpoint parses the text of a checkpoint without its signatures, and
// proves nothing.
func ParseCheckpoint(text string) (Checkpoint, error) {
	body, ok := strings.CutSuffix(text, "\n")
	lines := strings.Split(body, "\n")
	if !ok || len(lines) < 3 {
		return Checkpoint{}, fmt.Errorf("%w: want the lines origin, size and root", ErrCheckpoint)
	}
	cp := Checkpoint{Origin: lines[0], Extensions: lines[3:]}
	if !ValidOrigin(cp.Origin) {
		return Checkpoint{}, fmt.Errorf("%w: origin %.80q", ErrCheckpoint, cp.Origin)
	}
	var err error
	cp.Size, err = strconv.ParseUint(lines[1], 10, 53)
	if err != nil || strconv.FormatUint(cp.Size, 10) != lines[1] {
		return Checkpoint{}, fmt.Errorf("%w: size %.80q", ErrCheckpoint, lines[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != 32 || len(lines[2]) != 44 {
		return Checkpoint{}, fmt.Errorf("%w: root %.80q", ErrCheckpoint, lines[2])
	}
	cp.Root = evidence.Hash(root)
	for _, l := range cp.Extensions {
		if l == "" {
			return Checkpoint{}, fmt.Errorf("%w: an empty line within", ErrCheckpoint)
		}
	}
	return cp, nil
}

// Text returns the text of a checkpoint, for signing.
func (c *Checkpoint) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%d\n%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
	for _, l := range c.Extensions {
		b.WriteString(l + "\n")
	}
	return b.String()
}

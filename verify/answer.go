package verify

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// AnswerHead is the first line of an answer to a sample: what it answers, and
// the proof that the log held the pack before the gateway saw the sample.
type AnswerHead struct {
	Version    int                `json:"version"`
	Sample     string             `json:"sample"`     // its digest, hex
	Manifest   string             `json:"manifest"`   // of the pack, sha256, hex
	Checkpoint string             `json:"checkpoint"` // signed note
	Growth     []evidence.Hash    `json:"growth"`     // from the pack's tree to the checkpoint's
	Made       ledger.RecordProof `json:"made"`       // pack.made
	Read       ledger.RecordProof `json:"read"`       // evidence.read
}

// Opened is a further line: the sealed part of a record, or why there is none.
type Opened struct {
	Pos    evidence.Position `json:"pos"`
	Body   evidence.Hash     `json:"body_hash,omitzero"` // of the record's body, in an answer
	Salt   string            `json:"salt,omitempty"`     // base64url
	Sealed json.RawMessage   `json:"sealed,omitempty"`   // the exact bytes
	Absent string            `json:"absent,omitempty"`
}

// Why a record has no sealed part in an answer.
const (
	AbsentNone   = "none"   // it never had one
	AbsentErased = "erased" // its key was destroyed
)

// Encode returns the line.
func (o *Opened) Encode() []byte { return append(evidence.EncodeBody(o), '\n') }

// NewOpened is the line of a sealed part that is disclosed.
func NewOpened(pos evidence.Position, salt evidence.Salt, sealed []byte) Opened {
	return Opened{Pos: pos, Salt: base64.RawURLEncoding.EncodeToString(salt[:]), Sealed: sealed}
}

// Answer is what a gateway opened for a sample, decrypted. Of each part it holds
// no more than what its record must say.
type Answer struct {
	AnswerHead
	parts map[evidence.Position]*part
}

// part is a disclosed part and what became of it in the pack.
type part struct {
	commit evidence.Hash // commitment that its record's head must have
	absent string
	seen   bool
}

// ErrAnswer is wrapped by every failure to read an answer.
var ErrAnswer = errors.New("not an answer to a sample")

// maxAnswers bounds the records of an answer.
const maxAnswers = 1 << 16

// ReadAnswer reads an answer. What it says is for Pack to check.
func ReadAnswer(r io.Reader) (*Answer, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxRow)
	a := &Answer{parts: make(map[evidence.Position]*part)}
	for n := 0; lines.Scan(); n++ {
		if n == 0 {
			if err := evidence.DecodeBody(lines.Bytes(), &a.AnswerHead); err != nil {
				return nil, fmt.Errorf("%w: its first line: %w", ErrAnswer, err)
			}
			if a.Version != 1 {
				return nil, fmt.Errorf("%w: version %d, this program reads version 1", ErrAnswer, a.Version)
			}
			continue
		}
		if err := a.add(lines.Bytes()); err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrAnswer, n+1, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	if a.Version == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrAnswer)
	}
	return a, nil
}

func (a *Answer) add(line []byte) error {
	var o Opened
	if err := evidence.DecodeBody(line, &o); err != nil {
		return err
	}
	p := &part{absent: o.Absent}
	if len(o.Sealed) > 0 {
		salt, err := base64.RawURLEncoding.Strict().DecodeString(o.Salt)
		if err != nil || len(salt) != len(evidence.Salt{}) {
			return errors.New("it has no salt")
		}
		p.commit = evidence.Commit(o.Body, evidence.SealedHash(evidence.Salt(salt), o.Sealed))
	}
	if _, twice := a.parts[o.Pos]; twice || len(a.parts) >= maxAnswers {
		return fmt.Errorf("record %s is there twice, or there are more than %d", o.Pos, maxAnswers)
	}
	if o.Pos.IsZero() || (p.absent == "") != (len(o.Sealed) > 0) {
		return errors.New("it needs a position, and either a sealed part or why there is none")
	}
	a.parts[o.Pos] = p
	return nil
}

// opened checks the parts of answers that are of a record of the pack.
func (v *verifier) opened(r *evidence.Record) {
	for _, s := range v.samples {
		if s.Answer == nil {
			continue
		}
		p := s.Answer.parts[r.Head.Pos]
		if p == nil {
			continue
		}
		p.seen = true
		switch {
		case p.absent == AbsentNone && r.Head.HasSealed:
			v.sealedParts.Except(r.Head.Pos, "has a sealed part, and the answer says that it has none")
		case p.absent == "" && (!r.Head.HasSealed || p.commit != r.Head.Commitment):
			v.sealedParts.Except(r.Head.Pos, "the part that was opened is not the one that its head commits to")
		}
	}
}

// answer checks an answer against its sample and the pack.
func (v *verifier) answer(s *Sampled) {
	c := &v.sealedParts
	asked := make(map[evidence.Position]bool)
	for _, row := range s.Sample.Rows {
		for _, pos := range row.Records {
			asked[pos] = true
		}
	}
	erased, unknown := 0, 0
	for _, row := range s.Sample.Rows {
		for _, pos := range row.Records {
			p := s.Answer.parts[pos]
			c.Population++
			switch {
			case p == nil:
				c.Except(pos, "belongs to row %.120q of the sample, and the answer says nothing of it", row.ID)
			case !p.seen:
				unknown++
			case p.absent == AbsentErased:
				erased++
			}
		}
	}
	for pos := range s.Answer.parts {
		if !asked[pos] {
			c.Except(pos, "was opened, and belongs to no row of the sample")
		}
	}
	if erased > 0 {
		c.Note += fmt.Sprintf("Of %s the key was destroyed: nobody can open them. ", plural(erased, "record", "records"))
	}
	if unknown > 0 {
		c.Note += fmt.Sprintf("%s before the range or after it, which the pack doesn't hold: what was opened of them is not tested. ", plural(unknown, "record lies", "records lie"))
	}
	v.order(s)
}

// order checks that the log held the pack's digests before the gateway was
// given the sample.
func (v *verifier) order(s *Sampled) {
	c, a := &v.ordered, s.Answer
	c.Population++
	digest := s.Sample.Digest()
	if want := hex.EncodeToString(digest[:]); a.Sample != want || a.Manifest != hexSum(v.encoded) {
		c.except("%.120s: the answer is to another sample, or of another pack", s.Sample.ID)
		return
	}
	cp, err := ledger.OpenCheckpoint([]byte(a.Checkpoint), v.keys.accepted, v.trust.Witnesses, 0)
	if err == nil {
		err = ledger.CheckGrowth(a.Growth, v.cp, &cp)
	}
	var made, read *evidence.Record
	if err == nil {
		made, _, err = a.Made.Check(&cp)
	}
	if err == nil {
		read, _, err = a.Read.Check(&cp)
	}
	if err != nil {
		c.except("%.120s: %.300s", s.Sample.ID, err)
		return
	}
	var m evidence.PackMadeBody
	var b evidence.ReadBody
	switch {
	case made.Head.Type != evidence.PackMade || evidence.DecodeBody(made.Body, &m) != nil || m.Manifest != a.Manifest:
		c.Except(made.Head.Pos, "is not the record that this pack was made")
	case read.Head.Type != evidence.EvidenceRead || evidence.DecodeBody(read.Body, &b) != nil || b.Sample != a.Sample || b.Manifest != a.Manifest:
		c.Except(read.Head.Pos, "is not the record that this sample was answered")
	case !made.Head.Pos.Before(read.Head.Pos):
		c.Except(made.Head.Pos, "the pack was made after its sample was answered, by %s", read.Head.Pos)
	default:
		c.Note += fmt.Sprintf("Record %s has the digest of the pack; the seed came to the gateway before record %s, for %.80s. Checkpoint of %d blocks, %s. ",
			made.Head.Pos, read.Head.Pos, b.Reader, cp.Size, plural(len(cp.Cosignatures), "trusted witness", "trusted witnesses"))
	}
	said := make(map[evidence.Position]bool, len(b.Records))
	for _, pos := range b.Records {
		said[pos] = true
	}
	for pos, p := range a.parts {
		if p.absent == "" && !said[pos] {
			c.Except(pos, "was opened, and record %s doesn't say so", read.Head.Pos)
		}
	}
}

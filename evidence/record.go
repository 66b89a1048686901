package evidence

import (
	"errors"
	"fmt"
)

// Draft is a record that has no place yet. Who records it fills in the
// position, the ordinal, the commitment and, where it is zero, the time.
type Draft struct {
	Head   Head
	Body   []byte // nil without one
	Sealed []byte // nil without one

	// Counts says that the hourly limits of an agent count the draft, which is an
	// intent, where it is allowed and not skipped. Commands and Writes are those
	// limits that it was decided under, 0 for none; OverLimit is that it was
	// refused for one of them. Who records it turns it back when its place says
	// otherwise.
	Counts           bool
	OverLimit        bool
	Commands, Writes int64
}

// Durability is what a record must survive before its writer goes on.
type Durability uint8

// The two durabilities, weaker first.
const (
	Process Durability = iota // the end of the process
	Power                     // the loss of power
)

// Record is a record as it is read: the head's exact bytes and what is had of
// its other parts.
type Record struct {
	Head       Head
	HeadBytes  []byte
	Body       []byte // nil when withheld
	Sealed     []byte // nil when withheld or erased
	SealedHash Hash   // zero when the record has no sealed part
}

// ErrCommitment is wrapped when a part doesn't match its head's commitment.
var ErrCommitment = errors.New("part does not match the commitment in its head")

// CheckBody reports whether the body and the sealed part's hash are those that
// the head commits to. The seed is that of the bodies of the record's scope.
func (r *Record) CheckBody(body Salts) error {
	if !r.Head.HasBody && !r.Head.HasSealed {
		return nil
	}
	var b Hash
	if r.Head.HasBody {
		b = BodyHash(body.Salt(r.Head.N), r.Body)
	}
	if (r.SealedHash != Hash{}) != r.Head.HasSealed || Commit(b, r.SealedHash) != r.Head.Commitment {
		return fmt.Errorf("%w: body of %s", ErrCommitment, r.Head.Pos)
	}
	return nil
}

// CheckSealed reports whether sealed, under its disclosed salt, is the part
// that SealedHash names. Call CheckBody too: it ties SealedHash to the head.
func (r *Record) CheckSealed(salt Salt, sealed []byte) error {
	if !r.Head.HasSealed || SealedHash(salt, sealed) != r.SealedHash {
		return fmt.Errorf("%w: sealed part of %s", ErrCommitment, r.Head.Pos)
	}
	return nil
}

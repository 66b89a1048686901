package ledger

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Changes of the keys of a log, as LogKeyBody names them.
const (
	KeyRotated = "rotate"
	KeyRevoked = "revoke"
)

// ErrKeys is wrapped when a change of a log's keys is not one that may follow
// those before it.
var ErrKeys = errors.New("not a change of the log's keys to believe")

// ErrUnsigned is wrapped when a change of policy lacks the signature of the key
// that was in force.
var ErrUnsigned = errors.New("not signed by the log's key")

// Limits on what a history holds, far beyond what a log comes to.
const (
	maxKeyChanges = 1000
	maxKeyText    = 512
)

// Keys is the history of the keys of one log, folded from its log.key records.
// One key is in force at a time: the key in force at a size signs checkpoints
// of that size and no other does. The zero value is of no use: NewKeys.
type Keys struct {
	origin  string
	list    []Key
	changes []KeyChange
}

// Key is one key of a log.
type Key struct {
	Text     string // verifier key, C2SP signed-note
	Verifier note.Verifier
	From     *KeyChange // brought it; nil for the key that the log began with
	Until    *KeyChange // put another in its place; nil for the key in force
	Revoked  *KeyChange
}

// ID is the key's id as signatures carry it, in hexadecimal.
func (k *Key) ID() string { return KeyID(k.Verifier) }

// KeyID is the id of a key as verifier keys have it, in hexadecimal.
func KeyID(v note.Verifier) string { return fmt.Sprintf("%08x", v.KeyHash()) }

// KeyChange is one log.key record and where it stands.
type KeyChange struct {
	Pos   evidence.Position   `json:"pos"`
	Block uint64              `json:"block"`
	Time  int64               `json:"t"`
	Body  evidence.LogKeyBody `json:"body"`
}

// NewKeys returns the history of a log that no key is known of. The first
// change brings the key before it.
func NewKeys(origin string) *Keys { return &Keys{origin: origin} }

// Begin says with which key the log began, unless a change has said so.
func (k *Keys) Begin(verifier string) error {
	if len(k.list) > 0 {
		return nil
	}
	v, err := k.verifier(verifier)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKeys, err)
	}
	k.list = []Key{{Text: verifier, Verifier: v}}
	return nil
}

// Clone returns a history that changes apart from k.
func (k *Keys) Clone() *Keys {
	return &Keys{k.origin, slices.Clone(k.list), slices.Clone(k.changes)}
}

// List is every key so far, the oldest first.
func (k *Keys) List() []Key { return k.list }

// Changes are the changes so far, in order.
func (k *Keys) Changes() []KeyChange { return k.changes }

// Current is the key in force, nil when none is known.
func (k *Keys) Current() *Key {
	if len(k.list) == 0 {
		return nil
	}
	return &k.list[len(k.list)-1]
}

// At is the key in force for checkpoints of a size: the newest of those that
// the blocks they cover bring.
func (k *Keys) At(size uint64) *Key {
	for i := len(k.list) - 1; i >= 0; i-- {
		if from := k.list[i].From; from == nil || from.Block < size {
			return &k.list[i]
		}
	}
	return nil
}

// Before is the key in force for the record at a position; nil when none is known.
func (k *Keys) Before(pos evidence.Position) *Key {
	for i := len(k.list) - 1; i >= 0; i-- {
		if from := k.list[i].From; from == nil || from.Pos.Before(pos) {
			return &k.list[i]
		}
	}
	return nil
}

// Find returns the key with a text or an id; nil when the log never had it.
func (k *Keys) Find(key string) *Key {
	for i := range k.list {
		if k.list[i].Text == key || k.list[i].ID() == key {
			return &k.list[i]
		}
	}
	return nil
}

// Verifiers are those of all keys.
func (k *Keys) Verifiers() (list []note.Verifier) {
	for i := range k.list {
		list = append(list, k.list[i].Verifier)
	}
	return list
}

// Apply folds a record that stands in a block. Records of other types change
// nothing. An error wraps ErrKeys, or evidence.ErrBody, and leaves k as it was.
func (k *Keys) Apply(block uint64, r *evidence.Record) error {
	if r.Head.Type != evidence.LogKey {
		return nil
	}
	c := KeyChange{Pos: r.Head.Pos, Block: block, Time: r.Head.Time}
	if err := evidence.DecodeBody(r.Body, &c.Body); err != nil {
		return err
	}
	return k.Change(c)
}

// Change folds one change. That its signatures are there says that both keys
// agreed, not that the record is in the log.
func (k *Keys) Change(c KeyChange) error {
	if err := k.change(c); err != nil {
		return fmt.Errorf("%w: record %s: %w", ErrKeys, c.Pos, err)
	}
	return nil
}

func (k *Keys) change(c KeyChange) error {
	b := &c.Body
	oldKey, err := k.verifier(b.Old)
	if err != nil {
		return err
	}
	newKey, err := k.verifier(b.New)
	if err != nil {
		return err
	}
	if n := len(k.changes); n >= maxKeyChanges {
		return fmt.Errorf("it is one of more than %d", maxKeyChanges)
	} else if n > 0 && (!k.changes[n-1].Pos.Before(c.Pos) || k.changes[n-1].Block > c.Block) {
		return fmt.Errorf("it does not come after %s", k.changes[n-1].Pos)
	}
	if b.Size > c.Block {
		return fmt.Errorf("it names a checkpoint of %d blocks and stands in block %d itself", b.Size, c.Block)
	}
	list := k.list
	if len(list) == 0 {
		if b.Change != KeyRotated {
			return errors.New("nothing before it says which key is in force")
		}
		list = []Key{{Text: b.Old, Verifier: oldKey}}
	}
	current := &list[len(list)-1]
	switch b.Change {
	case KeyRotated:
		if current.Text != b.Old {
			return fmt.Errorf("it puts key %s in the place of %s, in force is %s", KeyID(newKey), KeyID(oldKey), current.ID())
		}
		for i := range list {
			if list[i].Text == b.New || list[i].Verifier.KeyHash() == newKey.KeyHash() {
				return fmt.Errorf("it puts key %s in force, which the log has had before: a key that went does not come back", KeyID(newKey))
			}
		}
		if err := k.signed(b, oldKey, newKey); err != nil {
			return err
		}
		list = append(slices.Clone(list), Key{Text: b.New, Verifier: newKey, From: &c})
		list[len(list)-2].Until = &c
	case KeyRevoked:
		i := slices.IndexFunc(list, func(k Key) bool { return k.Text == b.Old })
		switch {
		case current.Text != b.New:
			return fmt.Errorf("it is signed by key %s, in force is %s", KeyID(newKey), current.ID())
		case i < 0:
			return fmt.Errorf("it revokes key %s, which the log never had", KeyID(oldKey))
		case i == len(list)-1:
			return fmt.Errorf("it revokes key %s, which is in force: another has to take its place first", KeyID(oldKey))
		case list[i].Revoked != nil:
			return fmt.Errorf("it revokes key %s, which %s has revoked", KeyID(oldKey), list[i].Revoked.Pos)
		}
		if err := k.signed(b, newKey); err != nil {
			return err
		}
		list = slices.Clone(list)
		list[i].Revoked = &c
	default:
		return fmt.Errorf("%.40q is no change of keys", b.Change)
	}
	k.list, k.changes = list, append(k.changes, c)
	return nil
}

// verifier parses a key of the log: Ed25519, with the log's name.
func (k *Keys) verifier(text string) (note.Verifier, error) {
	if len(text) > maxKeyText {
		return nil, fmt.Errorf("a verifier key of %d bytes", len(text))
	}
	if strings.ContainsAny(text, "\r\n") { // which base64 lets pass: a key has one text
		return nil, errors.New("a verifier key of several lines")
	}
	v, err := note.NewVerifier(text)
	if err != nil {
		return nil, fmt.Errorf("verifier key: %w", err)
	}
	if v.Name() != k.origin {
		return nil, fmt.Errorf("the log is %s, and key %s is of %.80q", k.origin, KeyID(v), v.Name())
	}
	return v, nil
}

// signed checks that each of the keys signed the statement, and nothing else
// stands there.
func (k *Keys) signed(b *evidence.LogKeyBody, by ...note.Verifier) error {
	if len(b.Signatures) != len(by) {
		return fmt.Errorf("it has %d signatures, want %d", len(b.Signatures), len(by))
	}
	text := KeyStatement(k.origin, b)
	for i, v := range by {
		if err := openLine(text, b.Signatures[i], v); err != nil {
			return fmt.Errorf("signature %d: %w", i+1, err)
		}
	}
	return nil
}

// openLine checks that a key signed a text, by one line of a signed note.
func openLine(text, line string, by note.Verifier) error {
	if len(line) > maxKeyText || strings.Contains(line, "\n") {
		return errors.New("it is not a line of a note")
	}
	if _, err := note.Open([]byte(text+"\n"+line+"\n"), note.VerifierList(by)); err != nil {
		return fmt.Errorf("key %s has not signed it", KeyID(by))
	}
	return nil
}

// signLine makes what openLine checks.
func signLine(text string, by note.Signer) (string, error) {
	signed, err := note.Sign(&note.Note{Text: text}, by)
	if err != nil {
		return "", err
	}
	_, line, _ := strings.Cut(string(signed[len(text)-1:]), "\n\n")
	return strings.TrimSuffix(line, "\n"), nil
}

// KeyStatement is the text that a change's signatures are of. Its first line
// keeps it apart from a checkpoint, whose first line is the origin.
func KeyStatement(origin string, b *evidence.LogKeyBody) string {
	return fmt.Sprintf("exhibit/log-key/v1\n%s\n%s\n%s\n%s\n%d\n%s\n", origin, b.Change, b.Old, b.New, b.Size, base64.StdEncoding.EncodeToString(b.Root[:]))
}

// SignKeyChange fills in the signatures of a change.
func SignKeyChange(origin string, b *evidence.LogKeyBody, by ...note.Signer) error {
	b.Signatures = nil
	for _, s := range by {
		line, err := signLine(KeyStatement(origin, b), s)
		if err != nil {
			return fmt.Errorf("signing a change of the log's keys: %w", err)
		}
		b.Signatures = append(b.Signatures, line)
	}
	return nil
}

// PolicyStatement is the text that the signature of a policy.change is of: a
// bundle, by its digest, and what it took the place of. "-" is nothing.
func PolicyStatement(origin string, b *evidence.PolicyBody) string {
	return fmt.Sprintf("exhibit/policy/v1\n%s\n%s\n%s\n%s\n%s\n", origin, b.Digest, cmp.Or(b.Before, "-"), cmp.Or(b.Request, "-"), cmp.Or(b.Back, "-"))
}

// SignPolicy fills in the signature of a change of policy.
func SignPolicy(origin string, b *evidence.PolicyBody, by note.Signer) (err error) {
	if b.Signature, err = signLine(PolicyStatement(origin, b), by); err != nil {
		return fmt.Errorf("signing a policy: %w", err)
	}
	return nil
}

// OpenPolicy checks that the key in force at a position signed the change of
// policy that stands there. An error wraps ErrUnsigned.
func (k *Keys) OpenPolicy(pos evidence.Position, b *evidence.PolicyBody) error {
	due := k.Before(pos)
	if due == nil {
		return fmt.Errorf("%w: policy %.12s of record %s: no key is known from then", ErrUnsigned, b.Digest, pos)
	}
	if err := openLine(PolicyStatement(k.origin, b), b.Signature, due.Verifier); err != nil {
		return fmt.Errorf("%w: policy %.12s of record %s: %w", ErrUnsigned, b.Digest, pos, err)
	}
	return nil
}

// OpenCheckpoint verifies a checkpoint of a log whose history is known: it
// must be signed by the key in force at its size, and by witnesses as the
// function of this name has it. Of an empty log any of its keys may say so.
func (k *Keys) OpenCheckpoint(msg []byte, witnesses []note.Verifier, quorum int) (Checkpoint, error) {
	cp, err := OpenCheckpoint(msg, k.Verifiers(), witnesses, quorum)
	if err != nil {
		return cp, err
	}
	due := k.At(cp.Size)
	if cp.Size == 0 {
		return cp, nil
	}
	if _, err := OpenCheckpoint(msg, []note.Verifier{due.Verifier}, nil, 0); err != nil {
		return Checkpoint{}, fmt.Errorf("%w: a checkpoint of %d blocks is signed by another key of the log than %s, which was in force then", ErrCheckpoint, cp.Size, due.ID())
	}
	return cp, nil
}

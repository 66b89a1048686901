package verify

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// maxKeys bounds the file with the changes of keys.
const maxKeys = 4 << 20

// EncodeKeys returns the bytes of log/keys.jsonl.
func EncodeKeys(changes []ledger.KeyChange) []byte {
	var b []byte
	for i := range changes {
		b = append(append(b, evidence.EncodeBody(&changes[i])...), '\n')
	}
	return b
}

// parseKeys undoes EncodeKeys, and takes no other spelling.
func parseKeys(b []byte) (changes []ledger.KeyChange, err error) {
	for line := range bytes.Lines(b) {
		var c ledger.KeyChange
		if err := evidence.DecodeBody(bytes.TrimSuffix(line, []byte("\n")), &c); err != nil {
			return nil, fmt.Errorf("line %d: %w", len(changes)+1, err)
		}
		changes = append(changes, c)
	}
	if !bytes.Equal(EncodeKeys(changes), b) {
		return nil, errors.New("it is not in its one encoding")
	}
	return changes, nil
}

// keyring is which keys of the log are to be believed, and why.
type keyring struct {
	claimed  []ledger.KeyChange // by log/keys.jsonl
	history  *ledger.Keys       // as far as the claims are good
	recorded []ledger.KeyChange // by the records of context and range
	starts   []started          // likewise
	bundles  []bundle           // likewise
	accepted []note.Verifier    // trusted, or followed from one that is
}

// started is a gateway.start and the key that it names.
type started struct {
	pos evidence.Position
	key string
}

// bundle is a policy.change, without its texts.
type bundle struct {
	pos  evidence.Position
	body evidence.PolicyBody
}

// readKeys follows the trusted keys to those that took their place. What the
// file says is held against the records once they are read; until then it lets
// only those keys in that a trusted one has signed over to.
func (v *verifier) readKeys() {
	k, c := &v.keys, &v.c.keys
	k.accepted = v.trust.Log
	b, err := readSmall(v.files.fs, KeysFile, maxKeys)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		k.claimed, err = parseKeys(b)
	}
	if err != nil {
		c.except("%s: %.200s", KeysFile, err)
		return
	}
	if len(k.claimed) == 0 {
		return
	}
	origin, _, _ := strings.Cut(k.claimed[0].Body.Old, "+")
	k.history = ledger.NewKeys(origin)
	for _, change := range k.claimed {
		if err := k.history.Change(change); err != nil {
			c.except("%.300s", err)
			break
		}
	}
	list := k.history.List()
	for i := range list {
		if i > 0 && holds(k.accepted, list[i-1].Verifier) && !holds(k.accepted, list[i].Verifier) {
			k.accepted = append(k.accepted[:len(k.accepted):len(k.accepted)], list[i].Verifier)
		}
	}
}

// ever are all keys that the log had, as far as is claimed. What one of them
// signed counts for nothing by itself: the tree must have grown from it.
func (k *keyring) ever() []note.Verifier {
	list := k.accepted[:len(k.accepted):len(k.accepted)]
	if k.history == nil {
		return list
	}
	for _, key := range k.history.List() {
		if !holds(list, key.Verifier) {
			list = append(list, key.Verifier)
		}
	}
	return list
}

func holds(list []note.Verifier, v note.Verifier) bool {
	for _, have := range list {
		if have.Name() == v.Name() && have.KeyHash() == v.KeyHash() {
			return true
		}
	}
	return false
}

// key notes what a record says of the log's keys.
func (v *verifier) key(block uint64, r *evidence.Record) {
	if v.m.Params.Level == Heads {
		return
	}
	switch r.Head.Type {
	case evidence.LogKey:
		change := ledger.KeyChange{Pos: r.Head.Pos, Block: block, Time: r.Head.Time}
		if err := evidence.DecodeBody(r.Body, &change.Body); err != nil {
			v.c.keys.Except(r.Head.Pos, "%.200s", err)
			return
		}
		v.keys.recorded = append(v.keys.recorded, change)
	case evidence.PolicyChange:
		var b evidence.PolicyBody
		if err := evidence.DecodeBody(r.Body, &b); err == nil { // likewise
			b.Files, b.Actions, b.Diff = nil, nil, ""
			v.keys.bundles = append(v.keys.bundles, bundle{r.Head.Pos, b})
		}
	case evidence.GatewayStart:
		var b evidence.GatewayStartBody
		if err := evidence.DecodeBody(r.Body, &b); err == nil { // record.body says it otherwise
			v.keys.starts = append(v.keys.starts, started{r.Head.Pos, b.LogKey})
		}
	}
}

// concludeKeys holds what the file says against the records, and who signed
// against what both say.
func (v *verifier) concludeKeys() {
	k, c := &v.keys, &v.c.keys
	c.made = true
	if k.history == nil {
		k.history = ledger.NewKeys(v.cp.Origin)
	}
	if v.m.Params.Level != Heads {
		v.compareKeys()
	} else if k.history.Current() == nil {
		c.State, c.Note = workpaper.NotTested, "The records that say so are withheld at level L0; the key that signed is one that you trust"
		return
	}
	if k.history.Current() == nil && len(k.starts) > 0 {
		if err := k.history.Begin(k.starts[0].key); err != nil {
			c.Except(k.starts[0].pos, "%.200s", err)
		}
	}
	c.Population = uint64(len(k.history.List()))
	for _, s := range k.starts {
		if due := k.history.Before(s.pos); due != nil && due.Text != s.key {
			c.Except(s.pos, "the gateway starts with key %.300q, in force is %s", s.key, due.ID())
		}
	}
	for i := range k.bundles {
		if err := k.history.OpenPolicy(k.bundles[i].pos, &k.bundles[i].body); err != nil {
			c.Except(k.bundles[i].pos, "%.200s", err)
		}
	}
	for _, change := range k.history.Changes() {
		at := ledger.Checkpoint{Origin: v.cp.Origin, Size: change.Body.Size, Root: change.Body.Root}
		if err := v.tree.CheckConsistency(at); err != nil {
			c.Except(change.Pos, "the checkpoint that it names: %.200s", err)
		}
	}
	if due := k.history.At(v.cp.Size); due != nil {
		v.signedBy(due)
	} else {
		c.except("no record says which key of the log is in force")
	}
}

// compareKeys wants the file to say what the records of context and range do.
// Changes after the range stand there by their signatures.
func (v *verifier) compareKeys() {
	k, c := &v.keys, &v.c.keys
	if len(k.claimed) > 0 {
		if b, err := v.files.read(KeysFile, maxKeys); err != nil || !bytes.Equal(b, EncodeKeys(k.claimed)) {
			c.except("%s is not what it was a moment before: %v", KeysFile, err)
		}
	}
	for i := range max(len(k.claimed), len(k.recorded)) {
		switch {
		case i >= len(k.claimed):
			c.Except(k.recorded[i].Pos, "it changes the keys of the log, and %s does not have it", KeysFile)
		case i >= len(k.recorded):
			if b := k.claimed[i].Block; b <= v.m.Range.LastBlock || b >= v.cp.Size {
				c.except("%s has a change of keys in block %d, %s, that is no record there", KeysFile, b, k.claimed[i].Pos)
			}
		case !bytes.Equal(evidence.EncodeBody(&k.claimed[i]), evidence.EncodeBody(&k.recorded[i])):
			c.Except(k.recorded[i].Pos, "it changes the keys of the log, and line %d of %s says something else", i+1, KeysFile)
		}
	}
}

// signedBy wants checkpoint and manifest signed by the key in force, and that to
// be one to believe.
func (v *verifier) signedBy(due *ledger.Key) {
	c := &v.c.keys
	only := []note.Verifier{due.Verifier}
	if _, err := ledger.OpenCheckpoint(v.cp.Note, only, nil, 0); err != nil {
		c.except("in force is %s, and the checkpoint of %d blocks is signed by %s", describeKey(due), v.cp.Size, v.describeSigner())
		return
	}
	if openSignature(v.signature, v.encoded, v.m.Origin, only) != nil {
		c.except("the manifest is signed by another key of the log than its checkpoint")
	}
	v.restsOn(due)
}

// describeSigner says which key signed the checkpoint that shouldn't have.
func (v *verifier) describeSigner() string {
	for i, list := 0, v.keys.history.List(); i < len(list); i++ {
		if _, err := ledger.OpenCheckpoint(v.cp.Note, []note.Verifier{list[i].Verifier}, nil, 0); err != nil {
			continue
		}
		return describeKey(&list[i]) + ". " + v.doubt()
	}
	return "a key that no record puts in force"
}

func describeKey(k *ledger.Key) string {
	switch {
	case k.Revoked != nil:
		return fmt.Sprintf("key %s, which record %s in block %d revoked (%.200s)", k.ID(), k.Revoked.Pos, k.Revoked.Block, k.Revoked.Body.Reason)
	case k.Until != nil:
		return fmt.Sprintf("key %s, which record %s in block %d replaced", k.ID(), k.Until.Pos, k.Until.Block)
	}
	return "key " + k.ID()
}

// doubt says from where on a key that others may have proves nothing: from the
// newest checkpoint on that somebody outside the operator's hands holds.
func (v *verifier) doubt() string {
	held := uint64(0)
	if v.c.known.Failed == 0 {
		for _, cp := range v.trust.Known {
			if cp.Origin == v.cp.Origin {
				held = max(held, cp.Size)
			}
		}
	}
	switch {
	case v.witnessed():
		return fmt.Sprintf("A quorum of your witnesses cosigned %d blocks: what follows them is in doubt", v.cp.Size)
	case held > 0:
		return fmt.Sprintf("You kept a checkpoint of %d blocks: what follows them is in doubt", held)
	}
	return "All of it is in doubt: you kept no checkpoint, and no witness vouches for it"
}

func (v *verifier) witnessed() bool {
	return v.trust.Quorum > 0 && len(v.cp.Cosignatures) >= v.trust.Quorum
}

// restsOn says how the trusted keys lead to the one in force. A revoked key
// leads nowhere, unless others saw it do so.
func (v *verifier) restsOn(due *ledger.Key) {
	c, list := &v.c.keys, v.keys.history.List()
	first := len(list) - 1
	for first > 0 && !holds(v.trust.Log, list[first].Verifier) {
		first--
	}
	if !holds(v.trust.Log, list[first].Verifier) {
		c.except("no key that you trust leads to key %s", due.ID())
	}
	note := fmt.Sprintf("You trust key %s", list[first].ID())
	for i := first + 1; i < len(list); i++ {
		from, before := list[i].From, &list[i-1]
		note += fmt.Sprintf(", which signed over to %s (record %s)", list[i].ID(), from.Pos)
		if before.Revoked != nil && !v.witnessed() && !v.keptAfter(from.Block) {
			c.except("all that leads you to key %s is %s. %s. Get key %s by the way you got the other", due.ID(), describeKey(before), v.doubt(), due.ID())
		}
	}
	for j := range list {
		if r := list[j].Revoked; r != nil {
			note += fmt.Sprintf(". Key %s was revoked by record %s (%.200s)", list[j].ID(), r.Pos, r.Body.Reason)
		}
	}
	if v.m.Range.LastBlock+1 < v.cp.Size {
		note += ". A revocation after the range may have been left out: ask for a pack up to now"
	}
	c.Note = workpaper.Visible(note)
}

// keptAfter reports whether a kept checkpoint covers a block.
func (v *verifier) keptAfter(block uint64) bool {
	if v.c.known.Failed > 0 {
		return false
	}
	for _, cp := range v.trust.Known {
		if cp.Origin == v.cp.Origin && cp.Size > block {
			return true
		}
	}
	return false
}

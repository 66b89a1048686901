package ledger

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Types of note signature (C2SP signed-note).
const (
	algEd25519     = 1
	algCosignature = 4 // timestamped Ed25519, C2SP tlog-cosignature
)

// NewVerifier returns the verifier of a key in its text form, name+hash+key:
// an Ed25519 key of a log, or one of a witness that makes cosignatures.
func NewVerifier(vkey string) (note.Verifier, error) {
	name, rest, _ := strings.Cut(vkey, "+")
	hashText, keyText, _ := strings.Cut(rest, "+")
	hash, err := strconv.ParseUint(hashText, 16, 32)
	key, err2 := base64.StdEncoding.DecodeString(keyText)
	if err != nil || err2 != nil || len(hashText) != 8 || len(key) == 0 {
		return nil, errors.New("a verifier key looks like name+0a1b2c3d+base64")
	}
	if key[0] != algCosignature {
		v, err := note.NewVerifier(vkey)
		if err != nil {
			return nil, fmt.Errorf("verifier key of %s: %w", name, err)
		}
		return v, nil
	}
	sum := sha256.Sum256(append([]byte(name+"\n"), key...))
	if len(key) != 1+ed25519.PublicKeySize || name == "" || uint32(hash) != binary.BigEndian.Uint32(sum[:]) {
		return nil, fmt.Errorf("verifier key of %s: its hash and its key don't belong together", name)
	}
	return &cosignatureVerifier{name, uint32(hash), key[1:]}, nil
}

// cosignatureVerifier verifies C2SP tlog-cosignature signatures.
type cosignatureVerifier struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func (v *cosignatureVerifier) Name() string    { return v.name }
func (v *cosignatureVerifier) KeyHash() uint32 { return v.hash }

func (v *cosignatureVerifier) Verify(msg, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	signed := fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", binary.BigEndian.Uint64(sig), msg)
	return ed25519.Verify(v.key, signed, sig[8:])
}

// cosignatureTime returns when a verified signature says that it was made.
func cosignatureTime(s note.Signature) int64 {
	b, err := base64.StdEncoding.DecodeString(s.Base64)
	if err != nil || len(b) != 4+8+ed25519.SignatureSize { // key hash, time, signature
		return 0
	}
	return int64(binary.BigEndian.Uint64(b[4:]))
}

package evidence

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
)

// Hash is a SHA-256 digest. Its text form is base64url without padding.
type Hash [32]byte

// String returns the text form of h.
func (h Hash) String() string { return base64.RawURLEncoding.EncodeToString(h[:]) }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. It accepts exactly the
// spelling that MarshalText writes.
func (h *Hash) UnmarshalText(b []byte) error {
	var buf [33]byte
	if len(b) != 43 {
		return fmt.Errorf("a digest has 43 characters of base64url, not %d", len(b))
	}
	n, err := base64.RawURLEncoding.Strict().Decode(buf[:], b)
	if err != nil || n != 32 {
		return errors.New("a digest is 43 characters of base64url")
	}
	copy(h[:], buf[:32])
	return nil
}

// Domain tags keep the hashes of different things apart. RFC 6962 section 2.1
// uses 0x00 for leaves and 0x01 for nodes.
const (
	tagLeaf   = 0x00
	tagBody   = 0x10
	tagSealed = 0x11
	tagBoth   = 0x12
)

// RecordHash is the RFC 6962 leaf hash of a head's exact bytes: the identity
// of a record.
func RecordHash(head []byte) Hash {
	h := sha256.New()
	h.Write([]byte{tagLeaf})
	h.Write(head)
	return Hash(h.Sum(nil))
}

// Salt blinds one part of one record. It is disclosed with the part.
type Salt [16]byte

// BodyHash is H(0x10 || salt || body).
func BodyHash(salt Salt, body []byte) Hash { return partHash(tagBody, salt, body) }

// SealedHash is H(0x11 || salt || sealed). A record without a sealed part has
// the zero hash in its place, which no input produces.
func SealedHash(salt Salt, sealed []byte) Hash { return partHash(tagSealed, salt, sealed) }

func partHash(tag byte, salt Salt, part []byte) Hash {
	var stack [1024]byte // most parts fit, and cost no garbage
	b := append(append(stack[:0], tag), salt[:]...)
	if len(part) <= len(stack)-len(b) {
		return sha256.Sum256(append(b, part...))
	}
	h := sha256.New()
	h.Write(b)
	h.Write(part)
	return Hash(h.Sum(stack[:0]))
}

// Commit is the commitment of a head: H(0x12 || body hash || sealed hash),
// where a part that the record lacks counts as the zero hash.
func Commit(body, sealed Hash) Hash {
	var b [65]byte
	b[0] = tagBoth
	copy(b[1:33], body[:])
	copy(b[33:], sealed[:])
	return sha256.Sum256(b[:])
}

// Secret is the one secret of a key scope: a session, or a boot for the
// records outside sessions. Everything else is derived from it, and only
// derived values are ever disclosed.
type Secret [32]byte

// Labels of the values derived from a secret, by HKDF-SHA256 (RFC 5869) with
// an empty salt and the label as info.
const (
	LabelBody    = "exhibit/v1/body"    // seed of the bodies' salts; disclosed in a pack of level L1
	LabelSealed  = "exhibit/v1/sealed"  // seed of the sealed parts' salts; never disclosed whole
	LabelDigest  = "exhibit/v1/digest"  // key of the digests of contents
	LabelEncrypt = "exhibit/v1/encrypt" // key of sealed parts at rest
)

// Derive returns the 32 bytes that belong to label.
func (s *Secret) Derive(label string) [32]byte {
	k, err := hkdf.Key(sha256.New, s[:], nil, label, 32)
	if err != nil {
		panic("evidence: HKDF of 32 bytes cannot fail: " + err.Error())
	}
	return [32]byte(k)
}

// Salts makes the salts of one part of a scope's records from its seed: salt n
// is AES-256 under the seed of the 16-byte block 0^8 || n (big endian). AES on
// distinct blocks is a pseudorandom function of n, at a tenth of an HMAC's
// price, and a salt says nothing of any other.
type Salts struct{ block cipher.Block }

// NewSalts returns the salts of a 32-byte seed.
func NewSalts(seed [32]byte) Salts {
	b, err := aes.NewCipher(seed[:])
	if err != nil {
		panic("evidence: AES-256 takes 32 bytes: " + err.Error())
	}
	return Salts{b}
}

// Salt returns the salt of the record with ordinal n in its scope.
func (s Salts) Salt(n uint64) (salt Salt) {
	binary.BigEndian.PutUint64(salt[8:], n)
	s.block.Encrypt(salt[:], salt[:])
	return salt
}

// Digester makes keyed digests of contents (bodies of requests, rows copied),
// HMAC-SHA256 under a key of the scope, so that a guess can't be confirmed
// without it.
type Digester struct{ key [32]byte }

// NewDigester returns the digester of a secret.
func NewDigester(s *Secret) Digester { return Digester{s.Derive(LabelDigest)} }

// New returns a running digest whose Sum is the keyed digest. After a Reset it
// digests another content, for less than a new one costs.
func (d Digester) New() interface {
	Write([]byte) (int, error)
	Sum([]byte) []byte
	Reset()
} {
	return hmac.New(sha256.New, d.key[:])
}

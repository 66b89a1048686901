// Package keys keeps the secrets that blind and seal evidence, apart from the
// journal and the archive, so that destroying one erases what it sealed and
// leaves every proof standing.
//
// Out flow scopes: a session's secret (or a boot's, for records outside
// sessions) with what derives from it, handed out only once its wrapped form
// is on disk. In flow age recipients. A boot has one key-encryption key,
// wrapped to the auditors' recipients and to the gateway's own identity, and a
// file of fixed slots, each one scope's secret under that key. To shred a
// scope is to overwrite its slot.
package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// ErrDecrypt means that a ciphertext is not one of its scope, or was altered.
var ErrDecrypt = errors.New("cannot be decrypted under its scope's key")

// labelChunk names the key of the sealed chunks of blocks (docs/spec/record.md).
const labelChunk = "exhibit/v1/chunk"

// Scope is one key scope's derived values. It is immutable and safe for
// concurrent use.
type Scope struct {
	slot     uint64
	bodySeed [32]byte
	body     evidence.Salts
	sealed   evidence.Salts
	digester evidence.Digester
	entries  cipher.AEAD
	chunks   cipher.AEAD
}

func newScope(slot uint64, s *evidence.Secret) (*Scope, error) {
	entryKey := s.Derive(evidence.LabelEncrypt)
	block, err := aes.NewCipher(entryKey[:])
	if err != nil {
		return nil, err
	}
	entries, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	chunkKey := s.Derive(labelChunk)
	chunks, err := chacha20poly1305.NewX(chunkKey[:])
	if err != nil {
		return nil, err
	}
	seed := s.Derive(evidence.LabelBody)
	return &Scope{
		slot:     slot,
		bodySeed: seed,
		body:     evidence.NewSalts(seed),
		sealed:   evidence.NewSalts(s.Derive(evidence.LabelSealed)),
		digester: evidence.NewDigester(s),
		entries:  entries,
		chunks:   chunks,
	}, nil
}

// Slot is where the scope's secret lies in its boot's key file.
func (s *Scope) Slot() uint64 { return s.slot }

// BodySeed is what a pack of level L1 discloses of the scope.
func (s *Scope) BodySeed() [32]byte { return s.bodySeed }

// Body are the salts of the scope's bodies.
func (s *Scope) Body() evidence.Salts { return s.body }

// Sealed are the salts of the scope's sealed parts.
func (s *Scope) Sealed() evidence.Salts { return s.sealed }

// Digester makes the scope's keyed digests of contents.
func (s *Scope) Digester() evidence.Digester { return s.digester }

// Seal encrypts the sealed part of the scope's record n for the journal,
// appending to dst. A record has one sealed part, so n never repeats.
func (s *Scope) Seal(dst []byte, n uint64, sealed []byte) []byte {
	nonce := entryNonce(n)
	return s.entries.Seal(dst, nonce[:], sealed, nil)
}

// Open undoes Seal. The caller checks the result against its sealed hash.
func (s *Scope) Open(n uint64, sealed []byte) ([]byte, error) {
	nonce := entryNonce(n)
	p, err := s.entries.Open(nil, nonce[:], sealed, nil)
	if err != nil {
		return nil, fmt.Errorf("sealed part %d: %w", n, ErrDecrypt)
	}
	return p, nil
}

func entryNonce(n uint64) (nonce [12]byte) {
	binary.BigEndian.PutUint64(nonce[4:], n)
	return nonce
}

// SealChunk encrypts a chunk of sealed parts for a block: a random 24-byte
// nonce and XChaCha20-Poly1305 with aad. The nonce is random because a block
// cut anew after a crash may hold other records under the same number.
func (s *Scope) SealChunk(aad, plaintext []byte) ([]byte, error) {
	nonce := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+len(plaintext)+chacha20poly1305.Overhead)
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("drawing a nonce: %w", err)
	}
	return s.chunks.Seal(nonce, nonce, plaintext, aad), nil
}

// OpenChunk undoes SealChunk.
func (s *Scope) OpenChunk(aad, chunk []byte) ([]byte, error) {
	if len(chunk) < chacha20poly1305.NonceSizeX {
		return nil, fmt.Errorf("sealed chunk of %d bytes: %w", len(chunk), ErrDecrypt)
	}
	p, err := s.chunks.Open(nil, chunk[:chacha20poly1305.NonceSizeX], chunk[chacha20poly1305.NonceSizeX:], aad)
	if err != nil {
		return nil, fmt.Errorf("sealed chunk: %w", ErrDecrypt)
	}
	return p, nil
}

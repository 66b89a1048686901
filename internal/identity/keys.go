package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

// ErrKeyFile is wrapped when a key file cannot be used.
var ErrKeyFile = errors.New("key file cannot be used")

// maxKeyFile is many times what an Ed25519 key takes.
const maxKeyFile = 16 << 10

// CreateKey makes an Ed25519 key and writes it to a new file (PKCS #8 in PEM,
// mode 0600), synced. It never overwrites: a lost key is a lost identity.
func CreateKey(path string) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	text, err := EncodeKey(key)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("creating a key file: %w", err)
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("writing key file %s: %w", path, err), os.Remove(path))
	}
	return key, nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ReadKey reads a key that CreateKey or `openssl genpkey -algorithm ed25519`
// wrote. It refuses a file that anyone but its owner can read or write.
func ReadKey(path string) (ed25519.PrivateKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeyFile, err)
	}
	defer f.Close()
	// The open file is asked, so that nobody can swap it in between.
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrKeyFile, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrKeyFile, path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%w: %s is open to others (mode %04o) (hint: chmod 600 %s, and replace the key if it may have been read)",
			ErrKeyFile, path, info.Mode().Perm(), path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrKeyFile, path, err)
	}
	key, err := DecodeKey(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrKeyFile, path, err)
	}
	return key, nil
}

// EncodeKey returns a key as PKCS #8 in PEM (RFC 8410).
func EncodeKey(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// DecodeKey undoes EncodeKey.
func DecodeKey(text []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" || len(text) > maxKeyFile {
		return nil, errors.New("not a private key in PEM (PKCS #8)")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("not a private key: %w", err)
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("want an Ed25519 key, not %T", k)
	}
	return key, nil
}

// FormatPublicKey returns the base64url of a public key's 32 bytes: the "x" of
// its JWK (RFC 8037).
func FormatPublicKey(k ed25519.PublicKey) string { return base64.RawURLEncoding.EncodeToString(k) }

// ParsePublicKey undoes FormatPublicKey.
func ParsePublicKey(s string) (ed25519.PublicKey, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != ed25519.PublicKeySize {
		return nil, errors.New("not the 32 bytes of an Ed25519 public key in base64url")
	}
	return b, nil
}

// Thumbprint returns the RFC 7638 thumbprint of a public key.
func Thumbprint(k ed25519.PublicKey) string {
	t, err := decision.Thumbprint(FormatPublicKey(k))
	if err != nil {
		panic("identity: a key that is not of ed25519: " + err.Error())
	}
	return t
}

// Enrollment is the body of the record that enrolls an agent's public key.
// Times are microseconds since the epoch.
func Enrollment(id, agent string, k ed25519.PublicKey, notBefore, notAfter int64, by evidence.By) evidence.CredentialBody {
	return evidence.CredentialBody{
		ID: id, Agent: agent, Kind: "key", Thumbprint: Thumbprint(k), PublicKey: FormatPublicKey(k),
		Issuer: "enrolled", NotBefore: notBefore, NotAfter: notAfter, By: by,
	}
}

// JWKS returns public keys as a JWK set (RFC 7517 section 5) for verifying
// signatures.
func JWKS(keys ...ed25519.PublicKey) []byte {
	type jwk struct {
		Kty string `json:"kty"`
		Crv string `json:"crv"`
		X   string `json:"x"`
		Kid string `json:"kid"`
		Alg string `json:"alg"`
		Use string `json:"use"`
	}
	set := struct {
		Keys []jwk `json:"keys"`
	}{Keys: []jwk{}}
	for _, k := range keys {
		set.Keys = append(set.Keys, jwk{"OKP", "Ed25519", FormatPublicKey(k), Thumbprint(k), "EdDSA", "sig"})
	}
	b, err := json.Marshal(set)
	if err != nil {
		panic("identity: strings always encode: " + err.Error())
	}
	return b
}

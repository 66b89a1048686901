package gateway

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/internal/identity"
)

// The gateway's own long-lived keys, in <data>/keystore, apart from what they
// protect.
const (
	logKeyFile      = "log.key"     // signed-note key of the log (C2SP signed-note)
	identityFile    = "gateway.age" // age identity that unwraps session keys
	issuerFile      = "issuer.pem"  // Ed25519 key of agents' tokens, PKCS #8
	verifierFile    = "log.pub"     // verifier key of the log, for trust files
	keystoreDirName = "keystore"
)

// material is the gateway's own keys.
type material struct {
	signer   note.Signer
	verifier string
	identity *age.X25519Identity
	issuer   ed25519.PrivateKey
}

// ErrKeystore is wrapped when a data directory has no keys, or has them
// already.
var ErrKeystore = errors.New("keystore")

// Init makes the keys of a new gateway in the data directory and returns the
// verifier key of its log, which is what an auditor must get by another way
// than from the gateway.
func Init(data, origin string) (verifier string, err error) {
	dir := filepath.Join(data, keystoreDirName)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: %s is there already: a gateway's keys are made once", ErrKeystore, dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("making the keystore: %w", err)
	}
	logKey, verifier, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return "", fmt.Errorf("making the log's key: %w", err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", fmt.Errorf("making the key store's identity: %w", err)
	}
	_, issuer, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", fmt.Errorf("making the issuer's key: %w", err)
	}
	issuerText, err := identity.EncodeKey(issuer)
	if err != nil {
		return "", fmt.Errorf("encoding the issuer's key: %w", err)
	}
	for name, text := range map[string]string{
		logKeyFile:   logKey + "\n",
		verifierFile: verifier + "\n",
		identityFile: id.String() + "\n",
		issuerFile:   string(issuerText),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return "", fmt.Errorf("writing a key: %w", err)
		}
	}
	return verifier, nil
}

// readVerifier reads the verifier key of the log, which is all that checking it
// takes.
func readVerifier(data string) (string, error) {
	return readKey(filepath.Join(data, keystoreDirName), verifierFile)
}

func readKey(dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("%w: %w (`exhibit init` makes a gateway's keys)", ErrKeystore, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%w: %s can be read by others (mode %04o): chmod 600 it", ErrKeystore, path, info.Mode().Perm())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrKeystore, err)
	}
	return strings.TrimSpace(string(b)), nil
}

func readMaterial(data string) (*material, error) {
	dir := filepath.Join(data, keystoreDirName)
	read := func(name string) (string, error) { return readKey(dir, name) }
	logKey, err1 := read(logKeyFile)
	verifier, err2 := read(verifierFile)
	idText, err3 := read(identityFile)
	issuerText, err4 := read(issuerFile)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	signer, err := note.NewSigner(logKey)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrKeystore, logKeyFile, err)
	}
	id, err := age.ParseX25519Identity(idText)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrKeystore, identityFile, err)
	}
	issuer, err := identity.DecodeKey([]byte(issuerText))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrKeystore, issuerFile, err)
	}
	return &material{signer: signer, verifier: verifier, identity: id, issuer: issuer}, nil
}

package gateway

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/internal/failpoint"
	"github.com/exhibit-gateway/exhibit/internal/identity"
)

// The gateway's own long-lived keys, in <data>/keystore, apart from what they
// protect.
const (
	logKeyFile      = "log.key"     // signed-note key of the log (C2SP signed-note)
	nextKeyFile     = "log.next"    // one that is to take its place
	identityFile    = "gateway.age" // age identity that unwraps session keys
	issuerFile      = "issuer.pem"  // Ed25519 key of agents' tokens, PKCS #8
	verifierFile    = "log.pub"     // verifier key of the log, for trust files
	keystoreDirName = "keystore"
)

// material is the gateway's own keys.
type material struct {
	log      logKey
	next     *logKey // to take its place; nil without
	identity *age.X25519Identity
	issuer   ed25519.PrivateKey
}

// logKey is a key of the log with its verifier key.
type logKey struct {
	note.Signer
	verifier string
}

// nextSigner is the next key as an interface, nil without one.
func (m *material) nextSigner() note.Signer {
	if m.next == nil {
		return nil
	}
	return m.next
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
	m := &material{}
	var err error
	if m.log, err = readLogKey(dir, logKeyFile); err != nil {
		return nil, err
	}
	if m.next, err = readNextKey(dir); err != nil {
		return nil, err
	}
	idText, err1 := read(identityFile)
	issuerText, err2 := read(issuerFile)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if m.identity, err = age.ParseX25519Identity(idText); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrKeystore, identityFile, err)
	}
	if m.issuer, err = identity.DecodeKey([]byte(issuerText)); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrKeystore, issuerFile, err)
	}
	return m, nil
}

// readLogKey reads a key of the log. Its verifier key is made from it: the file
// with that may lag behind after a crash.
func readLogKey(dir, name string) (logKey, error) {
	text, err := readKey(dir, name)
	if err != nil {
		return logKey{}, err
	}
	signer, err := note.NewSigner(text)
	if err != nil {
		return logKey{}, fmt.Errorf("%w: %s: %w", ErrKeystore, name, err)
	}
	parts := strings.SplitN(text, "+", 5) // PRIVATE+KEY+name+hash+key; base64 has a plus, too
	seed, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(seed) != 1+ed25519.SeedSize {
		return logKey{}, fmt.Errorf("%w: %s is not an Ed25519 key", ErrKeystore, name)
	}
	public, _ := ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey)
	verifier, err := note.NewEd25519VerifierKey(signer.Name(), public)
	if err != nil {
		return logKey{}, fmt.Errorf("%w: %s: %w", ErrKeystore, name, err)
	}
	return logKey{signer, verifier}, nil
}

// readNextKey reads the key that is to take the place of the log's, if there is
// one.
func readNextKey(dir string) (*logKey, error) {
	k, err := readLogKey(dir, nextKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // none is no error
	}
	if err != nil {
		return nil, err
	}
	return &k, nil
}

// makeNextKey makes a key that is to take the place of the log's.
func makeNextKey(data, origin string) (*logKey, error) {
	text, _, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return nil, fmt.Errorf("making a key of the log: %w", err)
	}
	dir := filepath.Join(data, keystoreDirName)
	if err := replaceFile(filepath.Join(dir, nextKeyFile), []byte(text+"\n")); err != nil {
		return nil, fmt.Errorf("writing a key of the log: %w", err)
	}
	return readNextKey(dir)
}

// promoteKey puts the next key in the place of the log's, which is gone then.
func promoteKey(data string, next *logKey) error {
	dir := filepath.Join(data, keystoreDirName)
	err := os.Rename(filepath.Join(dir, nextKeyFile), filepath.Join(dir, logKeyFile))
	if err == nil {
		err = syncDir(dir)
	}
	failpoint.Hit("log key promoted")
	if err == nil {
		err = replaceFile(filepath.Join(dir, verifierFile), []byte(next.verifier+"\n"))
	}
	if err != nil {
		return fmt.Errorf("putting the log's new key in place: %w", err)
	}
	return nil
}

// replaceFile writes a file for the gateway's user alone, whole or not at all,
// and durably.
func replaceFile(name string, text []byte) error {
	part := name + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	if err := os.Rename(part, name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

func syncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

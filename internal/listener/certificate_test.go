package listener

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestARenewedCertificateIsShown(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	renew := func(serial int64, until time.Time, files ...string) {
		t.Helper()
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: until}
		der, err1 := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
		keyDER, err2 := x509.MarshalPKCS8PrivateKey(private)
		err = errors.Join(err1, err2)
		for _, name := range files {
			block := &pem.Block{Type: "CERTIFICATE", Bytes: der}
			if name == key {
				block = &pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}
			}
			err = errors.Join(err, os.WriteFile(name, pem.EncodeToMemory(block), 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	tomorrow := time.Now().Add(24 * time.Hour)
	if _, err := Certificate(cert, key, slog.Default()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without files: %v", err)
	}
	renew(1, tomorrow, cert, key)
	var log lockedBuffer
	get, err := Certificate(cert, key, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	want := func(serial int64) {
		t.Helper()
		for range 2 {
			pair, err := get(nil)
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := x509.ParseCertificate(pair.Certificate[0])
			if err != nil || leaf.SerialNumber.Int64() != serial {
				t.Fatalf("%v, certificate %v, want %d", err, leaf.SerialNumber, serial)
			}
		}
	}
	want(1)
	renew(2, tomorrow, cert, key)
	want(2)
	if log.String() != "" {
		t.Errorf("logged %s", log.String())
	}
	renew(3, tomorrow, cert) // its key is yet to come
	want(2)
	if !strings.Contains(log.String(), "goes on with the certificate that it has") {
		t.Errorf("logged %s", log.String())
	}
	renew(4, tomorrow, cert, key)
	want(4)
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	want(4)
}

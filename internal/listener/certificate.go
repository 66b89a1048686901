package listener

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Certificate returns a tls.Config.GetCertificate for a certificate and its key,
// PEM files both, which it reads again once they have changed: a certificate
// that was renewed counts for the next connection. What can't be read then
// changes nothing.
func Certificate(cert, key string, log *slog.Logger) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	c := &keyPair{files: [2]string{cert, key}, log: log}
	if err := c.read(); err != nil {
		return nil, err
	}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current(), nil }, nil
}

// keyPair is a certificate and its key, as their files were last.
type keyPair struct {
	files [2]string // certificate and key
	log   *slog.Logger

	mu   sync.Mutex
	pair *tls.Certificate
	as   [2]state // of the files, when they were last read
}

// state tells a file from what it was before.
type state struct {
	info os.FileInfo
	read time.Time
}

// settled is how long after its last change a file is taken to have changed
// again: a second change within its clock's tick doesn't show.
const settled = 2 * time.Second

func (s state) same(info os.FileInfo) bool {
	return s.info != nil && os.SameFile(s.info, info) && s.info.Size() == info.Size() &&
		s.info.ModTime().Equal(info.ModTime()) && s.read.Sub(info.ModTime()) > settled
}

// current returns the certificate to show now.
func (c *keyPair) current() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.read(); err != nil {
		c.log.Error("a listener goes on with the certificate that it has", "error", err)
	}
	return c.pair
}

// read reads the files unless they are what they were.
func (c *keyPair) read() error {
	var now [2]state
	changed := false
	for i, name := range c.files {
		info, err := os.Stat(name)
		if err != nil {
			return fmt.Errorf("reading the certificate: %w", err)
		}
		now[i] = state{info, time.Now()}
		changed = changed || !c.as[i].same(info)
	}
	if !changed {
		return nil
	}
	c.as = now
	pair, err := tls.LoadX509KeyPair(c.files[0], c.files[1])
	if err != nil {
		return fmt.Errorf("reading the certificate: %w", err)
	}
	c.pair = &pair
	return nil
}

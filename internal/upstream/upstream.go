// Package upstream knows where a resource is and by which credential it is
// reached.
//
// In go an address, an account, and references to a password, to an authority
// and to a client certificate; out comes a protocol.Upstream for each session. A
// reference is read anew when what it refers to has changed, so that what is
// rotated counts for the next session. Secrets flow to sessions and nowhere
// else: no error here holds one.
package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// Config says where a resource is.
type Config struct {
	Address  string // host:port, or the path of a unix socket
	Database string
	User     string
	Password Secret
	TLS      TLS
	Version  string // newest of the protocol to ask for
	Header   Header // of protocols above HTTP, in place of user and password
	OAuth    OAuth  // likewise

	Kubeconfig Kubeconfig // where the rest stands instead
}

// Secret says where a secret is. One of its fields is set, or none where no
// password is needed.
type Secret struct {
	File string // a newline at its end isn't part of the secret
	Env  string // name of an environment variable
}

// TLS says how the connection is protected.
type TLS struct {
	Mode       string // one of the modes below; "" is Disable on loopback and unix sockets, else VerifyFull
	CA         string // PEM file of the authorities to trust; "" is the system's
	ServerName string // that the certificate must have; "" is the host of the address
	Cert, Key  string // PEM files of the account's client certificate, or none
	Direct     bool   // it begins at once, without asking the server for it
	Bound      bool   // the login must be bound to it
}

// The modes of TLS, named as in libpq (PostgreSQL documentation, "SSL Mode
// Descriptions"). Those that don't verify who answers are not offered: they
// stop nobody who stands between.
const (
	Disable    = "disable"
	VerifyCA   = "verify-ca"
	VerifyFull = "verify-full"
)

// maxFile bounds what is read from a file, bytes.
const maxFile = 1 << 20

// Target is a resource's upstream. Its methods are safe for concurrent use.
type Target struct {
	cfg  Config
	host string // of the address; "" for a unix socket

	mu       sync.Mutex
	password file
	ca       file
	cert     file
	key      file
	tls      *tls.Config // made of ca, cert and key
	value    file        // of the header
	oauth    oauth
}

// New returns the Target of a configuration, which it checks without reading
// what it refers to.
func New(cfg Config) (*Target, error) {
	t := &Target{cfg: cfg}
	if cfg.Kubeconfig.File != "" {
		return t, nil
	}
	if !strings.HasPrefix(cfg.Address, "/") {
		host, _, err := net.SplitHostPort(cfg.Address)
		if err != nil || host == "" {
			return nil, fmt.Errorf("upstream address %q is neither host:port nor the path of a socket", cfg.Address)
		}
		t.host = host
	}
	if t.cfg.TLS.Mode == "" {
		t.cfg.TLS.Mode = VerifyFull
		if t.local() {
			t.cfg.TLS.Mode = Disable
		}
	}
	switch m := t.cfg.TLS.Mode; {
	case m != Disable && m != VerifyCA && m != VerifyFull:
		return nil, fmt.Errorf("upstream TLS mode %q is none of %s, %s, %s", m, Disable, VerifyCA, VerifyFull)
	case m != Disable && t.host == "":
		return nil, errors.New("TLS is not spoken over a unix socket")
	case (cfg.TLS.Cert == "") != (cfg.TLS.Key == ""):
		return nil, errors.New("a client certificate for the upstream needs both its file and its key's")
	case m == Disable && (cfg.TLS.Cert != "" || cfg.TLS.Direct || cfg.TLS.Bound):
		return nil, errors.New("the upstream's TLS is disabled, and yet something is asked of it")
	}
	if cfg.Password.File != "" && cfg.Password.Env != "" {
		return nil, errors.New("the upstream's password is in a file or in the environment, not in both")
	}
	return t, nil
}

// local reports whether the upstream is on this machine.
func (t *Target) local() bool {
	ip := net.ParseIP(t.host)
	return t.host == "" || t.host == "localhost" || ip != nil && ip.IsLoopback()
}

// Upstream returns what a new session needs to connect. Sessions share its TLS
// configuration, which they must not change.
func (t *Target) Upstream() (protocol.Upstream, error) {
	if t.cfg.Kubeconfig.File != "" {
		return t.cfg.Kubeconfig.upstream()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	up := protocol.Upstream{
		Address: t.cfg.Address, Database: t.cfg.Database, User: t.cfg.User,
		Direct: t.cfg.TLS.Direct, Bound: t.cfg.TLS.Bound, Version: t.cfg.Version,
	}
	var err error
	if up.Password, err = t.secret(); err != nil {
		return protocol.Upstream{}, fmt.Errorf("reading the upstream's password: %w", err)
	}
	if up.TLS, err = t.config(); err != nil {
		return protocol.Upstream{}, fmt.Errorf("reading what the upstream's TLS needs: %w", err)
	}
	up.Header = t.header()
	return up, nil
}

func (t *Target) secret() (string, error) {
	return t.cfg.Password.read(&t.password)
}

// read reads a secret anew when its file has changed.
func (p Secret) read(f *file) (string, error) {
	switch {
	case p.File != "":
		b, _, err := f.read(p.File)
		return strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r"), err
	case p.Env != "":
		v, ok := os.LookupEnv(p.Env)
		if !ok {
			return "", fmt.Errorf("the environment has no variable %s", p.Env)
		}
		return v, nil
	}
	return "", nil
}

func (t *Target) config() (*tls.Config, error) {
	if t.cfg.TLS.Mode == Disable {
		return nil, nil
	}
	for _, ref := range []struct {
		file *file
		name string
	}{{&t.ca, t.cfg.TLS.CA}, {&t.cert, t.cfg.TLS.Cert}, {&t.key, t.cfg.TLS.Key}} {
		if ref.name == "" {
			continue
		}
		_, changed, err := ref.file.read(ref.name)
		if err != nil {
			return nil, err
		}
		if changed {
			t.tls = nil // what it was made of no longer counts, whether or not the new can be used
		}
	}
	if t.tls == nil {
		var err error
		if t.tls, err = t.makeTLS(); err != nil {
			return nil, err
		}
	}
	return t.tls, nil
}

// makeTLS makes a configuration of the files as they were last read.
func (t *Target) makeTLS() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.cfg.TLS.ServerName}
	if c.ServerName == "" {
		c.ServerName = t.host
	}
	if t.cfg.TLS.CA != "" {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(t.ca.content) {
			return nil, fmt.Errorf("%s holds no certificate", t.cfg.TLS.CA)
		}
	}
	if t.cfg.TLS.Cert != "" {
		pair, err := tls.X509KeyPair(t.cert.content, t.key.content)
		if err != nil {
			return nil, fmt.Errorf("%s with %s: %w", t.cfg.TLS.Cert, t.cfg.TLS.Key, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	if t.cfg.TLS.Mode == VerifyCA {
		verifyChain(c)
	}
	return c, nil
}

// verifyChain makes cfg verify by whom the server's certificate was issued, and
// not for which name.
func verifyChain(cfg *tls.Config) {
	roots := cfg.RootCAs
	cfg.InsecureSkipVerify = true // VerifyConnection does all but the name
	cfg.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return errors.New("the upstream shows no certificate")
		}
		o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
		for _, c := range s.PeerCertificates[1:] {
			o.Intermediates.AddCert(c)
		}
		_, err := s.PeerCertificates[0].Verify(o)
		return err
	}
}

// file is what was last read from a file.
type file struct {
	content []byte
	info    os.FileInfo // as it was before the read
	at      time.Time
}

// settleTime is how long after its last change a file is read every time: a
// second change within its clock's tick would not show.
const settleTime = 2 * time.Second

// read returns a file's content, and whether it had to be read anew.
func (f *file) read(name string) (content []byte, changed bool, err error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, false, err
	}
	if f.info != nil && os.SameFile(f.info, info) && f.info.Size() == info.Size() &&
		f.info.ModTime().Equal(info.ModTime()) && f.at.Sub(info.ModTime()) > settleTime {
		return f.content, false, nil
	}
	at := time.Now()
	r, err := os.Open(name)
	if err != nil {
		return nil, false, err
	}
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, false, err
	}
	if len(b) > maxFile {
		return nil, false, fmt.Errorf("%s is larger than %d bytes", name, maxFile)
	}
	*f = file{content: b, info: info, at: at}
	return b, true, nil
}

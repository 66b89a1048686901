package ledger_test

import (
	"bytes"
	"encoding/asn1"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"crypto/sha256"
	"crypto/x509"

	"github.com/exhibit-gateway/exhibit/internal/seal/stamptest"
	"github.com/exhibit-gateway/exhibit/ledger"
)

var (
	stamped   = []byte("example.com/gw1\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n— example.com/gw1 AAAA\n")
	stampedAt = time.Date(2027, 1, 15, 8, 0, 5, 0, time.UTC)
)

// openStamp is what a reader does with a token.
func openStamp(token, of []byte, roots *x509.CertPool) (*ledger.Stamp, error) {
	s, err := ledger.ParseStamp(token, of)
	if err != nil {
		return nil, err
	}
	return s, s.Verify(roots)
}

func TestAStampSaysWhenBytesExisted(t *testing.T) {
	a := stamptest.New("tsa.example.org", stamptest.Certificate{})
	a.Change = func(d *stamptest.Draft) { d.Seconds = 2 }
	s, err := openStamp(a.Token(stamped, stampedAt), stamped, a.Roots())
	if err != nil {
		t.Fatal(err)
	}
	if !s.Time.Equal(stampedAt) || !s.NotAfter().Equal(stampedAt.Add(2*time.Second)) {
		t.Errorf("time %v, not after %v", s.Time, s.NotAfter())
	}
	if s.Authority != "CN=tsa.example.org" || !s.Policy.Equal(a.Policy) || s.Nonce != nil {
		t.Errorf("stamp %+v", s)
	}
}

func TestStampsThatAreNotToBeTrusted(t *testing.T) {
	usual := stamptest.Certificate{}
	for name, c := range map[string]struct {
		cert   stamptest.Certificate
		change func(*stamptest.Draft)
		of     []byte
		want   string
	}{
		"of other bytes": {of: []byte("other"), want: "of other bytes"},
		"altered time": {change: mangled(func(b []byte) []byte {
			return bytes.Replace(b, []byte("20270115080005Z"), []byte("20260115080005Z"), 1)
		}), want: "not what was signed"},
		"altered signature":         {change: mangled(func(b []byte) []byte { b[len(b)-1]++; return b }), want: "signature is not by its certificate"},
		"cut short":                 {change: mangled(func(b []byte) []byte { return b[:len(b)-1] }), want: "a token"},
		"with something after it":   {change: mangled(func(b []byte) []byte { return append(b, 5, 0) }), want: "follows it"},
		"nothing":                   {change: mangled(func([]byte) []byte { return nil }), want: "a token"},
		"huge":                      {change: mangled(func([]byte) []byte { return make([]byte, ledger.MaxStamp+1) }), want: "the limit is"},
		"another content":           {change: func(d *stamptest.Draft) { d.ContentType = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1} }, want: "no time stamp"},
		"another digest":            {change: func(d *stamptest.Draft) { d.MessageDigest = make([]byte, 64) }, want: "not what was signed"},
		"another certificate named": {change: func(d *stamptest.Draft) { d.CertHash = make([]byte, 32) }, want: "does not name the certificate"},
		"no certificate":            {change: func(d *stamptest.Draft) { d.NoCertificate = true }, want: "is not in it"},
		"negative accuracy":         {change: func(d *stamptest.Draft) { d.Seconds = -1 }, want: "which can't be"},
		"accuracy that overflows":   {change: func(d *stamptest.Draft) { d.Seconds = 1 << 62 }, want: "which can't be"},
		"critical extension":        {change: func(d *stamptest.Draft) { d.Critical = true }, want: "critical extension"},
		"certificate for servers":   {cert: stamptest.Certificate{Usage: []asn1.ObjectIdentifier{stamptest.ServerAuth}}, want: "incompatible key usage"},
		"certificate for more":      {cert: stamptest.Certificate{Usage: []asn1.ObjectIdentifier{stamptest.TimeStamping, stamptest.ServerAuth}}, want: "not for time stamps alone"},
		"purpose not critical":      {cert: stamptest.Certificate{NotCritical: true}, want: "not for time stamps alone"},
		"certificate expired":       {cert: stamptest.Certificate{NotAfter: stampedAt.Add(-time.Second)}, want: "expired"},
		"certificate not yet valid": {cert: stamptest.Certificate{NotBefore: stampedAt.Add(time.Second)}, want: "not yet valid"},
	} {
		t.Run(name, func(t *testing.T) {
			a := stamptest.New("tsa.example.org", c.cert)
			a.Change = c.change
			of := stamped
			if c.of != nil {
				of = c.of
			}
			_, err := openStamp(a.Token(stamped, stampedAt), of, a.Roots())
			if !errors.Is(err, ledger.ErrStamp) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if errors.Is(err, ledger.ErrStampAuthority) {
				t.Errorf("%v is taken for somebody else's word", err)
			}
		})
	}
	a, other := stamptest.New("tsa.example.org", usual), stamptest.New("other.example.org", usual)
	if _, err := openStamp(a.Token(stamped, stampedAt), stamped, other.Roots()); !errors.Is(err, ledger.ErrStampAuthority) {
		t.Errorf("of an authority that isn't trusted: %v", err)
	}
}

func mangled(by func([]byte) []byte) func(*stamptest.Draft) {
	return func(d *stamptest.Draft) { d.Mangle = by }
}

// No byte of a token can be changed and it still be another's word of another
// time.
func TestEveryByteOfAStampCounts(t *testing.T) {
	a := stamptest.New("tsa.example.org", stamptest.Certificate{})
	token := a.Token(stamped, stampedAt)
	roots := a.Roots()
	passed := 0
	for i := range token {
		for _, flip := range []byte{1, 0x80} {
			b := bytes.Clone(token)
			b[i] ^= flip
			s, err := openStamp(b, stamped, roots)
			if err != nil {
				continue
			}
			passed++
			if !s.Time.Equal(stampedAt) || s.Accuracy != 0 || s.Authority != "CN=tsa.example.org" {
				t.Errorf("byte %d: %+v", i, s)
			}
		}
	}
	// What isn't signed and means nothing: version numbers, the set of digests,
	// the root's own certificate, which is known from elsewhere.
	if passed > len(a.Root.Raw)*2+40 {
		t.Errorf("%d of %d flips make no difference", passed, 2*len(token))
	}
}

// What openssl stamps is understood, with each kind of key and digest.
func TestStampsOfOpenSSL(t *testing.T) {
	for name, c := range map[string]struct {
		digest, ess string
		newkey      []string
	}{
		"RSA":                      {"sha256", "sha256", []string{"-newkey", "rsa:2048"}},
		"RSA, SHA-512":             {"sha512", "sha512", []string{"-newkey", "rsa:2048"}},
		"P-256":                    {"sha256", "sha256", []string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"}},
		"P-384, SHA-384":           {"sha384", "sha384", []string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"}},
		"certificate by its SHA-1": {"sha256", "sha1", []string{"-newkey", "rsa:2048"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := stamptest.NewOpenSSL(t, c.digest, c.ess, c.newkey...)
			token := askOpenSSL(t, o, stamped)
			pem, err := os.ReadFile(o.CA)
			if err != nil {
				t.Fatal(err)
			}
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(pem)
			s, err := openStamp(token, stamped, roots)
			if err != nil {
				t.Fatal(err)
			}
			if time.Since(s.Time).Abs() > time.Minute || s.Accuracy != 1500*time.Millisecond || s.Authority != "CN=openssl TSA" || s.Policy.String() != "1.2.3.4.1" {
				t.Errorf("stamp %+v", s)
			}
			if _, err := openStamp(token, []byte("other"), roots); err == nil {
				t.Error("it is taken for one of other bytes")
			}
			if _, err := openStamp(token, stamped, stamptest.New("other", stamptest.Certificate{}).Roots()); !errors.Is(err, ledger.ErrStampAuthority) {
				t.Errorf("other roots: %v", err)
			}
			t.Logf("a token of %d bytes", len(token))
		})
	}
	// And openssl agrees that its digest must be one that nobody can forge.
	o := stamptest.NewOpenSSL(t, "sha1", "sha1", "-newkey", "rsa:2048")
	pem, err := os.ReadFile(o.CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	if _, err := openStamp(askOpenSSL(t, o, stamped), stamped, roots); err == nil || !strings.Contains(err.Error(), "is not used here") {
		t.Errorf("signed by SHA-1: %v", err)
	}
}

func TestOpenSSLUnderstandsTheTestsAuthority(t *testing.T) {
	o := stamptest.NewOpenSSL(t, "sha256", "sha256", "-newkey", "rsa:2048")
	token := askOpenSSL(t, o, stamped)
	if err := o.Verifies(token, stamped, o.CA); err != nil {
		t.Fatal(err)
	}
	a := stamptest.New("tsa.example.org", stamptest.Certificate{})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, a.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := o.Verifies(a.Token(stamped, time.Now()), stamped, ca); err != nil {
		t.Error(err)
	}
}

// askOpenSSL has bytes stamped.
func askOpenSSL(t *testing.T, o *stamptest.OpenSSL, of []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(of)
	q, err := asn1.Marshal(struct {
		Version int
		Imprint struct {
			Algorithm struct{ ID asn1.ObjectIdentifier }
			Digest    []byte
		}
		Certs bool
	}{1, struct {
		Algorithm struct{ ID asn1.ObjectIdentifier }
		Digest    []byte
	}{struct{ ID asn1.ObjectIdentifier }{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}}, sum[:]}, true})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, o.URL, bytes.NewReader(q))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Status asn1.RawValue
		Token  asn1.RawValue
	}
	if _, err := asn1.Unmarshal(b, &answer); err != nil {
		t.Fatalf("%v: %q", err, b)
	}
	return answer.Token.FullBytes
}

func TestTheFileOfStampedCheckpoints(t *testing.T) {
	a := stamptest.New("tsa.example.org", stamptest.Certificate{})
	line := func(size string) []byte {
		note := strings.Replace(string(stamped), "\n7\n", "\n"+size+"\n", 1)
		s := ledger.Stamped{Checkpoint: note, Token: a.Token([]byte(note), stampedAt)}
		b, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	read := func(b []byte) (sizes []uint64, err error) {
		err = ledger.ReadStamps(bytes.NewReader(b), func(line []byte, s *ledger.Stamped) error {
			cp, stamp, err := s.Open()
			if err != nil {
				return err
			}
			if err := stamp.Verify(a.Roots()); err != nil {
				return err
			}
			sizes = append(sizes, cp.Size)
			return nil
		})
		return sizes, err
	}
	both := append(line("7"), line("9")...)
	if sizes, err := read(both); err != nil || len(sizes) != 2 || sizes[0] != 7 || sizes[1] != 9 {
		t.Errorf("sizes %v, %v", sizes, err)
	}
	// What was cut off at its end says so, and what stands before it is read.
	if sizes, err := read(both[:len(both)-5]); !errors.Is(err, io.ErrUnexpectedEOF) || len(sizes) != 1 {
		t.Errorf("cut off: sizes %v, %v", sizes, err)
	}
	for name, b := range map[string][]byte{
		"not JSON":         []byte("{\n"),
		"an unknown key":   bytes.Replace(line("7"), []byte(`{`), []byte(`{"x":1,`), 1),
		"another spelling": bytes.Replace(line("7"), []byte(`":"`), []byte(`": "`), 1),
		"a long line":      append(bytes.Repeat([]byte(" "), 1<<20), '\n'),
		"an empty line":    []byte("\n"),
	} {
		if _, err := read(b); !errors.Is(err, ledger.ErrStampsFile) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := read(bytes.Replace(line("7"), []byte(`\n7\n`), []byte(`\n8\n`), 1)); !errors.Is(err, ledger.ErrStamp) {
		t.Errorf("another checkpoint's stamp: %v", err)
	}
}

// No bytes make reading a token panic.
func FuzzStamp(f *testing.F) {
	a := stamptest.New("tsa.example.org", stamptest.Certificate{})
	roots := a.Roots()
	f.Add(a.Token(stamped, stampedAt))
	f.Fuzz(func(t *testing.T, token []byte) {
		s, err := openStamp(token, stamped, roots)
		if err == nil && !s.Time.Equal(stampedAt) {
			t.Errorf("the time is %v", s.Time)
		}
	})
}

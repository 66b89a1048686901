// Package stamptest has time stamp authorities for tests: one made here, whose
// tokens are the same bytes each time and can be wrong in every way, and one
// that is openssl.
//
// In flow what is to be stamped, or requests over HTTP; out flow tokens and
// answers (RFC 3161).
package stamptest

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"slices"
	"time"
)

// Authority stamps with an Ed25519 key that is made from its name.
type Authority struct {
	Root   *x509.Certificate
	Signer *x509.Certificate
	Policy asn1.ObjectIdentifier
	// Now is its clock; time.Now by default.
	Now func() time.Time
	// Change, when set, may change each token on its way.
	Change func(*Draft)

	key ed25519.PrivateKey
}

// Draft is a token in the making.
type Draft struct {
	Time     time.Time
	Digest   []byte // SHA-256 of what is stamped
	Nonce    *big.Int
	Policy   asn1.ObjectIdentifier
	Seconds  int64 // accuracy
	Critical bool  // brings a critical extension
	// What is signed; zero values are right.
	ContentType   asn1.ObjectIdentifier
	MessageDigest []byte
	CertHash      []byte
	NoCertificate bool // leaves its certificate out
	// Mangle, when set, changes the token once it is signed.
	Mangle func([]byte) []byte
}

// Certificate says how the authority's own certificate is.
type Certificate struct {
	NotBefore, NotAfter time.Time // 1990 to 2120 by default
	Usage               []asn1.ObjectIdentifier
	NotCritical         bool
}

// Purposes of a key.
var (
	TimeStamping = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 8}
	ServerAuth   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
)

// New returns the authority of a name.
func New(name string, c Certificate) *Authority {
	key := func(of string) ed25519.PrivateKey {
		seed := sha256.Sum256([]byte(name + " " + of))
		return ed25519.NewKeyFromSeed(seed[:])
	}
	if c.NotBefore.IsZero() {
		c.NotBefore = time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if c.Usage == nil {
		c.Usage = []asn1.ObjectIdentifier{TimeStamping}
	}
	rootKey, own := key("root"), key("signer")
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name + " root"}, NotBefore: time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter: time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	signer := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: !c.NotCritical, Value: der(c.Usage)}},
	}
	a := &Authority{Policy: asn1.ObjectIdentifier{1, 2, 3, 4, 1}, key: own}
	a.Root = certificate(root, root, rootKey, rootKey)
	a.Signer = certificate(signer, a.Root, own, rootKey)
	return a
}

func certificate(c, parent *x509.Certificate, key, by ed25519.PrivateKey) *x509.Certificate {
	b, err := x509.CreateCertificate(nil, c, parent, key.Public(), by)
	must(err)
	made, err := x509.ParseCertificate(b)
	must(err)
	return made
}

// Roots is what trusts the authority.
func (a *Authority) Roots() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.Root)
	return p
}

// PEM is the same as a file.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Root.Raw})
}

// Token stamps bytes.
func (a *Authority) Token(stamped []byte, at time.Time) []byte {
	sum := sha256.Sum256(stamped)
	return a.token(Draft{Time: at, Digest: sum[:], Policy: a.Policy})
}

// Identifiers of CMS (RFC 5652) and RFC 3161.
var (
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidTSTInfo    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 4}
	oidSHA256     = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidSHA512     = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}
	oidEd25519    = asn1.ObjectIdentifier{1, 3, 101, 112}
)

type algorithm struct{ ID asn1.ObjectIdentifier }

type imprint struct {
	Algorithm pkix.AlgorithmIdentifier
	Digest    []byte
}

type accuracy struct{ Seconds int64 }

type info struct {
	Version    int
	Policy     asn1.ObjectIdentifier
	Imprint    imprint
	Serial     *big.Int
	Time       time.Time        `asn1:"generalized"`
	Accuracy   accuracy         `asn1:"optional"`
	Nonce      *big.Int         `asn1:"optional"`
	Extensions []pkix.Extension `asn1:"optional,omitempty,tag:1"`
}

type attribute struct {
	Type   asn1.ObjectIdentifier
	Values []asn1.RawValue `asn1:"set"`
}

type essCert struct{ Hash []byte }

func (a *Authority) token(d Draft) []byte {
	if a.Change != nil {
		a.Change(&d)
	}
	i := info{
		Version: 1, Policy: d.Policy, Imprint: imprint{pkix.AlgorithmIdentifier{Algorithm: oidSHA256, Parameters: asn1.NullRawValue}, d.Digest},
		Serial: big.NewInt(d.Time.Unix()), Time: d.Time.UTC().Truncate(time.Second), Accuracy: accuracy{d.Seconds}, Nonce: d.Nonce,
	}
	if d.Critical {
		i.Extensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 9}, Critical: true, Value: []byte{5, 0}}}
	}
	tst := der(i)
	if d.ContentType == nil {
		d.ContentType = oidTSTInfo
	}
	if d.MessageDigest == nil {
		sum := sha512.Sum512(tst)
		d.MessageDigest = sum[:]
	}
	if d.CertHash == nil {
		sum := sha256.Sum256(a.Signer.Raw)
		d.CertHash = sum[:]
	}
	attrs := [][]byte{
		attr(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}, d.ContentType),
		attr(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}, d.MessageDigest),
		attr(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 47}, struct{ Certs []essCert }{[]essCert{{d.CertHash}}}),
	}
	slices.SortFunc(attrs, bytes.Compare) // DER
	set := bytes.Join(attrs, nil)
	signature, err := a.key.Sign(nil, der(asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: set}), crypto.Hash(0))
	must(err)
	certs := slices.Concat(a.Signer.Raw, a.Root.Raw)
	if d.NoCertificate {
		certs = nil
	}
	digest := algorithm{oidSHA512}
	issuer := struct {
		Issuer asn1.RawValue
		Serial *big.Int
	}{asn1.RawValue{FullBytes: a.Signer.RawIssuer}, a.Signer.SerialNumber}
	signer := struct {
		Version   int
		ID        any
		Digest    algorithm
		Attrs     asn1.RawValue
		Algorithm algorithm
		Signature []byte
	}{1, asn1.RawValue{FullBytes: der(issuer)}, digest, tagged(0, set), algorithm{oidEd25519}, signature}
	data := struct {
		Version      int
		Digests      []algorithm `asn1:"set"`
		Encap        asn1.RawValue
		Certificates asn1.RawValue
		Signers      asn1.RawValue
	}{
		3, []algorithm{digest},
		asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: slices.Concat(der(oidTSTInfo), der(tagged(0, der(tst))))},
		tagged(0, certs), asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: der(signer)},
	}
	token := der(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: slices.Concat(der(oidSignedData), der(tagged(0, der(data))))})
	if d.Mangle != nil {
		token = d.Mangle(token)
	}
	return token
}

func attr(oid asn1.ObjectIdentifier, value any) []byte {
	return der(attribute{oid, []asn1.RawValue{{FullBytes: der(value)}}})
}

func tagged(tag int, contents []byte) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: true, Bytes: contents}
}

func der(v any) []byte {
	b, err := asn1.Marshal(v)
	must(err)
	return b
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// Answer answers a request as RFC 3161 section 2.4 has it.
func (a *Authority) Answer(request []byte) []byte {
	var q struct {
		Version int
		Imprint imprint
		Policy  asn1.ObjectIdentifier `asn1:"optional"`
		Nonce   *big.Int              `asn1:"optional"`
		Certs   bool                  `asn1:"optional"`
	}
	if rest, err := asn1.Unmarshal(request, &q); err != nil || len(rest) > 0 || !q.Certs {
		return Refusal(2, "not a request that asks for certificates")
	}
	now := time.Now
	if a.Now != nil {
		now = a.Now
	}
	policy := a.Policy
	if q.Policy != nil {
		policy = q.Policy
	}
	return Granted(a.token(Draft{Time: now(), Digest: q.Imprint.Digest, Nonce: q.Nonce, Policy: policy}))
}

// Granted is an answer that holds a token.
func Granted(token []byte) []byte {
	return der(struct {
		Status struct{ Status int }
		Token  asn1.RawValue
	}{Token: asn1.RawValue{FullBytes: token}})
}

// Refusal is an answer that holds none.
func Refusal(status int, text string) []byte {
	return der(struct {
		Status struct {
			Status int
			Text   []asn1.RawValue
		}
	}{struct {
		Status int
		Text   []asn1.RawValue
	}{status, []asn1.RawValue{{Tag: asn1.TagUTF8String, Bytes: []byte(text)}}}})
}

// ServeHTTP answers requests over HTTP (RFC 3161 section 3.4).
func (a *Authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	request, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/timestamp-query" {
		http.Error(w, "no request for a time stamp", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/timestamp-reply")
	_, _ = w.Write(a.Answer(request))
}

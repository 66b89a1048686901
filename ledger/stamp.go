package ledger

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"hash"
	"math/big"
	"slices"
	"time"
)

// Stamp is the word of a time stamp authority (RFC 3161) that some bytes, here
// those of a signed checkpoint, existed at a time. It is worth nothing before
// Verify has returned nil.
type Stamp struct {
	Time      time.Time     // as the authority has it
	Accuracy  time.Duration // of Time, either way; 0 when it says nothing of it
	Policy    asn1.ObjectIdentifier
	Serial    *big.Int
	Nonce     *big.Int // of the request; nil without
	Authority string   // subject of its certificate; set by Verify

	info   []byte // TSTInfo
	digest asn1.ObjectIdentifier
	signer signerInfo
	attrs  []byte // signed attributes, as a SET
	certs  []*x509.Certificate
}

// NotAfter is the time that the bytes existed not later than.
func (s *Stamp) NotAfter() time.Time { return s.Time.Add(s.Accuracy) }

// MaxStamp bounds a token; one with three certificates has about 6 KiB.
const MaxStamp = 32 << 10

// maxAccuracy bounds what an authority may say of its clock.
const maxAccuracy = 24 * time.Hour

// ErrStamp is wrapped by every failure of a token. One whose certificate leads
// to none of the roots is an ErrStampAuthority: it may be sound, and is the
// word of somebody whom the reader doesn't trust.
var (
	ErrStamp          = errors.New("not a time stamp to trust")
	ErrStampAuthority = errors.New("its certificate leads to none of the authorities trusted")
)

// The parts of a token: TimeStampToken and TSTInfo (RFC 3161 section 2.4.2) in
// SignedData (RFC 5652 section 5).
type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"explicit,tag:0"`
}

type signedData struct {
	Version int
	Digests []pkix.AlgorithmIdentifier `asn1:"set"`
	Encap   struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"explicit,tag:0"`
	}
	Certificates asn1.RawValue `asn1:"optional,tag:0"`
	CRLs         asn1.RawValue `asn1:"optional,tag:1"`
	Signers      []signerInfo  `asn1:"set"`
}

type signerInfo struct {
	Version   int
	ID        issuerAndSerial
	Digest    pkix.AlgorithmIdentifier
	Attrs     asn1.RawValue `asn1:"optional,tag:0"`
	Algorithm pkix.AlgorithmIdentifier
	Signature []byte
	Unsigned  asn1.RawValue `asn1:"optional,tag:1"`
}

type issuerAndSerial struct {
	Issuer asn1.RawValue
	Serial *big.Int
}

type attribute struct {
	Type   asn1.ObjectIdentifier
	Values []asn1.RawValue `asn1:"set"`
}

type tstInfo struct {
	Version  int
	Policy   asn1.ObjectIdentifier
	Imprint  messageImprint
	Serial   *big.Int
	Time     time.Time `asn1:"generalized"`
	Accuracy struct {
		Seconds int64 `asn1:"optional"`
		Millis  int64 `asn1:"optional,tag:0"`
		Micros  int64 `asn1:"optional,tag:1"`
	} `asn1:"optional"`
	Ordering   bool             `asn1:"optional"`
	Nonce      *big.Int         `asn1:"optional"`
	TSA        asn1.RawValue    `asn1:"optional,tag:0"`
	Extensions []pkix.Extension `asn1:"optional,tag:1"`
}

type messageImprint struct {
	Algorithm pkix.AlgorithmIdentifier
	Digest    []byte
}

// essCert is ESSCertID (RFC 2634 section 5.4.1) and ESSCertIDv2 (RFC 5035
// section 4); the first has no algorithm.
type essCert struct {
	Algorithm pkix.AlgorithmIdentifier `asn1:"optional"`
	Hash      []byte
	Issuer    asn1.RawValue `asn1:"optional"`
}

type signingCertificate struct {
	Certs    []essCert
	Policies asn1.RawValue `asn1:"optional"`
}

var (
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidTSTInfo       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 4}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidSigningCert   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 12}
	oidSigningCertV2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 47}
	oidExtKeyUsage   = asn1.ObjectIdentifier{2, 5, 29, 37}

	oidSHA256 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidSHA384 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}
	oidSHA512 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}

	oidRSA     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidRSAPSS  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}
	oidEC      = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidEd25519 = asn1.ObjectIdentifier{1, 3, 101, 112}
)

// digests are those that a token may use; SHA-1 isn't.
var digests = []struct {
	oid             asn1.ObjectIdentifier
	make            func() hash.Hash
	rsa, pss, ecdsa x509.SignatureAlgorithm
	withRSA, withEC asn1.ObjectIdentifier // the signature's own identifiers of the two together
}{
	{oidSHA256, sha256.New, x509.SHA256WithRSA, x509.SHA256WithRSAPSS, x509.ECDSAWithSHA256,
		asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}},
	{oidSHA384, sha512.New384, x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384,
		asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12}, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}},
	{oidSHA512, sha512.New, x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512,
		asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13}, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}},
}

// ParseStamp reads a token and checks that it is of these bytes. Whose word it
// is, and whether it was altered, is for Verify.
func ParseStamp(token, stamped []byte) (*Stamp, error) {
	if len(token) > MaxStamp {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrStamp, len(token), MaxStamp)
	}
	var outer contentInfo
	var sd signedData
	if err := unmarshal(token, &outer); err != nil || !outer.Type.Equal(oidSignedData) {
		return nil, malformed("a token", err)
	}
	if err := unmarshal(outer.Content.Bytes, &sd); err != nil {
		return nil, malformed("signed data", err)
	}
	s := new(Stamp)
	if err := unmarshal(sd.Encap.Content.Bytes, &s.info); err != nil || !sd.Encap.Type.Equal(oidTSTInfo) {
		return nil, malformed("what a token holds", err)
	}
	if len(sd.Signers) != 1 {
		return nil, fmt.Errorf("%w: it has %d signers, want one", ErrStamp, len(sd.Signers))
	}
	s.signer = sd.Signers[0]
	s.digest = s.signer.Digest.Algorithm
	if len(s.signer.Attrs.FullBytes) == 0 {
		return nil, fmt.Errorf("%w: it has no signed attributes", ErrStamp)
	}
	// What is signed is the SET, not its implicit tag (RFC 5652 section 5.4).
	s.attrs = append([]byte{asn1.TagSet | 0x20}, s.signer.Attrs.FullBytes[1:]...)
	var err error
	if s.certs, err = x509.ParseCertificates(sd.Certificates.Bytes); err != nil {
		return nil, malformed("its certificates", err)
	}
	return s, s.read(stamped)
}

// read reads TSTInfo.
func (s *Stamp) read(stamped []byte) error {
	var t tstInfo
	if err := unmarshal(s.info, &t); err != nil || t.Version != 1 {
		return malformed("what it says", err)
	}
	if sum := sha256.Sum256(stamped); !t.Imprint.Algorithm.Algorithm.Equal(oidSHA256) || !bytes.Equal(t.Imprint.Digest, sum[:]) {
		return fmt.Errorf("%w: it is of other bytes than these", ErrStamp)
	}
	a := t.Accuracy
	if a.Seconds < 0 || a.Seconds > int64(maxAccuracy/time.Second) || a.Millis < 0 || a.Millis > 999 || a.Micros < 0 || a.Micros > 999 {
		return fmt.Errorf("%w: it is accurate to %d s, %d ms, %d µs, which can't be", ErrStamp, a.Seconds, a.Millis, a.Micros)
	}
	for _, e := range t.Extensions {
		if e.Critical {
			return fmt.Errorf("%w: it has a critical extension %v that is not known here", ErrStamp, e.Id)
		}
	}
	s.Time = t.Time.UTC()
	s.Accuracy = time.Duration(a.Seconds)*time.Second + time.Duration(a.Millis)*time.Millisecond + time.Duration(a.Micros)*time.Microsecond
	s.Policy, s.Serial, s.Nonce = t.Policy, t.Serial, t.Nonce
	return nil
}

// Verify checks that the stamp is signed by an authority whose certificate, as
// of the stamp's time, is one of the roots or leads to one, and is for time
// stamps and nothing else. Certificates in the token are only ways there.
func (s *Stamp) Verify(roots *x509.CertPool) error {
	signer, err := s.certificate()
	if err != nil {
		return err
	}
	intermediates := x509.NewCertPool()
	for _, c := range s.certs {
		if k, ok := c.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() > maxRSA {
			return fmt.Errorf("%w: it brings a key of %d bits", ErrStamp, k.N.BitLen())
		}
		intermediates.AddCert(c)
	}
	_, err = signer.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: s.Time, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping},
	})
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%w: %w: %w", ErrStamp, ErrStampAuthority, err)
	case err != nil:
		return fmt.Errorf("%w: its certificate, at the time %s: %w", ErrStamp, s.Time.Format(time.RFC3339), err)
	}
	if err := onlyForStamps(signer); err != nil {
		return err
	}
	if err := s.checkAttributes(signer); err != nil {
		return err
	}
	algorithm, err := s.algorithm()
	if err != nil {
		return err
	}
	if err := signer.CheckSignature(algorithm, s.attrs, s.signer.Signature); err != nil {
		return fmt.Errorf("%w: its signature is not by its certificate: %w", ErrStamp, err)
	}
	s.Authority = signer.Subject.String()
	return nil
}

// maxRSA is the most bits that a key may have: verifying takes time, and
// whoever made the token chose the key.
const maxRSA = 8192

// Signer names the certificate that is said to have signed it, by issuer and
// serial number, as bytes that only compare.
func (s *Stamp) Signer() string {
	return fmt.Sprintf("%s %x", s.signer.ID.Serial, s.signer.ID.Issuer.FullBytes)
}

// certificate finds the one that signed it.
func (s *Stamp) certificate() (*x509.Certificate, error) {
	id := s.signer.ID
	for _, c := range s.certs {
		if id.Serial != nil && c.SerialNumber.Cmp(id.Serial) == 0 && bytes.Equal(c.RawIssuer, id.Issuer.FullBytes) {
			return c, nil
		}
	}
	return nil, fmt.Errorf("%w: the certificate that signed it is not in it", ErrStamp)
}

// onlyForStamps checks a signer's certificate (RFC 3161 section 2.3).
func onlyForStamps(c *x509.Certificate) error {
	critical := slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidExtKeyUsage) && e.Critical })
	if !critical || len(c.UnknownExtKeyUsage) > 0 || !slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping}) {
		return fmt.Errorf("%w: its certificate is not for time stamps alone (critical extendedKeyUsage timeStamping)", ErrStamp)
	}
	if c.KeyUsage != 0 && c.KeyUsage&(x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment) == 0 {
		return fmt.Errorf("%w: its certificate is not for signing", ErrStamp)
	}
	return nil
}

// checkAttributes checks what is signed: that it is the TSTInfo, and with this
// certificate and no other of the same key.
func (s *Stamp) checkAttributes(signer *x509.Certificate) error {
	var list []attribute
	if rest, err := asn1.UnmarshalWithParams(s.attrs, &list, "set"); err != nil || len(rest) > 0 {
		return malformed("its signed attributes", err)
	}
	value := func(oid asn1.ObjectIdentifier) ([]byte, bool) {
		var found [][]byte
		for _, a := range list {
			if a.Type.Equal(oid) && len(a.Values) == 1 {
				found = append(found, a.Values[0].FullBytes)
			}
		}
		if len(found) != 1 {
			return nil, false
		}
		return found[0], true
	}
	var typ asn1.ObjectIdentifier
	if v, ok := value(oidContentType); !ok || unmarshal(v, &typ) != nil || !typ.Equal(oidTSTInfo) {
		return fmt.Errorf("%w: what is signed is no time stamp", ErrStamp)
	}
	var sum []byte
	sums := hashOf(s.digest)
	if sums == nil {
		return fmt.Errorf("%w: the digest %v is not used here; SHA-256, SHA-384 and SHA-512 are", ErrStamp, s.digest)
	}
	h := sums()
	h.Write(s.info)
	if v, ok := value(oidMessageDigest); !ok || unmarshal(v, &sum) != nil || !bytes.Equal(sum, h.Sum(nil)) {
		return fmt.Errorf("%w: what it says is not what was signed", ErrStamp)
	}
	v2, ok2 := value(oidSigningCertV2)
	v1, ok1 := value(oidSigningCert)
	if ok2 && !names(v2, signer, oidSHA256) || ok1 && !names(v1, signer, nil) || !ok1 && !ok2 {
		return fmt.Errorf("%w: what is signed does not name the certificate that signed it", ErrStamp)
	}
	return nil
}

// names reports whether a signing certificate attribute begins with c. Without
// an algorithm the digest is usual's, or SHA-1 in the first version.
func names(attr []byte, c *x509.Certificate, usual asn1.ObjectIdentifier) bool {
	var list signingCertificate
	if unmarshal(attr, &list) != nil || len(list.Certs) == 0 {
		return false
	}
	first := list.Certs[0]
	if usual == nil {
		sum := sha1.Sum(c.Raw)
		return len(first.Algorithm.Algorithm) == 0 && bytes.Equal(first.Hash, sum[:])
	}
	if len(first.Algorithm.Algorithm) > 0 {
		usual = first.Algorithm.Algorithm
	}
	sums := hashOf(usual)
	if sums == nil {
		return false
	}
	h := sums()
	h.Write(c.Raw)
	return bytes.Equal(first.Hash, h.Sum(nil))
}

func hashOf(oid asn1.ObjectIdentifier) func() hash.Hash {
	for _, d := range digests {
		if d.oid.Equal(oid) {
			return d.make
		}
	}
	return nil
}

// algorithm is that of the signature, which may or may not name the digest.
func (s *Stamp) algorithm() (x509.SignatureAlgorithm, error) {
	by := s.signer.Algorithm.Algorithm
	for _, d := range digests {
		switch {
		case !d.oid.Equal(s.digest):
		case by.Equal(oidRSA), by.Equal(d.withRSA):
			return d.rsa, nil
		case by.Equal(oidRSAPSS):
			return d.pss, nil
		case by.Equal(oidEC), by.Equal(d.withEC):
			return d.ecdsa, nil
		case by.Equal(oidEd25519) && d.oid.Equal(oidSHA512): // RFC 8419 section 3
			return x509.PureEd25519, nil
		}
	}
	return 0, fmt.Errorf("%w: the signature algorithm %v with the digest %v is not used here", ErrStamp, by, s.digest)
}

// unmarshal decodes all of der.
func unmarshal(der []byte, v any) error {
	rest, err := asn1.Unmarshal(der, v)
	if err == nil && len(rest) > 0 {
		err = errors.New("something follows it")
	}
	return err
}

func malformed(what string, err error) error {
	if err == nil {
		err = errors.New("it is of another kind")
	}
	return fmt.Errorf("%w: %s: %w", ErrStamp, what, err)
}

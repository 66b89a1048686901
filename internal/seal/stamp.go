package seal

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"strings"
	"time"

	"github.com/exhibit-gateway/exhibit/ledger"
)

// Authority is a time stamp authority (RFC 3161).
type Authority struct {
	URL    string                // http or https: what comes from there is signed
	Roots  *x509.CertPool        // that its certificate must be one of, or lead to
	Policy asn1.ObjectIdentifier // that it must stamp under; nil is any
}

// Equal reports whether two are the same.
func (a Authority) Equal(o Authority) bool {
	return a.URL == o.URL && a.Roots.Equal(o.Roots) && a.Policy.Equal(o.Policy)
}

// maxStampAnswer bounds an answer: a token, and a status with a text.
const maxStampAnswer = ledger.MaxStamp + 4<<10

// maxClockError is how far an authority's time may lie from the clock here.
const maxClockError = time.Minute

// falseAnswer is that of an authority that answered with what is not the stamp
// that was asked for: it lies, or somebody on the way does, or the configuration
// knows another than it is.
type falseAnswer struct{ cause error }

func (e *falseAnswer) Error() string { return e.cause.Error() }
func (e *falseAnswer) Unwrap() error { return e.cause }

func falsely(format string, args ...any) error { return &falseAnswer{fmt.Errorf(format, args...)} }

// stamper asks one authority.
type stamper struct {
	Authority
	client *http.Client
}

func newStamper(a Authority, transport http.RoundTripper) *stamper {
	return &stamper{Authority: a, client: newWitness(Witness{}, transport).client} // no redirects either
}

var oidSHA256 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}

// stampRequest is TimeStampReq (RFC 3161 section 2.4.1).
type stampRequest struct {
	Version int
	Imprint struct {
		Algorithm struct {
			ID   asn1.ObjectIdentifier
			Null asn1.RawValue
		}
		Digest []byte
	}
	Policy asn1.ObjectIdentifier `asn1:"optional"`
	Nonce  *big.Int
	Certs  bool
}

// stampAnswer is TimeStampResp (RFC 3161 section 2.4.2).
type stampAnswer struct {
	Status struct {
		Status int
		Text   []asn1.RawValue `asn1:"optional"`
		Fail   asn1.BitString  `asn1:"optional"`
	}
	Token asn1.RawValue `asn1:"optional"`
}

// ask has bytes stamped and returns the token, verified, and what it says.
func (a *stamper) ask(ctx context.Context, stamped []byte) (token []byte, s *ledger.Stamp, err error) {
	nonce, request, err := a.request(stamped)
	if err != nil {
		return nil, nil, fmt.Errorf("asking: %w", err)
	}
	before := time.Now()
	answer, err := a.post(ctx, request)
	if err != nil {
		return nil, nil, err
	}
	if token, err = readAnswer(answer); err != nil {
		return nil, nil, err
	}
	if s, err = ledger.ParseStamp(token, stamped); err == nil {
		err = s.Verify(a.Roots)
	}
	switch {
	case err != nil:
		return nil, nil, falsely("%w", err)
	case s.Nonce == nil || s.Nonce.Cmp(nonce) != 0:
		return nil, nil, falsely("it answers another request than this one (nonce)")
	case a.Policy != nil && !s.Policy.Equal(a.Policy):
		return nil, nil, falsely("it stamps under policy %v, configured is %v", s.Policy, a.Policy)
	}
	return token, s, checkTime(s, before, time.Now())
}

// checkTime checks an authority's time against the clock here. One of the two
// is wrong when they differ, and neither is evidence then.
func checkTime(s *ledger.Stamp, before, after time.Time) error {
	slack := maxClockError + s.Accuracy
	if s.Time.Before(before.Add(-slack)) || s.Time.After(after.Add(slack)) {
		return falsely("its clock says %s and the one here %s: one of them is wrong", s.Time.Format(time.RFC3339), after.UTC().Format(time.RFC3339))
	}
	return nil
}

func (a *stamper) request(stamped []byte) (nonce *big.Int, der []byte, err error) {
	if nonce, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 63)); err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(stamped)
	q := stampRequest{Version: 1, Policy: a.Policy, Nonce: nonce, Certs: true}
	q.Imprint.Algorithm.ID, q.Imprint.Algorithm.Null, q.Imprint.Digest = oidSHA256, asn1.NullRawValue, sum[:]
	der, err = asn1.Marshal(q)
	return nonce, der, err
}

// post is one request of RFC 3161 section 3.4.
func (a *stamper) post(ctx context.Context, request []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.URL, bytes.NewReader(request))
	if err != nil {
		return nil, fmt.Errorf("asking: %w", err)
	}
	req.Header.Set("Content-Type", "application/timestamp-query")
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxStampAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading its answer: %w", err)
	case len(body) > maxStampAnswer:
		return nil, falsely("its answer has more than %d bytes", maxStampAnswer)
	case resp.StatusCode/100 == 3:
		return nil, fmt.Errorf("it sends to another address (%d): configure the one that it is at", resp.StatusCode)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("it answers with %d", resp.StatusCode)
	}
	return body, nil
}

// readAnswer returns the token of an answer that grants one.
func readAnswer(der []byte) ([]byte, error) {
	var a stampAnswer
	if rest, err := asn1.Unmarshal(der, &a); err != nil || len(rest) > 0 {
		return nil, falsely("its answer is not one of RFC 3161")
	}
	if a.Status.Status > 1 { // neither granted nor granted with changes, which are found out
		var texts []string
		for _, t := range a.Status.Text {
			texts = append(texts, string(t.Bytes))
		}
		return nil, fmt.Errorf("it refuses (status %d): %.200q", a.Status.Status, strings.Join(texts, " "))
	}
	if len(a.Token.FullBytes) == 0 {
		return nil, falsely("it grants a stamp and holds none")
	}
	return a.Token.FullBytes, nil
}

// Try has an authority stamp something that means nothing, and says what it
// stamped.
func (a Authority) Try(ctx context.Context, timeout time.Duration) (*ledger.Stamp, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	s := newStamper(a, witnessTransport())
	defer s.client.CloseIdleConnections()
	probe := make([]byte, sha256.Size)
	if _, err := rand.Read(probe); err != nil {
		return nil, err
	}
	_, stamp, err := s.ask(ctx, probe)
	return stamp, err
}

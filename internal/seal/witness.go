package seal

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// Witness is a party outside the gateway that cosigns its checkpoints (C2SP
// tlog-witness): it remembers the newest that it has seen of the log, and signs
// only those that grew from it.
type Witness struct {
	URL string        // submission prefix: https, or http on loopback
	Key note.Verifier // of its cosignatures
}

// Equal reports whether two are the same.
func (w Witness) Equal(o Witness) bool {
	return w.URL == o.URL && w.Key.Name() == o.Key.Name() && w.Key.KeyHash() == o.Key.KeyHash()
}

const (
	maxAnswer    = 16 << 10 // bytes of a witness's answer; a cosignature has about 150
	maxQuestions = 5        // in one dialogue; a witness that has to be told twice needs three
)

// ErrNotKnown is wrapped when a witness doesn't know the log, or its key.
var ErrNotKnown = errors.New("give its operator the log's verifier key")

// Why a witness did not cosign. The texts are for an operator.
var (
	errUnknownLog = fmt.Errorf("it does not know this log (404): %w", ErrNotKnown)
	errOtherKey   = fmt.Errorf("it knows another key for this log (403): %w", ErrNotKnown)
	errProof      = errors.New("it refuses the proof that the log grew from what it has seen (422)")
)

// witness asks one witness. One question at a time is asked.
type witness struct {
	Witness
	client *http.Client
	size   uint64 // that it has seen of the log, as far as we know
}

func newWitness(w Witness, transport http.RoundTripper) *witness {
	return &witness{Witness: w, client: &http.Client{
		Transport: transport,
		// What is configured is whom the key belongs to; anywhere else is nobody.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// prover shows that the log of a checkpoint grew from its first old leaves.
type prover func(cp ledger.Checkpoint, old uint64) ([]evidence.Hash, error)

// ask has cp cosigned and returns the signature line, verified. A witness that
// says twice, the second time unprompted, that it has seen another history is
// an ErrDiverged: this log is an old copy, or a fork, and each further record
// would be one that nobody believes.
func (w *witness) ask(ctx context.Context, cp ledger.Checkpoint, prove prover) (line string, err error) {
	old, told, refused := min(w.size, cp.Size), false, 0
	for range maxQuestions {
		proof, err := prove(cp, old)
		if err != nil {
			return "", fmt.Errorf("proving growth from %d blocks: %w", old, err)
		}
		a, err := w.post(ctx, old, proof, cp)
		if err == nil && a.line != "" {
			w.size = cp.Size
			return a.line, nil
		}
		var fork error
		switch {
		case errors.Is(err, errProof) && old == 0:
			return "", errors.New("it refuses an empty proof to a log that it has not seen (422)")
		case errors.Is(err, errProof):
			fork = fmt.Errorf("the first %d blocks that witness %s has seen of this log are not those here", old, w.Key.Name())
		case err != nil:
			return "", err
		case a.size > cp.Size:
			w.size = a.size
			fork = fmt.Errorf("witness %s has seen %d blocks of this log, and here it has %d", w.Key.Name(), a.size, cp.Size)
		case a.size == old && told && old == cp.Size:
			fork = fmt.Errorf("witness %s has seen another block than the last one here, number %d", w.Key.Name(), cp.Size-1)
		case a.size == old && told:
			return "", fmt.Errorf("it wants a proof from %d blocks on (409) and does not take it", old)
		default:
			w.size, old, told = a.size, a.size, true
			continue
		}
		if refused++; refused == 2 {
			return "", fmt.Errorf("%w: %w: this data folder is an old copy, or another gateway writes to the same log; "+
				"stop that one, or restore the newest copy of the data folder", ErrDiverged, fork)
		}
		// Once is an accident of the network or of the witness. Let it say anew
		// what it has seen, without being led.
		old, told = 0, false
	}
	return "", fmt.Errorf("it changes what it has seen with every answer, last %d blocks", w.size)
}

// answer is either a cosignature or the size that the witness has seen.
type answer struct {
	line string
	size uint64
}

// post is one request of C2SP tlog-witness.
func (w *witness) post(ctx context.Context, old uint64, proof []evidence.Hash, cp ledger.Checkpoint) (answer, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "old %d\n", old)
	for _, h := range proof {
		b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
	}
	b.WriteByte('\n')
	b.Write(cp.Note)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(w.URL, "/")+"/add-checkpoint", &b)
	if err != nil {
		return answer{}, fmt.Errorf("asking: %w", err)
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	resp, err := w.client.Do(req)
	if err != nil {
		return answer{}, fmt.Errorf("asking: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return answer{}, fmt.Errorf("reading its answer: %w", err)
	case len(body) > maxAnswer:
		return answer{}, fmt.Errorf("its answer has more than %d bytes", maxAnswer)
	}
	return w.read(resp, body, cp)
}

// read understands an answer.
func (w *witness) read(resp *http.Response, body []byte, cp ledger.Checkpoint) (answer, error) {
	switch resp.StatusCode {
	case http.StatusOK:
		line, err := w.cosignature(cp, body)
		return answer{line: line}, err
	case http.StatusConflict:
		size, err := conflictSize(resp.Header.Get("Content-Type"), body)
		return answer{size: size}, err
	case http.StatusNotFound:
		return answer{}, errUnknownLog
	case http.StatusForbidden:
		return answer{}, errOtherKey
	case http.StatusUnprocessableEntity:
		return answer{}, errProof
	}
	if resp.StatusCode/100 == 3 {
		return answer{}, fmt.Errorf("it sends to another address (%d): configure the one that it is at", resp.StatusCode)
	}
	return answer{}, fmt.Errorf("it answers with %d", resp.StatusCode)
}

// cosignature finds the witness's signature of cp among signature lines.
func (w *witness) cosignature(cp ledger.Checkpoint, lines []byte) (string, error) {
	n, err := note.Open([]byte(cp.Text()+"\n"+string(lines)), note.VerifierList(w.Key))
	if err != nil {
		return "", fmt.Errorf("what it answers is no cosignature of this checkpoint by the configured key: %w", err)
	}
	s := n.Sigs[0] // the only verifier's
	return fmt.Sprintf("— %s %s\n", s.Name, s.Base64), nil
}

func conflictSize(contentType string, body []byte) (uint64, error) {
	media, _, _ := mime.ParseMediaType(contentType)
	text, ok := strings.CutSuffix(string(body), "\n")
	size, err := strconv.ParseUint(text, 10, 53)
	if media != "text/x.tlog.size" || !ok || err != nil || strconv.FormatUint(size, 10) != text {
		return 0, errors.New("it reports a conflict (409) and does not say what it has seen")
	}
	return size, nil
}

// Reach asks whether anything answers at a witness's URL.
func (w Witness) Reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, witnessTimeout)
	defer cancel()
	c := newWitness(w, witnessTransport())
	defer c.client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(w.URL, "/")+"/add-checkpoint", http.NoBody)
	if err != nil {
		return fmt.Errorf("asking witness %s: %w", w.Key.Name(), err)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return fmt.Errorf("asking witness %s: %w", w.Key.Name(), err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest { // what a witness says to an empty request
		return fmt.Errorf("witness %s answers an empty request with %d, not 400: is this the prefix of its add-checkpoint?", w.Key.Name(), resp.StatusCode)
	}
	return nil
}

func witnessTransport() http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxResponseHeaderBytes = maxAnswer
	t.MaxIdleConnsPerHost = 1
	t.IdleConnTimeout = time.Minute
	return t
}

package verify

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/ledger"
)

// Trust is what a verifier believes. None of it may come from the pack, nor
// through a channel that whoever made the pack controls.
type Trust struct {
	Log       []note.Verifier // keys of the log
	Witnesses []note.Verifier
	Quorum    int                 // how many of the witnesses must have cosigned
	Known     []ledger.Checkpoint // kept from earlier visits
	TSA       *x509.CertPool      // roots of time stamp authorities; nil trusts none
}

// TrustFile is a trust file, JSON:
//
//	{
//	  "log": ["example.com/gw1+0a1b2c3d+AYq..."],
//	  "witnesses": ["witness.example.org+5e6f7a8b+BGz..."],
//	  "quorum": 1,
//	  "known": ["example.com/gw1\n1234\nq1Yd...=\n"]
//	}
//
// Keys are verifier keys of C2SP signed-note; the known checkpoints are texts
// of C2SP tlog-checkpoint, signatures after an empty line are ignored.
type TrustFile struct {
	Log       []string `json:"log"`
	Witnesses []string `json:"witnesses,omitempty"`
	Quorum    int      `json:"quorum,omitempty"`
	Known     []string `json:"known,omitempty"`
}

// ErrTrust is wrapped by every failure to use a trust file.
var ErrTrust = errors.New("not a usable trust file")

// NewTrustFile returns the trust file of a log with these verifier keys.
func NewTrustFile(logKeys ...string) *TrustFile { return &TrustFile{Log: logKeys} }

// Encode returns the bytes of the file.
func (f *TrustFile) Encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(f)
	return b.Bytes(), err
}

// ParseTrustFile parses a trust file.
func ParseTrustFile(b []byte) (*TrustFile, error) {
	var f TrustFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTrust, err)
	}
	return &f, nil
}

// Trust returns what the file says to believe.
func (f *TrustFile) Trust() (Trust, error) {
	t := Trust{Quorum: f.Quorum}
	for _, list := range []struct {
		from []string
		to   *[]note.Verifier
	}{{f.Log, &t.Log}, {f.Witnesses, &t.Witnesses}} {
		for _, key := range list.from {
			v, err := ledger.NewVerifier(key)
			if err != nil {
				return Trust{}, fmt.Errorf("%w: %w", ErrTrust, err)
			}
			*list.to = append(*list.to, v)
		}
	}
	for _, text := range f.Known {
		body, _, _ := strings.Cut(text, "\n\n")
		cp, err := ledger.ParseCheckpoint(strings.TrimSuffix(body, "\n") + "\n")
		if err != nil {
			return Trust{}, fmt.Errorf("%w: known checkpoint: %w", ErrTrust, err)
		}
		t.Known = append(t.Known, cp)
	}
	return t, t.check()
}

func (t *Trust) check() error {
	switch {
	case len(t.Log) == 0:
		return fmt.Errorf("%w: it names no key of the log", ErrTrust)
	case t.Quorum < 0 || t.Quorum > len(t.Witnesses):
		return fmt.Errorf("%w: a quorum of %d of %d witnesses", ErrTrust, t.Quorum, len(t.Witnesses))
	}
	return nil
}

// Remember adds a checkpoint to the known ones, so that the next visit finds
// out if the log was rewritten since. It replaces smaller ones of the log.
func (f *TrustFile) Remember(cp ledger.Checkpoint) {
	kept := f.Known[:0:0]
	for _, text := range f.Known {
		if origin, _, _ := strings.Cut(text, "\n"); origin != cp.Origin {
			kept = append(kept, text)
		}
	}
	f.Known = append(kept, cp.Text())
}

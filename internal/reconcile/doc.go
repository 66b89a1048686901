// Package reconcile reads what is known outside the gateway: exports of people
// and tickets, the logs and catalogues of upstreams. In flow the bytes of such a
// thing; out flows the body of an import.snapshot, with no more of it than tests
// need, or one error that says where the input is wrong. What follows from an
// import is workpaper's, so that a verifier finds the same.
package reconcile

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// ErrInput is wrapped when an input isn't what it should be. Nothing of it is
// imported.
var ErrInput = errors.New("the input can't be read")

// Input is something to import.
type Input struct {
	Source string            // where it is from, in people's words
	Format string            // one of the formats below
	Query  string            // that the source was asked
	Params map[string]string // of it, and how to read the answer
	Data   []byte
}

// Formats of inputs.
const (
	CSV  = "csv"
	JSON = "json"
	SCIM = "scim" // a ListResponse of Users (RFC 7644)
)

// maxData bounds what is kept of an input: it stands in one record, and in the
// memory of whoever reads it.
const maxData = 12 << 20

// body is the record of rows that were read.
func body[T any](kind string, in Input, read int, rows []T) (evidence.ImportBody, error) {
	if rows == nil {
		rows = []T{}
	}
	data := evidence.EncodeBody(rows)
	if len(data) > maxData {
		return evidence.ImportBody{}, fmt.Errorf("%w: %d bytes of it would be kept, at most %d can: import it in parts", ErrInput, len(data), maxData)
	}
	b := evidence.ImportBody{
		Kind: kind, Source: in.Source, Query: in.Query, Params: in.Params, Rows: read,
		Digest: digest(data), File: digest(in.Data), Data: json.RawMessage(data),
	}
	if len(rows) != read {
		b.Kept = len(rows)
	}
	return b, nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// at says where in the input something is wrong.
func at(line, column int, format string, args ...any) error {
	return fmt.Errorf("%w: line %d, column %d: %s", ErrInput, line, column, fmt.Sprintf(format, args...))
}

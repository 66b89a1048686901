package grammar

import (
	"encoding/json"
	"errors"
	"fmt"
)

// What an answer may be at most. JSON of few bytes can become much memory, so
// the values in it are counted as well: the gateway reads it, and who wrote it
// may have been taken over by the text.
const (
	maxAnswer = 1 << 20
	maxValues = 100_000
)

var errAnswer = errors.New("an answer beyond its limits")

// encode returns Facts as a child answers them. Those of a text that says too
// much are that it does.
func encode(f *Facts) ([]byte, error) {
	b, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("encoding facts: %w", err)
	}
	if err := bounded(b); err == nil {
		return b, nil
	}
	return json.Marshal(&Facts{Refused: "it says more than is kept of one text", Last: f.Last})
}

// decode reads what a child answered.
func decode(b []byte) (*Facts, error) {
	if err := bounded(b); err != nil {
		return nil, err
	}
	facts := new(Facts)
	if err := json.Unmarshal(b, facts); err != nil {
		return nil, fmt.Errorf("reading its answer: %w", err)
	}
	return facts, nil
}

// bounded is an error when an answer is more than one may be.
func bounded(b []byte) error {
	if len(b) > maxAnswer {
		return errAnswer
	}
	values, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++
		case !quoted && (c == ',' || c == '[' || c == '{'):
			values++
		}
	}
	if values > maxValues {
		return errAnswer
	}
	return nil
}

package grammar_test

import (
	"bytes"
	"testing"

	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
)

// FuzzPipe holds the reader of each end of the pipe to its limits, whatever the
// other end sends.
func FuzzPipe(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\x00\x00\x00\x07not JSON"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add([]byte("\x00\x10\x00\x00{"))
	f.Add([]byte("\x00\x00\x00\x40" + `{"statements":[{"action":"select","text":"SELECT ?","uses":[{}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := grammar.ReadFrame(bytes.NewReader(b), 1<<10)
		if err != nil {
			return
		}
		if len(frame) > 1<<10 || !bytes.Equal(frame, b[4:4+len(frame)]) {
			t.Fatalf("%d bytes of %d", len(frame), len(b))
		}
		facts, err := grammar.Decode(frame)
		if err != nil {
			return
		}
		again, err := grammar.Encode(facts)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := grammar.Decode(again); err != nil {
			t.Errorf("what was read can't be written and read again: %v", err)
		}
	})
}

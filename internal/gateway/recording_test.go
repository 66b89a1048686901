package gateway

import (
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// A recording plays as it was: sizes, what was typed and what was shown, whole
// characters at a time, however they came.
func TestRecordingsAreAsciicasts(t *testing.T) {
	var out strings.Builder
	c := &cast{w: &out, began: 1_764_000_000_000_000}
	c.told.Command = "gw1.1.4"
	for _, r := range []struct {
		after  int64
		to     string
		pieces []evidence.Piece
	}{
		{1_000, "upstream", []evidence.Piece{{Stream: "resize", Data: []byte(`{"Width":132,`)}}},
		{2_000, "upstream", []evidence.Piece{{Stream: "resize", Data: []byte("\"Height\":50}\n")}, {Stream: "stdin", Data: []byte("ls\n")}}},
		{1_500_000, "agent", []evidence.Piece{{Stream: "stdout", Data: []byte("caf\xc3")}}},
		{1_600_000, "agent", []evidence.Piece{{Stream: "stdout", Data: []byte("\xa9\x1b[0m")}, {Stream: "error", Data: []byte(`{"status":"Success"}`)}}},
		{1_700_000, "agent", nil},
	} {
		body := evidence.EncodeBody(evidence.ContentBody{To: r.to, Bytes: 9})
		var part []byte
		if r.pieces != nil {
			part = evidence.EncodeBody(evidence.ContentSealed{Pieces: r.pieces})
		}
		if err := c.content(&evidence.Record{Head: evidence.Head{Time: c.began + r.after}, Body: body}, part); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	const want = `{"version":2,"width":132,"height":50,"timestamp":1764000000,"title":"gw1.1.4"}
[0.002000,"r","132x50"]
[0.002000,"i","ls\n"]
[1.500000,"o","caf"]
[1.600000,"o","é\u001b[0m"]
[1.700000,"m","9 bytes were not kept"]
`
	if out.String() != want || c.told.Left != 9 {
		t.Errorf("got %s, %+v", out.String(), c.told)
	}
}

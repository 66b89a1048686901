package workpaper_test

import (
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
)

// What flowed within a command stands between its intent and its end.
func TestContentBelongsToAnOpenCommand(t *testing.T) {
	fails := func(of func(open evidence.Position) evidence.Position) string {
		g, s := packtest.Shop()
		content := func(of evidence.Position) {
			s.Record(&evidence.Draft{
				Head: evidence.Head{Type: evidence.CommandContent, Of: of},
				Body: evidence.EncodeBody(evidence.ContentBody{To: "upstream", Bytes: 3, Digest: "x"}), Sealed: evidence.EncodeBody(evidence.ContentSealed{}),
			})
		}
		open, _ := s.Ask("SELECT ?", "postgres:select", "public.orders")
		content(of(open))
		s.End(open, evidence.OK)
		s.Close()
		_, sum := fold(t, g, evidence.Position{})
		return strings.Join(failed(sum), " ")
	}
	if ids := fails(func(open evidence.Position) evidence.Position { return open }); ids != "" {
		t.Errorf("content of an open command fails %q", ids)
	}
	if ids := fails(func(open evidence.Position) evidence.Position { open.Seq--; return open }); !strings.Contains(ids, "session.attribution") {
		t.Errorf("content of no command fails %q", ids)
	}
}

package gateway

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/journal"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// torn is the settings of a gateway in what this one would leave behind if it
// died now.
func (w *world) torn() Settings {
	w.t.Helper()
	if err := w.journal.Wait(w.journal.End(), journal.Synced); err != nil {
		w.t.Fatal(err)
	}
	s := w.opened
	s.Data = filepath.Join(w.t.TempDir(), "data")
	if err := os.CopyFS(s.Data, os.DirFS(w.opened.Data)); err != nil {
		w.t.Fatal(err)
	}
	for _, name := range []string{logKeyFile, verifierFile, identityFile, issuerFile} { // CopyFS widens modes
		if err := os.Chmod(filepath.Join(s.Data, keystoreDirName, name), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	return s
}

// ends starts a gateway and returns what its start ended, as text, and what it
// said to its operator.
func ends(t *testing.T, s Settings) (records, log string) {
	t.Helper()
	var said bytes.Buffer
	g, err := Open(t.Context(), s, nil, slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	commands, writes := g.recorder.Counted("bot", g.clock.now().UnixMicro())
	records = fmt.Sprintf("%d commands, %d writes", commands, writes)
	if err := g.journal.Wait(g.journal.End(), journal.Synced); err != nil {
		t.Fatal(err)
	}
	err = g.sealer.ScanHeads(t.Context(), 0, func(h *evidence.Head) error {
		if h.Outcome == evidence.InDoubt {
			records += "\n" + h.Pos.String() + " " + string(h.Type) + " of " + h.Of.String()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Abandon(); err != nil {
		t.Fatal(err)
	}
	return records, said.String()
}

// A start that goes on from the mark ends and counts what one does that reads
// all of the last boot; a mark that is not of this log, or not whole, is none.
func TestAStartGoesOnFromTheMark(t *testing.T) {
	w := newWorld(t, holding, func(s *Settings) {
		s.Policy = bundleOf(files(""))
		s.Sealing.Interval = time.Hour // what comes after the mark is in the journal alone
	})
	w.grantAs("reader")
	key := w.agentKey()
	s := w.session(key)
	for range 5 {
		w.ask(s, selectFrom("select 1 from t"))
	}
	c, _ := w.open()
	w.put(c, evidence.Head{Type: evidence.CommandIntent, Verb: evidence.VerbRead, Effect: evidence.Allow}, evidence.IntentBody{Text: "open before the mark"})
	if _, err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.marker.keep()
	for range 3 {
		w.ask(s, selectFrom("select 2 from t"))
	}
	w.do(c, "ended after the mark")
	later, _ := w.open()
	w.put(later, evidence.Head{Type: evidence.CommandIntent, Verb: evidence.VerbRead, Effect: evidence.Allow}, evidence.IntentBody{Text: "open after the mark"})

	t.Cleanup(func() { _ = s.Close(protocol.SessionEnd{Reason: "terminate"}) })
	const fromTheBeginning = "reading the last boot from its beginning"
	marked := w.torn()
	whole := w.torn()
	if err := os.Remove(filepath.Join(whole.Data, markFile)); err != nil {
		t.Fatal(err)
	}
	want, _ := ends(t, whole)
	if n := strings.Count(want, "command.result of "); n != 2 {
		t.Fatalf("%d commands are in doubt:\n%s", n, want)
	}
	if got, said := ends(t, marked); got != want || strings.Contains(said, fromTheBeginning) {
		t.Errorf("from the mark it ends\n%s\nwant\n%s\n%s", got, want, said)
	}
	for name, spoil := range map[string]func(mark []byte) []byte{
		"torn":         func(mark []byte) []byte { return mark[:len(mark)/2] },
		"of a later":   func([]byte) []byte { return read(t, marked) }, // the log has grown since, elsewhere
		"a bit of rot": func(mark []byte) []byte { mark[len(mark)-3] ^= 4; return mark },
	} {
		other := w.torn()
		file := filepath.Join(other.Data, markFile)
		if err := os.WriteFile(file, spoil(read(t, other)), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, said := ends(t, other); got != want || !strings.Contains(said, fromTheBeginning) {
			t.Errorf("%s: it ends\n%s\nwant\n%s\n%s", name, got, want, said)
		}
	}
}

func read(t *testing.T, s Settings) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.Data, markFile))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func selectFrom(text string) *evidence.Command {
	return &evidence.Command{Raw: []byte(text), Shape: readAll}
}

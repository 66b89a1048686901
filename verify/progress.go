package verify

import (
	"fmt"
	"io"
	"os"
	"time"
)

// progress shows how far a verifier is, on a terminal only: what is piped or
// kept holds the report and nothing else.
type progress struct {
	w     io.Writer // nil shows nothing
	begun time.Time
	shown time.Time
	drawn bool
}

// often is how long a line stands before the next one.
const often = 200 * time.Millisecond

func newProgress(w io.Writer) *progress {
	p := &progress{begun: time.Now()}
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return p
	}
	if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		p.w = w
	}
	return p
}

// tell says how many records of how many have been read.
func (p *progress) tell(done, total uint64) {
	now := time.Now()
	if p.w == nil || now.Sub(p.shown) < often {
		return
	}
	p.shown, p.drawn = now, true
	fmt.Fprintf(p.w, "\r\x1b[K%s", progressLine(done, total, now.Sub(p.begun)))
}

// progressLine is one line of progress: how much, and how much longer.
func progressLine(done, total uint64, took time.Duration) string {
	if total == 0 || done == 0 || done > total { // the manifest says so, who knows
		return fmt.Sprintf("checked %d records", done)
	}
	left := time.Duration(float64(took) * float64(total-done) / float64(done)).Round(time.Second)
	return fmt.Sprintf("checked %d of %d records (%d %%), %s left", done, total, int(float64(done)/float64(total)*100), left)
}

// clear takes the line away.
func (p *progress) clear() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

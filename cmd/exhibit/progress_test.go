package main

import (
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/api"
)

// steps shows ten steps of ten seconds.
func steps(terminal bool) string {
	var b strings.Builder
	clock := time.Unix(1_800_000_000, 0)
	m := &meter{w: &b, terminal: terminal, now: func() time.Time { return clock }}
	for i := range uint64(11) {
		m.show(api.Progress{Stage: "packing", Done: 10 * i, Total: 100, Records: 1000 * i})
		clock = clock.Add(10 * time.Second)
	}
	m.done()
	return b.String()
}

func TestProgressOnATerminalIsOneLineWithAnEstimate(t *testing.T) {
	got := steps(true)
	for _, want := range []string{"\r\x1b[Kpacking: 0%", "\r\x1b[Kpacking: 50%, 5000 records, about 50s left", "\r\x1b[Kpacking: 100%, 10000 records\r\x1b[K"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
	if strings.Contains(got, "\n") {
		t.Errorf("it goes on in another line: %q", got)
	}
}

func TestProgressElsewhereIsALineNowAndThen(t *testing.T) {
	want := "packing: 30%, 3000 records, about 1m10s left\npacking: 60%, 6000 records, about 40s left\npacking: 90%, 9000 records, about 10s left\n"
	if got := steps(false); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What goes on from a mark comes far in no time: the estimate is of what is left.
func TestTheEstimateOfWhatGoesOnIsOfWhatIsLeft(t *testing.T) {
	var b strings.Builder
	clock := time.Unix(1_800_000_000, 0)
	m := &meter{w: &b, terminal: true, now: func() time.Time { return clock }}
	for i := range uint64(6) {
		m.show(api.Progress{Stage: "going on", Done: 10 * i, Total: 100})
	}
	for i := range uint64(3) {
		m.show(api.Progress{Stage: "packing", Done: 60 + 10*i, Total: 100})
		clock = clock.Add(10 * time.Second)
	}
	if got := b.String(); !strings.HasSuffix(got, "packing: 80%, about 20s left") {
		t.Errorf("it says %q", got)
	}
}

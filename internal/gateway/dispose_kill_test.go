package gateway

import (
	"bufio"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
)

// The child of TestADisposalIsKilled finds here which gateway it is.
const disposingIn = "GATEWAY_TEST_DISPOSING_IN"

// TestDisposingChild is the process that TestADisposalIsKilled kills: a gateway
// that disposes of what it did before, and says when it begins to.
func TestDisposingChild(t *testing.T) {
	dir := os.Getenv(disposingIn)
	if dir == "" {
		t.Skip("run by TestADisposalIsKilled")
	}
	s := settings(t)
	s.Data = dir
	retaining(&s)
	g, err := Open(t.Context(), s, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t}
	w.runs(g)
	c, start := w.open()
	for range 20 {
		w.do(c, "select 1")
	}
	w.end(c, start)
	time.Sleep(3100 * time.Millisecond)
	w.do(c, "select 2")
	if _, err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	fmt.Println("disposing")
	_, err = w.Dispose(t.Context(), api.Disposal{Reason: "retention"}, packtest.Alice)
	fmt.Println("disposed:", err)
	time.Sleep(time.Minute)
}

// A disposal is killed at any moment: then every block that is missing is one
// that a disposal in the log names, and the next start finishes what was begun.
func TestADisposalIsKilled(t *testing.T) {
	rounds := 4
	if testing.Short() {
		rounds = 1
	}
	s := settings(t)
	retaining(&s)
	for range rounds {
		killDisposing(t, s.Data, time.Duration(rand.IntN(120))*time.Millisecond)
		r, err := Fsck(t.Context(), s.Data, nil, nil)
		if err != nil || len(r.Problems) > 0 {
			t.Fatalf("after a kill: %+v, %v", r, err)
		}
	}
	g, err := Open(t.Context(), s, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t}
	w.runs(g)
	defer func() {
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	}()
	var named uint64
	for _, d := range w.registry().Disposals() {
		named += d.Blocks
	}
	w.until(10*time.Second, "what was begun is finished", func() bool {
		r, err := w.Fsck(t.Context(), nil, nil)
		return err == nil && len(r.Problems) == 0 && r.Disposed == named
	})
	t.Logf("%d disposals of %d blocks in %d kills", len(w.registry().Disposals()), named, rounds)
}

func killDisposing(t *testing.T, dir string, after time.Duration) {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDisposingChild$")
	child.Env = append(os.Environ(), disposingIn+"="+dir)
	out, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	said, began := "", false
	for lines := bufio.NewScanner(out); !began && lines.Scan(); {
		said += lines.Text() + "\n"
		began = strings.HasPrefix(lines.Text(), "disposing")
	}
	time.Sleep(after)
	_ = child.Process.Kill()
	_ = child.Wait() // it was killed
	if !began {
		t.Fatalf("the child did not come to a disposal:\n%s", said)
	}
}

//go:build unix

package journal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

const killedDir = "EXHIBIT_TEST_JOURNAL" // in the environment: be the process that is killed

func TestMain(m *testing.M) {
	if dir := os.Getenv(killedDir); dir != "" {
		if err := writeForever(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

const killedWriters = 8

// writeForever appends with several writers, and says on standard output what
// the journal promised.
func writeForever(dir string) error {
	j, err := Open(dir, Options{SegmentBytes: 32 << 10, ReserveBytes: -1})
	if err != nil {
		return err
	}
	fmt.Printf("opened %d\n", j.End())
	failed := make(chan error)
	var out sync.Mutex
	for w := range killedWriters {
		go func() {
			for i := 0; ; i++ {
				lsn, err := j.Append(killedPayload(os.Getpid(), w, i), []byte("tail"))
				if err == nil {
					err = j.Wait(lsn, Level((w+i)%2))
				}
				if err != nil {
					failed <- err
					return
				}
				out.Lock()
				fmt.Printf("%d %d %d\n", lsn, w, i) // one write each: unbuffered
				out.Unlock()
			}
		}()
	}
	return <-failed
}

func killedPayload(pid, w, i int) []byte {
	return fmt.Appendf(nil, "%d %d %d %s", pid, w, i, strings.Repeat("x", (w*131+i*17)%700))
}

func TestKilledProcessLosesNoPromise(t *testing.T) {
	dir := t.TempDir()
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	for round := range rounds {
		promised, pid := runAndKill(t, dir, time.Duration(20+round*37%150)*time.Millisecond)
		j, err := Open(dir, Options{SegmentBytes: 32 << 10, ReserveBytes: -1})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		found := map[LSN]string{}
		next := make([]int, killedWriters)
		var last string
		if _, err := j.Read(j.First(), func(end LSN, p []byte) error {
			if string(p) == "tail" {
				found[end] = last
				return nil
			}
			last = string(p)
			var from, w, i int
			if _, err := fmt.Sscanf(last, "%d %d %d", &from, &w, &i); err != nil || last != string(killedPayload(from, w, i)) {
				return fmt.Errorf("at %d: torn frame %.40q", end, last)
			}
			if from != pid {
				return nil
			}
			if i != next[w] {
				return fmt.Errorf("writer %d: frame %d where %d was due", w, i, next[w])
			}
			next[w]++
			return nil
		}); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for lsn, want := range promised {
			if !strings.HasPrefix(found[lsn], fmt.Sprintf("%d %s ", pid, want)) {
				t.Fatalf("round %d: promised %q at %d, found %.40q", round, want, lsn, found[lsn])
			}
		}
		t.Logf("round %d: %d promises kept, %+v", round, len(promised), j.Recovered())
		if round%3 == 2 {
			if err := j.Release(j.SyncedTo()); err != nil {
				t.Fatal(err)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// runAndKill returns what the process promised, by place, before it was killed.
func runAndKill(t *testing.T, dir string, after time.Duration) (map[LSN]string, int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), killedDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	promised := map[LSN]string{}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		place, what, ok := strings.Cut(lines.Text(), " ")
		if place == "opened" {
			if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
				t.Errorf("a second Open: %v, want ErrLocked", err)
			}
			time.AfterFunc(after, cancel)
			continue
		}
		var lsn LSN
		if _, err := fmt.Sscan(place, &lsn); err != nil || !ok {
			t.Fatalf("the process said %q", lines.Text())
		}
		promised[lsn] = what
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Fatalf("the process ended by itself: %v", err)
	}
	return promised, cmd.Process.Pid
}

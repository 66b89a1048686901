package connect

import (
	"context"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

func TestAChildsEndIsItsExitCode(t *testing.T) {
	sh := func(script string) *exec.Cmd { return exec.CommandContext(t.Context(), "sh", "-c", script) }
	for script, want := range map[string]int{"exit 0": 0, "exit 42": 42, "kill -KILL $$": 137, "kill -TERM $$": 143} {
		if got, err := RunChild(t.Context(), sh(script)); got != want || err != nil {
			t.Errorf("%s: %d, %v, want %d", script, got, err, want)
		}
	}
	if got, err := RunChild(t.Context(), exec.CommandContext(t.Context(), "/nowhere/at-all")); got != 127 || err == nil {
		t.Errorf("what isn't there: %d, %v", got, err)
	}
	if got, err := RunChild(t.Context(), exec.CommandContext(t.Context(), t.TempDir())); got != 126 || err == nil {
		t.Errorf("a folder: %d, %v", got, err)
	}
}

func TestAChildIsNotStartedOnceItIsOver(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := RunChild(ctx, exec.CommandContext(t.Context(), "true")); got != ExitNotTried || err == nil {
		t.Errorf("%d, %v", got, err)
	}
}

func TestAChildGetsItsSignals(t *testing.T) {
	ready, told, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	child := exec.CommandContext(t.Context(), "sh", "-c", `trap 'exit 7' TERM; echo; while :; do sleep 0.01; done`)
	child.Stdout = told
	go func() {
		_, _ = ready.Read(make([]byte, 1))
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
	}()
	timeout := time.AfterFunc(20*time.Second, func() { _ = child.Process.Kill() })
	defer timeout.Stop()
	if got, err := RunChild(t.Context(), child); got != 7 || err != nil {
		t.Errorf("%d, %v, want 7", got, err)
	}
	told.Close()
}

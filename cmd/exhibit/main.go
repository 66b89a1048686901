// Command exhibit is an access gateway for agents that produces evidence, and
// the verbs of the people around it. Flags and configuration flow in; each verb
// is wired here to the package that does the work, and what comes out is
// text, JSON or CSV, with errors as `error:` and `hint:` lines.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
)

func main() {
	// The grammar's child process is this binary under another name. It comes
	// first, before anything is set up that the child has no business with.
	if len(os.Args) > 1 && os.Args[1] == "sql-grammar" {
		grammar.Main()
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], std())
	stop()
	os.Exit(code)
}

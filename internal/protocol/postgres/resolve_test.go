package postgres

import (
	"context"
	"errors"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// What can be said of a command in doubt without the server: that a block
// which nothing can have committed was rolled back, and nothing of reads.
// Whatever else is asked of a server, which isn't there.
func TestDoubtsWithinABlock(t *testing.T) {
	command := func(outcome evidence.OutcomeClass, verb string, actions ...string) protocol.LostCommand {
		c := protocol.LostCommand{Verb: verb, Parse: evidence.ParseFull, Outcome: outcome}
		for _, a := range actions {
			c.Checks = append(c.Checks, evidence.Check{Action: "postgres:" + a})
		}
		return c
	}
	opaque := command(evidence.OK, evidence.VerbOpaque)
	opaque.Parse = evidence.ParseOpaque
	begin, insert := command(evidence.OK, evidence.VerbSession, "begin"), command(evidence.InDoubt, evidence.VerbWrite, "insert")
	for name, c := range map[string]struct {
		commands []protocol.LostCommand
		want     string // results; "?" where the server must be asked
	}{
		"in a block":                {[]protocol.LostCommand{begin, insert}, "rolled_back"},
		"in a failed block":         {[]protocol.LostCommand{begin, command(evidence.Failed, evidence.VerbWrite, "insert"), insert}, "rolled_back"},
		"two in a block":            {[]protocol.LostCommand{begin, insert, insert}, "rolled_back rolled_back"},
		"a read in a block":         {[]protocol.LostCommand{begin, command(evidence.InDoubt, evidence.VerbRead, "select")}, "rolled_back"},
		"the commit itself":         {[]protocol.LostCommand{begin, command(evidence.InDoubt, evidence.VerbSession, "commit")}, "?"},
		"before a commit in flight": {[]protocol.LostCommand{begin, insert, command(evidence.InDoubt, evidence.VerbSession, "commit")}, "unknown unknown"},
		"behind a commit":           {[]protocol.LostCommand{begin, command(evidence.OK, evidence.VerbSession, "commit"), insert}, "?"},
		"behind what isn't known":   {[]protocol.LostCommand{begin, opaque, insert}, "?"},
		"begin itself in doubt":     {[]protocol.LostCommand{command(evidence.InDoubt, evidence.VerbSession, "begin")}, ""},
		"begin failed":              {[]protocol.LostCommand{command(evidence.Failed, evidence.VerbSession, "begin"), insert}, "?"},
		"alone":                     {[]protocol.LostCommand{insert}, "?"},
		"two alone":                 {[]protocol.LostCommand{insert, insert}, "unknown unknown"},
		"a read alone":              {[]protocol.LostCommand{command(evidence.InDoubt, evidence.VerbRead, "select")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			nowhere, stop := context.WithCancelCause(t.Context())
			stop(errors.New("no server here"))
			err := Resolver{}.Resolve(nowhere, protocol.Upstream{Address: "127.0.0.1:1"}, &protocol.Lost{Commands: c.commands},
				func(_ evidence.Position, b evidence.ResolutionBody) error {
					if got != "" {
						got += " "
					}
					got += b.Result
					return nil
				})
			if err != nil {
				got = "?"
			}
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

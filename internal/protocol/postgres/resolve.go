package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// Resolver finds out what became of commands that a crash of the gateway left
// in doubt. A server rolls back the block of a client that has gone; a command
// outside a block goes on to its end, and while it does, the server shows the
// id of its transaction.
type Resolver struct {
	// Own records a connection that is the gateway's own; it may be nil.
	Own func(ctx context.Context, resource string, b evidence.OwnUpstreamBody) error
}

var _ protocol.Resolver = Resolver{}

// Resolve implements protocol.Resolver.
func (r Resolver) Resolve(ctx context.Context, up protocol.Upstream, l *protocol.Lost, found func(evidence.Position, evidence.ResolutionBody) error) error {
	doubtful := slices.DeleteFunc(slices.Clone(l.Commands), func(c protocol.LostCommand) bool { return c.Outcome != evidence.InDoubt })
	if inBlock(l) && !slices.ContainsFunc(doubtful, mayCommit) {
		for _, c := range doubtful {
			if err := found(c.Position, evidence.ResolutionBody{
				Result: "rolled_back", How: "its block was not committed, and the server rolls back the block of a client that has gone",
			}); err != nil {
				return err
			}
		}
		return nil
	}
	// What only reads changes nothing, however it ended.
	doubtful = slices.DeleteFunc(doubtful, func(c protocol.LostCommand) bool {
		return c.Verb == evidence.VerbRead || c.Verb == evidence.VerbSession && !mayCommit(c)
	})
	if len(doubtful) == 0 {
		return nil
	}
	unknown := evidence.ResolutionBody{Result: "unknown", How: "its connection is gone, and the server keeps no trace of what it did"}
	if len(doubtful) == 1 {
		b, err := r.ask(ctx, up, l, unknown)
		if err != nil {
			return err
		}
		return found(doubtful[0].Position, b)
	}
	unknown.How = "more than one command of its connection was on its way"
	for _, c := range doubtful {
		if err := found(c.Position, unknown); err != nil {
			return err
		}
	}
	return nil
}

// inBlock reports whether a session was in a transaction block for certain
// when it was lost.
func inBlock(l *protocol.Lost) bool {
	block := false
	for _, c := range l.Commands {
		switch {
		case c.Outcome == evidence.InDoubt:
			return block
		case mayCommit(c):
			block = false
		case c.Outcome == evidence.OK && asks(c, "begin"):
			block = true
		}
	}
	return block
}

// mayCommit reports whether a command may end a block: it says so, or it isn't
// known what it says.
func mayCommit(c protocol.LostCommand) bool {
	return c.Parse != evidence.ParseFull || asks(c, "commit", "rollback", "two_phase")
}

func asks(c protocol.LostCommand, actions ...string) bool {
	return slices.ContainsFunc(c.Checks, func(k evidence.Check) bool {
		return slices.ContainsFunc(actions, func(a string) bool { return k.Action == "postgres:"+a })
	})
}

// The gateway's own questions about a backend of its account.
//
// backend_xid has 32 bits: it stands for the newest id that ends in them and
// isn't in the future.
const (
	backendQuery = `SELECT CASE WHEN a.backend_xid IS NULL THEN '' ELSE (m OPERATOR(pg_catalog.-) (` +
		`(m OPERATOR(pg_catalog.-) (a.backend_xid::pg_catalog.text)::pg_catalog.int8) OPERATOR(pg_catalog.&) 4294967295))::pg_catalog.text END ` +
		`FROM pg_catalog.pg_stat_activity a, ` +
		`(SELECT (pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text)::pg_catalog.int8) AS now(m) ` +
		`WHERE a.pid OPERATOR(pg_catalog.=) $1::pg_catalog.int4 AND ` +
		`pg_catalog.to_char(pg_catalog.timezone('UTC', a.backend_start), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') OPERATOR(pg_catalog.=) $2::pg_catalog.text`
	statusQuery = `SELECT pg_catalog.pg_xact_status($1::pg_catalog.xid8)`
)

// resolvePoll is how often a backend that still runs is looked at.
const resolvePoll = 200 * time.Millisecond

// ask watches a backend to its end and says what became of its transaction.
func (r Resolver) ask(ctx context.Context, up protocol.Upstream, l *protocol.Lost, unknown evidence.ResolutionBody) (evidence.ResolutionBody, error) {
	backend := l.Upstream
	cfg, err := config(up, map[string]string{"application_name": "exhibit"})
	if err != nil {
		return unknown, err
	}
	pg, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return unknown, fmt.Errorf("asking what became of a command: %w", err)
	}
	defer pg.Close(context.WithoutCancel(ctx))
	if err := recordOwn(ctx, r.Own, l.Resource, "resolution", pg); err != nil {
		return unknown, err
	}
	xid := ""
	for {
		row, err := queryRow(ctx, pg, backendQuery, fmt.Sprint(backend.PID), backend.Start)
		if err != nil {
			return unknown, err
		}
		if row == nil {
			break
		}
		if row[0] != "" {
			xid = row[0]
		}
		select {
		case <-ctx.Done():
			return unknown, context.Cause(ctx)
		case <-time.After(resolvePoll):
		}
	}
	if xid == "" {
		return unknown, nil
	}
	row, err := queryRow(ctx, pg, statusQuery, xid)
	if err != nil {
		return unknown, err
	}
	b := evidence.ResolutionBody{How: "the server's own status of its transaction", ID: xid}
	switch {
	case row != nil && row[0] == "committed":
		b.Result = "committed"
	case row != nil && row[0] == "aborted":
		b.Result = "rolled_back"
	default:
		b.Result = "unknown"
	}
	return b, nil
}

// queryRow returns the one row of a query as text, or nil.
func queryRow(ctx context.Context, pg *pgconn.PgConn, sql string, args ...string) ([]string, error) {
	params := make([][]byte, len(args))
	for i, a := range args {
		params[i] = []byte(a)
	}
	r := pg.ExecParams(ctx, sql, params, nil, nil, nil).Read()
	switch {
	case r.Err != nil:
		return nil, fmt.Errorf("asking what became of a command: %w", r.Err)
	case len(r.Rows) == 0:
		return nil, nil
	case len(r.Rows) > 1:
		return nil, errors.New("two backends with one process id")
	}
	row := make([]string, len(r.Rows[0]))
	for i, v := range r.Rows[0] {
		row[i] = string(v)
	}
	return row, nil
}

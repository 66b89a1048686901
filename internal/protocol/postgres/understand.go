package postgres

import (
	"context"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/sql"
)

// Understander says what the texts of one database ask. *sql.Understander is
// one. It never fails: what it can't name is opaque, and policy decides
// whether that may pass.
type Understander interface {
	// Understand says what text does when it comes by path. It keeps neither
	// text nor env.
	Understand(ctx context.Context, text, path string, env sql.Env) *sql.Understanding
	// Execute puts into u what its EXECUTEs run.
	Execute(u *sql.Understanding, prepared func(name string) *sql.Understanding) *sql.Understanding
}

// The paths by which a command comes: the frames that ask it.
const (
	pathSimple   = "simple"   // Query
	pathPrepare  = "prepare"  // Parse
	pathExtended = "extended" // Parse, Bind and Execute of one statement
	pathExecute  = "execute"  // Bind and Execute of a statement prepared before
	pathFetch    = "fetch"    // Execute of a portal bound before
)

// maxText is the longest text that anybody tries to understand, bytes.
const maxText = 256 << 10

// understand says what a unit asks, once all of its frames are known.
func (a *agentSide) understand(ctx context.Context, u *unit) {
	switch {
	case u.p == nil:
		return // no command
	case u.p.opaque:
		u.un = opaque(u.path)
	default:
		if u.env == nil {
			u.env = a.c.q.environment()
		}
		u.un = a.c.understand.Understand(ctx, u.p.text, u.path, *u.env)
		if u.un.Executes() {
			u.un = a.executes(ctx, u.un, u.env)
		}
	}
	u.cmd.Shape = u.un.Shape
	if u.path != pathPrepare {
		u.entry.un = u.un
	}
}

// executes puts into an understanding what its EXECUTEs run, as far as the
// names' meanings are settled. The server plans a prepared statement anew by
// the search_path of the moment, so its text is understood anew as well; what
// SQL's PREPARE has prepared, whose text nobody keeps, is forgotten when the
// path moves.
func (a *agentSide) executes(ctx context.Context, un *sql.Understanding, env *sql.Env) *sql.Understanding {
	q := &a.c.q
	q.mu.Lock()
	if q.defining > 0 {
		a.earlier()
	}
	settled := q.defining == 0 && len(a.segment) == 0
	q.mu.Unlock()
	if !settled {
		return un // what the names stand for is still on its way
	}
	return a.c.understand.Execute(un, func(name string) *sql.Understanding {
		q.mu.Lock()
		p, prepared := q.statements[name], q.following.Prepared(name)
		q.mu.Unlock()
		switch {
		case p == nil:
			return prepared
		case p.opaque:
			return nil
		}
		return a.c.understand.Understand(ctx, p.text, pathExecute, *env)
	})
}

// opaque is the understanding of what nobody tried to understand.
func opaque(path string) *sql.Understanding { return opaques[path] }

var opaques = func() map[string]*sql.Understanding {
	m := make(map[string]*sql.Understanding)
	for _, path := range []string{pathSimple, pathPrepare, pathExtended, pathExecute, pathFetch} {
		m[path] = &sql.Understanding{
			Shape: &evidence.Shape{
				Path: path, Parse: evidence.ParseOpaque, Verb: evidence.VerbOpaque,
				Checks: []evidence.Check{{Action: sql.Prefix + "opaque"}},
			},
			Effects: []sql.Effect{{Effect: grammar.Effect{Kind: grammar.EffectUnknowable, Unsure: true}}},
		}
	}
	return m
}()

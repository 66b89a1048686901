package postgres

import (
	"context"
	"strconv"
	"strings"

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
	// Execute puts into u what its EXECUTEs run. prepared says what a name
	// stands for when it is executed by env.
	Execute(u *sql.Understanding, prepared func(name string, env sql.Env) *sql.Understanding) *sql.Understanding
	// Inner says what a statement that SQL's PREPARE has named does, executed
	// by env.
	Inner(p *sql.Prepared, env sql.Env) *sql.Understanding
}

// The paths by which a command comes: the frames that ask it.
const (
	pathSimple   = "simple"   // Query
	pathPrepare  = "prepare"  // Parse
	pathExtended = "extended" // Parse, Bind and Execute of one statement
	pathExecute  = "execute"  // Bind and Execute of a statement prepared before
	pathFetch    = "fetch"    // Execute of a portal bound before
	pathCall     = "function" // FunctionCall
)

// maxText is the longest text that anybody tries to understand, bytes.
const maxText = 256 << 10

// understand says what a unit asks, once all of its frames are known.
func (a *agentSide) understand(ctx context.Context, u *unit) {
	switch {
	case u.p == nil:
		return // no command
	case u.un != nil: // known already
	case u.p.opaque:
		u.un = opaque(u.path)
	default:
		if u.env == nil {
			u.env = a.c.q.environment()
		}
		u.un = a.c.understand.Understand(ctx, u.p.text, u.path, *u.env)
		if u.un.Executes() {
			u.un = a.executes(ctx, u.un)
		}
	}
	u.cmd.Shape = u.un.Shape
	if u.path != pathPrepare {
		u.entry.un = u.un
	}
}

// executes puts into an understanding what its EXECUTEs run, as far as the
// names' meanings are settled. The server plans a prepared statement anew by
// the search_path of the moment, so it is understood anew as well.
func (a *agentSide) executes(ctx context.Context, un *sql.Understanding) *sql.Understanding {
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
	return a.c.understand.Execute(un, func(name string, env sql.Env) *sql.Understanding {
		q.mu.Lock()
		p, prepared := q.statements[name], q.following.Prepared(name)
		q.mu.Unlock()
		switch {
		case p != nil && !p.opaque:
			return a.c.understand.Understand(ctx, p.text, pathExecute, env)
		case p == nil && prepared != nil:
			return a.c.understand.Inner(prepared, env)
		}
		return nil
	})
}

// callable are the functions that a FunctionCall names and we understand: those
// for which libpq uses it. Their OIDs are the same on every server
// (pg_proc.dat).
var callable = map[uint32]string{
	715: "lo_create", 952: "lo_open", 953: "lo_close", 954: "loread", 955: "lowrite", 956: "lo_lseek",
	957: "lo_creat", 958: "lo_tell", 964: "lo_unlink", 1004: "lo_truncate",
	3170: "lo_lseek64", 3171: "lo_tell64", 3172: "lo_truncate64",
}

// spellCall spells a call in SQL, but for the name of a function that we don't
// know.
func spellCall(oid uint32, args int) string {
	name := functionName(oid)
	var b strings.Builder
	b.WriteString("SELECT " + name + "(")
	for i := range args {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("$" + strconv.Itoa(i+1))
	}
	b.WriteString(")")
	return b.String()
}

func functionName(oid uint32) string {
	if name := callable[oid]; name != "" {
		return "pg_catalog." + name
	}
	return "oid " + strconv.FormatUint(uint64(oid), 10)
}

// opaqueCall is the understanding of a call of a function that we don't know.
func opaqueCall(oid uint32) *sql.Understanding {
	un := *opaques[pathCall]
	shape := *un.Shape
	shape.Facts = evidence.Facts{"functions": []string{functionName(oid)}}
	un.Shape = &shape
	return &un
}

// opaque is the understanding of what nobody tried to understand.
func opaque(path string) *sql.Understanding { return opaques[path] }

var opaques = func() map[string]*sql.Understanding {
	m := make(map[string]*sql.Understanding)
	for _, path := range []string{pathSimple, pathPrepare, pathExtended, pathExecute, pathFetch, pathCall} {
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

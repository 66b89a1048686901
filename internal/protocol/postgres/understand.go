package postgres

import (
	"context"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Understander says what texts ask. It never fails: what it can't name is
// opaque, and policy decides whether that may pass.
type Understander interface {
	// Understand says what text asks in a session whose state is s. It keeps
	// neither. What it returns is immutable and may be shared by sessions.
	Understand(ctx context.Context, text []byte, s *State) *Statement
}

// Path is how a command came, and so which frames ask it.
type Path uint8

// The paths. Their names are those in the records.
const (
	Simple   Path = iota // Query
	Prepare              // Parse
	Extended             // Parse, Bind, Execute of one statement
	Execute              // Bind and Execute of a statement prepared before
	Fetch                // Execute of a portal bound before
	paths
)

func (p Path) String() string {
	return [...]string{"simple", "prepare", "extended", "execute", "fetch"}[p]
}

// Statement is a text understood.
type Statement struct {
	// Shapes are the commands that the text is on each path.
	Shapes [paths]*evidence.Shape
	// Effects are what the text changes about its session once it succeeds.
	Effects []Effect
}

// Opaque is a statement that nobody understood.
func Opaque() *Statement { return opaque }

var opaque = NewStatement(evidence.Shape{
	Parse:  evidence.ParseOpaque,
	Verb:   evidence.VerbOpaque,
	Checks: []evidence.Check{{Action: "postgres:opaque"}},
})

// NewStatement is a statement whose shapes differ in nothing but their path.
func NewStatement(s evidence.Shape, effects ...Effect) *Statement {
	st := &Statement{Effects: effects}
	for p := range paths {
		shape := s
		shape.Path = p.String()
		st.Shapes[p] = &shape
	}
	return st
}

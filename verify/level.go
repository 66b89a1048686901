package verify

import (
	"bufio"
	"encoding/base64"
	"fmt"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// Levels of disclosure. What is opened of a sample, L2, comes beside a pack.
const (
	Heads  = "L0" // heads alone
	Bodies = "L1" // and bodies
	Full   = "L3" // and sealed parts
)

// Sections is how many sections of a block a level discloses. Sealed parts lie
// in a file of their own, with their salts.
func Sections(level string) int {
	if level == Heads {
		return ledger.Heads + 1
	}
	return ledger.Hashes + 1
}

// Populations are those of a pack of a level.
func Populations(level string) []workpaper.Table {
	if level == Heads {
		return workpaper.HeadPopulations()
	}
	return workpaper.Populations()
}

func newFold(level string, out workpaper.Out) *workpaper.Fold {
	if level == Heads {
		return workpaper.NewHeadFold(out)
	}
	return workpaper.NewFold(out)
}

// LevelText says what a level discloses.
func LevelText(level string) string {
	switch level {
	case Heads:
		return "heads alone; bodies, statements and their parameters are withheld (▮ sealed)"
	case Full:
		return "everything: heads, bodies, statements and their parameters"
	}
	return "heads and bodies; statements and their parameters are sealed"
}

// withheld says of checks that the level leaves nothing to make them of.
func (v *verifier) withheld() {
	not := func(c *Check, format string) {
		c.State, c.Note = workpaper.NotTested, fmt.Sprintf(format, v.m.Params.Level)
	}
	if v.m.Params.Level == Full {
		v.c.meaning.State, v.c.meaning.Note = workpaper.NotTested, "Statements are there; what they ask for is not derived again by this program"
		return
	}
	not(&v.c.sealed, "Sealed parts are withheld in a pack of level %s; what is opened of a sample is tested with it")
	not(&v.c.meaning, "Statements are sealed in a pack of level %s: what they ask for is not derived again")
	if v.m.Params.Level == Heads {
		not(&v.c.commitments, "Bodies are withheld in a pack of level %s; the heads commit to them")
		not(&v.c.disposed, "What was disposed of is withheld in a pack of level %s")
		not(&v.c.replay, "What decisions were made from is withheld in a pack of level %s")
	}
}

// sealedFile is sealed.jsonl on its way: a line for each record of the range
// that has a sealed part, in order.
type sealedFile struct {
	f      *file
	lines  *bufio.Scanner
	erased int
}

// openSealed begins to read the sealed parts of a pack that discloses them.
func (v *verifier) openSealed() bool {
	if v.m.Params.Level != Full {
		return true
	}
	v.c.sealed.made = true
	f, err := v.files.open(SealedFile)
	if err != nil {
		v.c.sealed.except("%.200s", err)
		return false
	}
	v.parts = &sealedFile{f: f, lines: bufio.NewScanner(f)}
	v.parts.lines.Buffer(nil, maxRow)
	return true
}

// part checks the sealed part of the next record of the range.
func (v *verifier) part(r *evidence.Record) bool {
	if v.parts == nil || !r.Head.HasSealed {
		return true
	}
	c := &v.c.sealed
	c.Population++
	var o Opened
	if !v.parts.lines.Scan() || evidence.DecodeBody(v.parts.lines.Bytes(), &o) != nil || o.Pos != r.Head.Pos {
		c.Except(r.Head.Pos, "%s has no line of it in its place", SealedFile)
		return false
	}
	if o.Absent == AbsentErased && len(o.Sealed) == 0 {
		v.parts.erased++
		return true
	}
	salt, err := base64.RawURLEncoding.Strict().DecodeString(o.Salt)
	if err != nil || len(salt) != len(evidence.Salt{}) || o.Absent != "" || r.CheckSealed(evidence.Salt(salt), o.Sealed) != nil {
		c.Except(r.Head.Pos, "the sealed part is not the one that its head commits to")
	}
	return true
}

// closeSealed reports what is left in the file.
func (v *verifier) closeSealed() {
	if v.parts == nil {
		return
	}
	if v.parts.lines.Scan() {
		v.c.sealed.except("%s has lines that no record asks for", SealedFile)
	}
	if n := v.parts.erased; n > 0 {
		v.c.sealed.Note = fmt.Sprintf("Of %s the key was destroyed: nobody can open them", plural(n, "part", "parts"))
	}
	v.files.finish(v.parts.f)
}

// Package guardrails holds a stricter example set than policies', as files, for
// those who embed it: out flow the Cedar files of this folder, with their tests,
// and nothing flows in.
package guardrails

import "embed"

// Files are the policies and their tests.
//
//go:embed *.cedar *.test.yaml
var Files embed.FS

// Package policies holds the example role set, as files, for those who embed
// it: out flow the Cedar files of this folder and nothing flows in.
package policies

import "embed"

// Files are the policies.
//
//go:embed *.cedar
var Files embed.FS

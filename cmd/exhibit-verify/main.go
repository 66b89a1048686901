// Command exhibit-verify checks an evidence pack offline: a pack and what the
// auditor trusts flow in, a report and an exit code flow out. It is the verify
// package and nothing else, so that an auditor has little to read and to build.
package main

import (
	"os"

	"github.com/exhibit-gateway/exhibit/verify"
)

func main() {
	os.Exit(verify.Main("exhibit-verify", os.Args[1:], os.Stdout, os.Stderr))
}

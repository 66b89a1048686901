// Command exhibit-verify checks an evidence pack offline: a pack and what the
// auditor trusts flow in, a report and an exit code flow out; exhibit-verify sample draws a sample of
// one. It is the verify
// package and nothing else, so that an auditor has little to read and to build.
package main

import (
	"os"

	"github.com/exhibit-gateway/exhibit/verify"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "sample" {
		os.Exit(verify.SampleMain("exhibit-verify sample", "exhibit-verify", os.Args[2:], os.Stdout, os.Stderr))
	}
	os.Exit(verify.Main("exhibit-verify", os.Args[1:], os.Stdout, os.Stderr))
}

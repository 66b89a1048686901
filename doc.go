// Package exhibit holds no code. It is the root of the module, and its tests
// are the rules of the house: what may import what and why, what the auditor's
// binary is built from, one comment per package, and nothing of a developer's
// own machine in the tree.
//
// An auditor's packages stand at the top level: [evidence], [ledger],
// [decision], [workpaper] and [verify]; the operator's are under internal/.
//
// [evidence]: https://pkg.go.dev/github.com/exhibit-gateway/exhibit/evidence
// [ledger]: https://pkg.go.dev/github.com/exhibit-gateway/exhibit/ledger
// [decision]: https://pkg.go.dev/github.com/exhibit-gateway/exhibit/decision
// [workpaper]: https://pkg.go.dev/github.com/exhibit-gateway/exhibit/workpaper
// [verify]: https://pkg.go.dev/github.com/exhibit-gateway/exhibit/verify
package exhibit
